"""Encoders' forward passes in inference: stock TensorFlow operations only, and few of them.

Query, key and value come from one product, with the scale of the scores folded into the query's weights; activations are
`[batch length, d]`, so that TensorFlow's CPU kernels take bias and activation along with a product.

Products, softmax and activation are computed in the format of the weights; the residual stream and LayerNorm stay float32: with
bfloat16 weights that halves the error and costs next to no time, as TensorFlow adds and multiplies float32 faster than bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mtdnn_tf.modeling.backbone import put_first, segment_rows, without_first
from mtdnn_tf.modeling.weights import Weights

_PADDING = -1e9  # added to the scores of padding
_ACTIVATIONS = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}


class _Attention(tf.Module):
    """Multi-head attention of rows `[batch length, d]` to each other within their texts."""

    def __init__(self, part: Any, heads: int, width: int, weights: Weights) -> None:
        super().__init__()
        scale = (width // heads) ** -0.5
        inputs = (part._query_dense, part._key_dense, part._value_dense)
        self._heads, self._width = heads, width
        self.projections = weights.product(inputs, (scale, 1.0, 1.0))
        self.output = weights.product([part._output_dense])

    def __call__(self, x: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
        batch, length = tf.shape(padding)[0], tf.shape(padding)[-1]
        parts = tf.reshape(self.projections(x), [batch, length, 3, self._heads, self._width // self._heads])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        shares = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) + padding)
        context = tf.reshape(tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3]), [batch * length, self._width])
        return _float32(self.output(context))


class _FeedForward(tf.Module):
    """The two dense layers of rows `[n, d]`."""

    def __init__(self, inner: Any, outer: Any, activation: str, weights: Weights) -> None:
        super().__init__()
        self._activation = _ACTIVATIONS[activation]
        self.inner, self.outer = weights.product([inner]), weights.product([outer])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return _float32(self.outer(self._activation(self.inner(x))))


class EncoderInference(tf.Module):
    """One encoder's inference on weights from somewhere; what differs between encoders is below it."""

    layer_type: type[tf.Module]

    def __init__(self, backbone: Any, weights: Weights) -> None:
        """Take the encoder, and where its weights come from."""
        super().__init__(name="encoder")
        self.width, self._compute = backbone.hidden_dim, weights.compute
        self.token = weights.table(backbone.token_embedding.embeddings)
        self.layers = [self.layer_type(layer, backbone, weights) for layer in backbone.transformer_layers]

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs, float32; see `EncoderBackbone`."""
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        x, mask = self._embedded(inputs), inputs["padding_mask"]
        if first_tokens is not None:
            joined, mask = put_first(first_tokens, tf.reshape(x, [batch, length, self.width]), mask)
            length += first_tokens.shape[1] - 1
            x = tf.reshape(joined, [-1, self.width])
        else:
            mask = self._seen(mask)
        # A reshape, as TensorFlow Lite has no slice that adds two axes.
        padding = tf.reshape(tf.cast(tf.where(mask > 0, 0.0, _PADDING), self._compute), [batch, 1, 1, length])
        for layer in self.layers:
            x = layer(x, padding)
        sequence = tf.reshape(self._finished(x), [batch, length, self.width])
        if first_tokens is None:
            return {"sequence_output": sequence, "pooled_output": self._pooled(sequence[:, 0])}
        count = first_tokens.shape[1]
        pooled = self._pooled(tf.reshape(sequence[:, :count], [-1, self.width]))
        return {"sequence_output": sequence, "pooled_output": tf.reshape(pooled, [-1, count, self.width])}

    def _embedded(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return the first layer's input, `[batch length, d] float32`."""
        raise NotImplementedError

    def _seen(self, padding_mask: tf.Tensor) -> tf.Tensor:
        """Return what may be attended to where no first tokens are given, `[batch, length] int32`."""
        return padding_mask

    def _finished(self, x: tf.Tensor) -> tf.Tensor:
        """Return the sequence of the last layer's output, both `[batch length, d] float32`."""
        return x

    def _pooled(self, columns: tf.Tensor) -> tf.Tensor:
        """Return `pooled_output` of these columns of the sequence, `[n, d] float32`."""
        return columns


class _BertLayer(tf.Module):
    """A norm after each sum."""

    def __init__(self, layer: Any, backbone: Any, weights: Weights) -> None:
        super().__init__()
        self.attention = _Attention(layer._self_attention_layer, backbone.num_heads, backbone.hidden_dim, weights)
        self.attention_norm = weights.norm(layer._self_attention_layer_norm)
        dense = (layer._feedforward_intermediate_dense, layer._feedforward_output_dense)
        self.feedforward = _FeedForward(*dense, backbone.hidden_activation, weights)
        self.final_norm = weights.norm(layer._feedforward_layer_norm)

    def __call__(self, x: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
        x = self.attention_norm(x + self.attention(x, padding))
        return self.final_norm(x + self.feedforward(x))


class BertInference(EncoderInference):
    """The inference of a `BertEncoder`."""

    layer_type = _BertLayer

    def __init__(self, backbone: Any, weights: Weights) -> None:
        """Take the encoder, and where its weights come from."""
        super().__init__(backbone, weights)
        self.position = weights.table(backbone.position_embedding.position_embeddings)
        self.segment = weights.table(backbone.segment_embedding.embeddings)
        self.num_segments = backbone.num_segments
        self.norm = weights.norm(backbone.embeddings_layer_norm)
        self.pooler = weights.product([backbone.pooled_dense])

    def _embedded(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        segments = segment_rows(inputs["segment_ids"], self.num_segments)
        total = self.token(inputs["token_ids"]) + self.segment(segments)
        total += self.position(tf.range(tf.shape(total)[1]))
        return self.norm(tf.reshape(total, [-1, self.width]))

    def _pooled(self, columns: tf.Tensor) -> tf.Tensor:
        return tf.tanh(_float32(self.pooler(columns)))


class _WordLayer(tf.Module):
    """A norm before each part."""

    def __init__(self, layer: Any, backbone: Any, weights: Weights) -> None:
        super().__init__()
        self.attention_norm = weights.norm(layer.attention_norm)
        self.attention = _Attention(layer.attention, backbone.num_heads, backbone.hidden_dim, weights)
        self.feedforward_norm = weights.norm(layer.feedforward_norm)
        self.feedforward = _FeedForward(layer.inner, layer.outer, backbone.hidden_activation, weights)

    def __call__(self, x: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
        x += self.attention(self.attention_norm(x), padding)
        return x + self.feedforward(self.feedforward_norm(x))


class WordInference(EncoderInference):
    """The inference of a `WordTransformer`."""

    layer_type = _WordLayer

    def __init__(self, backbone: Any, weights: Weights) -> None:
        """Take the encoder, and where its weights come from."""
        super().__init__(backbone, weights)
        self.map = weights.product([backbone.embedding_map])
        self.position = weights.table(backbone.learned_positions.position_embeddings)
        self.final_norm = weights.norm(backbone.final_norm)

    def _embedded(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        tokens = inputs["token_ids"]
        vectors = self.token(tf.reshape(tokens, [-1]))
        words = tf.reshape(_float32(self.map(vectors)), [*tf.unstack(tf.shape(tokens)), self.width])
        return tf.reshape(words + self.position(tf.range(tf.shape(tokens)[1])), [-1, self.width])

    def _seen(self, padding_mask: tf.Tensor) -> tf.Tensor:
        return without_first(padding_mask)

    def _finished(self, x: tf.Tensor) -> tf.Tensor:
        return self.final_norm(x)


def _float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)
