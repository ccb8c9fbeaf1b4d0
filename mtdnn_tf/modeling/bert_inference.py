"""BERT's forward pass in inference: stock TensorFlow operations only, and few of them.

Query, key and value come from one product, with the scale of the scores folded into the query's weights; activations are
`[batch length, d]`, so that TensorFlow's CPU kernels take bias and activation along with a product.

Products, softmax and activation are computed in the format of the weights; the residual stream and LayerNorm stay float32: with
bfloat16 weights that halves the error and costs next to no time, as TensorFlow adds and multiplies float32 faster than bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from mtdnn_tf.modeling.backbone import put_first, whole

_PADDING = -1e9  # added to the scores of padding
_ACTIVATIONS = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}

Rows = Callable[[tf.Tensor], tf.Tensor]  # ids `[...]` to vectors `[..., d] float32`, or rows `[n, d]` to `[n, outputs]`
Norm = Callable[[tf.Tensor, float], tf.Tensor]  # LayerNorm of `[n, d] float32` with an epsilon


class Weights(Protocol):
    """Where weights come from, and in what format products with them are computed."""

    @property
    def compute(self) -> tf.DType:
        """The format of products."""

    def table(self, variable: Any) -> Rows:
        """Return the lookup in an embedding table."""

    def norm(self, norm: Any) -> Norm:
        """Return a LayerNorm with the gamma and beta of this layer."""

    def product(self, parts: Sequence[Any], factors: Sequence[float] = (1.0,)) -> Rows:
        """Return one product for dense layers of the same input, side by side, each times its factor; its format is `compute`."""


class Layer(tf.Module):
    """What one layer is computed by."""

    def __init__(self, layer: Any, scale: float, weights: Weights) -> None:
        """Take a layer of a `BertEncoder`, and what scores are multiplied by."""
        super().__init__()
        attention = layer._self_attention_layer
        inputs = (attention._query_dense, attention._key_dense, attention._value_dense)
        self.projections = weights.product(inputs, (scale, 1.0, 1.0))
        self.output = weights.product([attention._output_dense])
        self.attention_norm = weights.norm(layer._self_attention_layer_norm)
        self.inner = weights.product([layer._feedforward_intermediate_dense])
        self.outer = weights.product([layer._feedforward_output_dense])
        self.final_norm = weights.norm(layer._feedforward_layer_norm)


class BertInference(tf.Module):
    """The inference of a `BertEncoder` on weights from somewhere."""

    def __init__(self, backbone: Any, weights: Weights) -> None:
        """Take the encoder, and where its weights come from."""
        super().__init__(name="encoder")
        self._compute = weights.compute
        self._heads, self._width = backbone.num_heads, backbone.hidden_dim
        self._activation = backbone.hidden_activation
        self._epsilon = backbone.layer_norm_epsilon
        self.token = weights.table(backbone.token_embedding.embeddings)
        self.position = weights.table(backbone.position_embedding.position_embeddings)
        self.segment = weights.table(backbone.segment_embedding.embeddings)
        self.norm = weights.norm(backbone.embeddings_layer_norm)
        scale = (self._width // self._heads) ** -0.5
        self.layers = [Layer(layer, scale, weights) for layer in backbone.transformer_layers]
        self.pooler = weights.product([backbone.pooled_dense])

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs, float32; see `EncoderBackbone`."""
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        width = self._width
        total = self.token(inputs["token_ids"]) + self.segment(inputs["segment_ids"])
        x = self.norm(tf.reshape(total + self.position(tf.range(length)), [-1, width]), self._epsilon)
        mask = inputs["padding_mask"]
        if first_tokens is not None:
            joined, mask = put_first(first_tokens, tf.reshape(x, [batch, length, width]), mask)
            length += first_tokens.shape[1] - 1
            x = tf.reshape(joined, [-1, width])
        padding = tf.cast(tf.where(mask > 0, 0.0, _PADDING), self._compute)
        padding = tf.reshape(padding, [batch, 1, 1, length])
        for layer in self.layers:
            x = self._through(layer, x, padding, [batch, length, width])
        sequence = tf.reshape(x, [batch, length, width])
        return {"sequence_output": sequence, "pooled_output": self._pooled(sequence, first_tokens)}

    def _pooled(self, sequence: tf.Tensor, first_tokens: tf.Tensor | None) -> tf.Tensor:
        if first_tokens is None:
            return tf.tanh(_float32(self.pooler(sequence[:, 0])))
        count, width = first_tokens.shape[1], sequence.shape[-1]
        pooled = tf.tanh(_float32(self.pooler(tf.reshape(sequence[:, :count], [-1, width]))))
        return tf.reshape(pooled, [-1, count, width])

    def _through(self, layer: Layer, x: tf.Tensor, padding: tf.Tensor, shape: list[Any]) -> tf.Tensor:
        batch, length, width = shape
        parts = tf.reshape(layer.projections(x), [batch, length, 3, self._heads, width // self._heads])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        shares = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) + padding)
        context = tf.reshape(tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3]), [batch * length, width])
        x = layer.attention_norm(x + _float32(layer.output(context)), self._epsilon)
        hidden = _ACTIVATIONS[self._activation](layer.inner(x))
        return layer.final_norm(x + _float32(layer.outer(hidden)), self._epsilon)


@dataclass(frozen=True)
class LiveWeights:
    """An encoder's variables as they are at each call: what scores a model that is being trained."""

    compute: tf.DType

    def table(self, variable: Any) -> Rows:
        """See `Weights`."""
        return lambda ids: tf.gather(whole(variable), ids)

    def norm(self, norm: Any) -> Norm:
        """See `Weights`."""
        return lambda x, epsilon: normalised(x, epsilon, whole(norm.gamma), whole(norm.beta))

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


def normalised(x: tf.Tensor, epsilon: float, gamma: Any, beta: Any) -> tf.Tensor:
    """Return LayerNorm over the last axis of `x` `[rows, d] float32`; gamma and beta are `[d]`."""
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * scale * gamma + beta


def _float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)
