"""A batch cut into one part for each replica: queries stay whole, and rows that fill a part up count nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]


def as_arrays(batch: Mapping[str, tf.Tensor]) -> Arrays:
    """Return a batch's tensors as NumPy arrays."""
    return {name: value.numpy() for name, value in batch.items()}


def cut_batch(batch: Arrays, replicas: int, rows_of_part: Callable[[int], int] = int) -> list[Arrays]:
    """Cut a batch into parts of as many items each (rows; of ranking, queries), give or take one.

    All parts have the same number of rows. Those that are too short, even empty, are filled up with the batch's first row,
    each copy a group of its own. `sample_weight` `[rows] float32` is 1 for rows of the batch and 0 for these.

    Args:
        batch: as `TrainingBatches` gives them: `group` counts the items from 0.
        replicas: the number of parts.
        rows_of_part: from the most rows that a part has to the rows that all get; at least as many.
    """
    group = batch["group"]
    items = int(group[-1]) + 1
    bounds = [items * part // replicas for part in range(replicas + 1)]
    starts = np.searchsorted(group, bounds)
    rows = rows_of_part(max(int(np.diff(starts).max()), 1))
    return [
        _filled_up({name: value[start:end] for name, value in batch.items()}, batch, bound, rows)
        for start, end, bound in zip(starts[:-1], starts[1:], bounds[:-1], strict=True)
    ]


def _filled_up(part: Arrays, batch: Arrays, first_group: int, rows: int) -> Arrays:
    real = len(part["group"])
    missing = rows - real
    filled = {
        name: np.concatenate([value, np.repeat(batch[name][:1], missing, axis=0)]) for name, value in part.items()
    }
    group = part["group"] - first_group
    own_groups = np.arange(missing) + (group[-1] + 1 if real else 0)
    filled["group"] = np.concatenate([group, own_groups]).astype(batch["group"].dtype)
    filled["sample_weight"] = (np.arange(rows) < real).astype(np.float32)
    return filled
