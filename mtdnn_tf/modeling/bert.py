"""The encoder's forward pass: KerasHub's BERT with the activation and epsilon that a checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.backbone import (
    Depth,
    EncoderBackbone,
    Outputs,
    put_first,
    segment_rows,
    shares_among_first,
)
from mtdnn_tf.modeling.fused import FusedBert
from mtdnn_tf.modeling.inference import BertInference
from mtdnn_tf.modeling.weights import Weights
from mtdnn_tf.seeds import derive_seed


def _gelu_erf(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=False)


def _gelu_tanh(x: Any) -> Any:
    return keras.activations.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": _gelu_erf,
    "gelu_tanh": _gelu_tanh,
    "relu": keras.activations.relu,
}
"""The feed-forward activations; the two GELUs are about 1e-3 apart in the sequence output."""


@keras.saving.register_keras_serializable("mtdnn_tf")
class BertEncoder(EncoderBackbone, keras_hub.models.BertBackbone):
    """`keras_hub.models.BertBackbone` whose activation and LayerNorm epsilon are arguments and part of the config.

    Inputs and outputs are those of `EncoderBackbone`; `pooled_output` is the tanh pooler on [CLS]. An encoder with one type of
    segment gives it to both texts of a pair, as it was trained.

    KerasHub fixes tanh-approximate GELU and 1e-12 (its `BertBackbone`), whatever the checkpoint says; PyTorch BERTs use
    the erf form. tests/modeling/test_encoders.py tells when the attributes that are set here are renamed.
    """

    def __init__(self, *, hidden_activation: str = "gelu", layer_norm_epsilon: float = 1e-12, **kwargs: Any) -> None:
        """Take BertBackbone's arguments, one of `ACTIVATIONS`, and the epsilon inside LayerNorm's square root."""
        # === Functional model ===
        super().__init__(**kwargs)

        # === Config ===
        self.hidden_activation = hidden_activation
        self.layer_norm_epsilon = layer_norm_epsilon

        # === What the checkpoint says ===
        self.embeddings_layer_norm.epsilon = layer_norm_epsilon
        for layer in self.transformer_layers:
            layer._feedforward_intermediate_dense.activation = ACTIVATIONS[hidden_activation]
            layer._self_attention_layer_norm.epsilon = layer_norm_epsilon
            layer._feedforward_layer_norm.epsilon = layer_norm_epsilon

    def reference_pass(self, inputs: Mapping[str, Any], first_tokens: Any, training: bool | None) -> Outputs:
        """Return the outputs of KerasHub's graph, or of its layers where first tokens are given."""
        if first_tokens is None:
            inputs = {**inputs, "segment_ids": segment_rows(inputs["segment_ids"], self.num_segments)}
            outputs: Outputs = keras_hub.models.BertBackbone.call(self, inputs, training=training)
            return outputs
        x, mask = self._embedded(inputs, first_tokens, training)
        for layer in self.transformer_layers:
            x = layer(x, padding_mask=mask, training=training)
        return {"sequence_output": x, "pooled_output": self.pooled_dense(x[:, : first_tokens.shape[1]])}

    def fused_pass(self, inputs: Mapping[str, Any], first_tokens: Any) -> Outputs:
        """Return the outputs of `FusedBert`."""
        seed = self.embeddings_dropout.seed_generator.next() if self.dropout else None
        return FusedBert(self, seed)(inputs, first_tokens)

    def inference(self, weights: Weights) -> BertInference:
        """See `EncoderBackbone`."""
        return BertInference(self, weights)

    def _embedded(self, inputs: Mapping[str, Any], first_tokens: Any, training: bool | None) -> tuple[Any, Any]:
        """Return the first layer's input `[batch, k + length - 1, d]` and its padding mask."""
        tokens = self.token_embedding(inputs["token_ids"])
        segments = self.segment_embedding(segment_rows(inputs["segment_ids"], self.num_segments))
        x = self.embeddings_layer_norm(self.embeddings_add((tokens, self.position_embedding(tokens), segments)))
        x, mask = put_first(first_tokens, x, inputs["padding_mask"])
        return self.embeddings_dropout(x, training=training), mask

    def first_token_attention(self, inputs: Mapping[str, Any], first_tokens: Any) -> Any:
        """See `EncoderBackbone`."""
        x, mask = self._embedded(inputs, first_tokens, training=False)
        *lower, last = self.transformer_layers
        for layer in lower:
            x = layer(x, padding_mask=mask, training=False)
        attention = last._self_attention_layer
        return shares_among_first(attention._query_dense(x), attention._key_dense(x), mask, first_tokens.shape[1])

    def initial_token(self, cls_id: int, seed: int) -> np.ndarray:
        """Return what the embeddings give for [CLS], `[d] float32`."""
        segment = self.segment_embedding.embeddings[0]
        total = self.token_embedding.embeddings[cls_id] + self.position_embedding.position_embeddings[0] + segment
        normalised: np.ndarray = ops.convert_to_numpy(self.embeddings_layer_norm(total[None]))[0].astype(np.float32)
        return normalised

    def layers_around(self) -> tuple[list[tuple[keras.layers.Layer, Depth]], list[keras.layers.Layer]]:
        """See `EncoderBackbone`; the norm of the embeddings counts among them."""
        embeddings = (self.token_embedding, self.position_embedding, self.segment_embedding, self.embeddings_layer_norm)
        return [(layer, Depth(self.num_layers, is_embedding=True)) for layer in embeddings], [self.pooled_dense]

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and so many layers, counted from below, as they are; 0: everything is trained.

        Raises:
            UserError: there are not so many layers.
        """
        if layers > self.num_layers:
            raise UserError(f"model.freeze_layers: the encoder has {self.num_layers} layers; received {layers}")
        for layer, _ in self.layers_around()[0]:
            layer.trainable = layers == 0
        for index, layer in enumerate(self.transformer_layers):
            layer.trainable = index >= layers

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_activation": self.hidden_activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


def _bert_initializer(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)


def as_bert(backbone: EncoderBackbone, purpose: str) -> BertEncoder:
    """Return the backbone, which must be a BERT.

    Raises:
        UserError: it is none.
    """
    if not isinstance(backbone, BertEncoder):
        raise no_bert(purpose)
    return backbone


def no_bert(purpose: str) -> UserError:
    """Return the error of an encoder that reads words where only a BERT will do."""
    return UserError(f"encoder.source: {purpose} needs a BERT encoder; received one that reads words")


def seed_dropout(model: keras.Model, seed: int) -> None:
    """Set the state of every random generator in the model, so that its dropout depends on `seed` alone."""
    weights = {id(variable) for variable in model.weights}
    generators = [variable for variable in model.variables if id(variable) not in weights]
    for index, state in enumerate(generators):
        state.assign([derive_seed(seed, "dropout", str(index)), 0])


def draw_weights(layer: keras.Layer, seed: int, initializer: Callable[[int], Any] = _bert_initializer) -> None:
    """Draw kernels and embeddings of a layer (or model) anew, from BERT's N(0, 0.02) truncated at two deviations by default.

    Biases and LayerNorm are left as they are. The values depend on `seed` and the variables' order alone.
    """
    for index, variable in enumerate(layer.weights):
        if variable.name in ("kernel", "embeddings", "position_embeddings"):
            variable.assign(initializer(derive_seed(seed, "weights", str(index)))(variable.shape))
