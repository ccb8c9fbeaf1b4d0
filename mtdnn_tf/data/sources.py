"""From a task's source to its examples: columns found, labels parsed, candidates grouped."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.labels import parse_labels, raw_label
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.data.rows import Table, read_csv, read_jsonl, read_tsv
from mtdnn_tf.data.tfds_rows import read_tfds, split_path
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

Key = int | str

# A format is added here, and its file ending below.
FORMATS: dict[str, Callable[[SourceConfig], Table]] = {
    "tsv": read_tsv,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "tfds": read_tfds,
}
ENDINGS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
_TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class Examples:
    """The examples of one task and split, in the order of their source."""

    texts: tuple[list[str], ...]  # one list for each text column, all of length N
    labels: np.ndarray | None  # [N]; classification: int32 ids; regression, ranking: float32; None: unlabelled
    groups: np.ndarray | None  # ranking: [N] int32, index of the query, non-decreasing from 0
    origin: str  # path, for messages
    lines: np.ndarray  # [N] int32: 1-based line in the file (tensorflow-datasets: record)

    def __len__(self) -> int:
        return len(self.lines)


def read_examples(task: TaskSpec, split: str, *, labelled: bool | None = None) -> Examples:
    """Read one split of a task: the whole, or for `train` the part that `max_examples` leaves.

    Args:
        task: what to read.
        split: train, dev or test.
        labelled: whether labels are demanded; None: yes for train and dev, for test where there are any.

    Raises:
        UserError: the split has no source, or the source is bad (see `read_source`).
    """
    where = f"tasks.{task.name}.{split}"
    if split not in task.sources:
        known = ", ".join(task.sources) or "none"
        raise UserError(f"{where}: this split has no source; name a file or tfds:<builder> there (splits with one: {known})")
    if labelled is None and split in ("train", "dev"):
        labelled = True
    examples = read_source(task, _with_split(task.sources[split], split), labelled=labelled)
    return _limited(examples, task) if split == "train" else examples


def read_source(task: TaskSpec, source: SourceConfig, *, labelled: bool | None) -> Examples:
    """Read a source with the columns and labels of a task.

    Args:
        task: whose text columns and labels are looked up.
        source: file or dataset, absolute.
        labelled: True: labels are demanded; False: not looked at; None: taken where their column is there and not empty.

    Raises:
        UserError: one line with file and line, the rule, what was received, and what would be right.
    """
    table = FORMATS[_format(source)](source)
    columns = _find_columns(task, source, table, labelled)
    rows = _collect(source, table, columns)
    lines = np.array(rows.lines, np.int32)
    labels = None
    if columns.label is not None and not (labelled is None and _all_missing(task, source, table, rows.labels)):
        label_column = f"column {columns.shown('label')}"
        labels = parse_labels(
            task, source.labels, rows.labels, lambda row: f"{table.origin}:{lines[row]}: {label_column}"
        )
    groups = None
    if task.type == "ranking":
        grouped = columns.group is not None
        groups = _group_ids(table.origin, rows.groups if grouped else rows.texts[0], rows.lines, grouped)
    return Examples(tuple(rows.texts), labels, groups, table.origin, lines)
