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


POOLERS: dict[str, Callable[[Outputs, int | None], Any]] = {
    # tanh(W [CLS] + b): the released code
    "pretrained": lambda outputs, column: (
        outputs["pooled_output"] if column is None else outputs["pooled_output"][:, column]
    ),
    "none": lambda outputs, column: outputs["sequence_output"][:, column or 0],  # [CLS] itself: the paper's words
}
"""From the outputs and the column of a first token (None: [CLS]) to the sentence vector."""


def stack_cls(sharing: Sharing) -> dict[str, View]:
    """Share everything: one encoder, and its [CLS] position as the sentence (MT-DNN, section 3)."""
    if sharing.backbone.has_cls:
        outputs, column = sharing.backbone(sharing.inputs), None
    else:
        outputs, column = sharing.backbone(sharing.inputs, first_tokens=sharing.token(CLS)), 0
    view = View(outputs["sequence_output"], POOLERS[sharing.pooler](outputs, column))
    return dict.fromkeys(sharing.tasks, view)


def stack_pooling(sharing: Sharing) -> dict[str, View]:
    """Share everything: one encoder; the sentence is the mean of the last layer over the real tokens.

    Of an encoder without [CLS], column 0 is no token. The pooler has no part in it.
    """
    sequence = ops.cast(sharing.backbone(sharing.inputs)["sequence_output"], "float32")
    real = ops.cast(sharing.inputs["padding_mask"], "float32")[..., None]
    start = 0 if sharing.backbone.has_cls else 1
    total = ops.sum(sequence[:, start:] * real[:, start:], axis=1)
    vector = total / ops.maximum(ops.sum(real[:, start:], axis=1), 1.0)
    return dict.fromkeys(sharing.tasks, View(sequence, vector))


def layerwise_implicit(sharing: Sharing) -> dict[str, View]:
    """Put the task's own token in the place of [CLS]: one pass for each task. Tasks meet through shared weights alone."""
    views = {}
    for name in sharing.tasks:
        outputs = sharing.backbone(sharing.inputs, first_tokens=sharing.token(name))
        views[name] = View(outputs["sequence_output"], POOLERS[sharing.pooler](outputs, 0))
    return views


def layerwise_explicit(sharing: Sharing) -> dict[str, View]:
    """Put all tasks' tokens in the place of [CLS]: one pass; a task reads its own column, and attends to the others' below."""
    count = len(sharing.tasks)
    tokens = [sharing.token(name) for name in sharing.tasks]
    together = ops.concatenate(tokens, axis=1) if count > 1 else tokens[0]
    outputs = sharing.backbone(sharing.inputs, first_tokens=together)
    sequence = outputs["sequence_output"]
    words = sequence[:, count:]
    return {
        name: View(
            ops.concatenate([sequence[:, column : column + 1], words], axis=1),
            POOLERS[sharing.pooler](outputs, column),
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
