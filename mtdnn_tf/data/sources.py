"""From a task's source to its examples: columns found, labels parsed, candidates grouped."""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.canonical import as_tabulated, canonical_table
from mtdnn_tf.data.columns import Columns, Key, column_title, find_columns
from mtdnn_tf.data.faults import Faults, RowError, each_row, option
from mtdnn_tf.data.formats import ENDINGS, FILE_FORMATS, file_ending
from mtdnn_tf.data.labels import LabelNames, label_array, parse_label, raw_label
from mtdnn_tf.data.lines import quoted, shortened, text_fault
from mtdnn_tf.data.preprocessed import Tokens, class_names, read_token_rows
from mtdnn_tf.data.row_slices import chosen_rows, count_of, shared_items
from mtdnn_tf.data.rows import Table, is_quoted
from mtdnn_tf.data.tfds_rows import read_tfds, shared_records, split_path
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

FORMATS: dict[str, Callable[[SourceConfig], Table]] = {**FILE_FORMATS, "tfds": read_tfds}
_REPORTED: set[str] = set()  # files whose quotes have been reported; they are read several times
_SPLIT = re.compile(r"(?:^|\+)\s*(\w+)")  # in train[:10%]+test
_TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


class _AllIgnoredError(UserError):
    """Every label of a source is one that `ignore_labels` names."""


@dataclass(frozen=True)
class Examples:
    """The examples of one task and split, in the order of their source."""

    texts: tuple[list[str], ...]  # one list for each text column, all of length N
    labels: np.ndarray | None  # [N]; classification: int32 ids; regression, ranking: float32; None: unlabelled
    groups: np.ndarray | None  # ranking: [N] int32, index of the query, non-decreasing from 0
    origin: str  # path, for messages
    lines: np.ndarray  # [N] int32: 1-based line in the file (tensorflow-datasets: record)
    skipped: tuple[str, ...] = ()  # with `on_error: skip`: one message for each row left out, in order
    tokens: Tokens | None = None  # where the source holds token ids instead of texts; `texts` are empty strings then
    counted: int | None = None  # rows (ranking: questions) of the whole source, where `rows` takes a part of it
    # With `keep_unknown`: of rows whose label is none of the task's, the index and that label; their entry in `labels` means nothing.
    unknown_labels: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def only(self, rows: np.ndarray) -> Examples:
        """Return some of the examples; of a query all or none.

        Args:
            rows: ascending indices, `[M] int`.
        """
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        unknown = {place: self.unknown_labels[row] for place, row in enumerate(rows) if row in self.unknown_labels}
        return replace(
            self,
            texts=tuple([texts[row] for row in rows] for texts in self.texts),
            labels=None if self.labels is None else self.labels[rows],
            groups=None if groups is None else groups.astype(np.int32),
            lines=self.lines[rows],
            tokens=None if self.tokens is None else self.tokens.only(rows),
            unknown_labels=unknown,
        )


def read_examples(task: TaskSpec, split: str, *, labelled: bool | None = None) -> Examples:
    """Read one split of a task: the whole, or for `train` the part that `max_examples` leaves.

    Args:
        task: what to read.
        split: train, dev or test.
        labelled: whether labels are demanded; None: yes for train and dev, for test where there are any.

    Raises:
        UserError: the split has no source, the source is bad (see `read_source`), or `rows` or slices of a dataset give two splits
            of the task the same rows (ranking: the same questions).
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
    for other in cut_from_the_same(task, split):
        _refuse_shared(task, split, other, examples)
    return _limited(examples, task) if split == "train" else examples


def read_source(task: TaskSpec, source: SourceConfig, *, labelled: bool | None, keep_unknown: bool = False) -> Examples:
    """Read a source with the columns and labels of a task.

    Args:
        task: whose text columns and labels are looked up.
        source: file or dataset, absolute.
        labelled: True: labels are demanded; False: not looked at; None: taken where their column is there, and not every label
            in it is empty or ignored.
        keep_unknown: whether a row whose label is none of the task's is kept, and that label listed; False: it is at fault.

    With `on_error: skip`, rows that are at fault are left out and listed in `skipped`; what is wrong with the source as a
    whole is an error all the same.

    Raises:
        UserError: one line with file and line, the rule, what was received, and what would be right.
    """
    reader = READERS.get(_format(source), _read_table)
    try:
        return reader(task, source, labelled, keep_unknown)
    except _AllIgnoredError:
        if labelled is not None:
            raise
        return reader(task, source, False, keep_unknown)


def cut_from_the_same(task: TaskSpec, split: str) -> tuple[str, ...]:
    """Return the other splits of a task that come from the same file or dataset as `split`, where one of the two is a part of it."""
    own = _with_split(task.sources[split], split)
    others = {name: _with_split(source, name) for name, source in task.sources.items() if name != split}
    return tuple(name for name, other in others.items() if _origin(own) == _origin(other) and _part(own) + _part(other))


def _origin(source: SourceConfig) -> tuple[str | None, ...]:
    if source.is_dataset:
        return "tfds", split_path(source)[0], source.data_dir
    return "file", os.path.realpath(source.path), None


def _part(source: SourceConfig) -> str:
    """Return which part of a file or of the split of a dataset this is; "" for the whole."""
    split = split_path(source)[1] or "" if source.is_dataset else ""
    return (source.rows or "") + ("" if split.isidentifier() else split)


def _splits_in(source: SourceConfig) -> set[str]:
    """Return the splits of a dataset that its slices are taken from."""
    return set(_SPLIT.findall(split_path(source)[1] or ""))


def _refuse_shared(task: TaskSpec, split: str, other: str, examples: Examples) -> None:
    """Refuse two splits of a task that share rows of one source: a score would be of rows that were trained on."""
    own, theirs = (_with_split(task.sources[name], name) for name in (split, other))
    unit = "questions" if task.type == "ranking" else "rows"
    if own.is_dataset and split_path(own)[1] != split_path(theirs)[1]:
        shared = shared_records(own, theirs)
        if shared:
            unit, advice = "records", "take slices that do not overlap"
        elif task.type == "ranking" and not _splits_in(own).isdisjoint(_splits_in(theirs)):
            first_texts = set(read_source(task, theirs, labelled=False).texts[0])
            shared = len(first_texts & set(examples.texts[0]))
            advice = (
                "a dataset's slices cut inside questions; take both from one split by `rows`, which counts questions"
            )
    elif own.rows is None or theirs.rows is None:
        whole, part = (split, other) if own.rows is None else (other, split)
        raise UserError(
            f"tasks.{task.name}: {whole} reads the whole of {examples.origin} and {part} a part of it, so that they share {unit}; "
            'give both a part, as in `rows: "[:-200]"` and `rows: "[-200:]"`'
        )
    else:
        shared = shared_items(own, theirs, examples.counted or 0)
        advice = f"take slices of its {examples.counted:,} {unit} that do not overlap"
    if shared:
        raise UserError(
            f"tasks.{task.name}: {split} ({_part(own) or 'all'}) and {other} ({_part(theirs) or 'all'}) share {shared:,} {unit} of "
            f"{examples.origin}; {advice}"
        )


def open_table(source: SourceConfig) -> Table:
    """Open a source of a format that tells its columns itself.

    Raises:
        UserError: its format is unknown, or the source is bad (see `rows.py`).
    """
    return FORMATS[_format(source)](source)


def _read_table(task: TaskSpec, source: SourceConfig, labelled: bool | None, keep_unknown: bool) -> Examples:
    examples = _examples_of(open_table(source), task, source, labelled, keep_unknown)
    if _format(source) == "tsv":
        _report_quotes(examples)
    return examples


def _report_quotes(examples: Examples) -> None:
    """Report on stderr, once for each file, a text that a csv writer seems to have quoted: in quotes, each quote inside doubled."""
    quoted_lines = (
        line
        for texts in examples.texts
        for line, text in zip(examples.lines, texts, strict=True)
        if '""' in text and len(text) > 2 and is_quoted(text)
    )
    line = None if examples.origin in _REPORTED else next(quoted_lines, None)
    if line is not None:
        _REPORTED.add(examples.origin)
        print(
            f"warning: {examples.origin}:{line}: a text in quotes with doubled quotes inside, as csv writers put them; in TSV they "
            f"are a part of the text: if the file is quoted, set {option('format', 'quoted_tsv')}",
            file=sys.stderr,
        )


def _read_canonical(task: TaskSpec, source: SourceConfig, labelled: bool | None, keep_unknown: bool) -> Examples:
    return _examples_of(canonical_table(task, source), task, as_tabulated(task, source), labelled, keep_unknown)


def _read_preprocessed(task: TaskSpec, source: SourceConfig, labelled: bool | None, keep_unknown: bool) -> Examples:
    if keep_unknown:
        raise ValueError("rows of token ids are not answered")
    faults = Faults(source.on_error)
    if source.rows is not None:
        raise UserError(f"{source.path}: rows takes no part of a preprocessed file; give it whole")
    rows = [row for rows in faults.without(read_token_rows(task, source)) for row in rows]
    labels = None
    if labelled or (labelled is None and any(row.label for row in rows)):
        names = LabelNames(task.labels, {**class_names(task), **source.labels})
        rows, labels = _labelled(task, names, rows, lambda line: f"{source.path}:{line}: label", faults)
    skipped = faults.messages()
    if not rows:
        raise UserError(_nothing_left(source, source.path, skipped))
    lines = np.array([row.line for row in rows], np.int32)
    groups = np.unique(lines, return_inverse=True)[1].astype(np.int32) if task.type == "ranking" else None
    first_lengths = np.array([row.first_length for row in rows], np.int32)
    tokens = Tokens([row.ids for row in rows], first_lengths, source.path, lines)
    return Examples(tuple([""] * len(rows) for _ in task.text), labels, groups, source.path, lines, skipped, tokens)


# Formats whose rows need the task to be understood: those of the original MT-DNN program.
READERS: dict[str, Callable[[TaskSpec, SourceConfig, bool | None, bool], Examples]] = {
    "canonical": _read_canonical,
    "preprocessed": _read_preprocessed,
}


def _examples_of(
    table: Table, task: TaskSpec, source: SourceConfig, labelled: bool | None, keep_unknown: bool
) -> Examples:
    columns = find_columns(task, source, table, labelled)
    faults = Faults(source.on_error)
    names = LabelNames(task.labels, source.labels, source.ignore_labels)
    label_of = _any_label_of if keep_unknown else _label_of
    picked: Iterable[tuple[int, _Row | RowError | None]]
    picked = each_row(table.rows, lambda line, values: _picked(names, table, columns, label_of, line, values))
    counted = None
    if source.rows is not None:
        every = list(picked)
        items = _questions(every, columns) if task.type == "ranking" else range(len(every))
        picked, counted = [every[row] for row in chosen_rows(items, source)], count_of(items)
    rows = [row for row in faults.without(picked) if row is not None]
    if source.gather:
        rows = _gathered(rows, columns)
    labels = None
    unknown: dict[int, str] = {}
    if columns.label is not None and not (labelled is None and table.no_label.issuperset(row.label for row in rows)):
        place = partial(_place, table, key=columns.label)
        if keep_unknown:
            labels, unknown = _known_labels(task, names, rows, place)
        else:
            rows, labels = _labelled(task, names, rows, place, faults)
    skipped = faults.messages()
    if not rows:
        left_out = source.ignore_labels and not skipped
        raise (_AllIgnoredError if left_out else UserError)(_nothing_left(source, table.origin, skipped))
    return Examples(
        tuple([row.texts[column] for row in rows] for column in range(len(columns.text))),
        labels,
        _groups(task, table, columns, rows),
        table.origin,
        np.array([row.line for row in rows], np.int32),
        skipped,
        counted=counted,
        unknown_labels=unknown,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """What a task takes of a row, as it stands there."""

    line: int
    texts: tuple[str, ...]
    label: str
    group: str


def _format(source: SourceConfig) -> str:
    if source.format != "auto":
        if source.format not in {**FORMATS, **READERS}:
            raise UserError(unknown_name(f"{source.path}: format", "format", source.format, {**FORMATS, **READERS}))
        return source.format
    if source.is_dataset:
        return "tfds"
    ending = file_ending(source.path)
    if ending not in ENDINGS and os.path.isdir(source.path):
        raise UserError(f"{source.path}: this is a directory; name a file in it")
    if ending not in ENDINGS:
        raise UserError(
            f"{source.path}: the format cannot be told from the ending {ending!r}; "
            f"known endings: {', '.join(ENDINGS)}; or name it: {option('format', ' or '.join(FORMATS))}"
        )
    return ENDINGS[ending]


def _with_split(source: SourceConfig, split: str) -> SourceConfig:
    """Name the split of a dataset that names none; `load_tasks` has done so already."""
    if not source.is_dataset or split_path(source)[1] is not None:
        return source
    return replace(source, split=_TFDS_SPLITS[split])


_LabelOf = Callable[[Table, int, Any, Key], str]


def _picked(
    names: LabelNames, table: Table, columns: Columns, label_of: _LabelOf, line: int, values: Any
) -> _Row | None:
    """Return a row of the task, or None for one whose label is ignored."""
    label = "" if columns.label is None else label_of(table, line, values, columns.label)
    if columns.label is not None and names.is_ignored(label):
        return None
    texts = tuple([_text_of(table, line, values, key) for key in columns.text])
    return _Row(line, texts, label, "" if columns.group is None else _group_of(table, line, values, columns.group))


def _place(table: Table, line: int, key: Key) -> str:
    return f"{table.origin}:{line}: column {column_title(table, key)}"


def _nothing_left(source: SourceConfig, origin: str, skipped: tuple[str, ...]) -> str:
    if skipped:
        first = shortened(skipped[0].removeprefix(f"{origin}:"), 300)
        return f"{origin}: no row is left; {len(skipped)} left out by `on_error: skip`, the first in line {first}"
    ignored = " that is not ignored" if source.ignore_labels else ""
    ignored += f" among those of `rows: {source.rows}`" if source.rows else ""
    return f"{origin}: holds no row{ignored}; expected at least one"


def _value(table: Table, line: int, values: Any, key: Key) -> Any:
    if table.by_name and key not in values:
        known = ", ".join(values) or "none"
        raise RowError(f"{table.origin}:{line}: the key {quoted(key)} is missing; this row has {shortened(known, 200)}")
    return values[key]


def _text_of(table: Table, line: int, values: Any, key: Key) -> str:
    value = _value(table, line, values, key)
    fault = text_fault(value)
    if fault is not None:
        raise RowError(f"{_place(table, line, key)} {fault}")
    return cast(str, value)


def _label_of(table: Table, line: int, values: Any, key: Key) -> str:
    return raw_label(partial(_place, table, line, key), _value(table, line, values, key))


def _any_label_of(table: Table, line: int, values: Any, key: Key) -> str:
    """Return the label of a row whatever it is: "" where the row has none, a list as its text."""
    try:
        return _label_of(table, line, values, key)
    except RowError:
        return quoted(values[key]) if key in values else ""


def _group_of(table: Table, line: int, values: Any, key: Key) -> str:
    group = _label_of(table, line, values, key)
    if not group:
        raise RowError(f"{_place(table, line, key)} is empty; expected the id of the row's query")
    return group


class _Labelled(Protocol):
    """A row with its label as it stands there."""

    @property
    def line(self) -> int:
        """Where it stands."""

    @property
    def label(self) -> str:
        """The raw label."""


AnyRow = TypeVar("AnyRow", bound=_Labelled)


def _labelled(
    task: TaskSpec, names: LabelNames, rows: list[AnyRow], place: Callable[[int], str], faults: Faults
) -> tuple[list[AnyRow], np.ndarray]:
    """Return the rows whose labels can be read, and these labels; `place` tells where the label of a line stands."""

    def parsed(line: int, row: AnyRow) -> tuple[AnyRow, float]:
        return row, parse_label(task, names, row.label, partial(place, line))

    kept, labels = [], []
    for row, label in faults.without(each_row(((row.line, row) for row in rows), parsed)):
        kept.append(row)
        labels.append(label)
    return kept, label_array(task, labels)


def _known_labels(
    task: TaskSpec, names: LabelNames, rows: Sequence[_Row], place: Callable[[int], str]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return a label for each row, 0 where it is none of the task's, and these rows' own labels by index."""
    labels, unknown = [], {}
    for index, row in enumerate(rows):
        try:
            labels.append(parse_label(task, names, row.label, partial(place, row.line)))
        except RowError:
            labels.append(0)
            unknown[index] = row.label
    return label_array(task, labels), unknown


def _gathered(rows: list[_Row], columns: Columns) -> list[_Row]:
    """Bring the candidates of a query together, in the order in which the file first names the queries."""
    queries: dict[str, list[_Row]] = {}
    for row in rows:
        queries.setdefault(_query(row, columns), []).append(row)
    return [row for candidates in queries.values() for row in candidates]


def _query(row: _Row, columns: Columns) -> str:
    return row.texts[0] if columns.group is None else row.group


def _questions(rows: Sequence[tuple[int, _Row | RowError | None]], columns: Columns) -> list[int]:
    """Number the questions of all rows, `[rows]`: of a row at fault or ignored, that of the row before it."""
    numbers: dict[str, int] = {}
    items: list[int] = []
    for _, row in rows:
        if isinstance(row, _Row):
            items.append(numbers.setdefault(_query(row, columns), len(numbers)))
        else:
            items.append(items[-1] if items else 0)
    return items


def _groups(task: TaskSpec, table: Table, columns: Columns, rows: list[_Row]) -> np.ndarray | None:
    """Number the queries; the candidates of one stand together, told by `group` or by the same first text."""
    if task.type != "ranking":
        return None
    first: dict[str, _Row] = {}
    ids: list[int] = []
    previous = None
    for row in rows:
        key = _query(row, columns)
        if key != previous and key in first:
            raise UserError(
                f"{table.origin}:{row.line}: query {quoted(key)} has been there already, from line {first[key].line} on; "
                "the candidates of one query must stand together: sort the file, say `gather: true` in the source, or map `group` to a "
                "column of query ids"
            )
        _check_one_query(table, key, first.setdefault(key, row), row)
        previous = key
        ids.append(len(first) - 1)
    return np.array(ids, np.int32)


def _check_one_query(table: Table, key: str, first: _Row, row: _Row) -> None:
    """Refuse an id that two queries share: the candidates of one have a text in common, whichever it is."""
    if not any(mine == theirs for mine, theirs in zip(row.texts, first.texts, strict=True)):
        raise UserError(
            f"{table.origin}:{row.line}: group {quoted(key)} holds two queries: {quoted(row.texts[0])}, and "
            f"{quoted(first.texts[0])} in line {first.line}; give each query an id of its own"
        )


def _limited(examples: Examples, task: TaskSpec) -> Examples:
    """Keep `max_examples` examples (of ranking: queries), in the order of the file.

    Which ones is a function of the task's name and `sample_seed` alone; fewer examples are always among more.
    """
    items = np.arange(len(examples)) if examples.groups is None else examples.groups
    count = int(items[-1]) + 1
    if task.max_examples is None or task.max_examples >= count:
        return examples
    name = zlib.crc32(task.name.encode())
    entropy = name if task.sample_seed is None else [name, 1 + task.sample_seed]  # NumPy takes [name, 0] for name
    chosen = np.random.default_rng(entropy).permutation(count)[: task.max_examples]
    return examples.only(np.flatnonzero(np.isin(items, chosen)))
