"""Adamax in the paper's rule and in the bias-corrected rule, with warm-up schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.errors import UserError, unknown_name

BETA_1, BETA_2 = 0.9, 0.999
NOT_DECAYED = ("bias", "gamma", "beta")


def _linear(x: tf.Tensor, warmup: float) -> tf.Tensor:
    return tf.where(x < warmup, x / max(warmup, 1e-9), (1.0 - x) / (1.0 - warmup))


def _linear_jump(x: tf.Tensor, warmup: float) -> tf.Tensor:
    return tf.where(x < warmup, x / max(warmup, 1e-9), 1.0 - x)


def _constant(x: tf.Tensor, warmup: float) -> tf.Tensor:
    return tf.where(x < warmup, x / max(warmup, 1e-9), 1.0)


SCHEDULES: dict[str, Callable[[tf.Tensor, float], tf.Tensor]] = {
    "linear": _linear,
    "linear_jump": _linear_jump,
    "constant": _constant,
}


@keras.saving.register_keras_serializable("mtdnn_tf")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate by the share x = step / total_steps of the run; 0 at the first step and, but for `constant`, after the last.

    `linear`: up to `warmup`, then down to 0 in a straight line. `linear_jump`: the same rise, then 1 - x, as the first
    release had it (the rate drops from 1.0 to 0.9 at x = 0.1). `constant`: the rise, then the peak.
    """

    def __init__(self, peak: float, total_steps: int, warmup: float = 0.1, shape: str = "linear") -> None:
        """Set up the schedule.

        Args:
            peak: the largest learning rate.
            total_steps: steps of the whole run.
            warmup: share of the steps in which the rate rises, in [0, 1).
            shape: a key of `SCHEDULES`.

        Raises:
            UserError: the shape is unknown.
        """
        if shape not in SCHEDULES:
            raise UserError(unknown_name("optimizer.schedule", "schedule", shape, SCHEDULES))
        self.peak, self.total_steps, self.warmup, self.shape = peak, total_steps, warmup, shape

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the rate of a 0-based step, `[] float32`."""
        x = tf.cast(step, tf.float32) / float(max(self.total_steps, 1))
        return self.peak * tf.maximum(SCHEDULES[self.shape](x, self.warmup), 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"peak": self.peak, "total_steps": self.total_steps, "warmup": self.warmup, "shape": self.shape}


class _Adamax(keras.optimizers.Optimizer):
    """What both rules share: a mean of gradients, a decaying maximum, and which variables decay."""

    def __init__(
        self, learning_rate: Any, weight_decay: float = 0.01, decay_all: bool = True, name: str = "adamax"
    ) -> None:
        # Keras' own weight_decay stays off: each rule says where its decay enters.
        super().__init__(learning_rate=learning_rate, name=name)
        self.decay = weight_decay
        self.decay_all = decay_all

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots of all variables: the count of updates is kept for each, so a rarely trained head is young."""
        if self.built:
            return
        super().build(variables)
        self._mean, self._maximum = self.add_optimizer_variables(variables, ["mean", "maximum"])
        self._updates = [
            self.add_variable(shape=(), dtype="float32", name=f"{variable.path.replace('/', '_')}_updates")
            for variable in variables
        ]

    def decays(self, variable: keras.Variable) -> bool:
        """Return whether weight decay applies to the variable."""
        return self.decay_all or variable.path.rsplit("/", 1)[-1] not in NOT_DECAYED

    def _rate_of_decay(self, variable: keras.Variable) -> float:
        return self.decay if self.decays(variable) else 0.0


class PaperAdamax(_Adamax):
    """Adamax as MT-DNN was trained with: no bias correction, decay added to the update.

    m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  p -= lr (m / (u + eps) + decay p), with eps = 1e-6.
    The released code decays every parameter, biases and normalisation included; `decay_all=False` spares them.
    """

    epsilon = 1e-6

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Apply one update to one variable."""
        index = self._get_variable_index(variable)
        mean, maximum = self._mean[index], self._maximum[index]
        mean.assign(BETA_1 * mean + (1.0 - BETA_1) * gradient)
        maximum.assign(tf.maximum(BETA_2 * maximum, tf.abs(gradient) + self.epsilon))
        self._updates[index].assign_add(1.0)
        update = mean / (maximum + self.epsilon) + self._rate_of_decay(variable) * variable
        variable.assign_sub(learning_rate * update)


class CorrectedAdamax(_Adamax):
    """Adamax with bias correction and decoupled decay, as later releases have it (Kingma and Ba 2015, Algorithm 2).

    p *= 1 - lr decay;  m = b1 m + (1 - b1) g;  u = max(b2 u, |g| + eps);  p -= lr / (1 - b1^t) m / u, with eps = 1e-8 and
    t the number of updates of this variable, not of the whole run.
    """

    epsilon = 1e-8

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Apply one update to one variable."""
        index = self._get_variable_index(variable)
        mean, maximum, updates = self._mean[index], self._maximum[index], self._updates[index]
        updates.assign_add(1.0)
        mean.assign(BETA_1 * mean + (1.0 - BETA_1) * gradient)
        maximum.assign(tf.maximum(BETA_2 * maximum, tf.abs(gradient) + self.epsilon))
        corrected = learning_rate / (1.0 - tf.pow(BETA_1, tf.convert_to_tensor(updates)))
        kept = 1.0 - learning_rate * self._rate_of_decay(variable)
        variable.assign(variable * kept - corrected * mean / maximum)


def build_optimizer(config: OptimizerConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a run of `total_steps` steps; clipping is the trainer's.

    Raises:
        UserError: the optimizer or the schedule is unknown.
    """
    if config.name != "adamax":
        raise UserError(unknown_name("optimizer.name", "optimizer", config.name, ("adamax",)))
    schedule = WarmupSchedule(config.learning_rate, total_steps, config.warmup, config.schedule)
    rule = CorrectedAdamax if config.bias_correction else PaperAdamax
    decay_all = not config.bias_correction if config.decay_all is None else config.decay_all
    return rule(schedule, weight_decay=config.weight_decay, decay_all=decay_all)


def clip_by_global_norm(gradients: Sequence[tf.Tensor], limit: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Scale gradients so that their global norm is at most `limit` (0: leave them); also return the norm before, `[] float32`.

    To be called after gradients were summed over replicas: Keras' own clipping would act before
    (https://github.com/tensorflow/tensorflow/issues/33929).
    """
    norm = tf.linalg.global_norm(gradients)
    if not limit:
        return list(gradients), norm
    scale = limit / tf.maximum(norm, limit)
    return [gradient * scale for gradient in gradients], norm
