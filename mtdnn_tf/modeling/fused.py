"""BERT's forward pass from fused kernels, on the variables of a `BertEncoder`: the same function, with fewer passes over memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mtdnn_tf.modeling.fused_ops import (
    bias_activation,
    bias_dropout_residual_norm,
    bias_split_heads,
    dropped_levels,
    masked_softmax_dropout,
    random_bytes,
)

_PADDING = -1e9  # added to the scores of padding
_ROWS = 8  # batches are filled up to a multiple: every shape compiles its own kernels


class FusedPass:
    """One forward pass; its gradient comes from the kernels."""

    def __init__(self, backbone: Any, training: bool, seed: tf.Tensor | None) -> None:
        """Take a `BertEncoder`; in training, a seed `[2] int32` that all dropout masks of this pass come from."""
        self._backbone = backbone
        self._dtype = tf.as_dtype(backbone.embeddings_layer_norm.compute_dtype)
        self._levels = dropped_levels(backbone.dropout) if training else 0
        self._seed, self._sites = seed, 0

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return `sequence_output` `[batch, length, d]` and `pooled_output` `[batch, d]` of the encoder's inputs."""
        backbone = self._backbone
        rows = tf.shape(inputs["token_ids"])[0]
        filled = {
            name: tf.pad(inputs[name], [[0, -rows % _ROWS], [0, 0]])
            for name in ("token_ids", "segment_ids", "padding_mask")
        }
        batch, length = tf.unstack(tf.shape(filled["token_ids"]))
        bias = tf.where(filled["padding_mask"] > 0, 0.0, _PADDING)
        x = self._embedded(filled)  # [batch length, d]
        for layer in backbone.transformer_layers:
            x = self._layer(layer, x, bias, batch, length)
        sequence = tf.reshape(x, [batch, length, backbone.hidden_dim])[:rows]
        return {"sequence_output": sequence, "pooled_output": backbone.pooled_dense(sequence[:, 0])}

    def _embedded(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        backbone = self._backbone
        tokens = tf.reshape(inputs["token_ids"], [-1])
        segments = tf.reshape(inputs["segment_ids"], [-1])
        total = tf.gather(self._table(backbone.token_embedding.embeddings), tokens)
        total += tf.gather(self._table(backbone.segment_embedding.embeddings), segments)
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        positions = self._table(backbone.position_embedding.position_embeddings)[:length]
        total = tf.reshape(tf.reshape(total, [batch, length, -1]) + positions, [batch * length, backbone.hidden_dim])
        norm = backbone.embeddings_layer_norm
        nothing = tf.zeros([backbone.hidden_dim], self._dtype)
        normalise = bias_dropout_residual_norm(norm.epsilon, 0)
        x = normalise(total, nothing, tf.zeros_like(total), *_scale_and_shift(norm), self._no_bytes())
        if not self._levels:
            return x
        keep = self._bytes(tf.shape(x)) >= tf.constant(self._levels, tf.uint8)
        return x * tf.cast(tf.where(keep, 256 / (256 - self._levels), 0.0), self._dtype)

    def _layer(self, layer: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        attended = self._attention(layer._self_attention_layer, x, bias, batch, length)
        output = layer._self_attention_layer._output_dense
        x = self._joined(attended, output.bias, x, layer._self_attention_layer_norm)
        inner, outer = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
        hidden = bias_activation(self._backbone.hidden_activation)(
            tf.matmul(x, self._matrix(inner.kernel)), self._vector(inner.bias)
        )
        return self._joined(tf.matmul(hidden, self._matrix(outer.kernel)), outer.bias, x, layer._feedforward_layer_norm)

    def _attention(
        self, attention: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor
    ) -> tf.Tensor:
        """Return what attention gives, projected, its bias not yet added: `[batch length, d]`."""
        width = self._backbone.hidden_dim
        heads = self._backbone.num_heads
        parts = (attention._query_dense, attention._key_dense, attention._value_dense)
        kernel = tf.concat([self._matrix(part.kernel, [width, width]) for part in parts], axis=1)
        biases = tf.concat([self._vector(part.bias) for part in parts], axis=0)
        projected = tf.reshape(tf.matmul(x, kernel), [batch, length, 3 * width])
        query, key, value = bias_split_heads(heads)(projected, biases)
        scores = tf.matmul(query, key, transpose_b=True)
        random = self._bytes(tf.shape(scores)) if self._levels else self._no_bytes()
        shares = masked_softmax_dropout((width // heads) ** -0.5, self._levels)(scores, bias, random)
        context = tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3])
        return tf.matmul(
            tf.reshape(context, [batch * length, width]), self._matrix(attention._output_dense.kernel, [width, width])
        )

    def _joined(self, x: tf.Tensor, bias: Any, residual: tf.Tensor, norm: Any) -> tf.Tensor:
        random = self._bytes(tf.shape(x)) if self._levels else self._no_bytes()
        join = bias_dropout_residual_norm(norm.epsilon, self._levels)
        return join(x, self._vector(bias), residual, *_scale_and_shift(norm), random)

    def _matrix(self, variable: Any, shape: list[int] | None = None) -> tf.Tensor:
        value = tf.cast(variable.value, self._dtype)
        return tf.reshape(value, shape) if shape else value

    def _vector(self, variable: Any) -> tf.Tensor:
        return tf.reshape(tf.cast(variable.value, self._dtype), [-1])

    def _table(self, variable: Any) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(variable.value), self._dtype)

    def _bytes(self, shape: tf.Tensor) -> tf.Tensor:
        self._sites += 1
        return random_bytes(shape, tf.random.experimental.stateless_fold_in(self._seed, self._sites))

    def _no_bytes(self) -> tf.Tensor:
        return tf.zeros([0], tf.uint8)


def _scale_and_shift(norm: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Return LayerNorm's gamma and beta in float32; under mixed precision Keras hands out rounded values."""
    return tf.cast(norm.gamma.value, tf.float32), tf.cast(norm.beta.value, tf.float32)
