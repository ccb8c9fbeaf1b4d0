"""What tasks share: from the encoder's outputs to the sequence and the sentence vector that heads see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mtdnn_tf.errors import UserError, unknown_name

POOLERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "pretrained": lambda outputs: outputs["pooled_output"],  # tanh(W [CLS] + b): the released code
    "none": lambda outputs: outputs["sequence_output"][:, 0],  # [CLS] itself: the paper's words
}


def stack_cls(outputs: Mapping[str, Any], pooler: str) -> tuple[Any, Any]:
    """Share everything: one encoder, and its [CLS] position as the sentence (paper, section 3).

    Args:
        outputs: of the encoder: `sequence_output` `[batch, length, d]`, `pooled_output` `[batch, d]`.
        pooler: of `POOLERS`.

    Returns:
        The sequence `[batch, length, d]` and the sentence vector `[batch, d]`.
    """
    if pooler not in POOLERS:
        raise UserError(unknown_name("model.pooler", "pooler", pooler, POOLERS))
    return outputs["sequence_output"], POOLERS[pooler](outputs)


SHARING_MODES: dict[str, Callable[[Mapping[str, Any], str], tuple[Any, Any]]] = {"stack_cls": stack_cls}
