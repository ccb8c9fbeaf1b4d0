"""How an epoch's batches fill the buckets: padded lengths, padding waste, and what it would be without buckets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import TokenizedTask
from mtdnn_tf.data.mixing import Mixture

Batch = dict[str, tf.Tensor]
MAX_BATCHES = 10_000  # of an epoch that are looked at; some hundreds a second


@dataclass
class Bucket:
    """The batches of one task that are padded to one length."""

    batches: int = 0
    cells: int = 0  # tokens and padding
    tokens: int = 0
    largest: Batch = field(default_factory=dict, repr=False)  # the batch with the most rows

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        rows, length = batch["token_ids"].shape
        self.batches += 1
        self.cells += rows * length
        self.tokens += int(tf.reduce_sum(batch["padding_mask"]))
        if not self.largest or rows > self.largest["token_ids"].shape[0]:
            self.largest = batch


Buckets = Mapping[int, Bucket]  # by padded length, ascending


def bucket_use(mixture: Mixture, epoch: int = 0, max_batches: int = MAX_BATCHES) -> dict[str, Buckets]:
    """Go through an epoch's batches (the first `max_batches` of them) and return each task's buckets."""
    schedule = mixture.schedule(epoch)
    use: dict[str, dict[int, Bucket]] = {name: {} for name in mixture.task_names}
    # The schedule is longer than the part that is looked at, where the epoch is.
    for task_id, batch in zip(schedule, islice(mixture.epoch_dataset(epoch), max_batches), strict=False):
        length = int(batch["token_ids"].shape[1])
        use[mixture.task_names[task_id]].setdefault(length, Bucket()).add(batch)
    return {name: dict(sorted(buckets.items())) for name, buckets in use.items()}


def bucket_summary(buckets: Buckets, split: TokenizedTask, batch_size: int) -> dict[str, Any]:
    """Return `batches` {padded length: batches}, `padding` and `padding_unsorted`.

    Args:
        buckets: of one task.
        split: its training rows.
        batch_size: items.

    Returns:
        The last two are shares of padding in all positions of the batches: as they are, and if shuffled items were padded to
        the longest of their batch.
    """
    return {
        "batches": {str(length): bucket.batches for length, bucket in buckets.items()},
        "padding": round(padding(buckets.values()), 4),
        "padding_unsorted": round(padding_unsorted(split, batch_size), 4),
    }


def padding(buckets: Iterable[Bucket]) -> float:
    """Return the share of padding in all positions of the batches."""
    cells, tokens = np.sum([(bucket.cells, bucket.tokens) for bucket in buckets] or [(0, 0)], axis=0)
    return float(1 - tokens / cells) if cells else 0.0


def padding_unsorted(split: TokenizedTask, batch_size: int, seed: int = 0) -> float:
    """Return the share of padding if items were shuffled, cut into batches, and these padded to their longest row."""
    starts = split.item_splits[:-1]
    order = np.random.default_rng(seed).permutation(split.num_items)
    cuts = np.arange(0, len(order), batch_size)
    longest = np.maximum.reduceat(np.maximum.reduceat(split.lengths, starts)[order], cuts)
    rows = np.add.reduceat(np.diff(split.item_splits)[order], cuts)
    return float(1 - split.lengths.sum() / (longest * rows).sum())
