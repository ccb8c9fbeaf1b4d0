"""What a request must hold: asserted in the graph, so that a caller in any language is told which rule was broken.

The data of the assertions are strings and int32 alone: TensorFlow writes those as one op, which every converter drops or knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.modeling.backbone import EncoderBackbone


def checked_texts(texts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the texts of a request, each `[batch] string`.

    Raises, where the graph runs:
        tf.errors.InvalidArgumentError: an input is no vector, or one of a pair has more texts than the other.
    """
    texts = [tf.ensure_shape(text, [None]) for text in texts]
    sizes = [tf.shape(text)[0] for text in texts]
    rule = tf.debugging.Assert(
        tf.equal(sizes[0], sizes[-1]), ["each input must hold the same number of texts; received", *sizes]
    )
    with tf.control_dependencies([rule]):
        return [tf.identity(text) for text in texts]


def checked_ids(inputs: Sequence[tf.Tensor], encoder: EncoderBackbone) -> list[tf.Tensor]:
    """Return `token_ids`, `segment_ids` and `padding_mask` of a request, each `[batch, length] int32`.

    Out of its table, a negative id would silently be another token's, and on a GPU any id a vector of zeros.

    Raises, where the graph runs:
        tf.errors.InvalidArgumentError: shapes differ, there are no positions or more than the encoder has, or a value is
            out of its range.
    """
    inputs = [tf.ensure_shape(value, [None, None]) for value in inputs]
    shape = tf.shape(inputs[0])
    rules = [
        tf.debugging.Assert(
            tf.reduce_all(tf.equal(tf.shape(value), shape)),
            [f"{name} must have the shape of {INPUTS[0]}; received", tf.shape(value), "and", shape],
        )
        for name, value in zip(INPUTS[1:], inputs[1:], strict=True)
    ]
    rules.append(_positions(shape, encoder.max_sequence_length))
    # Heads tell two texts apart, whether or not the encoder does.
    limits = (encoder.vocabulary_size, max(encoder.num_segments, 2), 2)
    rules += [_range(*each) for each in zip(INPUTS, inputs, limits, strict=True)]
    with tf.control_dependencies(rules):
        return [tf.identity(value) for value in inputs]


def unragged(inputs: Sequence[tf.RaggedTensor]) -> list[tf.Tensor]:
    """Return the ids of examples, each `[batch, (length)]`, filled up to the longest.

    Raises, where the graph runs:
        tf.errors.InvalidArgumentError: an example has more values of one input than of another.
    """
    rules = [
        tf.debugging.Assert(
            tf.reduce_all(tf.equal(value.row_lengths(), inputs[0].row_lengths())),
            [f"each example must have as many values of {name} as of {INPUTS[0]}"],
        )
        for name, value in zip(INPUTS[1:], inputs[1:], strict=True)
    ]
    with tf.control_dependencies(rules):
        return [tf.identity(value.to_tensor()) for value in inputs]


def with_a_position(inputs: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Give inputs `[0, 0] int32`, which are no texts at all, the one position that the encoder's first token stands in."""
    missing = tf.cast(tf.equal(tf.shape(inputs[0])[1], 0), tf.int32)
    return tuple(tf.pad(value, [[0, 0], [0, missing]]) for value in inputs)


def int32_ids(values: tf.Tensor) -> tf.Tensor:
    """Return int64 ids as int32; what int32 cannot hold stays out of every table instead of wrapping round into one."""
    return tf.cast(tf.clip_by_value(values, tf.int32.min, tf.int32.max), tf.int32)


def _positions(shape: tf.Tensor, most: int) -> tf.Operation:
    """Assert 1 <= length <= most of `[batch, length]`; without rows, the length may be 0."""
    fits = (shape[1] >= tf.minimum(shape[0], 1)) & (shape[1] <= most)
    return tf.debugging.Assert(fits, [f"the length must be from 1 to {most} tokens; received", shape[1]])


def _range(name: str, values: tf.Tensor, size: int) -> tf.Operation:
    """Assert 0 <= values < size."""
    fits = tf.reduce_all((values >= 0) & (values < size))
    received = [tf.reduce_min(values), "to", tf.reduce_max(values)]
    return tf.debugging.Assert(fits, [f"{name} must be from 0 to {size - 1}; received", *received])
