"""Tokenised examples in batches: shuffled by (seed, epoch) alone, of similar length, padded to the bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtdnn_tf.data.pipelines import PARALLEL_CALLS, made_ahead
from mtdnn_tf.data.preprocessed import pack_tokens
from mtdnn_tf.data.sources import Examples
from mtdnn_tf.data.text import Tokenizer, pack, with_masks
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec

INPUTS = ("token_ids", "segment_ids", "padding_mask")  # of every encoder, each `[batch, length] int32`
# What every batch holds, whichever its task: the signature of steps, so that each is traced once.
BATCH_SPEC = {
    **{name: tf.TensorSpec([None, None], tf.int32, name=name) for name in INPUTS},
    "label": tf.TensorSpec([None], tf.float32, name="label"),
    **{name: tf.TensorSpec([None], tf.int32, name=name) for name in ("group", "task_id")},
}
EVALUATION_SEED = 0  # of what is drawn when rows are scored: the same for every run
EvaluationBatches = tuple[tf.data.Dataset, np.ndarray]
"""A split's rows in batches, and the order that they come in, `[rows] int64`."""

_CHUNK = 4096  # texts tokenised at once
_POOL = 50  # batches; within a pool, items of similar length come together


@dataclass(frozen=True)
class TokenizedTask:
    """One task's split as packed token ids. An item is what a batch counts: a row, of ranking a query with all its rows."""

    task: TaskSpec
    token_ids: np.ndarray  # [tokens] int32, all rows one after the other
    row_splits: np.ndarray  # [rows + 1] int64
    first_lengths: np.ndarray  # [rows] int32: leading positions with segment id 0
    labels: np.ndarray | None  # [rows]
    groups: np.ndarray | None  # ranking: [rows] int32, index of the query
    max_length: int
    pad_id: int
    skipped: tuple[str, ...] = ()  # a line for each row of the source that was dropped on purpose

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, `[rows] int64`."""
        return np.diff(self.row_splits)

    @property
    def known_labels(self) -> np.ndarray:
        """The labels of a split that has them, `[rows]`."""
        if self.labels is None:
            raise ValueError(f"task {self.task.name!r}: this split has no labels")
        return self.labels

    @property
    def item_splits(self) -> np.ndarray:
        """Where items begin and end, `[items + 1] int64`: item i has rows item_splits[i] to item_splits[i + 1]."""
        if self.groups is None:
            return np.arange(len(self.row_splits), dtype=np.int64)
        starts = np.flatnonzero(np.diff(self.groups, prepend=-1))
        return np.append(starts, len(self.groups)).astype(np.int64)

    @property
    def num_items(self) -> int:
        """The number of rows; of ranking, of queries."""
        return len(self.item_splits) - 1

    def rows(self, buckets: Sequence[int] | None, task_id: int, seed: int) -> Rows:
        """Return what makes batches of the split.

        Args:
            buckets: as in `TrainingBatches`.
            task_id: as in `TrainingBatches`.
            seed: of what is drawn anew in every pass; plain rows draw nothing.
        """
        return TaskRows(self, buckets, task_id)


class Rows(Protocol):
    """A split's arrays as tensors, and batches gathered from them."""

    buckets: np.ndarray

    def batch_of_items(self, items: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the batch of items `[items] int64` in a pass over the data, `[] int64`; see `TrainingBatches.batch`."""

    def batch(self, rows: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the batch of rows `[rows] int64`, each an item of its own."""


def tokenize_task(examples: Examples, task: TaskSpec, tokenizer: Tokenizer, max_length: int) -> TokenizedTask:
    """Tokenise and pack all examples of a task (see `pack`); where their source holds token ids, take those."""
    ids, lengths, first_lengths = [], [], []
    for start in range(0, len(examples), _CHUNK):
        rows = slice(start, start + _CHUNK)
        if examples.tokens is not None:
            packed, first = pack_tokens(examples.tokens, rows, tokenizer, max_length)
        else:
            tokens = [tokenizer(tf.constant(texts[rows])) for texts in examples.texts]
            packed, first = pack(tokens, tokenizer, max_length, task.pair_order)
        ids.append(packed.values.numpy())
        lengths.append(packed.row_lengths().numpy())
        first_lengths.append(first.numpy())
    return TokenizedTask(
        task=task,
        token_ids=np.concatenate(ids),
        row_splits=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        first_lengths=np.concatenate(first_lengths),
        labels=examples.labels,
        groups=examples.groups,
        max_length=max_length,
        pad_id=tokenizer.pad_id,
        skipped=examples.skipped,
    )


def num_batches(tokenized: TokenizedTask, batch_size: int) -> int:
    """Return how many batches an epoch has: every item once, the last batch as it comes."""
    return -(-tokenized.num_items // batch_size)


class TrainingBatches:
    """A task's training batches, epoch by epoch; a function of seed, task name and epoch alone.

    Items are shuffled, cut into pools of 50 batches, sorted within the pool by the bucket they need, cut into batches, and the
    batches shuffled. Every item comes once; one batch at most is smaller.
    """

    def __init__(
        self, tokenized: TokenizedTask, batch_size: int, buckets: Sequence[int] | None, seed: int, task_id: int = 0
    ) -> None:
        """Take the split.

        Args:
            tokenized: the task's training split.
            batch_size: items.
            buckets: padded lengths, ascending; a batch is padded to the smallest that holds its longest row. None: items are
                not sorted, and a batch is padded to its longest row.
            seed: of the run.
            task_id: what `task_id` of every batch says.
        """
        self._rows = tokenized.rows(buckets, task_id, seed)
        self._items, self._batch_size = tokenized.num_items, batch_size
        self._batches = num_batches(tokenized, batch_size)
        self._sorted = buckets is not None
        self._needed = tf.constant(_needed_buckets(tokenized, self._rows.buckets), tf.int64)
        self._seeds = [derive_seed(seed, tokenized.task.name, purpose) for purpose in ("items", "batches")]

    def __call__(self, epoch: int, start: int = 0, epochs: int = 1) -> tf.data.Dataset:
        """Return the batches (see `batch`) of so many epochs one after the other, of the first one from batch `start` on."""
        first, skipped = tf.constant(epoch, tf.int64), tf.constant(start, tf.int64)

        def of_epoch(index: tf.Tensor) -> tf.data.Dataset:
            items = self.items(index, tf.where(index == first, skipped, 0))
            return tf.data.Dataset.from_tensor_slices((items, tf.fill([tf.shape(items)[0]], index)))

        chosen = tf.data.Dataset.range(epoch, epoch + epochs).flat_map(of_epoch)
        return chosen.map(self.batch, num_parallel_calls=PARALLEL_CALLS)

    def items(self, epoch: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Return the items of an epoch's batches from a batch on, `[batches, batch_size] int64`; -1 fills the smaller one up."""
        item_seed, batch_seed = (tf.stack([tf.constant(value, tf.int64), epoch]) for value in self._seeds)
        order = tf.random.experimental.stateless_shuffle(tf.range(self._items, dtype=tf.int64), item_seed)
        if self._sorted:
            pool = tf.range(self._items, dtype=tf.int64) // (_POOL * self._batch_size)
            by_length = tf.argsort(pool * (len(self._rows.buckets) + 1) + tf.gather(self._needed, order), stable=True)
            order = tf.gather(order, by_length)
        order = tf.pad(order, [[0, self._batches * self._batch_size - self._items]], constant_values=-1)
        batch_order = tf.random.experimental.stateless_shuffle(tf.range(self._batches), batch_seed)
        return tf.gather(tf.reshape(order, [self._batches, self._batch_size]), batch_order[start:])

    def batch(self, items: tf.Tensor, epoch: tf.Tensor | int = 0) -> dict[str, tf.Tensor]:
        """Return the batch of some items, `[any] int64`, of which those that are -1 are left out, in a pass over the data.

        Returns:
            `token_ids`, `segment_ids`, `padding_mask` `[rows, length] int32`, `label` `[rows] float32`, `group` `[rows] int32`
            (index of the item within the batch), `task_id` `[rows] int32`.
        """
        return self._rows.batch_of_items(tf.boolean_mask(items, items >= 0), tf.cast(epoch, tf.int64))


def _needed_buckets(tokenized: TokenizedTask, buckets: np.ndarray) -> np.ndarray:
    """Return the index of the bucket that each item's longest row needs, `[items]`."""
    longest = np.maximum.reduceat(tokenized.lengths, tokenized.item_splits[:-1])
    return np.searchsorted(buckets, longest)


def evaluation_batches(
    tokenized: TokenizedTask, batch_size: int, buckets: Sequence[int], share: tuple[int, int] = (0, 1)
) -> EvaluationBatches:
    """Return rows in batches of similar length.

    `share` is (number, of how many): every so many-th row only, so that workers' shares are of equal size and length.
    """
    rows = tokenized.rows(buckets, 0, EVALUATION_SEED)
    number, shares = share
    order = np.argsort(tokenized.lengths, kind="stable")[number::shares]
    indices = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
    batches = indices.map(lambda chosen: rows.batch(chosen, tf.constant(0, tf.int64)), PARALLEL_CALLS)
    return made_ahead(batches), order


def padded_lengths(max_length: int, buckets: Sequence[int] | None) -> np.ndarray:
    """Return the lengths that batches may be padded to, ascending, `max_length` the last; None: any."""
    lengths = range(max_length) if buckets is None else sorted(buckets)
    return np.array([*(length for length in lengths if length < max_length), max_length])


def smallest_length(lengths: np.ndarray, longest: tf.Tensor) -> tf.Tensor:
    """Return the smallest of `padded_lengths` that holds the longest row, `[]`, of the dtype of `lengths`."""
    return tf.reduce_min(tf.boolean_mask(lengths, lengths >= tf.cast(longest, lengths.dtype)))


class TaskRows:
    """Rows as the split has them, the same in every pass."""

    def __init__(self, tokenized: TokenizedTask, buckets: Sequence[int] | None, task_id: int) -> None:
        """Take the split, the padded lengths, and what `task_id` of every batch says."""
        self.buckets = padded_lengths(tokenized.max_length, buckets)
        self._ids = tf.constant(tokenized.token_ids)
        self._splits = tf.constant(tokenized.row_splits)
        self._first_lengths = tf.constant(tokenized.first_lengths)
        labels = np.zeros(len(tokenized.first_lengths)) if tokenized.labels is None else tokenized.labels
        self._labels = tf.constant(labels, tf.float32)
        self._items = tf.constant(tokenized.item_splits)
        self._pad_id, self._task_id = tokenized.pad_id, task_id

    def batch_of_items(self, items: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """See `Rows`."""
        rows = tf.ragged.range(tf.gather(self._items, items), tf.gather(self._items, items + 1))
        batch = self.batch(rows.values, epoch)
        return batch | {"group": tf.cast(rows.value_rowids(), tf.int32)}

    def batch(self, rows: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """See `Rows`."""
        starts, ends = tf.gather(self._splits, rows), tf.gather(self._splits, rows + 1)
        ids = tf.ragged.range(starts, ends).with_values(tf.gather(self._ids, tf.ragged.range(starts, ends).values))
        longest = tf.reduce_max(ends - starts)
        length = smallest_length(self.buckets, longest)
        dense = ids.to_tensor(self._pad_id)
        dense = tf.pad(dense, [[0, 0], [0, length - longest]], constant_values=self._pad_id)
        lengths = tf.cast(ends - starts, tf.int32)
        count = tf.shape(rows)[0]
        return with_masks(dense, lengths, tf.gather(self._first_lengths, rows)) | {
            "label": tf.gather(self._labels, rows),
            "group": tf.range(count),
            "task_id": tf.fill([count], self._task_id),
        }
