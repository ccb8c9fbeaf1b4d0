"""How tasks relate, read off the last layer: how much each task's token attends to the others' (explicit sharing only).

T. Sun, "Language representation with multi-task learning" (Xidian University, 2019), chapter 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.config import DataConfig
from mtdnn_tf.data.batches import BATCH_SPEC, INPUTS, evaluation_batches
from mtdnn_tf.data.cache import tokenized_split
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.charts import attention_map
from mtdnn_tf.evaluation.pages import whole_page
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.modeling.model import first_tokens
from mtdnn_tf.run_files import attention_files
from mtdnn_tf.tasks import TaskSpec


@dataclass(frozen=True)
class TaskAttention:
    """What each task's token attends to, on texts of this task."""

    split: str
    names: tuple[str, ...]  # of the tasks, in the order of rows and columns
    shares: (
        np.ndarray
    )  # [T, T]: row t is a mean over texts of task t and over heads; the rest of its 1 goes to the words
    texts: tuple[int, ...]  # rows that each mean is over


def task_attention(
    model: keras.Model, tasks: Sequence[TaskSpec], tokenizer: Tokenizer, data: DataConfig, split: str = "dev"
) -> TaskAttention:
    """Return how much the token of each task attends to each task's token in the last layer, on this task's texts.

    Args:
        model: of `build_model` with `layerwise_explicit`.
        tasks: its tasks.
        tokenizer: of its encoder.
        data: batch size and lengths.
        split: of every task.

    Raises:
        UserError: the tasks of this model do not see each other's tokens, or one of them has no such split.
    """
    names = tuple(task.name for task in tasks if task.head_of is None)
    if not _is_explicit(model, names):
        raise UserError(
            "task attention: needs a run with model.sharing: layerwise_explicit; in other structures no task sees another's token"
        )
    attend = _compiled(model, names)
    shares, counts = np.zeros([len(names), len(names)]), []
    own = [task for task in tasks if task.head_of is None]
    for row, task in enumerate(own):
        tokenized = tokenized_split(task, split, tokenizer, data)
        batches, order = evaluation_batches(tokenized, data.eval_batch_size, data.buckets)
        shares[row] = sum(attend(batch)[:, row].numpy().sum(axis=0) for batch in batches) / len(order)
        counts.append(len(order))
    return TaskAttention(split, names, shares, tuple(counts))


def _is_explicit(model: keras.Model, names: Sequence[str]) -> bool:
    """Return whether one pass takes the tokens of all these tasks: the model of one of them needs them all."""
    below = keras.Model(model.input, model.output[names[0]])
    return {token.owner for token in first_tokens(below)} == set(names)


def _compiled(model: keras.Model, names: Sequence[str]) -> tf.types.experimental.PolymorphicFunction:
    """Return a function of a batch: the mean over heads of the attention among task tokens, `[batch, T, T] float32`."""
    backbone = model.get_layer("encoder")
    by_owner = {token.owner: token for token in first_tokens(model)}

    @tf.function(input_signature=[{name: BATCH_SPEC[name] for name in INPUTS}])
    def attend(inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        tokens = tf.concat([by_owner[name](inputs["token_ids"]) for name in names], axis=1)
        return tf.reduce_mean(backbone.first_token_attention(inputs, tokens), axis=1)

    return lambda batch: attend({name: batch[name] for name in INPUTS})


def write_task_attention(folder: Path, found: TaskAttention) -> tuple[Path, Path]:
    """Write `task_attention_<split>.json` (`split`, `tasks`, `texts`, `attention` by row) and the same as a heat map in HTML."""
    content = {
        "split": found.split,
        "tasks": list(found.names),
        "texts": list(found.texts),
        "attention": [[round(float(share), 6) for share in row] for row in found.shares],
    }
    title = f"Task attention, {found.split} texts"
    page = whole_page(title, [f"<h1>{title}</h1>", attention_map(title, found.names, found.shares)])
    numbers, picture = (folder / name for name in attention_files(found.split))
    write_text_atomically(numbers, json.dumps(content, indent=1) + "\n")
    write_text_atomically(picture, page)
    return numbers, picture
