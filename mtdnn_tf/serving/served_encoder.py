"""A BERT as it is served: `BertInference` on weights laid out for the purpose.

Frozen kernels are constants of one function that all signatures call. TensorFlow's CPU kernels lay constants out for their products
once, variables at every call, which with few tokens takes longer than the product. The price is memory: every signature holds them
anew, several times over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.modeling.bert import BertEncoder
from mtdnn_tf.modeling.bert_inference import BertInference, normalised
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS, WeightFormat, constant


class ServedEncoder(BertInference, tf.Module):
    """The weights of a `BertEncoder`, once, and its inference."""

    def __init__(self, backbone: BertEncoder, weights: str = "float32", frozen: bool = False) -> None:
        """Copy the weights as they are now into one of `WEIGHT_FORMATS`; frozen: the kernels as constants."""
        stored = WEIGHT_FORMATS[weights]
        super().__init__(backbone, stored.compute, name="encoder")
        self.token, self.position, self.segment = (
            stored.table(table.numpy(), stored.compute)
            for table in (
                backbone.token_embedding.embeddings,
                backbone.position_embedding.position_embeddings,
                backbone.segment_embedding.embeddings,
            )
        )
        self.norm = _Norm(backbone.embeddings_layer_norm)
        scale = (backbone.hidden_dim // backbone.num_heads) ** -0.5
        self.layers = [_Layer(layer, scale, stored, frozen) for layer in backbone.transformer_layers]
        self.pooler = _Dense(backbone.pooled_dense, stored=stored, frozen=frozen)
        # By the number of first tokens; hidden, as a tf.function in sight is traced anew when it is saved.
        functions: dict[int, Any] | None = {} if frozen else None
        self._functions = lambda: functions

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs, float32; see `EncoderBackbone`."""
        functions = self._functions()
        if functions is None:
            return super().__call__(inputs, first_tokens)
        count = 0 if first_tokens is None else first_tokens.shape[1]
        if count not in functions:
            specs = [{name: tf.TensorSpec([None, None], tf.int32) for name in inputs}]
            specs += [tf.TensorSpec([None, count, self._width])] if count else []
            functions[count] = tf.function(super().__call__, autograph=False, input_signature=specs)
        outputs: dict[str, tf.Tensor] = functions[count](dict(inputs), *([first_tokens] if count else []))
        return outputs


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


def served_encoder(
    backbone: EncoderBackbone, weights: str = "float32", frozen: bool = False
) -> ServedEncoder | KerasEncoder:
    """Return what answers for an encoder in an exported model, on weights in one of `WEIGHT_FORMATS`.

    Raises:
        UserError: the encoder is no BERT, and its weights should be frozen or stored in anything but float32.
    """
    if isinstance(backbone, BertEncoder):
        return ServedEncoder(backbone, weights, frozen)
    if weights != "float32":
        raise UserError(f"export.weights: of encoders on words only float32 can be exported; received {weights}")
    if frozen:
        raise UserError("export.freeze: encoders on words can't be frozen; received true")
    return KerasEncoder(backbone)


class _Dense(tf.Module):
    """One product for dense layers of the same input, side by side."""

    def __init__(self, *parts: Any, stored: WeightFormat, frozen: bool, factors: Sequence[float] = (1.0,)) -> None:
        """Take the layers, built, how to store them, and what each one's output is multiplied by."""
        super().__init__()
        pairs = list(zip(parts, map(np.float32, factors), strict=True))
        biases = [factor * part.bias.numpy().reshape(-1) for part, factor in pairs]
        # Attention's kernels have the heads as an axis of their own: before the last or, towards the output, first.
        kernels = [
            factor * part.kernel.numpy().reshape(-1, len(bias))
            for (part, factor), bias in zip(pairs, biases, strict=True)
        ]
        self.kernel = stored.kernel(np.concatenate(kernels, axis=1), stored.compute, frozen)
        self.bias = constant(np.concatenate(biases), stored.compute)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(self.kernel(tf.cast(x, self.bias.dtype)), self.bias)


class _Norm(tf.Module):
    def __init__(self, norm: keras.layers.LayerNormalization) -> None:
        super().__init__()
        self.gamma, self.beta = (constant(each.numpy(), tf.float32) for each in (norm.gamma, norm.beta))

    def __call__(self, x: tf.Tensor, epsilon: float) -> tf.Tensor:
        return normalised(x, epsilon, self.gamma, self.beta)


class _Layer(tf.Module):
    def __init__(self, layer: Any, scale: float, stored: WeightFormat, frozen: bool) -> None:
        super().__init__()
        attention = layer._self_attention_layer
        inputs = (attention._query_dense, attention._key_dense, attention._value_dense)
        self.projections = _Dense(*inputs, stored=stored, frozen=frozen, factors=(scale, 1.0, 1.0))
        self.output = _Dense(attention._output_dense, stored=stored, frozen=frozen)
        self.attention_norm = _Norm(layer._self_attention_layer_norm)
        self.inner = _Dense(layer._feedforward_intermediate_dense, stored=stored, frozen=frozen)
        self.outer = _Dense(layer._feedforward_output_dense, stored=stored, frozen=frozen)
        self.final_norm = _Norm(layer._feedforward_layer_norm)
