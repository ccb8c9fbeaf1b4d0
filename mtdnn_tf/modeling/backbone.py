"""What every encoder's backbone does: which pass answers a call, and tokens of the tasks' own in the place of [CLS]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from mtdnn_tf.modeling.weights import LiveWeights, Weights

if TYPE_CHECKING:
    from mtdnn_tf.modeling.inference import EncoderInference

Outputs = dict[str, Any]


class Depth(NamedTuple):
    """Where a layer of an encoder is, for its learning rate."""

    layers_above: int  # Transformer layers between it and the heads
    is_embedding: bool = False


StandIn = Callable[[Mapping[str, Any], Any], Outputs]


class EncoderBackbone:
    """Base, beside a functional Keras model, of an encoder's forward pass.

    Inputs: `token_ids`, `segment_ids`, `padding_mask` (1 on real tokens), each `[batch, length] int32`.
    Outputs: `sequence_output` `[batch, length, d]` and `pooled_output` `[batch, d]`.

    Called with `first_tokens` `[batch, k, d]`, these stand in the place of what the embeddings give for [CLS], seen by every
    position. Outputs then: `sequence_output` `[batch, k + length - 1, d]`, and `pooled_output` `[batch, k, d]`, of each of them.
    """

    hidden_dim: int
    intermediate_dim: int
    num_layers: int
    num_heads: int
    num_segments: int
    max_sequence_length: int
    vocabulary_size: int
    hidden_activation: str
    compute_dtype: str
    count_params: Callable[[], int]
    weights: list[keras.Variable]
    transformer_layers: list[keras.layers.Layer]
    dropout: float

    has_cls = True  # whether [CLS] is a token of the encoder's own; if not, nothing attends to its column

    # How outputs are computed: in training by fused kernels, in inference by few operations; or layer by layer.
    fused = False
    # Whether the fused pass keeps each layer's input only, and computes the rest again for its gradient.
    recompute = False
    # What answers for the layers in inference; None: they do.
    stand_in: StandIn | None = None

    if TYPE_CHECKING:

        def __call__(self, inputs: Mapping[str, Any], **options: Any) -> Outputs:
            """Keras' own; see `call`."""

    def call(
        self, inputs: Mapping[str, Any], first_tokens: Any = None, training: bool | None = None, mask: Any = None
    ) -> Outputs:
        """Return the outputs, in inference those of `stand_in`, where one is set."""
        if self.stand_in is not None and not training:
            return self.stand_in(inputs, first_tokens)
        if self.fused:
            if training:
                return self.fused_pass(inputs, first_tokens)
            return self.inference(LiveWeights(tf.as_dtype(self.compute_dtype)))(inputs, first_tokens)
        return self.reference_pass(inputs, first_tokens, training)

    def compute_output_spec(
        self, inputs: Mapping[str, Any], first_tokens: Any = None, training: bool | None = None, mask: Any = None
    ) -> Outputs:
        """Return the shapes and dtypes of the outputs, as Keras tensors."""
        batch, length = inputs["token_ids"].shape
        width, dtype = self.hidden_dim, self.compute_dtype
        if first_tokens is None:
            shapes = {"sequence_output": (batch, length, width), "pooled_output": (batch, width)}
        else:
            count = first_tokens.shape[1]
            total = None if length is None else length + count - 1
            shapes = {"sequence_output": (batch, total, width), "pooled_output": (batch, count, width)}
        return {name: keras.KerasTensor(shape, dtype) for name, shape in shapes.items()}

    @contextmanager
    def replaced_by(self, stand_in: StandIn) -> Iterator[None]:
        """Within the block, let a function from inputs and first tokens to outputs answer in inference: for tracing graphs."""
        self.stand_in = stand_in
        try:
            yield
        finally:
            self.stand_in = None

    def reference_pass(self, inputs: Mapping[str, Any], first_tokens: Any, training: bool | None) -> Outputs:
        """Return the outputs, computed layer by layer."""
        raise NotImplementedError

    def fused_pass(self, inputs: Mapping[str, Any], first_tokens: Any) -> Outputs:
        """Return the outputs of a training step, computed by fused kernels."""
        raise NotImplementedError

    def inference(self, weights: Weights) -> EncoderInference:
        """Return what computes the outputs in inference, float32, by fewer operations than layer by layer."""
        raise NotImplementedError

    def first_token_attention(self, inputs: Mapping[str, Any], first_tokens: Any) -> Any:
        """Return how much the first tokens attend to each other in the last layer, in inference.

        Returns:
            `[batch, heads, k, k] float32`: rows attend, columns are attended to. The rest of each row's 1 goes to the words.
        """
        raise NotImplementedError

    def initial_token(self, cls_id: int, seed: int) -> np.ndarray:
        """Return what a token of a task's own starts from, `[d] float32`: the embedding of [CLS], or a random vector."""
        raise NotImplementedError

    def depths(self) -> list[tuple[keras.layers.Layer, Depth]]:
        """Return all layers that hold weights, embeddings first, each with its depth."""
        below, above = self.layers_around()
        count = len(self.transformer_layers)
        transformer = [(layer, Depth(count - 1 - index)) for index, layer in enumerate(self.transformer_layers)]
        return [*below, *transformer, *((layer, Depth(0)) for layer in above)]

    def layers_around(self) -> tuple[list[tuple[keras.layers.Layer, Depth]], list[keras.layers.Layer]]:
        """Return the layers with weights below the Transformer layers, with their depth, and those above."""
        raise NotImplementedError

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and so many layers, counted from below, as they are; 0: everything is trained.

        Raises:
            UserError: there are not so many layers.
        """
        raise NotImplementedError


def segment_rows(segment_ids: Any, num_segments: int) -> Any:
    """Return the row of the segment table at each position: row 0 for both texts where an encoder knows one type of segment."""
    return ops.zeros_like(segment_ids) if num_segments == 1 else segment_ids


class Float32Dropout(keras.layers.Dropout):
    """Dropout whose random numbers and scale are float32 whatever its input: TensorFlow rounds both, and the rate, to the input's type."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the input, dropped and scaled, in its own type."""
        if not training or self.rate == 0:
            return inputs
        ones = ops.ones(ops.shape(inputs), "float32")
        mask = keras.random.dropout(ones, self.rate, self.noise_shape, self.seed_generator)
        return ops.cast(ops.cast(inputs, "float32") * mask, inputs.dtype)


def draw_dropout_in_float32(model: keras.Model) -> None:
    """Let all dropout layers of a model draw in float32; KerasHub's layers make their own."""
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.Dropout and layer.compute_dtype != "float32":
            layer.__class__ = Float32Dropout


def put_first(first_tokens: Any, x: Any, padding_mask: Any) -> tuple[Any, Any]:
    """Put tokens `[batch, k, d]` in the place of column 0 of `x` `[batch, length, d]`; all positions may attend to them.

    Returns:
        `[batch, k + length - 1, d]`, and the padding mask of these positions.
    """
    seen = ops.ones_like(first_tokens[..., 0], dtype=padding_mask.dtype)
    together = ops.concatenate([ops.cast(first_tokens, x.dtype), x[:, 1:]], axis=1)
    return together, ops.concatenate([seen, padding_mask[:, 1:]], axis=1)


def without_first(padding_mask: Any) -> Any:
    """Return the mask `[batch, length]` with column 0 counted as padding."""
    return ops.concatenate([ops.zeros_like(padding_mask[:, :1]), padding_mask[:, 1:]], axis=1)


def shares_among_first(query: Any, key: Any, mask: Any, count: int) -> Any:
    """Return the attention of the first `count` positions to each other, `[batch, heads, count, count] float32`.

    Args:
        query: `[batch, length, heads, width]`, before the division by the square root of the width.
        key: likewise.
        mask: `[batch, length]`, 1 on positions that may be attended to.
        count: positions.
    """
    query, key = ops.cast(query[:, :count], "float32"), ops.cast(key, "float32")
    scores = ops.einsum("bqhw,bkhw->bhqk", query, key) * query.shape[-1] ** -0.5
    scores = ops.where(mask[:, None, None, :] > 0, scores, -1e9)
    return ops.softmax(scores, axis=-1)[..., :count]
