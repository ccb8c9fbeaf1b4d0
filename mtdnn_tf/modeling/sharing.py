"""What tasks share: from the encoder to the sequence and the sentence vector that each task's head sees.

Four structures of T. Sun, "Language representation with multi-task learning" (Xidian University, 2019). In the stacked ones tasks
part on top of the encoder; in the layerwise ones a learned *task token*, or one for each task, goes through every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.backbone import EncoderBackbone, Outputs

CLS = "CLS"  # the owner of the first token that all tasks share, where the encoder has no [CLS] of its own
_TOKEN = "-token"  # no task's name holds a hyphen; a dot would be escaped in checkpoints


class View(NamedTuple):
    """What a task's head sees of the texts."""

    sequence: Any  # [batch, length, d]; column 0 is the task's sentence token
    vector: Any  # [batch, d]


@dataclass(frozen=True)
class Sharing:
    """What a sharing mode works on."""

    backbone: EncoderBackbone
    inputs: Mapping[str, Any]  # token_ids, segment_ids, padding_mask [batch, length] int32
    tasks: Sequence[str]  # names, in the order of their tokens
    pooler: str  # of `POOLERS`
    initial_token: Callable[[str], np.ndarray]  # what the token of a task starts from, [d] float32

    def token(self, owner: str) -> Any:
        """Return a new task token, repeated for each row, `[batch, 1, d]`."""
        return TaskToken(owner, self.initial_token(owner))(self.inputs["token_ids"])


class TaskToken(keras.layers.Layer):
    """A learned vector of one task that goes through the encoder with the words: a row of E_task.

    Each is a layer of its own, so that a checkpoint keeps it by the task's name, and a task that is added moves no other's.
    """

    def __init__(self, owner: str, initial: np.ndarray) -> None:
        """Take the task's name, and the values to start from, `[d] float32`."""
        super().__init__(name=f"{owner}{_TOKEN}", dtype="float32")
        self.owner = owner
        self._initial = initial

    def build(self, *_: Any) -> None:
        """Create the weight."""
        start = self._initial
        self.embedding = self.add_weight(start.shape, lambda *_, **__: ops.convert_to_tensor(start), name="embedding")

    def call(self, token_ids: Any) -> Any:
        """Return the vector once for each row, `[batch, 1, d]`."""
        return ops.broadcast_to(self.embedding, (ops.shape(token_ids)[0], 1, self.embedding.shape[0]))


class TokenColumn(keras.layers.Layer):
    """One column of a sequence. As all steps between encoder and heads it is a layer of its own, with a name that no task has.

    Keras calls the layers of plain operations `sum`, `cast` or `concatenate`, which tasks may be called.
    """

    def __init__(self, column: int, owner: str) -> None:
        """Take the column, and the task that reads it, or `CLS`."""
        super().__init__(name=f"{owner}-column", autocast=False)
        self.column = column

    def call(self, sequence: Any) -> Any:
        """Return `[batch, d]` of `[batch, length, d]`."""
        return sequence[:, self.column]


class MeanOfTokens(keras.layers.Layer):
    """The mean over the real tokens from a column on, in float32."""

    def __init__(self, start: int) -> None:
        """Take the first column."""
        super().__init__(name="mean-of-tokens", autocast=False)
        self.start = start

    def call(self, sequence: Any, padding_mask: Any) -> tuple[Any, Any]:
        """Return the sequence `[batch, length, d] float32` and its mean `[batch, d]`; the mask is `[batch, length] int32`."""
        sequence = ops.cast(sequence, "float32")
        real = ops.cast(padding_mask, "float32")[:, self.start :, None]
        total = ops.sum(sequence[:, self.start :] * real, axis=1)
        return sequence, total / ops.maximum(ops.sum(real, axis=1), 1.0)


class OwnTokenFirst(keras.layers.Layer):
    """A sequence that begins with the tokens of several tasks, as one of them reads it: its own token, then the words."""

    def __init__(self, column: int, count: int, owner: str) -> None:
        """Take the column of the task's token, the number of tokens, and the task."""
        super().__init__(name=f"{owner}-sequence", autocast=False)
        self.column, self.count = column, count

    def call(self, sequence: Any) -> Any:
        """Return `[batch, 1 + length, d]` of `[batch, count + length, d]`."""
        own = sequence[:, self.column : self.column + 1]
        return ops.concatenate([own, sequence[:, self.count :]], axis=1)


POOLERS: dict[str, Callable[[Outputs, int | None, str], Any]] = {
    # tanh(W [CLS] + b): the released code
    "pretrained": lambda outputs, column, owner: (
        outputs["pooled_output"] if column is None else TokenColumn(column, owner)(outputs["pooled_output"])
    ),
    # [CLS] itself: the paper's words
    "none": lambda outputs, column, owner: TokenColumn(column or 0, owner)(outputs["sequence_output"]),
}
"""From the outputs, the column of a first token (None: [CLS]) and its owner to the sentence vector."""


def stack_cls(sharing: Sharing) -> dict[str, View]:
    """Share everything: one encoder, and its [CLS] position as the sentence (MT-DNN, section 3)."""
    if sharing.backbone.has_cls:
        outputs, column = sharing.backbone(sharing.inputs), None
    else:
        outputs, column = sharing.backbone(sharing.inputs, first_tokens=sharing.token(CLS)), 0
    view = View(outputs["sequence_output"], POOLERS[sharing.pooler](outputs, column, CLS))
    return dict.fromkeys(sharing.tasks, view)


def stack_pooling(sharing: Sharing) -> dict[str, View]:
    """Share everything: one encoder; the sentence is the mean of the last layer over the real tokens.

    Of an encoder without [CLS], column 0 is no token. The pooler has no part in it.
    """
    mean = MeanOfTokens(0 if sharing.backbone.has_cls else 1)
    sequence, vector = mean(sharing.backbone(sharing.inputs)["sequence_output"], sharing.inputs["padding_mask"])
    return dict.fromkeys(sharing.tasks, View(sequence, vector))


def layerwise_implicit(sharing: Sharing) -> dict[str, View]:
    """Put the task's own token in the place of [CLS]: one pass for each task. Tasks meet through shared weights alone."""
    views = {}
    for name in sharing.tasks:
        outputs = sharing.backbone(sharing.inputs, first_tokens=sharing.token(name))
        views[name] = View(outputs["sequence_output"], POOLERS[sharing.pooler](outputs, 0, name))
    return views


def layerwise_explicit(sharing: Sharing) -> dict[str, View]:
    """Put all tasks' tokens in the place of [CLS]: one pass; a task reads its own column, and attends to the others' below."""
    count = len(sharing.tasks)
    tokens = [sharing.token(name) for name in sharing.tasks]
    joined = keras.layers.Concatenate(axis=1, name="task-tokens", autocast=False)
    outputs = sharing.backbone(sharing.inputs, first_tokens=joined(tokens) if count > 1 else tokens[0])
    return {
        name: View(
            OwnTokenFirst(column, count, name)(outputs["sequence_output"]),
            POOLERS[sharing.pooler](outputs, column, name),
        )
        for column, name in enumerate(sharing.tasks)
    }


SHARING_MODES: dict[str, Callable[[Sharing], dict[str, View]]] = {
    "stack_cls": stack_cls,
    "stack_pooling": stack_pooling,
    "layerwise_implicit": layerwise_implicit,
    "layerwise_explicit": layerwise_explicit,
}


def check_sharing(mode: str, pooler: str) -> None:
    """Check names.

    Raises:
        UserError: there is no such mode or pooler.
    """
    if mode not in SHARING_MODES:
        raise UserError(unknown_name("model.sharing", "sharing mode", mode, SHARING_MODES))
    if pooler not in POOLERS:
        raise UserError(unknown_name("model.pooler", "pooler", pooler, POOLERS))
