"""Forward passes from fused kernels, on the variables of an encoder: the same functions, with fewer passes over memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.modeling.backbone import put_first, segment_rows, without_first
from mtdnn_tf.modeling.fused_attention import attention
from mtdnn_tf.modeling.fused_ops import (
    Dropped,
    bias_activation,
    bias_dropout_residual_norm,
    dropped,
    kept,
    random_integers,
)
from mtdnn_tf.modeling.weights import whole

_PADDING = -1e9  # added to the scores of padding
_ROWS = 8  # batches are filled up to a multiple: every shape compiles its own kernels


class FusedPass:
    """One forward pass of a training step; its gradient comes from the kernels. What differs between encoders is below it."""

    def __init__(self, backbone: Any, seed: tf.Tensor | None) -> None:
        """Take an `EncoderBackbone`, and a seed `[2] int32` that all dropout masks of this pass come from (None: no dropout)."""
        self._backbone = backbone
        self._dtype = tf.as_dtype(backbone.compute_dtype)
        self._dropout = dropped(backbone.dropout)
        self._seed, self._sites = seed, 0

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs; see `EncoderBackbone`."""
        backbone = self._backbone
        rows = tf.shape(inputs["token_ids"])[0]
        filled = {name: tf.pad(inputs[name], [[0, -rows % _ROWS], [0, 0]]) for name in INPUTS}
        if first_tokens is not None:
            first_tokens = tf.pad(first_tokens, [[0, -rows % _ROWS], [0, 0], [0, 0]])
        x, mask = self._embedded(filled, first_tokens)  # [batch length, d]
        batch, length = tf.unstack(tf.shape(mask))
        x = self._through_layers(x, tf.where(mask > 0, 0.0, _PADDING), batch, length)
        sequence = tf.reshape(x, [batch, length, backbone.hidden_dim])[:rows]
        pooled = sequence[:, 0] if first_tokens is None else sequence[:, : first_tokens.shape[1]]
        return {"sequence_output": sequence, "pooled_output": self._pooled(pooled)}

    def _embedded(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the first layer's input `[batch length, d]` and its padding mask `[batch, length]`."""
        raise NotImplementedError

    def _through_layers(self, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return `[batch length, d]` of the same; `bias` `[batch, length]` is added to the scores of what is attended to."""
        raise NotImplementedError

    def _pooled(self, columns: tf.Tensor) -> tf.Tensor:
        """Return `pooled_output` of these columns of the sequence, `[batch, ..., d]`."""
        return columns

    def _with_first(
        self, first_tokens: tf.Tensor, x: tf.Tensor, padding_mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return `put_first` of `x` `[batch length, d]`, of the same shape."""
        width = self._backbone.hidden_dim
        joined, mask = put_first(
            first_tokens, tf.reshape(x, [*tf.unstack(tf.shape(padding_mask)), width]), padding_mask
        )
        return tf.reshape(joined, [-1, width]), mask

    def _recomputed(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of tensors; where asked for, its gradient keeps only these and computes the rest again."""
        if not self._backbone.recompute:
            return layer
        sites = self._sites

        @tf.recompute_grad
        def compute(*tensors: tf.Tensor) -> Any:
            self._sites = sites  # the same masks the second time
            return layer(*tensors)

        return compute

    def _attention(self, part: Any, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        """Return what attention gives, projected, its bias not yet added: `[batch length, d]`."""
        width, heads = self._backbone.hidden_dim, self._backbone.num_heads
        layers = (part._query_dense, part._key_dense, part._value_dense)
        kernel = tf.concat([self._matrix(layer.kernel, [width, width]) for layer in layers], axis=1)
        biases = tf.concat([self._vector(layer.bias) for layer in layers], axis=0)
        random = self._random(tf.stack([batch, heads, length, length]))
        context = attention(heads, self._dropout.levels)(tf.matmul(x, kernel), biases, bias, random)
        return tf.matmul(context, self._matrix(part._output_dense.kernel, [width, width]))

    def _feedforward(self, inner: Any, outer: Any, x: tf.Tensor) -> tf.Tensor:
        """Return both dense layers of `x`, the outer one's bias not yet added."""
        hidden = bias_activation(self._backbone.hidden_activation)(
            tf.matmul(x, self._matrix(inner.kernel)), self._vector(inner.bias)
        )
        return tf.matmul(hidden, self._matrix(outer.kernel))

    def _joined(self, x: tf.Tensor, bias: Any, residual: tf.Tensor, norm: Any, with_sum: bool = False) -> Any:
        """Return norm(residual + dropout(x + bias)), and before it, where asked for, what is normalised."""
        join = bias_dropout_residual_norm(norm.epsilon, self._dropout.levels, with_sum)
        return join(x, self._vector(bias), residual, *_scale_and_shift(norm), self._random(tf.shape(x)))

    def _normalised(self, x: tf.Tensor, norm: Any) -> tf.Tensor:
        nothing = tf.zeros([self._backbone.hidden_dim], self._dtype)
        normalise = bias_dropout_residual_norm(norm.epsilon, 0)
        return normalise(x, nothing, tf.zeros_like(x), *_scale_and_shift(norm), tf.zeros([0], tf.uint8))

    def _dropped(self, x: tf.Tensor, dropout: Dropped) -> tf.Tensor:
        if not dropout.levels:
            return x
        return x * tf.cast(kept(self._random(tf.shape(x), dropout), dropout.levels), self._dtype)

    def _matrix(self, variable: Any, shape: list[int] | None = None) -> tf.Tensor:
        value = tf.cast(whole(variable), self._dtype)
        return tf.reshape(value, shape) if shape else value

    def _vector(self, variable: Any) -> tf.Tensor:
        return tf.reshape(tf.cast(whole(variable), self._dtype), [-1])

    def _random(self, shape: tf.Tensor, dropout: Dropped | None = None) -> tf.Tensor:
        """Return the random numbers that dropout reads, by default that of the layers; none where nothing is dropped."""
        dropout = dropout or self._dropout
        if not dropout.levels:
            return tf.zeros([0], dropout.dtype)
        self._sites += 1
        return random_integers(shape, tf.random.experimental.stateless_fold_in(self._seed, self._sites), dropout.dtype)


class FusedBert(FusedPass):
    """The pass of a `BertEncoder`: a norm after each sum."""

    def _embedded(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        backbone = self._backbone
        tokens = tf.reshape(inputs["token_ids"], [-1])
        segments = tf.reshape(inputs["segment_ids"], [-1])
        batch, length = tf.unstack(tf.shape(inputs["token_ids"]))
        total = tf.gather(whole(backbone.token_embedding.embeddings), tokens)
        # A product, not a lookup: the gradient of two rows that are named thousands of times.
        types = whole(backbone.segment_embedding.embeddings)
        total += tf.matmul(tf.one_hot(segment_rows(segments, types.shape[0]), types.shape[0]), types)
        positions = whole(backbone.position_embedding.position_embeddings)[:length]
        total = tf.reshape(tf.reshape(total, [batch, length, -1]) + positions, [batch * length, backbone.hidden_dim])
        x, mask = self._normalised(tf.cast(total, self._dtype), backbone.embeddings_layer_norm), inputs["padding_mask"]
        if first_tokens is not None:
            x, mask = self._with_first(first_tokens, x, mask)
        return self._dropped(x, self._dropout), mask

    def _through_layers(self, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        for layer in self._backbone.transformer_layers:
            compute = functools.partial(self._layer, layer, bias, batch, length)
            x = self._recomputed(compute)(x)
        return x

    def _layer(self, layer: Any, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        part, inner, outer = (
            layer._self_attention_layer,
            layer._feedforward_intermediate_dense,
            layer._feedforward_output_dense,
        )
        attended = self._attention(part, x, bias, batch, length)
        x = self._joined(attended, part._output_dense.bias, x, layer._self_attention_layer_norm)
        return self._joined(self._feedforward(inner, outer, x), outer.bias, x, layer._feedforward_layer_norm)

    def _pooled(self, columns: tf.Tensor) -> tf.Tensor:
        pooled: tf.Tensor = self._backbone.pooled_dense(columns)
        return pooled


class FusedWords(FusedPass):
    """The pass of a `WordTransformer`: a norm before each part of a layer, and one at the end."""

    def _embedded(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        backbone, mask = self._backbone, inputs["padding_mask"]
        batch, length = tf.unstack(tf.shape(mask))
        vectors = tf.gather(whole(backbone.token_embedding.embeddings), tf.reshape(inputs["token_ids"], [-1]))
        vectors = self._dropped(tf.cast(vectors, self._dtype), dropped(backbone.embedding_dropout))
        words = tf.matmul(vectors, self._matrix(backbone.embedding_map.kernel))
        # Positions and bias are added as products with ones: their gradients are then summed in float32 (see `fused_ops`).
        places = self._matrix(backbone.learned_positions.position_embeddings)[:length]
        places += self._vector(backbone.embedding_map.bias)
        words = tf.reshape(words, [batch, length * backbone.hidden_dim])
        words += tf.matmul(tf.ones([batch, 1], self._dtype), tf.reshape(places, [1, -1]))
        x = tf.reshape(words, [batch * length, backbone.hidden_dim])
        if first_tokens is None:
            return x, without_first(mask)
        return self._with_first(first_tokens, x, mask)

    def _through_layers(self, x: tf.Tensor, bias: tf.Tensor, batch: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        layers = self._backbone.transformer_layers
        following = [*(layer.attention_norm for layer in layers[1:]), self._backbone.final_norm]
        normalised = self._normalised(x, layers[0].attention_norm)
        for layer, norm in zip(layers, following, strict=True):
            compute = functools.partial(self._layer, layer, norm, bias, batch, length)
            x, normalised = self._recomputed(compute)(x, normalised)
        return normalised

    def _layer(
        self,
        layer: Any,
        following: Any,
        bias: tf.Tensor,
        batch: tf.Tensor,
        length: tf.Tensor,
        x: tf.Tensor,
        normalised: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the layer's output, and what the norm that follows it makes of that."""
        attended = self._attention(layer.attention, normalised, bias, batch, length)
        x, normalised = self._joined(
            attended, layer.attention._output_dense.bias, x, layer.feedforward_norm, with_sum=True
        )
        hidden = self._feedforward(layer.inner, layer.outer, normalised)
        joined: tuple[tf.Tensor, tf.Tensor] = self._joined(hidden, layer.outer.bias, x, following, with_sum=True)
        return joined


def _scale_and_shift(norm: Any) -> tuple[Any, Any]:
    return whole(norm.gamma), whole(norm.beta)
