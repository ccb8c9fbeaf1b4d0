"""Multi-head attention of a training step: five matrix products between fused kernels, with its gradient written by hand.

Shares are left unnormalised until after the product with the values, and the gradient's row sums are taken over a head's width
instead of over the sequence, both as in FlashAttention (Dao et al. 2022, section 3.1 and appendix B); so the kernels reduce
nothing over the sequence, but for a maximum where exp could overflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mtdnn_tf.modeling.fused_ops import Gradient, column_sums, kept, kernel

_SAFE = 40.0  # scores within +-40 need no shift: exp stays far from overflow, and far above that of padding
_LOWEST = -60.0  # what padding's scores are raised to: products with its exp stay normal numbers


def _exp(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(tf.maximum(x, _LOWEST))


def _exp_for_bfloat16(x: tf.Tensor) -> tf.Tensor:
    """Return exp(x) with a relative error below 2e-4, a twentieth of bfloat16's rounding: 2^n times a cubic of the rest."""
    power = tf.maximum(x, _LOWEST) * 1.4426950408889634
    whole = tf.floor(power)
    rest = power - whole
    mantissa = 1.0 + rest * (0.69583354 + rest * (0.22606716 + rest * 0.078024523))
    exponent = tf.bitwise.left_shift(tf.cast(whole, tf.int32), 23)
    return tf.bitcast(tf.bitcast(mantissa, tf.int32) + exponent, tf.float32)


def _logits(scores: tf.Tensor, padding: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    return tf.cast(scores, tf.float32) * scale + padding[:, tf.newaxis, tf.newaxis, :]


def _merged(parts: tf.Tensor, width: int) -> tf.Tensor:
    """Return `[batch, heads, length, d / heads]` as `[batch length, d]`, `width` being d."""
    return tf.reshape(tf.transpose(parts, [0, 2, 1, 3]), [-1, width])


@functools.cache
def attention(heads: int, levels: int) -> Callable[..., tf.Tensor]:
    """Return dropout(softmax(query key' / sqrt(width) + bias)) value as a function of projected inputs.

    Its arguments: `x [batch length, 3 d]`, the products with the kernels of query, key and value side by side;
    `bias [3 d]`, theirs; `padding [batch, length] float32`, 0 on tokens, very negative on padding; random numbers
    `[batch, heads, length, length]` (with `levels` 0: none are read). It returns `[batch length, d]`.
    """

    @kernel
    def split(x: Any, bias: Any, padding: Any) -> Any:
        added = tf.cast(tf.cast(x, tf.float32) + tf.cast(bias, tf.float32), x.dtype)
        shape = tf.shape(padding)
        parts = tf.reshape(added, [shape[0], shape[1], 3, heads, -1])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        return query, key, value

    @kernel
    def largest_possible(query: Any, key: Any, scale: Any) -> Any:
        """Return what no score is above: |query| |key| of the longest ones of each head."""
        squares = [tf.reduce_sum(tf.square(tf.cast(part, tf.float32)), axis=-1) for part in (query, key)]
        longest = [tf.sqrt(tf.reduce_max(square, axis=-1)) for square in squares]
        return tf.reduce_max(longest[0] * longest[1]) * scale

    @kernel
    def row_maxima(scores: Any, padding: Any, scale: Any) -> Any:
        return tf.reduce_max(_logits(scores, padding, scale), axis=-1, keepdims=True)

    @kernel
    def powers(scores: Any, shifts: Any, padding: Any, random: Any, scale: Any) -> Any:
        exp = _exp if scores.dtype == tf.float32 else _exp_for_bfloat16
        values = exp(_logits(scores, padding, scale) - shifts)
        dropped = values * kept(random, levels) if levels else values
        return tf.cast(values, scores.dtype), tf.cast(dropped, scores.dtype)

    @kernel
    def normalised(mixed: Any, total: Any) -> Any:
        inverse = 1.0 / tf.cast(total, tf.float32)
        return tf.cast(tf.cast(mixed, tf.float32) * inverse, mixed.dtype), inverse

    @kernel
    def into_products(dy: Any, context: Any, inverse: Any) -> Any:
        wide = tf.cast(dy, tf.float32) * inverse
        return tf.cast(wide, dy.dtype), tf.reduce_sum(wide * tf.cast(context, tf.float32), axis=-1, keepdims=True)

    @kernel
    def into_scores(values: Any, dropped: Any, along: Any, random: Any, scale: Any) -> Any:
        wide = tf.cast(dropped, tf.float32)
        if levels:
            wide *= kept(random, levels)
        return tf.cast(tf.cast(values, tf.float32) * (wide - along) * scale, values.dtype)

    @tf.custom_gradient
    def apply(x: tf.Tensor, bias: tf.Tensor, padding: tf.Tensor, random: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        query, key, value = split(x, bias, padding)
        width = x.shape[-1] // 3
        scale = tf.constant((width // heads) ** -0.5, tf.float32)
        scores = tf.matmul(query, key, transpose_b=True)
        # The pass that looks for each row's maximum is spared where exp cannot overflow without.
        shifts = tf.cond(
            largest_possible(query, key, scale) < _SAFE,
            lambda: tf.zeros([*tf.unstack(tf.shape(scores)[:-1]), 1]),
            lambda: row_maxima(scores, padding, scale),
        )
        values, dropped = powers(scores, shifts, padding, random, scale)
        total = tf.matmul(values, tf.ones([*tf.unstack(tf.shape(values)[:-1]), 1], values.dtype))
        context, inverse = normalised(tf.matmul(dropped, value), total)

        def gradient(dy: tf.Tensor) -> tuple[Any, ...]:
            dy = tf.reshape(dy, [*tf.unstack(tf.shape(padding)), heads, width // heads])
            dy = tf.transpose(dy, [0, 2, 1, 3])
            dmixed, along = into_products(dy, context, inverse)
            dvalue = tf.matmul(dropped, dmixed, transpose_a=True)
            dscores = into_scores(values, tf.matmul(dmixed, value, transpose_b=True), along, random, scale)
            parts = (tf.matmul(dscores, key), tf.matmul(dscores, query, transpose_a=True), dvalue)
            dx = tf.concat([_merged(part, width) for part in parts], axis=1)
            return dx, column_sums(dx), None, None

        return _merged(context, width), gradient

    return apply
