"""A user's file, whole and by columns: its format, and whether its first line is a header."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.columns import Key
from mtdnn_tf.data.faults import all_good
from mtdnn_tf.data.labels import raw_label
from mtdnn_tf.data.lines import quoted, read_lines, text_fault
from mtdnn_tf.data.rows import Table, read_csv, read_jsonl, read_tsv
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.names import is_known_name

# As in data/sources.py, which takes seconds to import: it needs TensorFlow for tfds. A test holds them together.
FORMATS: dict[str, Callable[[SourceConfig], Table]] = {"tsv": read_tsv, "csv": read_csv, "jsonl": read_jsonl}
ENDINGS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
_OTHER = {"tsv": ("csv", ","), "csv": ("tsv", "\t")}  # what a wrong ending may hide
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

    def __len__(self) -> int:
        return len(self.records)

    @property
    def titles(self) -> list[str]:
        """Names of the columns; positions in a file without a header."""
        return [str(column.key) for column in self.columns]

    def column(self, title: str) -> Column | None:
        """Return the column of this name or position, or None."""
        return next((column for column in self.columns if str(column.key) == title), None)


def as_number(text: str) -> float | None:
    """Return a finite number, or None for anything else (also "1_000" and "nan", which float() takes)."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def ending(path: str) -> str:
    """Return the ending that tells the format: lower case, .gz left out."""
    return PurePath(path.lower().removesuffix(".gz")).suffix


def read_table(path: str, *, header: bool | None = None, encoding: str = "utf-8") -> FileTable:
    """Read a file whole.

    Args:
        path: a TSV, CSV or JSON-lines file, also packed (.gz).
        header: whether the first line of TSV or CSV names the columns; None: guessed.
        encoding: as Python knows it.

    Raises:
        UserError: the ending is unknown, the file is bad (see `data/rows.py`), or there is no row.
    """
    if ending(path) not in ENDINGS:
        raise UserError(
            f"{path}: the format cannot be told from the ending {ending(path)!r}; known endings: {', '.join(ENDINGS)}"
        )
    form = ENDINGS[ending(path)]
    if form == "jsonl":
        return _objects(path, encoding)
    records = _records(path, form, encoding)
    notes: tuple[str, ...] = ()
    if len(records[0][1]) == 1:
        form, records, notes = _with_other_separator(path, form, encoding, records)
    named = looks_like_header([values for _, values in records[:_LOOKED_AT]]) if header is None else header
    keys: Sequence[Key] = range(len(records[0][1]))
    if named:
        keys = FORMATS[form](SourceConfig(path, encoding=encoding)).names or ()
        records = records[1:]
    if not records:
        raise UserError(f"{path}: holds a header and no row; expected rows (a file without a header: --noheader)")
    columns = tuple(Column(key, [values[place] for _, values in records]) for place, key in enumerate(keys))
    return FileTable(path, form, named, columns, records, encoding, notes)


def looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns of the others."""
    cells, others = [cell.strip() for cell in rows[0]], rows[1:]
    named = [cell for cell in cells if cell]
    if len(set(named)) < len(named) or any(as_number(cell) is not None or len(cell) > _LONGEST_NAME for cell in cells):
        return False
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


def _records(path: str, form: str, encoding: str) -> list[tuple[int, list[str]]]:
    return list(all_good(FORMATS[form](SourceConfig(path, header=False, encoding=encoding)).rows))


def _with_other_separator(
    path: str, form: str, encoding: str, records: list[tuple[int, list[str]]]
) -> tuple[str, list[tuple[int, list[str]]], tuple[str, ...]]:
    """Return a file of one column read by the other separator, where that gives several columns in every row."""
    _, first = next(all_good(read_lines(path, encoding)))
    other, separator = _OTHER[form]
    if separator in first:
        try:
            found = _records(path, other, encoding)
        except UserError:
            found = []
        if found:
            return other, found, (f"the ending says {form}, but the columns are separated as in {other}",)
    if ";" in first:
        raise UserError(f"{path}:1: the columns are separated by ';'; save the file with commas or tabs")
    expected = "tabs" if form == "tsv" else "commas"
    raise UserError(f"{path}: one column; expected texts and a label, separated by {expected}")


def _objects(path: str, encoding: str) -> FileTable:
    table = read_jsonl(SourceConfig(path, encoding=encoding))
    records = list(all_good(table.rows))
    for line, row in records:
        for key, value in row.items():
            fault = text_fault(value) if isinstance(value, str) else None
            if fault is not None:
                raise UserError(f"{path}:{line}: the key {quoted(key)} {fault}")
    found = (_object_column(key, [row for _, row in records]) for key in table.names or ())
    columns = tuple(column for column in found if column is not None)
    if len(columns) < 2:
        raise UserError(f"{path}: {len(columns)} keys with a text or a number in every row; expected texts and a label")
    return FileTable(path, "jsonl", None, columns, records, encoding)


def _object_column(key: str, rows: Sequence[dict[str, Any]]) -> Column | None:
    """Return the values of a key, or None where a row lacks it or has a list or an object there."""
    if any(key not in row or isinstance(row[key], list | dict) for row in rows):
        return None
    values = [row[key] if isinstance(row[key], str) else raw_label(lambda: key, row[key]) for row in rows]
    return Column(key, values, is_text=all(isinstance(row[key], str) for row in rows))
