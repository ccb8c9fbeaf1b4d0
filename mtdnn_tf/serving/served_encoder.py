"""An encoder as it is served: its inference on weights laid out for the purpose.

Frozen kernels are constants of one function that all signatures call. TensorFlow's CPU kernels lay constants out for their products
once, variables at every call, which with few tokens takes longer than the product. The price is memory: every signature holds them
anew, several times over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.modeling.weights import Rows, normalised
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS, WeightFormat, constant


class ServedEncoder(tf.Module):
    """The weights of an encoder, once, and its inference."""

    def __init__(self, backbone: EncoderBackbone, weights: str = "float32", frozen: bool = False) -> None:
        """Copy the weights as they are now into one of `WEIGHT_FORMATS`; frozen: the kernels as constants."""
        super().__init__(name="encoder")
        self.inference = backbone.inference(_CopiedWeights(WEIGHT_FORMATS[weights], frozen))
        # By the number of first tokens; hidden, as a tf.function in sight is traced anew when it is saved.
        functions: dict[int, Any] | None = {} if frozen else None
        self._functions = lambda: functions

    def __call__(self, inputs: Mapping[str, tf.Tensor], first_tokens: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Return the encoder's outputs, float32; see `EncoderBackbone`."""
        functions = self._functions()
        if functions is None:
            return self.inference(inputs, first_tokens)
        count = 0 if first_tokens is None else first_tokens.shape[1]
        if count not in functions:
            specs = [{name: tf.TensorSpec([None, None], tf.int32) for name in inputs}]
            specs += [tf.TensorSpec([None, count, self.inference.width])] if count else []
            functions[count] = tf.function(self.inference, autograph=False, input_signature=specs)
        outputs: dict[str, tf.Tensor] = functions[count](dict(inputs), *([first_tokens] if count else []))
        return outputs


@dataclass(frozen=True)
class _CopiedWeights:
    """Copies of the weights as they are now, to be saved with the model; see `Weights`."""

    stored: WeightFormat
    frozen: bool

    @property
    def compute(self) -> tf.DType:
        return self.stored.compute

    def table(self, variable: Any) -> Rows:
        return self.stored.table(variable.numpy(), self.stored.compute)

    def norm(self, norm: Any) -> Rows:
        return _Norm(norm)

    def product(self, parts: Sequence[Any], factors: Sequence[float] = (1.0,)) -> Rows:
        return _Dense(parts, factors, self.stored, self.frozen)


class _Dense(tf.Module):
    def __init__(self, parts: Sequence[Any], factors: Sequence[float], stored: WeightFormat, frozen: bool) -> None:
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
        self._epsilon = norm.epsilon
        self.gamma, self.beta = (constant(each.numpy(), tf.float32) for each in (norm.gamma, norm.beta))

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return normalised(x, self._epsilon, self.gamma, self.beta)
