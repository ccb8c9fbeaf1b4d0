"""Learning rates: over the run by a schedule with warm-up, and over the model by depth and part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.backbone import EncoderBackbone

Descent = Callable[[tf.Tensor, float, float], tf.Tensor]  # x after the warm-up, warmup, power -> share of the peak


def _linear(x: tf.Tensor, warmup: float, power: float) -> tf.Tensor:
    return (1.0 - x) / (1.0 - warmup)


def _linear_jump(x: tf.Tensor, warmup: float, power: float) -> tf.Tensor:
    return 1.0 - x


def _cosine(x: tf.Tensor, warmup: float, power: float) -> tf.Tensor:
    return 0.5 * (1.0 + tf.cos(math.pi * tf.minimum((x - warmup) / (1.0 - warmup), 1.0)))


def _polynomial(x: tf.Tensor, warmup: float, power: float) -> tf.Tensor:
    return tf.maximum((1.0 - x) / (1.0 - warmup), 0.0) ** power


def _constant(x: tf.Tensor, warmup: float, power: float) -> tf.Tensor:
    return tf.ones_like(x)


SCHEDULES: dict[str, Descent] = {
    "linear": _linear,
    "linear_jump": _linear_jump,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "constant": _constant,
}


@keras.saving.register_keras_serializable("mtdnn_tf")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate by the share x = step / total_steps of the run; 0 at the first step of a warm-up and, but for `constant`, after the last.

    All rise in a line up to x = `warmup`. Then `linear` goes down to 0 in a line, `linear_jump` as 1 - x, as the first release had
    it (the rate drops from 1.0 to 0.9 at x = 0.1), `cosine` as half a cosine, `polynomial` as the line to the power `power`, and
    `constant` stays.
    """

    def __init__(
        self, peak: float, total_steps: int, warmup: float = 0.1, shape: str = "linear", power: float = 2.0
    ) -> None:
        """Set up the schedule.

        Args:
            peak: the largest learning rate.
            total_steps: steps of the whole run.
            warmup: share of the steps in which the rate rises, in [0, 1).
            shape: a key of `SCHEDULES`.
            power: of `polynomial`.

        Raises:
            UserError: the shape is unknown.
        """
        if shape not in SCHEDULES:
            raise UserError(unknown_name("optimizer.schedule", "schedule", shape, SCHEDULES))
        self.peak, self.total_steps, self.warmup, self.shape, self.power = peak, total_steps, warmup, shape, power

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the rate of a 0-based step, `[] float32`."""
        x = tf.cast(step, tf.float32) / float(max(self.total_steps, 1))
        descent = SCHEDULES[self.shape](x, self.warmup, self.power)
        share = tf.where(x < self.warmup, x / max(self.warmup, 1e-9), descent)
        return self.peak * tf.maximum(share, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("peak", "total_steps", "warmup", "shape", "power")
        return {name: getattr(self, name) for name in names}


def rate_factors(variables: Sequence[keras.Variable], encoder: EncoderBackbone, config: OptimizerConfig) -> list[float]:
    """Return what the learning rate of each variable is multiplied by.

    With `layer_decay` r and N layers: r^(N - i) in layer i from 1, r^N and `embedding_rate` in the embeddings, 1 in the pooler;
    `head_rate` in heads and task tokens, which is what does not belong to the encoder (layer-wise decay: Clark et al. 2020, ELECTRA).

    Args:
        variables: of a model of `build_model`.
        encoder: the model's.
        config: the section `optimizer`.
    """
    factors = {
        id(variable): config.layer_decay**depth.layers_above * (config.embedding_rate if depth.is_embedding else 1.0)
        for layer, depth in encoder.depths()
        for variable in layer.weights
    }
    return [factors.get(id(variable), config.head_rate) for variable in variables]
