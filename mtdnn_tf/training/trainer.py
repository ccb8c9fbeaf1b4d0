"""The multi-task training loop: one task a step, only the encoder and that task's head move."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import BATCH_SPEC
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.model import INPUTS, task_model
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.losses import LOSSES
from mtdnn_tf.training.optimizers import clip_by_global_norm

Step = Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]


@dataclass
class Progress:
    """Where a run is and what the last step gave; callbacks read it through `MultiTaskTrainer.progress`."""

    epoch: int = 0
    step: int = 0  # steps done in this epoch
    global_step: int = 0  # steps done in the run
    total_steps: int = 0
    task: str = ""
    loss: float = math.nan
    gradient_norm: float = math.nan
    learning_rate: float = math.nan
    examples: int = 0  # of the last step


class _Meters:
    """Running means of the epoch: over all steps, and for each task over its own."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, task: str, loss: float) -> None:
        for name in ("loss", f"{task}_loss"):
            self._sums[name] = self._sums.get(name, 0.0) + loss
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in sorted(self._sums.items())}


class MultiTaskTrainer:
    """Trains a multi-task model on a mixture of tasks (paper, Algorithm 1).

    Each step takes one batch of one task, differentiates and updates the encoder and that task's head. The variables of
    other heads take no part: no zero gradients, no decay, no momentum. The task is chosen on the host from the mixture's
    schedule, and each task has a compiled step of its own, traced when it is first needed.
    """

    def __init__(self, model: keras.Model, tasks: Sequence[TaskSpec]) -> None:
        """Take a model of `build_model` and its tasks."""
        self.model = model
        self.tasks = {task.name: task for task in tasks if task.head_of is None}
        self.progress = Progress()
        self._steps: dict[str, Step] = {}

    def compile(self, optimizer: keras.optimizers.Optimizer, clip_norm: float = 1.0) -> None:
        """Set the optimizer and the largest global gradient norm (0: no clipping)."""
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        # Built over all variables once: a subset at the first step would fix the slots to that task's.
        optimizer.build(self.model.trainable_variables)
        self.model.compile(optimizer=optimizer)  # so that callbacks find model.optimizer
        self._steps = {}

    def fit(
        self,
        mixture: Mixture,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        start: tuple[int, int] = (0, 0),
        verbose: int | str = "auto",
    ) -> keras.callbacks.History:
        """Train for `epochs` epochs of the mixture, from `start` = (epoch, steps of it already done).

        Args:
            mixture: what `build_mixture` returned.
            epochs: the number of the last epoch, counted from the beginning of the run.
            callbacks: Keras callbacks; their model is `self.model`.
            start: the position to go on from.
            verbose: 0 silent, 1 progress bar, 2 one line an epoch; "auto" takes 1 on a terminal, else 2.

        Returns:
            Keras' history: `loss` and `<task>_loss` means of each epoch, and what callbacks added.

        Raises:
            UserError: a loss or gradient is not finite; the message names the task and the step.
        """
        if verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        steps = mixture.steps_per_epoch
        history = keras.callbacks.History()
        callback_list = keras.callbacks.CallbackList(
            [*callbacks, history],
            add_progbar=bool(verbose),
            model=self.model,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )
        first_epoch, first_step = start
        self.progress = Progress(first_epoch, first_step, first_epoch * steps + first_step, epochs * steps)
        self.model.stop_training = False
        callback_list.on_train_begin()
        for epoch in range(first_epoch, epochs):
            callback_list.on_epoch_begin(epoch)
            logs = self._run_epoch(mixture, epoch, first_step, callback_list)
            first_step = 0
            callback_list.on_epoch_end(epoch, logs)
            if self.model.stop_training:
                break
        callback_list.on_train_end()
        return history

    def _run_epoch(
        self, mixture: Mixture, epoch: int, first_step: int, callback_list: keras.callbacks.CallbackList
    ) -> dict[str, float]:
        meters = _Meters()
        schedule = mixture.schedule(epoch)
        progress = self.progress
        for step, batch in enumerate(mixture.epoch_dataset(epoch, first_step), first_step):
            callback_list.on_train_batch_begin(step)
            progress.task = mixture.task_names[schedule[step]]
            progress.epoch, progress.step, progress.global_step = epoch, step + 1, progress.global_step + 1
            self._take_step(progress, batch)
            meters.add(progress.task, progress.loss)
            callback_list.on_train_batch_end(step, {"loss": meters.means()["loss"]})
            if self.model.stop_training:
                break
        return meters.means()

    def _take_step(self, progress: Progress, batch: dict[str, tf.Tensor]) -> None:
        progress.learning_rate = float(self.optimizer.learning_rate)
        progress.loss, progress.gradient_norm = self.step(progress.task, batch)
        progress.examples = int(batch["token_ids"].shape[0])
        if not (np.isfinite(progress.loss) and np.isfinite(progress.gradient_norm)):
            raise UserError(
                f"training stopped: task {progress.task!r} gave loss {progress.loss} and gradient norm "
                f"{progress.gradient_norm} at step {progress.global_step} (epoch {progress.epoch + 1}); "
                "finite numbers are needed. Lower optimizer.learning_rate or look at this task's data; "
                "the last checkpoint is intact."
            )

    def step(self, name: str, batch: dict[str, tf.Tensor]) -> tuple[float, float]:
        """Take one step on a batch of the named task; return its loss (unweighted) and the gradient's norm before clipping."""
        if name not in self._steps:
            self._steps[name] = self._build_step(self.tasks[name])
        loss, norm = self._steps[name](batch)
        return float(loss), float(norm)

    def _build_step(self, task: TaskSpec) -> Step:
        model = task_model(self.model, task.name)
        variables = model.trainable_variables
        loss_function = LOSSES[task.loss]
        optimizer, clip_norm = self.optimizer, self.clip_norm

        @tf.function(input_signature=[BATCH_SPEC])
        def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                logits = model({name: batch[name] for name in INPUTS}, training=True)
                loss = loss_function(logits, batch)
                weighted = task.loss_weight * loss
            gradients = tape.gradient(weighted, [variable.value for variable in variables])
            # A variable that this task does not use (the pooler, under a SAN head) has no gradient and must not move.
            used = [
                (_dense(gradient), variable)
                for gradient, variable in zip(gradients, variables, strict=True)
                if gradient is not None
            ]
            clipped, norm = clip_by_global_norm([gradient for gradient, _ in used], clip_norm)
            optimizer.apply(clipped, [variable for _, variable in used])
            return loss, norm

        compiled: Step = step.get_concrete_function()
        return compiled


def _dense(gradient: Any) -> tf.Tensor:
    """Return an embedding's gradient as a dense tensor: both Adamax rules move every row at every step."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
    return gradient
