"""The multi-task training loop: one task a step, only the encoder and that task's head move."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.config import ExperimentConfig, OptimizerConfig, TrainingConfig
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.errors import NotFiniteError, UserError
from mtdnn_tf.modeling.model import remember_length
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.averaging import WeightAverage
from mtdnn_tf.training.distribution import Distribution
from mtdnn_tf.training.loss_scale import LOWEST_SCALE, LossScale
from mtdnn_tf.training.loss_weighting import FixedWeights, build_loss_weighting
from mtdnn_tf.training.losses import with_class_weights
from mtdnn_tf.training.means import RunningMeans
from mtdnn_tf.training.optimizers import Rule
from mtdnn_tf.training.progress_bar import RunProgressBar, clock
from mtdnn_tf.training.rates import WarmupSchedule
from mtdnn_tf.training.steps import Batch, StepResult, Steps


@dataclass
class Progress:
    """Where a run is and what the last step gave; callbacks read it through `MultiTaskTrainer.progress`.

    A step is an update of the weights, of one batch or of `accumulate` batches.
    """

    epoch: int = 0
    step: int = 0  # steps done in this epoch
    global_step: int = 0  # steps done in the run
    total_steps: int = 0
    losses: tuple[tuple[str, float], ...] = ()  # of the last step: task and unweighted loss of each batch; finite ones
    gradient_norm: float = math.nan
    learning_rate: float = math.nan
    examples: int = 0  # of the last step
    _first_step: int = field(init=False)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        """Remember where and when this process began."""
        self._first_step, self._started = self.global_step, time.perf_counter()

    def time_left(self) -> str:
        """Return the time that the rest of the run takes at the pace so far, scoring included, as in "1h02m" or "4m10s"."""
        done = max(self.global_step - self._first_step, 1)
        return clock((time.perf_counter() - self._started) / done * (self.total_steps - self.global_step))


def updates_per_epoch(mixture: Mixture, accumulate: int) -> int:
    """Return how often the weights are updated in an epoch; the last update may have fewer batches."""
    return -(-mixture.steps_per_epoch // accumulate)


def _check_combination(config: ExperimentConfig, layers: int) -> None:
    """Refuse options that do not go together, for an encoder of so many layers."""
    training = config.training
    if training.loss_weighting == "gradnorm" and config.model.freeze_layers >= layers:
        raise UserError(
            f"training.loss_weighting: 'gradnorm' compares the tasks' gradients at the last shared layer, and model.freeze_layers "
            f"freezes all {layers}; leave one free, or take another rule"
        )
    if training.gradient_surgery == "pcgrad" and training.accumulate == 1:
        raise UserError(
            "training.gradient_surgery: 'pcgrad' compares the gradients of several batches; set training.accumulate to 2 or more"
        )


class MultiTaskTrainer:
    """Trains a multi-task model on a mixture of tasks (paper, Algorithm 1).

    Each step takes one batch of one task (or, accumulating, a few batches), differentiates and updates the encoder and that
    task's head. The variables of other heads take no part: no zero gradients, no decay, no momentum. The task is chosen on the
    host from the mixture's schedule, and each task has a compiled step of its own, traced when it is first needed.
    """

    def __init__(self, model: keras.Model, tasks: Sequence[TaskSpec], distribution: Distribution | None = None) -> None:
        """Take a model of `build_model`, its tasks, and the devices in whose scope it was built (None: one)."""
        self.model = model
        self.distribution = distribution or Distribution()
        self.tasks = {task.name: task for task in tasks if task.head_of is None}
        self.progress = Progress()
        # Of the epoch so far: `loss` over all batches, `<task>_loss` over each task's own.
        self.epoch_means = RunningMeans()

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        clip_norm: float | None = None,
        *,
        config: ExperimentConfig | None = None,
        weighting: FixedWeights | None = None,
        accumulate: int | None = None,
        surgery_seed: int | None = None,
        loss_scale: LossScale | None = None,
        ema: float | None = None,
    ) -> None:
        """Set how the weights are updated.

        Args:
            optimizer: its learning rate counts updates: see `Mixture.total_updates`. On several devices one of `RULES`, made in
                their scope.
            clip_norm: the largest global gradient norm (0: no clipping).
            config: what the arguments left out are taken from, as the command `train` does; None: the defaults.
            weighting: how much each task's loss counts.
            accumulate: batches to one update.
            surgery_seed: given, PCGrad changes conflicting gradients of one update's tasks; the seed of its random orders.
            loss_scale: None: one of its own where the encoder computes in float16, else none.
            ema: largest decay of the average of the weights that is scored and kept as the best (0: no average).

        Raises:
            UserError: an unknown rule for loss weights, or options of the configuration that do not go together.
        """
        training = config.training if config else TrainingConfig()
        if config is not None:
            _check_combination(config, len(self.model.get_layer("encoder").transformer_layers))
        if clip_norm is None:
            clip_norm = (config.optimizer if config else OptimizerConfig()).clip_norm
        if surgery_seed is None and training.gradient_surgery == "pcgrad":
            surgery_seed = derive_seed(training.seed, "surgery")
        ema = training.ema if ema is None else ema
        self.optimizer = optimizer
        self.weighting = weighting or build_loss_weighting(list(self.tasks.values()), training)
        self.accumulate = training.accumulate if accumulate is None else accumulate
        self._surgery_seed = surgery_seed
        # Built over all variables once: a subset at the first step would fix the slots to that task's.
        if loss_scale is None and self.model.get_layer("encoder").compute_dtype == "float16":
            loss_scale = LossScale()
        self.loss_scale = loss_scale
        if isinstance(optimizer, Rule):
            encoder = self.model.get_layer("encoder")
            optimizer.place(encoder)
            optimizer.fused = encoder.fused and self.distribution.num_replicas == 1
        with self.distribution.scope():
            optimizer.build(self.model.trainable_variables)
            # So that callbacks find model.optimizer; Keras would put its own loss scaling around it.
            self.model.compile(optimizer=optimizer, auto_scale_loss=False)
            self._average = WeightAverage(self.model.trainable_variables, ema, optimizer.iterations) if ema else None
        self._steps = Steps(self.model, self.tasks, optimizer, clip_norm, self.distribution, loss_scale)

    def weigh_classes(self, mixture: Mixture) -> None:
        """Turn class weights that are `balanced` into numbers, by the training rows; before the first step."""
        for name, split in mixture.tokenized.items():
            if name in self.tasks:
                self.tasks[name] = with_class_weights(self.tasks[name], split.labels)

    def parts(self) -> dict[str, dict[str, tf.Variable]]:
        """Return all variables that the run's next step depends on, by part and name: what a checkpoint holds."""
        model_parts = checkpoints.model_parts(self.model, list(self.tasks.values()))
        parts = model_parts | {"optimizer": checkpoints.optimizer_part(self.optimizer)}
        if self.loss_scale is not None:
            parts["loss_scale"] = self.loss_scale.part()
        if self._average is not None:
            parts |= self._average.parts(model_parts)
        return parts

    @contextmanager
    def scored_weights(self) -> Iterator[None]:
        """Give the model the weights that are scored and kept as the best: with `ema` the average, else those it has."""
        if self._average is None:
            yield
        else:
            with self._average.swapped_in():
                yield

    def fit(
        self,
        mixture: Mixture,
        epochs: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        start: tuple[int, int] = (0, 0),
        verbose: int | str = "auto",
    ) -> keras.callbacks.History:
        """Train for `epochs` epochs of the mixture, from `start` = (epoch, steps of it already done).

        The model remembers the mixture's `max_length`, at which scoring and export then cut texts, too.

        Args:
            mixture: what `build_mixture` returned.
            epochs: the number of the last epoch, counted from the beginning of the run; None: `mixture.epochs`.
            callbacks: Keras callbacks; their model is `self.model`.
            start: the position to go on from; within an epoch, `epoch_means` must hold what its steps before gave.
            verbose: 0 silent, 1 progress bar with the tasks' losses and the time left of the run, 2 one line an epoch;
                "auto" takes 1 on a terminal, else 2.

        Returns:
            Keras' history: `loss` and `<task>_loss` means of each epoch, and what callbacks added.

        Raises:
            NotFiniteError: a loss or gradient is not finite; the message names the task and the step.
            UserError: the learning rate's schedule ends before the last epoch does.
        """
        epochs = mixture.epochs if epochs is None else epochs
        if verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        self.weigh_classes(mixture)
        steps = updates_per_epoch(mixture, self.accumulate)
        history = keras.callbacks.History()
        bar = [RunProgressBar(lambda: self.progress.time_left())] if verbose else []
        callback_list = keras.callbacks.CallbackList(
            [*callbacks, history, *bar],
            model=self.model,
            verbose=verbose,
            epochs=epochs,
            steps=steps,
        )
        first_epoch, first_step = start
        self._check_schedule((epochs - first_epoch) * steps - first_step)
        remember_length(self.model, mixture.max_length)
        self.progress = Progress(first_epoch, first_step, first_epoch * steps + first_step, epochs * steps)
        if self._average is not None and self.progress.global_step == 0:
            self._average.reset()
        self.model.stop_training = False
        callback_list.on_train_begin()
        batches = mixture.batches(epochs, (first_epoch, first_step * self.accumulate))
        for epoch in range(first_epoch, epochs):
            callback_list.on_epoch_begin(epoch)
            logs = self._run_epoch(mixture, batches, epoch, first_step, callback_list)
            self.weighting.end_epoch()
            first_step = 0
            callback_list.on_epoch_end(epoch, logs)
            if self.model.stop_training:
                break
        callback_list.on_train_end()
        return history

    def _check_schedule(self, updates: int) -> None:
        """Refuse to go on where the learning rate is 0."""
        schedule = self.optimizer.schedule if isinstance(self.optimizer, Rule) else None
        if not isinstance(schedule, WarmupSchedule) or schedule.shape == "constant":
            return
        needed = int(self.optimizer.iterations.value.numpy()) + updates
        if schedule.total_steps < needed:
            raise UserError(
                f"optimizer.schedule: {schedule.shape!r} ends at update {schedule.total_steps}, and training at update {needed}: the "
                f"learning rate would be 0 in between; use build_optimizer(config.optimizer, {needed}), which mixture.total_updates "
                "gives for a whole run"
            )

    def _run_epoch(
        self,
        mixture: Mixture,
        batches: Iterator[Batch],
        epoch: int,
        first_step: int,
        callback_list: keras.callbacks.CallbackList,
    ) -> dict[str, float]:
        means = self.epoch_means
        if first_step == 0:
            means.reset()
        schedule = mixture.schedule(epoch)
        progress, size = self.progress, self.accumulate
        for step, start in enumerate(range(first_step * size, len(schedule), size), first_step):
            callback_list.on_train_batch_begin(step)
            names = [mixture.task_names[task_id] for task_id in schedule[start : start + size]]
            progress.epoch, progress.step, progress.global_step = epoch, step + 1, progress.global_step + 1
            self._take_step(progress, [(name, next(batches)) for name in names])
            for name, loss in progress.losses:
                means.add("loss", loss)
                means.add(f"{name}_loss", loss)
            callback_list.on_train_batch_end(step, means.means())
            if self.model.stop_training:
                break
        return means.means()

    def _take_step(self, progress: Progress, group: Sequence[tuple[str, Batch]]) -> None:
        progress.learning_rate = float(self.optimizer.learning_rate)
        results = self._update(group)
        named = [(name, result) for (name, _), result in zip(group, results, strict=True)]
        progress.losses = tuple((name, result.loss) for name, result in named if np.isfinite(result.loss))
        progress.examples = sum(int(batch["token_ids"].shape[0]) for _, batch in group)
        if not all(result.is_finite for result in results):
            self._tell_if_lost(named)
            return
        progress.gradient_norm = results[0].gradient_norm
        for name, result in named:
            if result.loss:  # of 0: a ranking batch without a relevant candidate says nothing of how the task does
                self.weighting.observe(name, result.loss, result.shared_norm)

    def _tell_if_lost(self, results: Sequence[tuple[str, StepResult]]) -> None:
        """Raise unless the step was left out and the next ones have a smaller loss scale."""
        lost = [pair for pair in results if not pair[1].is_finite and pair[1].loss_scale <= LOWEST_SCALE]
        if lost:
            # The norm is that of the whole update: of several tasks it is the one with a bad loss, if there is one.
            name, result = min(lost, key=lambda pair: math.isfinite(pair[1].loss))
            raise NotFiniteError(
                f"training stopped: task {name!r} gave loss {result.loss} and gradient norm {result.gradient_norm} at step "
                f"{self.progress.global_step} (epoch {self.progress.epoch + 1}); finite numbers are needed. Lower "
                "optimizer.learning_rate, or look at this task's data"
            )

    def _update(self, group: Sequence[tuple[str, Batch]]) -> list[StepResult]:
        weighted = [(name, batch, self.weighting.weight(name)) for name, batch in group]
        if self.accumulate == 1:
            results = [self._steps.update(*weighted[0])]
        else:
            random = None
            if self._surgery_seed is not None:
                random = np.random.default_rng([self._surgery_seed, self.progress.global_step])
            results = self._steps.update_together(weighted, random)
        if self._average is not None and all(result.is_finite for result in results):
            self._average.update()
        return results

    def step(self, name: str, batch: Batch) -> tuple[float, float]:
        """Take one step on a batch of the named task; return its loss (unweighted) and the gradient's norm before clipping.

        Raises:
            UserError: loss or norm is not finite; the model is as it was before. With a loss scale only where the scale can't be lowered.
        """
        self.progress.global_step += 1
        result = self._steps.update(name, batch, self.weighting.weight(name))
        if not result.is_finite:
            self._tell_if_lost([(name, result)])
        elif self._average is not None:
            self._average.update()
        return result.loss, result.gradient_norm
