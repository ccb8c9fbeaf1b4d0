"""BERT's forward pass from fused kernels, on the variables of a `BertEncoder`: the same function, with fewer passes over memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mtdnn_tf.modeling.backbone import put_first
from mtdnn_tf.modeling.fused_attention import attention
from mtdnn_tf.modeling.fused_ops import (
    bias_activation,
    bias_dropout_residual_norm,
    dropped_levels,
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

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs; see `EncoderBackbone`."""
        backbone = self._backbone
        rows = tf.shape(inputs["token_ids"])[0]
        filled = {
            name: tf.pad(inputs[name], [[0, -rows % _ROWS], [0, 0]])
            for name in ("token_ids", "segment_ids", "padding_mask")
        }
        if first_tokens is not None:
            first_tokens = tf.pad(first_tokens, [[0, -rows % _ROWS], [0, 0], [0, 0]])
        x, mask = self._embedded(filled, first_tokens)  # [batch length, d]
        batch, length = tf.unstack(tf.shape(mask))
        bias = tf.where(mask > 0, 0.0, _PADDING)
        for layer in backbone.transformer_layers:
            x = self._recomputed(layer, x, bias, batch, length)
        sequence = tf.reshape(x, [batch, length, backbone.hidden_dim])[:rows]
        pooled = sequence[:, 0] if first_tokens is None else sequence[:, : first_tokens.shape[1]]
        return {"sequence_output": sequence, "pooled_output": backbone.pooled_dense(pooled)}

    def _embedded(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the first layer's input `[batch length, d]` and its padding mask `[batch, length]`."""
        backbone = self._backbone
        tokens = tf.reshape(inputs["token_ids"], [-1])
        segments = tf.reshape(inputs["segment_ids"], [-1])
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        total = tf.gather(_whole(backbone.token_embedding.embeddings), tokens)
        # A product, not a lookup: the gradient of two rows that are named thousands of times.
        types = _whole(backbone.segment_embedding.embeddings)
        total += tf.matmul(tf.one_hot(segments, types.shape[0]), types)
        positions = _whole(backbone.position_embedding.position_embeddings)[:length]
        total = tf.reshape(tf.reshape(total, [batch, length, -1]) + positions, [batch * length, backbone.hidden_dim])
        total = tf.cast(total, self._dtype)
        norm = backbone.embeddings_layer_norm
        nothing = tf.zeros([backbone.hidden_dim], self._dtype)
        normalise = bias_dropout_residual_norm(norm.epsilon, 0)
        x = normalise(total, nothing, tf.zeros_like(total), *_scale_and_shift(norm), self._no_bytes())
        mask = inputs["padding_mask"]
        if first_tokens is not None:
            joined, mask = put_first(first_tokens, tf.reshape(x, [batch, length, backbone.hidden_dim]), mask)
            x = tf.reshape(joined, [-1, backbone.hidden_dim])
        if not self._levels:
            return x, mask
        keep = self._bytes(tf.shape(x)) >= tf.constant(self._levels, tf.uint8)
        return x * tf.cast(tf.where(keep, 256 / (256 - self._levels), 0.0), self._dtype), mask

    def _recomputed(self, layer: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return a layer's output; where asked for, its gradient keeps only `x` and goes through the layer again."""
        if not self._backbone.recompute:
            return self._layer(layer, x, bias, batch, length)
        sites = self._sites

        @tf.recompute_grad
        def compute(x: tf.Tensor) -> tf.Tensor:
            self._sites = sites  # the same masks the second time
            return self._layer(layer, x, bias, batch, length)

        return compute(x)

    def _layer(self, layer: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        attended = self._attention(layer._self_attention_layer, x, bias, batch, length)
        output = layer._self_attention_layer._output_dense
        x = self._joined(attended, output.bias, x, layer._self_attention_layer_norm)
        inner, outer = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
        hidden = bias_activation(self._backbone.hidden_activation)(
            tf.matmul(x, self._matrix(inner.kernel)), self._vector(inner.bias)
        )
        return self._joined(tf.matmul(hidden, self._matrix(outer.kernel)), outer.bias, x, layer._feedforward_layer_norm)

    def _attention(self, part: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return what attention gives, projected, its bias not yet added: `[batch length, d]`."""
        width, heads = self._backbone.hidden_dim, self._backbone.num_heads
        layers = (part._query_dense, part._key_dense, part._value_dense)
        kernel = tf.concat([self._matrix(layer.kernel, [width, width]) for layer in layers], axis=1)
        biases = tf.concat([self._vector(layer.bias) for layer in layers], axis=0)
        random = self._bytes(tf.stack([batch, heads, length, length])) if self._levels else self._no_bytes()
        context = attention(heads, self._levels)(tf.matmul(x, kernel), biases, bias, random)
        return tf.matmul(context, self._matrix(part._output_dense.kernel, [width, width]))

    def _joined(self, x: tf.Tensor, bias: Any, residual: tf.Tensor, norm: Any) -> tf.Tensor:
        random = self._bytes(tf.shape(x)) if self._levels else self._no_bytes()
        join = bias_dropout_residual_norm(norm.epsilon, self._levels)
        return join(x, self._vector(bias), residual, *_scale_and_shift(norm), random)

    def _matrix(self, variable: Any, shape: list[int] | None = None) -> tf.Tensor:
        value = tf.cast(_whole(variable), self._dtype)
        return tf.reshape(value, shape) if shape else value

    def _vector(self, variable: Any) -> tf.Tensor:
        return tf.reshape(tf.cast(_whole(variable), self._dtype), [-1])

    def _bytes(self, shape: tf.Tensor) -> tf.Tensor:
        self._sites += 1
        return random_bytes(shape, tf.random.experimental.stateless_fold_in(self._seed, self._sites))

    def _no_bytes(self) -> tf.Tensor:
        return tf.zeros([0], tf.uint8)


def _scale_and_shift(norm: Any) -> tuple[Any, Any]:
    return _whole(norm.gamma), _whole(norm.beta)


def _whole(variable: Any) -> Any:
    """Return a Keras variable's TensorFlow variable; under mixed precision `value` is a rounded copy inside a layer's call."""
    return variable._value
