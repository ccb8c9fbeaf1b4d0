"""From a task's source to its examples: columns found, labels parsed, candidates grouped."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.canonical import canonical_table, with_groups
from mtdnn_tf.data.columns import Columns, Key, column_title, find_columns
from mtdnn_tf.data.labels import parse_labels, raw_label
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.data.preprocessed import Tokens, class_names, read_token_rows
from mtdnn_tf.data.rows import Table, read_csv, read_jsonl, read_tsv
from mtdnn_tf.data.tfds_rows import read_tfds, split_path
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

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
    tokens: Tokens | None = None  # where the source holds token ids instead of texts; `texts` are empty strings then

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
        raise UserError(
            f"{where}: this split has no source; name a file or tfds:<builder> there (splits with one: {known})"
        )
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
    reader = READERS.get(_format(source), _read_table)
    return reader(task, source, labelled)


def _read_table(task: TaskSpec, source: SourceConfig, labelled: bool | None) -> Examples:
    return _examples_of(FORMATS[_format(source)](source), task, source, labelled)


def _read_canonical(task: TaskSpec, source: SourceConfig, labelled: bool | None) -> Examples:
    return _examples_of(canonical_table(task, source), task, with_groups(task, source), labelled)


def _read_preprocessed(task: TaskSpec, source: SourceConfig, labelled: bool | None) -> Examples:
    rows = list(read_token_rows(task, source))
    lines = np.array([row.line for row in rows], np.int32)
    labels = None
    if labelled or (labelled is None and any(row.label for row in rows)):
        names = {**class_names(task), **source.labels}
        raw = [row.label for row in rows]
        labels = parse_labels(task, names, raw, lambda row: f"{source.path}:{lines[row]}: label")
    groups = np.unique(lines, return_inverse=True)[1].astype(np.int32) if task.type == "ranking" else None
    first_lengths = np.array([row.first_length for row in rows], np.int32)
    tokens = Tokens([row.ids for row in rows], first_lengths, source.path, lines)
    return Examples(tuple([""] * len(rows) for _ in task.text), labels, groups, source.path, lines, tokens)


# Formats whose rows need the task to be understood: those of the original MT-DNN program.
READERS: dict[str, Callable[[TaskSpec, SourceConfig, bool | None], Examples]] = {
    "canonical": _read_canonical,
    "preprocessed": _read_preprocessed,
}


def _examples_of(table: Table, task: TaskSpec, source: SourceConfig, labelled: bool | None) -> Examples:
    columns = find_columns(task, source, table, labelled)
    rows = _collect(source, table, columns)
    lines = np.array(rows.lines, np.int32)
    return Examples(
        tuple(rows.texts),
        _labels(task, source, table, columns, rows, labelled),
        _groups(task, table, columns, rows),
        table.origin,
        lines,
    )


@dataclass
class _Rows:
    """Columns of a table as they stand there."""

    texts: list[list[str]]
    labels: list[str]
    groups: list[str]
    lines: list[int]


def _format(source: SourceConfig) -> str:
    if source.format != "auto":
        if source.format not in {**FORMATS, **READERS}:
            raise UserError(unknown_name(f"{source.path}: format", "format", source.format, {**FORMATS, **READERS}))
        return source.format
    if source.path.startswith("tfds:"):
        return "tfds"
    name = PurePath(source.path.lower().removesuffix(".gz"))
    if name.suffix not in ENDINGS:
        raise UserError(
            f"{source.path}: the format cannot be told from the ending {name.suffix!r}; "
            f"known endings: {', '.join(ENDINGS)}; or name it: `format: {' or '.join(FORMATS)}`"
        )
    return ENDINGS[name.suffix]


def _with_split(source: SourceConfig, split: str) -> SourceConfig:
    """Name the split of a dataset that names none; `load_tasks` has done so already."""
    if _format(source) != "tfds" or split_path(source)[1] is not None:
        return source
    return replace(source, split=_TFDS_SPLITS[split])


def _collect(source: SourceConfig, table: Table, columns: Columns) -> _Rows:
    rows = _Rows([[] for _ in columns.text], [], [], [])
    for line, values in table.rows:
        where = f"{table.origin}:{line}"
        label = "" if columns.label is None else _label_of(where, table, values, columns.label)
        if columns.label is not None and label in source.ignore_labels:
            continue
        for texts, key in zip(rows.texts, columns.text, strict=True):
            texts.append(_text_of(where, table, values, key))
        rows.labels.append(label)
        if columns.group is not None:
            rows.groups.append(_label_of(where, table, values, columns.group))
        rows.lines.append(line)
    if not rows.lines:
        ignored = " that is not ignored" if source.ignore_labels else ""
        raise UserError(f"{table.origin}: holds no row{ignored}; expected at least one")
    return rows


def _value(where: str, table: Table, values: Any, key: Key) -> Any:
    if table.by_name and key not in values:
        known = ", ".join(values) or "none"
        raise UserError(f"{where}: the key {key!r} is missing; this row has {shortened(known, 200)}")
    return values[key]


def _text_of(where: str, table: Table, values: Any, key: Key) -> str:
    value = _value(where, table, values, key)
    if not isinstance(value, str):
        raise UserError(
            f"{where}: column {column_title(table, key)} must be a text (in quotes), received {quoted(value)}"
        )
    return value


def _label_of(where: str, table: Table, values: Any, key: Key) -> str:
    return raw_label(f"{where}: column {column_title(table, key)}", _value(where, table, values, key))


def _labels(
    task: TaskSpec, source: SourceConfig, table: Table, columns: Columns, rows: _Rows, labelled: bool | None
) -> np.ndarray | None:
    if columns.label is None or (labelled is None and table.no_label.issuperset(rows.labels)):
        return None
    title = column_title(table, columns.label)
    return parse_labels(
        task, source.labels, rows.labels, lambda row: f"{table.origin}:{rows.lines[row]}: column {title}"
    )


def _groups(task: TaskSpec, table: Table, columns: Columns, rows: _Rows) -> np.ndarray | None:
    """Number the queries; the candidates of one stand together, told by `group` or by the same first text."""
    if task.type != "ranking":
        return None
    keys = rows.texts[0] if columns.group is None else rows.groups
    first_lines: dict[str, int] = {}
    ids: list[int] = []
    previous = None
    for key, line in zip(keys, rows.lines, strict=True):
        if key != previous:
            if key in first_lines:
                raise UserError(
                    f"{table.origin}:{line}: query {quoted(key)} has been there already, from line {first_lines[key]} on; the "
                    "candidates of one query must stand together: sort the file, or map `group` to a column of query ids"
                )
            first_lines[key] = line
            previous = key
        ids.append(len(first_lines) - 1)
    return np.array(ids, np.int32)


def _limited(examples: Examples, task: TaskSpec) -> Examples:
    """Keep `max_examples` examples (of ranking: queries), the same ones in every run, in the order of the file."""
    items = np.arange(len(examples)) if examples.groups is None else examples.groups
    count = int(items[-1]) + 1
    if task.max_examples is None or task.max_examples >= count:
        return examples
    chosen = np.random.default_rng(zlib.crc32(task.name.encode())).permutation(count)[: task.max_examples]
    rows = np.flatnonzero(np.isin(items, chosen))
    groups = None if examples.groups is None else np.unique(examples.groups[rows], return_inverse=True)[1]
    return Examples(
        tuple([texts[row] for row in rows] for texts in examples.texts),
        None if examples.labels is None else examples.labels[rows],
        None if groups is None else groups.astype(np.int32),
        examples.origin,
        examples.lines[rows],
        None if examples.tokens is None else examples.tokens.only(rows),
    )
