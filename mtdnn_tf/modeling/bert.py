"""The encoder's forward pass: KerasHub's BERT with the activation and epsilon that a checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import keras_hub

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.fused import FusedPass
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
class BertEncoder(keras_hub.models.BertBackbone):
    """`keras_hub.models.BertBackbone` whose activation and LayerNorm epsilon are arguments and part of the config.

    Inputs: `token_ids`, `segment_ids`, `padding_mask` (1 on real tokens), each `[batch, length] int32`.
    Outputs: `sequence_output` `[batch, length, hidden]` and `pooled_output` `[batch, hidden]`, the tanh pooler on [CLS].

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

        # === How a training step is computed: by fused kernels, or as KerasHub does ===
        self.fused = False
        # Whether the fused pass keeps each layer's input only, and computes the rest again for its gradient.
        self.recompute = False

        # What answers for the layers in inference; None: they do.
        self.stand_in: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

        # === What the checkpoint says ===
        self.embeddings_layer_norm.epsilon = layer_norm_epsilon
        for layer in self.transformer_layers:
            layer._feedforward_intermediate_dense.activation = ACTIVATIONS[hidden_activation]
            layer._self_attention_layer_norm.epsilon = layer_norm_epsilon
            layer._feedforward_layer_norm.epsilon = layer_norm_epsilon

    def call(self, inputs: Mapping[str, Any], training: bool | None = None, mask: Any = None) -> dict[str, Any]:
        """Return the outputs; where `fused` is set, those of a training step come from `FusedPass`.

        Inference is KerasHub's graph, or that of `stand_in`.
        """
        if self.stand_in is not None and not training:
            return self.stand_in(inputs)
        if training and self.fused:
            seed = self.embeddings_dropout.seed_generator.next() if self.dropout else None
            return FusedPass(self, training=True, seed=seed)(inputs)
        outputs: dict[str, Any] = super().call(inputs, training=training, mask=mask)
        return outputs

    @contextmanager
    def replaced_by(self, stand_in: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Iterator[None]:
        """Within the block, let a function from inputs to outputs answer in inference: for graphs that are traced there."""
        self.stand_in = stand_in
        try:
            yield
        finally:
            self.stand_in = None

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and so many layers, counted from below, as they are; 0: everything is trained.

        Raises:
            UserError: there are not so many layers.
        """
        if layers > self.num_layers:
            raise UserError(f"model.freeze_layers: the encoder has {self.num_layers} layers; received {layers}")
        embeddings = (self.token_embedding, self.position_embedding, self.segment_embedding, self.embeddings_layer_norm)
        for layer in embeddings:
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


def seed_dropout(model: keras.Model, seed: int) -> None:
    """Set the state of every random generator in the model, so that its dropout depends on `seed` alone."""
    weights = {id(variable) for variable in model.weights}
    generators = [variable for variable in model.variables if id(variable) not in weights]
    for index, state in enumerate(generators):
        state.assign([derive_seed(seed, "dropout", str(index)), 0])


def draw_weights(layer: keras.Layer, seed: int) -> None:
    """Draw kernels and embeddings of a layer (or model) anew from BERT's N(0, 0.02), truncated at two deviations.

    Biases and LayerNorm are left as they are. The values depend on `seed` and the variables' order alone.
    """
    for index, variable in enumerate(layer.weights):
        if variable.name in ("kernel", "embeddings", "position_embeddings"):
            normal = keras.initializers.TruncatedNormal(stddev=0.02, seed=derive_seed(seed, "weights", str(index)))
            variable.assign(normal(variable.shape))
