"""A Transformer on whole words, trained from scratch: the encoder of the study that compares four ways of sharing.

T. Sun, "Language representation with multi-task learning" (Xidian University, 2019): "6-4-512" is the default. Pre-norm residual
blocks with ReLU and a final LayerNorm; learned positions; a linear map from word vectors to d; weights drawn from N(0, 0.05).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.backbone import Depth, EncoderBackbone, Outputs, put_first, shares_among_first, without_first
from mtdnn_tf.modeling.fused import FusedWords
from mtdnn_tf.modeling.inference import WordInference
from mtdnn_tf.modeling.weights import Weights

DRAWN_STD = 0.05
_EPSILON = 1e-6


def _norm(name: str) -> keras.layers.LayerNormalization:
    return keras.layers.LayerNormalization(epsilon=_EPSILON, name=name)


@keras.saving.register_keras_serializable("mtdnn_tf")
class PreNormLayer(keras.layers.Layer):
    """x + dropout(attention(norm(x))), then x + dropout(feed-forward(norm(x)))."""

    def __init__(self, num_heads: int, hidden_dim: int, intermediate_dim: int, dropout: float, **kwargs: Any) -> None:
        """Take the sizes and the rate of all its dropouts, attention's too."""
        super().__init__(**kwargs)
        self.hidden_dim, self.intermediate_dim = hidden_dim, intermediate_dim
        self.attention_norm, self.feedforward_norm = _norm("attention_norm"), _norm("feedforward_norm")
        width = hidden_dim // num_heads
        self.attention = keras.layers.MultiHeadAttention(num_heads, width, dropout=dropout, name="attention")
        self.inner = keras.layers.Dense(intermediate_dim, activation="relu", name="feedforward_intermediate_dense")
        self.outer = keras.layers.Dense(hidden_dim, name="feedforward_output_dense")
        self.attention_dropout = keras.layers.Dropout(dropout, name="attention_dropout")
        self.feedforward_dropout = keras.layers.Dropout(dropout, name="feedforward_dropout")

    def build(self, *_: Any, **__: Any) -> None:
        """Create the weights."""
        shape = (None, None, self.hidden_dim)
        self.attention_norm.build(shape)
        self.attention.build(shape, shape)
        self.feedforward_norm.build(shape)
        self.inner.build(shape)
        self.outer.build((None, None, self.intermediate_dim))

    def call(self, x: Any, padding_mask: Any, training: bool | None = None) -> Any:
        """Return `[batch, length, d]` of the same, and of the mask `[batch, length] int32`."""
        normalised = self.attention_norm(x)
        seen = padding_mask[:, None, :] > 0
        attended = self.attention(normalised, normalised, attention_mask=seen, training=training)
        x = x + self.attention_dropout(attended, training=training)
        hidden = self.outer(self.inner(self.feedforward_norm(x)))
        return x + self.feedforward_dropout(hidden, training=training)

    def query_and_key(self, x: Any) -> tuple[Any, Any]:
        """Return the projections of attention, `[batch, length, heads, width]` each."""
        normalised = self.attention_norm(x)
        return self.attention._query_dense(normalised), self.attention._key_dense(normalised)


@keras.saving.register_keras_serializable("mtdnn_tf")
class WordTransformer(EncoderBackbone, keras.Model):
    """Word vectors mapped to d, learned positions, pre-norm layers, a final LayerNorm; see `EncoderBackbone` for its contract.

    It has no [CLS] of its own: unless first tokens are given, nothing attends to column 0. First tokens get no position.
    There is no pooler: `pooled_output` is column 0, or the first tokens' columns. Segment ids are not read.
    """

    has_cls = False
    num_segments = 2  # that requests may name
    hidden_activation = "relu"

    def __init__(
        self,
        vocabulary_size: int,
        *,
        embedding_dim: int = 300,
        hidden_dim: int = 300,
        num_layers: int = 4,
        num_heads: int = 6,
        intermediate_dim: int = 512,
        max_sequence_length: int = 402,
        dropout: float = 0.1,
        embedding_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Take the sizes, the dropout of the layers and that of the word vectors."""
        # === Layers ===
        token_embedding = keras.layers.Embedding(vocabulary_size, embedding_dim, name="token_embedding")
        embedding_drop = keras.layers.Dropout(embedding_dropout, name="embedding_dropout")
        embedding_map = keras.layers.Dense(hidden_dim, name="embedding_map")
        learned_positions = keras_hub.layers.PositionEmbedding(max_sequence_length, name="learned_positions")
        layers = [
            PreNormLayer(num_heads, hidden_dim, intermediate_dim, dropout, name=f"transformer_layer_{index}")
            for index in range(num_layers)
        ]
        final_norm = _norm("final_norm")

        # === Functional model ===
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in INPUTS}
        words = embedding_map(embedding_drop(token_embedding(inputs["token_ids"])))
        x = words + learned_positions(words)
        for layer in layers:
            x = layer(x, without_first(inputs["padding_mask"]))
        sequence = final_norm(x)
        super().__init__(inputs, {"sequence_output": sequence, "pooled_output": sequence[:, 0]}, **kwargs)

        # === Config ===
        self.token_embedding, self.embedding_dropout_layer = token_embedding, embedding_drop
        self.embedding_map, self.learned_positions = embedding_map, learned_positions
        self.transformer_layers, self.final_norm = layers, final_norm
        self.vocabulary_size, self.embedding_dim, self.hidden_dim = vocabulary_size, embedding_dim, hidden_dim
        self.num_layers, self.num_heads, self.intermediate_dim = num_layers, num_heads, intermediate_dim
        self.max_sequence_length, self.dropout, self.embedding_dropout = max_sequence_length, dropout, embedding_dropout

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("vocabulary_size", "embedding_dim", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")
        more = ("max_sequence_length", "dropout", "embedding_dropout", "name")
        return {name: getattr(self, name) for name in (*names, *more)}

    def reference_pass(self, inputs: Mapping[str, Any], first_tokens: Any, training: bool | None) -> Outputs:
        """Return the outputs, layer by layer."""
        x, _ = self._through(self.transformer_layers, inputs, first_tokens, training)
        sequence = self.final_norm(x)
        pooled = sequence[:, 0] if first_tokens is None else sequence[:, : first_tokens.shape[1]]
        return {"sequence_output": sequence, "pooled_output": pooled}

    def fused_pass(self, inputs: Mapping[str, Any], first_tokens: Any) -> Outputs:
        """Return the outputs of `FusedWords`."""
        drops = (self.embedding_dropout_layer, *(layer.attention_dropout for layer in self.transformer_layers))
        seed = next((drop.seed_generator.next() for drop in drops if drop.rate), None)
        return FusedWords(self, seed)(inputs, first_tokens)

    def inference(self, weights: Weights) -> WordInference:
        """See `EncoderBackbone`."""
        return WordInference(self, weights)

    def first_token_attention(self, inputs: Mapping[str, Any], first_tokens: Any) -> Any:
        """See `EncoderBackbone`."""
        *lower, last = self.transformer_layers
        x, mask = self._through(lower, inputs, first_tokens, training=False)
        query, key = last.query_and_key(x)
        return shares_among_first(query, key, mask, first_tokens.shape[1])

    def _through(
        self, layers: Sequence[PreNormLayer], inputs: Mapping[str, Any], first_tokens: Any, training: bool | None
    ) -> tuple[Any, Any]:
        """Return what these layers make of the inputs, `[batch, length or k + length - 1, d]`, and its padding mask."""
        vectors = self.embedding_dropout_layer(self.token_embedding(inputs["token_ids"]), training=training)
        words = self.embedding_map(vectors)
        x = words + self.learned_positions(words)
        if first_tokens is None:
            mask = without_first(inputs["padding_mask"])
        else:
            x, mask = put_first(first_tokens, x, inputs["padding_mask"])
        for layer in layers:
            x = layer(x, mask, training=training)
        return x, mask

    def initial_token(self, cls_id: int, seed: int) -> np.ndarray:
        """Return a vector from N(0, 0.05), `[d] float32`."""
        drawn: np.ndarray = ops.convert_to_numpy(normal(seed)((self.hidden_dim,))).astype(np.float32)
        return drawn

    def layers_around(self) -> tuple[list[tuple[keras.layers.Layer, Depth]], list[keras.layers.Layer]]:
        """See `EncoderBackbone`; of the layers below, the word vectors alone are embeddings."""
        below = [(self.token_embedding, Depth(self.num_layers, is_embedding=True))]
        below += [(layer, Depth(self.num_layers)) for layer in (self.embedding_map, self.learned_positions)]
        return below, [self.final_norm]

    def freeze(self, layers: int) -> None:
        """See `EncoderBackbone`."""
        if layers > self.num_layers:
            raise UserError(f"model.freeze_layers: the encoder has {self.num_layers} layers; received {layers}")
        for layer, _ in self.layers_around()[0]:
            layer.trainable = layers == 0
        for index, layer in enumerate(self.transformer_layers):
            layer.trainable = index >= layers


def normal(seed: int) -> keras.initializers.Initializer:
    """Return what weights are drawn from."""
    return keras.initializers.RandomNormal(stddev=DRAWN_STD, seed=seed)
