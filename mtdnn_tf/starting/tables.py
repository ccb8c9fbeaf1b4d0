"""A user's file, whole and by columns: its format, and whether its first line is a header."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.columns import Key
from mtdnn_tf.data.faults import all_good, options_as
from mtdnn_tf.data.formats import ENDINGS, FILE_FORMATS, file_ending
from mtdnn_tf.data.json_rows import read_jsonl
from mtdnn_tf.data.labels import raw_label
from mtdnn_tf.data.lines import quoted, read_lines, text_fault, without_line_end
from mtdnn_tf.data.rows import Table, is_quoted, read_quoted_tsv, read_separated
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.names import is_known_name, is_label_name, is_text_name

# Which fields a program quotes, by what it writes; a file is one of these if it reads as if the program had written it.
QUOTING: dict[str, Callable[[str], bool]] = {
    "every field": lambda value: True,
    "every field that is not empty": lambda value: bool(value),
    "every field but numbers": lambda value: as_number(value) is None,
    "every field but numbers and empty ones": lambda value: bool(value) and as_number(value) is None,
    "fields with a quote, a tab or a line break": lambda value: any(mark in value for mark in '"\t\n\r'),
    "fields with a quote, a comma, a tab or a line break": lambda value: any(mark in value for mark in '",\t\n\r'),
}
_ADVICE = {"encoding": "`--encoding={}`", "header": "`--noheader`", "format": "the ending .{}"}  # as init takes options
_JSON_START = re.compile(r'\s*(\{(\s*"[^"]*"\s*:.*)?|\[\s*(\{.*)?)')
_LOOKED_AT = 1000  # rows that tell whether the first line is one of them
_LONGEST_NAME = 60  # characters


@dataclass(frozen=True)
class Column:
    """One column: what stands in it, and what that looks like."""

    key: Key  # header name, JSON key, or position in a file without a header
    values: Sequence[str]
    is_text: bool = True  # JSON lines: a string in every row

    @property
    def title(self) -> str:
        """How people are told of it."""
        return f"position {self.key}" if isinstance(self.key, int) else self.key

    @cached_property
    def stripped(self) -> list[str]:
        """The values as labels are compared: without surrounding spaces."""
        return [value.strip() for value in self.values]

    @cached_property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(set(self.stripped))

    @cached_property
    def mean_words(self) -> float:
        """Words of a value, on average."""
        return sum(len(value.split()) for value in self.values) / len(self.values)

    @cached_property
    def is_numeric(self) -> bool:
        """Whether every value that is not empty is a number."""
        filled = [value for value in self.stripped if value]
        return bool(filled) and all(as_number(value) is not None for value in filled)


@dataclass(frozen=True)
class FileTable:
    """A file with all its rows."""

    path: str
    format: str
    header: bool | None  # None: JSON lines, whose keys are in every row
    columns: tuple[Column, ...]
    records: list[tuple[int, Any]]  # (line, row) as read: a list, or a dict for JSON lines
    encoding: str = "utf-8"
    notes: tuple[str, ...] = field(default=())
    quoting: str = ""  # of quoted_tsv: the rule of `QUOTING`
    faults: Mapping[str, str] = field(
        default_factory=dict
    )  # by key of JSON, why it is no column, or no text, in one line

    @property
    def needs_format(self) -> bool:
        """Whether the ending says another format than the file has."""
        return ENDINGS.get(file_ending(self.path)) != self.format

    def __len__(self) -> int:
        return len(self.records)

    @property
    def titles(self) -> list[str]:
        """Names of the columns; positions in a file without a header."""
        return [str(column.key) for column in self.columns]

    def column(self, title: str) -> Column | None:
        """Return the column of this name or position, or None."""
        return next((column for column in self.columns if str(column.key) == title), None)

    def likely_fault(self, *roles: str) -> UserError | None:
        """Return why the key that is called like one of the roles, text and label, is no column for it; else None."""
        is_called = {"text": is_text_name, "label": is_label_name}
        found = (
            UserError(fault)
            for role in roles
            for key, fault in self.faults.items()
            if is_called[role](key) and (role == "text" or self.column(key) is None)
        )
        return next(found, None)


def as_number(text: str) -> float | None:
    """Return a finite number, or None for anything else (also "1_000" and "nan", which float() takes)."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_table(path: str, *, header: bool | None = None, encoding: str = "utf-8") -> FileTable:
    """Read a file whole.

    Args:
        path: a TSV, CSV or JSON file, also packed (.gz). Where it is not what its ending says, its format is told by its content.
        header: whether the first line of TSV or CSV names the columns; None: guessed.
        encoding: as Python knows it.

    Raises:
        UserError: the ending is unknown, the file is bad (see `data/rows.py` and `data/json_rows.py`), or there is no row.
    """
    if file_ending(path) not in ENDINGS:
        raise UserError(
            f"{path}: the format cannot be told from the ending {file_ending(path)!r}; known endings: {', '.join(ENDINGS)}: rename the file"
        )
    with options_as(**_ADVICE):
        form = ENDINGS[file_ending(path)]
        start = next((without_line_end(line) for _, line in all_good(read_lines(path, encoding)) if line.strip()), "")
        if form != "jsonl" and _JSON_START.fullmatch(start) and "\t" not in start:
            table = _objects(path, encoding)
            return replace(table, notes=(f"the ending says {form}, but the file holds JSON", *table.notes))
        try:
            table = _read_as(path, form, header, encoding)
        except UserError as error:
            return _read_otherwise(path, form, start, header, encoding, error)
        if len(table.columns) == 1 and table.format != "jsonl":
            expected = "tabs" if form == "tsv" else "commas"
            fault = UserError(f"{path}: one column; expected texts and a label, separated by {expected}")
            return _read_otherwise(path, form, start, header, encoding, fault)
        return table


def _read_as(path: str, form: str, header: bool | None, encoding: str) -> FileTable:
    if form == "jsonl":
        return _objects(path, encoding)
    quoting, notes = _quoting(path, encoding) if form == "tsv" else ("", ())
    form = "quoted_tsv" if quoting else form
    records = _records(FILE_FORMATS[form], path, encoding)
    named = looks_like_header([values for _, values in records[:_LOOKED_AT]]) if header is None else header
    keys: Sequence[Key] = range(len(records[0][1]))
    if named:
        keys = FILE_FORMATS[form](SourceConfig(path, encoding=encoding)).names or ()
        records = records[1:]
    if not records:
        raise UserError(f"{path}: holds a header and no row; expected rows (a file without a header: --noheader)")
    columns = tuple(Column(key, [values[place] for _, values in records]) for place, key in enumerate(keys))
    return FileTable(path, form, named, columns, records, encoding, notes, quoting)


def _read_otherwise(
    path: str, form: str, start: str, header: bool | None, encoding: str, fault: UserError
) -> FileTable:
    """Read a file whose ending says `form`, and whose first line is `start`, with the separator that gives all rows as many columns.

    Raises:
        UserError: the fault of reading it as its ending says, or the separator that is not read here.
    """
    if form == "jsonl" and start.lstrip().startswith(("{", "[")):
        raise fault
    for other, separator in (("tsv", "\t"), ("csv", ",")):
        if other == form or separator not in start:
            continue
        try:
            table = _read_as(path, other, header, encoding)
        except UserError:
            continue
        if len(table.columns) > 1:
            note = f"the ending says {form}, but the file is {table.format}"
            return replace(table, notes=(note, *table.notes))
    for separator in ";|":
        if separator in start and _fits(path, separator, encoding):
            raise UserError(
                f"{path}:1: the columns are separated by {separator!r}; save the file with commas or tabs"
            ) from None
    raise fault


def _fits(path: str, separator: str, encoding: str) -> bool:
    """Return whether all rows have as many columns, and more than one, with this separator."""
    try:
        records = _records(lambda source: read_separated(source, separator), path, encoding)
    except UserError:
        return False
    return len(records[0][1]) > 1


def _quoting(path: str, encoding: str) -> tuple[str, tuple[str, ...]]:
    """Return the rule of `QUOTING` that a tab-separated file is written by, "" for none, and what there is to say about its quotes.

    Quotes are the writer's where the file reads as a program would have written it that quotes the same fields throughout. A plain text
    with quotes around or in it does not: each quote inside would be doubled.
    """
    if not any('"' in line for _, line in all_good(read_lines(path, encoding))):
        return "", ()
    lines = [line for _, line in all_good(read_lines(path, encoding))]
    rule = _rule_of_quoting(path, encoding, lines)
    if rule is not None:
        return rule, (
            f"quotes around {rule} are taken for the writer's, not for a part of the texts (format: quoted_tsv); if they are a part: "
            "format: tsv in the task file",
        )
    rows = [number for number, line in enumerate(lines, 1) if '"' in line and _has_quoted_field(line)]
    if not rows:
        return "", ()
    which = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
    return "", (
        f"{len(rows):,} rows have a field in quotes (line {which}), which stay a part of it; if they are the writer's: "
        "format: quoted_tsv in the task file",
    )


def _has_quoted_field(line: str) -> bool:
    return any(is_quoted(field) for field in without_line_end(line).split("\t"))


def _rule_of_quoting(path: str, encoding: str, lines: Sequence[str]) -> str | None:
    """Return the rule of `QUOTING` by which all rows are written, if there is one."""
    try:
        records = _records(read_quoted_tsv, path, encoding)
    except UserError:
        return None
    ends = [line - 1 for line, _ in records[1:]] + [len(lines)]
    rows = [
        ("".join(lines[line - 1 : end]).rstrip("\r\n"), values)
        for (line, values), end in zip(records, ends, strict=True)
    ]
    return next((name for name in QUOTING if all(written(values, name) == text for text, values in rows)), None)


def written(values: Sequence[str], quoting: str) -> str:
    """Return a row as a line of a tab-separated file that is written by a rule of `QUOTING`, without line end."""
    in_quotes = QUOTING[quoting]
    return "\t".join('"' + value.replace('"', '""') + '"' if in_quotes(value) else value for value in values)


def looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns of the others."""
    cells, others = [cell.strip() for cell in rows[0]], rows[1:]
    if any(as_number(cell) is not None or len(cell) > _LONGEST_NAME for cell in cells):
        return False
    named = [cell for cell in cells if cell]
    if len(set(named)) < len(named) and not any(map(is_known_name, named)):
        return False  # names come once; known ones that come twice are a header to be refused
    return sum(_vote(cell, [row[place].strip() for row in others]) for place, cell in enumerate(cells)) > 0


def _vote(cell: str, others: list[str]) -> int:
    """Return how much speaks for `cell` being the name of what stands below it; below 0: against it."""
    different = set(others)
    if different == {cell} == {""}:
        return 0  # a column that a spreadsheet left empty
    if cell in different and len(different) < len(others):
        return -2  # one of its values
    if is_known_name(cell):
        return 3
    if others and all(as_number(other) is not None for other in others):
        return 2  # above numbers
    mean_words = sum(len(other.split()) for other in others) / max(1, len(others))
    if mean_words >= 3:
        return 1 if len(cell.split()) <= 2 else -1
    return 1 if 1 < 2 * len(different) <= len(others) else 0


def _records(read: Callable[[SourceConfig], Table], path: str, encoding: str) -> list[tuple[int, list[str]]]:
    return list(all_good(read(SourceConfig(path, header=False, encoding=encoding)).rows))


def _objects(path: str, encoding: str) -> FileTable:
    table = read_jsonl(SourceConfig(path, encoding=encoding))
    records = list(all_good(table.rows))
    for line, row in records:
        for key, value in row.items():
            fault = text_fault(value) if isinstance(value, str) else None
            if fault is not None:
                raise UserError(f"{path}:{line}: the key {quoted(key)} {fault}")
    _refuse_other_tasks(path, *records[0])
    columns: list[Column] = []
    faults: dict[str, str] = {}
    for key in dict.fromkeys(itertools.chain.from_iterable(row for _, row in records)):
        if (fault := _no_column(path, key, records)) is not None:
            faults[key] = fault
            continue
        values = [row[key] if isinstance(row[key], str) else raw_label(lambda: "", row[key]) for _, row in records]
        if (fault := _no_text(path, key, records)) is not None:
            faults[key] = fault
        columns.append(Column(key, values, is_text=all(isinstance(row[key], str) for _, row in records)))
    found = FileTable(path, "jsonl", None, tuple(columns), records, encoding, _left_out(columns, faults), faults=faults)
    if len(columns) < 2:
        raise found.likely_fault("text", "label") or UserError(
            f"{path}: {len(columns)} keys with a text or a number in every row; expected texts and a label"
        )
    return found


def _no_column(path: str, key: str, records: Sequence[tuple[int, dict[str, Any]]]) -> str | None:
    """Return why a key is no column: the first row that lacks it, or has a list or an object there."""
    for line, row in records:
        if key not in row:
            return f"{path}:{line}: the key {quoted(key)} is missing; this row has {', '.join(row) or 'none'}"
        if isinstance(row[key], list):
            several = "; several labels of one text are not trained here" if is_label_name(key) else ""
            return f"{path}:{line}: the key {quoted(key)} holds a list, {quoted(row[key])}{several}"
        if isinstance(row[key], dict):
            return f"{path}:{line}: the key {quoted(key)} holds an object, {quoted(row[key])}"
    return None


def _no_text(path: str, key: str, records: Sequence[tuple[int, dict[str, Any]]]) -> str | None:
    """Return why a column that holds texts is none of texts: the first row with something else."""
    others = [(line, row[key]) for line, row in records if not isinstance(row[key], str)]
    if not others or len(others) == len(records):
        return None
    line, value = others[0]
    received = "null" if value is None else quoted(value)
    return f"{path}:{line}: the key {quoted(key)} must hold a text in every row, received {received}"


def _left_out(columns: Sequence[Column], faults: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to say about keys that look like a text or a label and are no columns."""
    there = {column.key for column in columns}
    names = [key for key in faults if key not in there and (is_label_name(key) or is_text_name(key))]
    return tuple(f"left out: {faults[key]}" for key in names)


def _refuse_other_tasks(path: str, line: int, row: dict[str, Any]) -> None:
    """Refuse what the first row shows to be for another kind of task than those that are trained here."""
    nested = [item for value in row.values() for item in (value if isinstance(value, list) else [value])]
    if any(isinstance(item, dict) and not item.keys().isdisjoint(("qas", "answer_start")) for item in nested):
        raise UserError(
            f"{path}:{line}: answers are spans of a context (SQuAD format); such tasks are not trained here"
        )
    lengths = [len(value) for key, value in row.items() if isinstance(value, list) and key != "id"]
    if {"tokens", "words"} & row.keys() and len(lengths) > 1 and len(set(lengths)) == 1:
        raise UserError(f"{path}:{line}: a list of words with a list of tags; tagging tasks are not trained here")
