"""Compiled training steps, one a task: gradients of the encoder and of that task's head, and their update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import BATCH_SPEC
from mtdnn_tf.errors import unknown_name
from mtdnn_tf.modeling.model import first_tokens, input_spec, task_model
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.distribution import Distribution
from mtdnn_tf.training.loss_scale import LossScale
from mtdnn_tf.training.losses import task_loss
from mtdnn_tf.training.optimizers import Rule, clipping_scale
from mtdnn_tf.training.surgery import gram_matrix, project_conflicts

Batch = dict[str, tf.Tensor]


class StepResult(NamedTuple):
    """What one batch gave."""

    loss: float  # unweighted
    gradient_norm: float  # global norm of the whole update, weighted, before clipping
    shared_norm: float  # norm of the unweighted gradient at the last layer that all tasks share
    loss_scale: float = 1.0  # that the step was taken with

    @property
    def is_finite(self) -> bool:
        """Whether the update was applied: its loss and gradient norm are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Steps:
    """The steps of a model's tasks, each traced when it is first needed.

    An update whose losses or gradients are not finite is not applied: weights, slots and counts of updates stay as they are.
    Variables that a batch's task does not use (other heads, the pooler under a SAN head) get no gradient and do not move.
    """

    def __init__(
        self,
        model: keras.Model,
        tasks: Mapping[str, TaskSpec],
        optimizer: keras.optimizers.Optimizer,
        clip_norm: float,
        distribution: Distribution,
        loss_scale: LossScale | None = None,
    ) -> None:
        """Take the model, the tasks with a head of their own, the built optimizer, the largest gradient norm (0: any), devices."""
        self._distribution = distribution
        self._model, self._tasks, self._optimizer, self._clip_norm = model, tasks, optimizer, clip_norm
        self._loss_scale = loss_scale
        self._signature = BATCH_SPEC | input_spec(model)
        self._shared = _last_shared_kernel(model)
        shared = [model.get_layer("encoder"), *first_tokens(model)]
        self._encoder = {id(variable) for layer in shared for variable in layer.trainable_variables}
        self._updates: dict[str, Callable[..., Any]] = {}
        self._gradients: dict[str, Callable[..., Any]] = {}
        self._variables: dict[str, list[keras.Variable]] = {}  # that a task's gradients belong to

    def update(self, name: str, batch: Batch, weight: float) -> StepResult:
        """Take one step on one batch, its loss multiplied by `weight`."""
        self._check(name)
        if name not in self._updates:
            self._updates[name] = self._build_update(name)
        result = StepResult(*(float(value) for value in self._updates[name](batch, weight)))
        self._uncount_if_lost(result)
        return result

    def update_together(
        self, group: Sequence[tuple[str, Batch, float]], random: np.random.Generator | None = None
    ) -> list[StepResult]:
        """Take one step on several batches of any tasks: their gradients' mean.

        Args:
            group: task, batch and weight of each.
            random: given, gradients of different tasks that conflict in the encoder are changed by PCGrad first.

        Returns:
            One result for each batch.
        """
        by_task: dict[str, dict[int, tf.Tensor]] = {}
        losses = []
        scale = 1.0 if self._loss_scale is None else float(self._loss_scale.value)
        for name, batch, weight in group:
            self._check(name)
            if name not in self._gradients:
                self._gradients[name] = self._build_gradients(name)
            loss, shared_norm, gradients = self._gradients[name](batch, weight / len(group))
            losses.append((float(loss), float(shared_norm)))
            of_task = by_task.setdefault(name, {})
            for variable, gradient in zip(self._variables[name], gradients, strict=True):
                of_task[id(variable)] = of_task[id(variable)] + gradient if id(variable) in of_task else gradient
        norm = self._apply(by_task, [loss for loss, _ in losses], random)
        results = [StepResult(loss, norm, shared_norm, scale) for loss, shared_norm in losses]
        # Of several tasks one may have a bad loss, and no gradient that tells.
        self._uncount_if_lost(next((result for result in results if not result.is_finite), results[0]))
        return results

    def _check(self, name: str) -> None:
        if name not in self._tasks:
            raise KeyError(unknown_name("step", "task", name, self._tasks))

    def _apply(
        self, by_task: Mapping[str, dict[int, tf.Tensor]], losses: Sequence[float], random: np.random.Generator | None
    ) -> float:
        in_encoder = [{key: of_task[key] for key in of_task if key in self._encoder} for of_task in by_task.values()]
        shares = np.ones(len(by_task))
        if random is not None and len(by_task) > 1:
            shares = project_conflicts(gram_matrix(in_encoder), random)
        total: dict[int, tf.Tensor] = {}
        for of_task, share in zip(by_task.values(), shares, strict=True):
            for key, gradient in of_task.items():
                part = gradient * float(share) if key in self._encoder and share != 1.0 else gradient
                total[key] = total[key] + part if key in total else part
        variables = {id(variable): variable for name in by_task for variable in self._variables[name]}
        gradients = [total[key] for key in variables]
        of_losses = tf.constant(losses, tf.float32)
        norms: list[tf.Tensor] = []
        self._distribution.on_replicas(
            lambda: norms.append(self._clip_and_apply(gradients, list(variables.values()), of_losses))
        )
        return float(norms[0])

    def _clip_and_apply(
        self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable], losses: tf.Tensor
    ) -> tf.Tensor:
        """Update the variables, if norm and losses are finite, and return the gradients' norm."""
        scale, norm = clipping_scale(gradients, self._clip_norm)
        result = tf.concat([tf.reshape(losses, [-1]), [norm]], axis=0)
        if self._loss_scale is None and isinstance(self._optimizer, Rule):
            # A rule leaves alone what has no gradient but NaN: that costs no condition, and works on replicas.
            scale = tf.where(tf.reduce_all(tf.math.is_finite(result)), scale, math.nan)
            if self._optimizer.fused:
                self._optimizer.apply_scaled(gradients, variables, scale)
            else:
                self._optimizer.apply([gradient * scale for gradient in gradients], variables)
            return norm
        clipped = [gradient * scale for gradient in gradients]
        if self._loss_scale is not None:
            self._loss_scale.apply_if_finite(result, lambda: self._optimizer.apply(clipped, variables))
        else:
            tf.cond(
                tf.reduce_all(tf.math.is_finite(result)),
                lambda: self._optimizer.apply(clipped, variables) is None,
                lambda: False,
            )
        return norm

    def _uncount_if_lost(self, result: StepResult) -> None:
        """Take back the one thing that `Rule.apply` does with an update that is not finite: Keras counts it."""
        if not result.is_finite and self._loss_scale is None and isinstance(self._optimizer, Rule):
            self._optimizer.iterations.assign_sub(1)

    def _differentiated(self, name: str) -> Callable[[Batch, tf.Tensor], Any]:
        """Return the function from batch and weight to loss, norm at the last shared layer, gradients and their variables."""
        task, model = self._tasks[name], task_model(self._model, name)
        variables, loss_function, shared = model.trainable_variables, task_loss(task), self._shared
        sum_over_replicas, loss_scale = self._distribution.sum_over_replicas, self._loss_scale

        def differentiate(batch: Batch, weight: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                logits = model({name: batch[name] for name in model.input}, training=True)
                loss = loss_function(logits, batch)
                weighted = weight * loss if loss_scale is None else weight * loss * loss_scale.value
            gradients = tape.gradient(weighted, [variable.value for variable in variables])
            used = [variable for gradient, variable in zip(gradients, variables, strict=True) if gradient is not None]
            own = [_dense(gradient) for gradient in gradients if gradient is not None]
            if loss_scale is not None:
                own = [gradient / loss_scale.value for gradient in own]
            loss, *summed = sum_over_replicas([loss, *own])
            at_shared = [gradient for gradient, variable in zip(summed, used, strict=True) if variable is shared]
            shared_norm = tf.linalg.global_norm(at_shared) / weight if at_shared else tf.constant(0.0)
            return loss, shared_norm, summed, used

        return differentiate

    def _build_update(self, name: str) -> Callable[..., Any]:
        differentiate = self._differentiated(name)
        loss_scale = self._loss_scale

        def update(batch: Batch, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
            scale = tf.constant(1.0) if loss_scale is None else tf.identity(loss_scale.value)
            loss, shared_norm, gradients, variables = differentiate(batch, weight)
            return loss, self._clip_and_apply(gradients, variables, loss), shared_norm, scale

        return self._distribution.compile_step(update, self._signature)

    def _build_gradients(self, name: str) -> Callable[..., Any]:
        differentiate = self._differentiated(name)

        def gradients(batch: Batch, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            loss, shared_norm, values, self._variables[name] = differentiate(batch, weight)
            return loss, shared_norm, values

        return self._distribution.compile_step(gradients, self._signature)


def _last_shared_kernel(model: keras.Model) -> keras.Variable | None:
    """Return the last matrix below the heads and the pooler, which every task's gradient passes."""
    kernels = [
        variable
        for variable in model.get_layer("encoder").trainable_variables
        if variable.path.endswith("feedforward_output_dense/kernel")
    ]
    return kernels[-1] if kernels else None


def _dense(gradient: Any) -> tf.Tensor:
    """Return an embedding's gradient as a dense tensor: both Adamax rules move every row at every step."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])
    return gradient
