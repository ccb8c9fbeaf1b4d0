"""Where inference takes its weights from: an encoder's own variables, as they are at each call, or copies laid out for serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

Rows = Callable[[tf.Tensor], tf.Tensor]  # ids `[...]` to vectors `[..., d] float32`, or rows `[n, d]` to `[n, outputs]`


class Weights(Protocol):
    """Where weights come from, and in what format products with them are computed."""

    @property
    def compute(self) -> tf.DType:
        """The format of products."""

    def table(self, variable: Any) -> Rows:
        """Return the lookup in an embedding table."""

    def norm(self, norm: Any) -> Rows:
        """Return a LayerNorm of rows with the gamma, beta and epsilon of this layer."""

    def product(self, parts: Sequence[Any], factors: Sequence[float] = (1.0,)) -> Rows:
        """Return one product for dense layers of the same input, side by side, each times its factor; its format is `compute`."""


@dataclass(frozen=True)
class LiveWeights:
    """An encoder's variables as they are at each call: what scores a model that is being trained."""

    compute: tf.DType

    def table(self, variable: Any) -> Rows:
        """See `Weights`."""
        return lambda ids: tf.gather(whole(variable), ids)

    def norm(self, norm: Any) -> Rows:
        """See `Weights`."""
        return lambda x: normalised(x, norm.epsilon, whole(norm.gamma), whole(norm.beta))

    def product(self, parts: Sequence[Any], factors: Sequence[float] = (1.0,)) -> Rows:
        """See `Weights`."""

        def apply(x: tf.Tensor) -> tf.Tensor:
            kernels, biases = [], []
            for part, factor in zip(parts, factors, strict=True):
                bias, kernel = tf.reshape(whole(part.bias), [-1]), tf.convert_to_tensor(whole(part.kernel))
                # Attention's kernels have the heads as an axis of their own: before the last or, towards the output, first.
                kernels.append(tf.cast(factor * tf.reshape(kernel, [-1, bias.shape[0]]), self.compute))
                biases.append(tf.cast(factor * bias, self.compute))
            product = tf.matmul(tf.cast(x, self.compute), tf.concat(kernels, axis=1))
            return tf.nn.bias_add(product, tf.concat(biases, axis=0))

        return apply


def whole(variable: Any) -> Any:
    """Return a Keras variable's TensorFlow variable; under mixed precision `value` is a rounded copy inside a layer's call."""
    return variable._value


def normalised(x: tf.Tensor, epsilon: float, gamma: Any, beta: Any) -> tf.Tensor:
    """Return LayerNorm over the last axis of `x` `[rows, d] float32`; gamma and beta are `[d]`."""
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * scale * gamma + beta
