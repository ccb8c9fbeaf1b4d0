"""Element-wise chains of a Transformer layer as single compiled kernels, with gradients written by hand.

On a CPU most of a BERT's step is not matrix products but the many passes over memory between them. Each chain here is one XLA
kernel forwards and one backwards; matrix products stay plain TensorFlow operations, which use the processor's matrix units (XLA's
on a CPU do not). Gradients of biases and of LayerNorm are products with a row of ones: those accumulate in float32 also where
the activations are bfloat16, unlike TensorFlow's own BiasAddGrad.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

Gradient = Callable[..., Any]
_WIDTHS = (tf.uint8, tf.uint16, tf.uint32)  # of random numbers: bytes are the cheapest, and right for most rates
_CLOSE = 0.02  # a width will do if it is off by this share of the rate, and of what is kept


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a chain by XLA, once for each shape that it meets."""
    return tf.function(function, jit_compile=True, autograph=False)


def column_sums(x: tf.Tensor) -> tf.Tensor:
    """Return the sums over rows, `[rows, d]` to `[d]`, as a product with ones."""
    ones = tf.ones([1, tf.shape(x)[0]], x.dtype)
    return tf.matmul(ones, x)[0]


class Dropped(NamedTuple):
    """Which elements dropout drops: those whose random number, of the type `dtype`, is below `levels`; 0: none."""

    levels: int
    dtype: tf.DType


def dropped(rate: float) -> Dropped:
    """Return what comes closest to a dropout rate in [0, 1): one of 256 levels for the usual rates, of more for others.

    What is kept is scaled by its own share (`kept`), so that the expectation is right whatever the rounding.
    """
    if rate == 0:
        return Dropped(0, _WIDTHS[0])
    for dtype in _WIDTHS:
        levels = min(max(round(rate * (dtype.max + 1)), 1), dtype.max)
        if abs(levels / (dtype.max + 1) - rate) <= _CLOSE * min(rate, 1 - rate):
            break
    return Dropped(levels, dtype)


def random_integers(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    """Return random whole numbers `shape`, all values of the type alike, several of each 64-bit draw (Philox).

    Args:
        shape: `[rank] int32`.
        seed: `[2] int32`; the numbers are a function of it.
        dtype: unsigned, of 32 bits at most.
    """
    count, of_draw = tf.reduce_prod(shape), 8 // dtype.size
    key = tf.bitcast(tf.cast(seed, tf.int32), tf.uint64)[tf.newaxis]
    draws = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[(count + of_draw - 1) // of_draw], key=key, counter=tf.zeros([2], tf.uint64), alg=1, dtype=tf.uint64
    )
    return tf.reshape(tf.reshape(tf.bitcast(draws, dtype), [-1])[:count], shape)


def kept(random: tf.Tensor, levels: int) -> tf.Tensor:
    """Return what elements are multiplied by, `float32`: 0, or the inverse of the share that is kept."""
    values = random.dtype.max + 1
    return tf.where(random >= tf.constant(levels, random.dtype), values / (values - levels), 0.0)


# --- activations ---------------------------------------------------------------------------------------------------------

_ROOT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def _gelu(h: tf.Tensor) -> tf.Tensor:
    return 0.5 * h * (1.0 + tf.math.erf(h * math.sqrt(0.5)))


def _gelu_slope(h: tf.Tensor) -> tf.Tensor:
    density = tf.exp(-0.5 * h * h) * (1.0 / math.sqrt(2.0 * math.pi))
    return 0.5 * (1.0 + tf.math.erf(h * math.sqrt(0.5))) + h * density


def _gelu_tanh(h: tf.Tensor) -> tf.Tensor:
    return 0.5 * h * (1.0 + tf.tanh(_ROOT_2_OVER_PI * (h + 0.044715 * h * h * h)))


def _gelu_tanh_slope(h: tf.Tensor) -> tf.Tensor:
    inner = tf.tanh(_ROOT_2_OVER_PI * (h + 0.044715 * h * h * h))
    return 0.5 * (1.0 + inner) + 0.5 * h * (1.0 - inner * inner) * _ROOT_2_OVER_PI * (1.0 + 3 * 0.044715 * h * h)


_SLOPES: dict[str, tuple[Gradient, Gradient]] = {
    "gelu": (_gelu, _gelu_slope),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_slope),
    "relu": (tf.nn.relu, lambda h: tf.cast(h > 0.0, h.dtype)),
}


@functools.cache
def bias_activation(name: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the function from `x [rows, d]` and `bias [d]` to the activation of their sum (a key of `bert.ACTIVATIONS`)."""
    activation, slope = _SLOPES[name]

    def both(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)
        return tf.cast(activation(total), x.dtype), tf.cast(slope(total), x.dtype)

    # What the gradient keeps is the slope, not x: erf is dear, and both are at hand here.
    forwards = kernel(both)

    @tf.custom_gradient
    def apply(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        y, slopes = forwards(x, bias)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            dx = slopes * dy
            return dx, column_sums(dx)

        return y, gradient

    return apply


# --- residual connection and LayerNorm -----------------------------------------------------------------------------------


def _row_means(x: tf.Tensor) -> tf.Tensor:
    """Return the means of `[rows, d]` over d, `[rows, 1]`: first of eight stretches side by side, which takes a vector at a time.

    A plain sum over d adds number after number, each waiting for the one before.
    """
    stretches = next(parts for parts in (8, 4, 2, 1) if x.shape[-1] % parts == 0)
    return tf.reduce_sum(tf.add_n(tf.split(x, stretches, axis=-1)), axis=-1, keepdims=True) / x.shape[-1]


@functools.cache
def bias_dropout_residual_norm(epsilon: float, levels: int, with_sum: bool = False) -> Callable[..., Any]:
    """Return LayerNorm(residual + dropout(x + bias)) as a function of x, bias, residual, gamma, beta and random numbers.

    x and residual are `[rows, d]`, bias, gamma and beta `[d]`, the numbers `[rows, d]` (with `levels` 0: none are read).
    `with_sum`: the function returns two tensors, what is normalised and then the result.
    """

    def summed(x: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor, random: tf.Tensor) -> tf.Tensor:
        added = tf.cast(x, tf.float32) + tf.cast(bias, tf.float32)
        if levels:
            added *= kept(random, levels)
        return tf.cast(residual, tf.float32) + added

    def forwards(x: Any, bias: Any, residual: Any, gamma: Any, beta: Any, random: Any) -> Any:
        total = summed(x, bias, residual, random)
        centred = total - _row_means(total)
        inverse = tf.math.rsqrt(_row_means(centred * centred) + epsilon)
        hat = centred * inverse
        results = (tf.cast(hat * gamma + beta, x.dtype), tf.cast(hat, x.dtype), inverse)
        return (tf.cast(total, x.dtype), *results) if with_sum else results

    def backwards(hat: Any, inverse: Any, gamma: Any, random: Any, dy: Any, dsum: Any = None) -> Any:
        wide, dy = tf.cast(hat, tf.float32), tf.cast(dy, tf.float32)
        scaled = dy * gamma
        total = (scaled - _row_means(scaled) - wide * _row_means(scaled * wide)) * inverse
        if dsum is not None:
            total += tf.cast(dsum, tf.float32)
        dx = total * kept(random, levels) if levels else total
        return tf.cast(total, hat.dtype), tf.cast(dx, hat.dtype), tf.cast(dy * wide, hat.dtype)

    forwards_kernel, backwards_kernel = kernel(forwards), kernel(backwards)

    @tf.custom_gradient
    def apply(
        x: tf.Tensor, bias: tf.Tensor, residual: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, random: tf.Tensor
    ) -> tuple[Any, Gradient]:
        *total, y, hat, inverse = forwards_kernel(x, bias, residual, gamma, beta, random)

        def gradient(*upstream: tf.Tensor) -> tuple[Any, ...]:
            *dsum, dy = upstream
            dresidual, dx, dgamma = backwards_kernel(hat, inverse, gamma, random, dy, *dsum)
            sums = [tf.cast(column_sums(part), tf.float32) for part in (dgamma, dy)]
            return dx, column_sums(dx), dresidual, *sums, None

        return ((*total, y) if with_sum else y), gradient

    return apply
