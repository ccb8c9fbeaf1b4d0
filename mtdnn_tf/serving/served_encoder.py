"""BERT's forward pass as it is served: stock TensorFlow operations only, few of them, on weights laid out for the purpose.

Query, key and value come from one product, with the scale of the scores folded into the query's weights; activations are
`[batch length, d]`, so that TensorFlow's CPU kernels take bias and activation along with a product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.modeling.backbone import EncoderBackbone, put_first
from mtdnn_tf.modeling.bert import BertEncoder

_PADDING = -1e9  # added to the scores of padding
_ACTIVATIONS = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}


class ServedEncoder(tf.Module):
    """The weights of a `BertEncoder`, once, and its inference."""

    def __init__(self, backbone: BertEncoder) -> None:
        """Copy the weights as they are now."""
        super().__init__(name="encoder")
        self._heads = backbone.num_heads
        self._activation = backbone.hidden_activation
        self._epsilon = backbone.layer_norm_epsilon
        self.token = _variable(backbone.token_embedding.embeddings)
        self.position = _variable(backbone.position_embedding.position_embeddings)
        self.segment = _variable(backbone.segment_embedding.embeddings)
        self.norm = _Norm(backbone.embeddings_layer_norm)
        self.layers = [_Layer(layer, backbone.hidden_dim, backbone.num_heads) for layer in backbone.transformer_layers]
        self.pooler = _Dense(backbone.pooled_dense)

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs; see `EncoderBackbone`."""
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        width = self.token.shape[1]
        total = tf.gather(self.token, inputs["token_ids"]) + tf.gather(self.segment, inputs["segment_ids"])
        positions = tf.gather(self.position, tf.range(length))
        x = self.norm(tf.reshape(total + positions, [-1, width]), self._epsilon)
        mask = inputs["padding_mask"]
        if first_tokens is not None:
            joined, mask = put_first(first_tokens, tf.reshape(x, [batch, length, width]), mask)
            length += first_tokens.shape[1] - 1
            x = tf.reshape(joined, [-1, width])
        padding = tf.reshape(tf.where(mask > 0, 0.0, _PADDING), [batch, 1, 1, length])
        for layer in self.layers:
            x = self._through(layer, x, padding, [batch, length, width])
        sequence = tf.reshape(x, [batch, length, width])
        return {"sequence_output": sequence, "pooled_output": self._pooled(sequence, first_tokens)}

    def _pooled(self, sequence: tf.Tensor, first_tokens: tf.Tensor | None) -> tf.Tensor:
        if first_tokens is None:
            return tf.tanh(self.pooler(sequence[:, 0]))
        count, width = first_tokens.shape[1], sequence.shape[-1]
        pooled = tf.tanh(self.pooler(tf.reshape(sequence[:, :count], [-1, width])))
        return tf.reshape(pooled, [-1, count, width])

    def _through(self, layer: _Layer, x: tf.Tensor, padding: tf.Tensor, shape: list[Any]) -> tf.Tensor:
        batch, length, width = shape
        parts = tf.reshape(layer.projections(x), [batch, length, 3, self._heads, width // self._heads])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        shares = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) + padding)
        context = tf.reshape(tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3]), [batch * length, width])
        x = layer.attention_norm(x + layer.output(context), self._epsilon)
        hidden = _ACTIVATIONS[self._activation](layer.inner(x))
        return layer.final_norm(x + layer.outer(hidden), self._epsilon)


class KerasEncoder(tf.Module):
    """An encoder of another kind: answers as its Keras layers do, and holds their weights."""

    def __init__(self, backbone: EncoderBackbone) -> None:
        """Take the weights themselves, no copies."""
        super().__init__(name="encoder")
        self.weights = [weight.value for weight in backbone.weights]
        # Behind a function: Keras layers that tf.Module can see are saved a second time.
        self._backbone = lambda: backbone

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs; see `EncoderBackbone`."""
        return self._backbone().reference_pass(inputs, first_tokens, training=False)


def served_encoder(backbone: EncoderBackbone) -> ServedEncoder | KerasEncoder:
    """Return what answers for an encoder in an exported model."""
    return ServedEncoder(backbone) if isinstance(backbone, BertEncoder) else KerasEncoder(backbone)


class _Dense(tf.Module):
    """One product for dense layers of the same input, side by side."""

    def __init__(self, *parts: Any, factors: Sequence[float] = (1.0,)) -> None:
        """Take the layers, built, and what each one's output is multiplied by."""
        super().__init__()
        pairs = list(zip(parts, map(np.float32, factors), strict=True))
        biases = [factor * part.bias.numpy().reshape(-1) for part, factor in pairs]
        # Attention's kernels have the heads as an axis of their own: before the last or, towards the output, first.
        kernels = [
            factor * part.kernel.numpy().reshape(-1, len(bias))
            for (part, factor), bias in zip(pairs, biases, strict=True)
        ]
        self.kernel = tf.Variable(np.concatenate(kernels, axis=1), trainable=False)
        self.bias = tf.Variable(np.concatenate(biases), trainable=False)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(tf.matmul(x, self.kernel), self.bias)


class _Norm(tf.Module):
    def __init__(self, norm: keras.layers.LayerNormalization) -> None:
        super().__init__()
        self.gamma, self.beta = _variable(norm.gamma), _variable(norm.beta)

    def __call__(self, x: tf.Tensor, epsilon: float) -> tf.Tensor:
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
        return centred * scale * self.gamma + self.beta


class _Layer(tf.Module):
    def __init__(self, layer: Any, width: int, heads: int) -> None:
        super().__init__()
        attention = layer._self_attention_layer
        self.projections = _Dense(
            attention._query_dense,
            attention._key_dense,
            attention._value_dense,
            factors=((width // heads) ** -0.5, 1.0, 1.0),
        )
        self.output = _Dense(attention._output_dense)
        self.attention_norm = _Norm(layer._self_attention_layer_norm)
        self.inner, self.outer = _Dense(layer._feedforward_intermediate_dense), _Dense(layer._feedforward_output_dense)
        self.final_norm = _Norm(layer._feedforward_layer_norm)


def _variable(variable: keras.Variable) -> tf.Variable:
    return tf.Variable(variable.numpy(), trainable=False)
