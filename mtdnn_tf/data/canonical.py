"""Canonical TSV of the original MT-DNN program: four layouts without header, quoting or escapes, read and written."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import RowError, all_good, each_row
from mtdnn_tf.data.lines import quoted, read_lines, without_line_end
from mtdnn_tf.data.rows import Table, without_blanks
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.tasks import TaskSpec


class Row(Protocol):
    """A line of one layout."""

    @property
    def uid(self) -> str:
        """The row's id, any text."""

    @classmethod
    def parse(cls, fields: list[str], where: str) -> Self:
        """Return the row that a line's fields make; `where` is file and line, for messages."""

    def fields(self) -> list[str]:
        """Return the fields of the row's line."""


@dataclass(frozen=True)
class Premise:
    """Layout PremiseOnly: uid, label, text."""

    uid: str
    label: str
    premise: str

    @classmethod
    def parse(cls, fields: list[str], where: str) -> Self:
        """Return the row of three fields."""
        _check_count(where, fields, ("uid", "label", "text"))
        return cls(*fields)

    def fields(self) -> list[str]:
        """Return the three fields."""
        return [self.uid, self.label, self.premise]


@dataclass(frozen=True)
class Pair:
    """Layout PremiseAndOneHypothesis: uid, label, premise, hypothesis."""

    uid: str
    label: str
    premise: str
    hypothesis: str

    @classmethod
    def parse(cls, fields: list[str], where: str) -> Self:
        """Return the row of four fields."""
        _check_count(where, fields, ("uid", "label", "premise", "hypothesis"))
        return cls(*fields)

    def fields(self) -> list[str]:
        """Return the four fields."""
        return [self.uid, self.label, self.premise, self.hypothesis]


@dataclass(frozen=True)
class Candidates:
    """Layout PremiseAndMultiHypothesis: uid, row ids, labels (both joined by commas), premise, two or more hypotheses."""

    uid: str
    ruids: tuple[str, ...]  # empty: the column is not there (as Microsoft's description has it)
    labels: tuple[str, ...]
    premise: str
    hypotheses: tuple[str, ...]

    @classmethod
    def parse(cls, fields: list[str], where: str) -> Self:
        """Return the row; whether it has row ids is told by the number of items in the second field."""
        items = len(fields[1].split(",")) if len(fields) > 1 else 0
        if len(fields) >= 6 and items == len(fields) - 4:
            uid, ruids, labels, premise, *hypotheses = fields
        elif len(fields) >= 5 and items == len(fields) - 3:
            uid, labels, premise, *hypotheses = fields
            ruids = ""
        else:
            raise RowError(
                f"{where}: {_count(fields)}, the second of {items} item(s); expected uid, row ids, labels, premise and two or "
                "more hypotheses, with a row id and a label for each hypothesis, joined by commas"
            )
        row = cls(uid, tuple(ruids.split(",")) if ruids else (), tuple(labels.split(",")), premise, tuple(hypotheses))
        if len(row.labels) != len(hypotheses):
            raise RowError(
                f"{where}: {len(row.labels)} label(s) for {len(hypotheses)} hypotheses; expected one for each, "
                f"joined by commas, received {quoted(labels)}"
            )
        return row

    def fields(self) -> list[str]:
        """Return uid, row ids if there are any, labels, premise and hypotheses."""
        count = len(self.hypotheses)
        if count < 2 or len(self.labels) != count or len(self.ruids) not in (0, count):
            raise UserError(
                f"uid {self.uid}: there must be two or more hypotheses with a label for each, and a row id for each or none; "
                f"received {count} hypotheses, {len(self.labels)} labels, {len(self.ruids)} row ids"
            )
        for item in (*self.ruids, *self.labels):
            if "," in item or not item:
                raise UserError(
                    f"uid {self.uid}: a row id or label must be a text without comma, received {quoted(item)}"
                )
        ids = [",".join(self.ruids)] if self.ruids else []
        return [self.uid, *ids, ",".join(self.labels), self.premise, *self.hypotheses]


@dataclass(frozen=True)
class TaggedWords:
    """Layout Seqence: uid, tags and words, each list written as a Python literal."""

    uid: str
    tags: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def parse(cls, fields: list[str], where: str) -> Self:
        """Return the row of two lists of the same length."""
        _check_count(where, fields, ("uid", "tags", "words"))
        tags, words = (
            _strings(f"{where}: {name}", field) for name, field in zip(("tags", "words"), fields[1:], strict=True)
        )
        if len(tags) != len(words):
            raise RowError(f"{where}: {len(tags)} tags for {len(words)} words; expected one for each")
        return cls(fields[0], tags, words)

    def fields(self) -> list[str]:
        """Return the uid and both lists as literals."""
        return [self.uid, repr(list(self.tags)), repr(list(self.words))]


# By the names that task-definition files give them.
LAYOUTS: dict[str, type[Premise] | type[Pair] | type[Candidates] | type[TaggedWords]] = {
    "PremiseOnly": Premise,
    "PremiseAndOneHypothesis": Pair,
    "PremiseAndMultiHypothesis": Candidates,
    "Seqence": TaggedWords,
}


def read_canonical(path: str, layout: str, encoding: str = "utf-8") -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of a file.

    Raises:
        UserError: see `read_lines`; an empty line between rows; a line that is not of this layout.
    """
    return all_good(_parsed_lines(path, layout, encoding))


def _parsed_lines(path: str, layout: str, encoding: str) -> Iterator[tuple[int, Row | RowError]]:
    def parsed(number: int, line: str) -> Row:
        row: Row = LAYOUTS[layout].parse(without_line_end(line).split("\t"), f"{path}:{number}")
        return row

    lines: Iterator[tuple[int, str | RowError]] = read_lines(path, encoding)
    filled = without_blanks(path, lines, lambda line: not without_line_end(line))
    return each_row(filled, parsed)


def write_canonical(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows, all of one layout; `read_canonical` reads them back.

    Raises:
        UserError: a field holds a tab or a line break, for which the format has no escape.
    """
    lines = []
    for number, row in enumerate(rows, 1):
        fields = row.fields()
        for field in fields:
            if any(mark in field for mark in "\t\n\r\0"):
                raise UserError(
                    f"{path}:{number}: a field must hold no tab, line break or NUL, received {quoted(field)}; replace it by a space"
                )
        lines.append("\t".join(fields) + "\n")
    write_text_atomically(path, "".join(lines))


def canonical_table(task: TaskSpec, source: SourceConfig) -> Table:
    """Open a canonical file as the rows of a task: of ranking one for each candidate, those of a line in one group.

    Raises:
        UserError: here or while rows are taken: see `read_canonical`; no rows.
    """
    rows = _parsed_lines(source.path, layout_of(task), source.encoding)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{source.path}: the file is empty; expected rows")
    names = (*task.text, "label", "group")
    return Table(source.path, _values(itertools.chain([first], rows)), names, len(names))


def as_tabulated(task: TaskSpec, source: SourceConfig) -> SourceConfig:
    """Return the source as of the rows of `canonical_table`: where the task is ranking there are groups."""
    return replace(source, columns={"group": "group"} if task.type == "ranking" else {})


def layout_of(task: TaskSpec) -> str:
    """Return the layout that a task's canonical files have."""
    if task.type == "ranking":
        return "PremiseAndMultiHypothesis"
    return "PremiseOnly" if len(task.text) == 1 else "PremiseAndOneHypothesis"


def _values(rows: Iterator[tuple[int, Row | RowError]]) -> Iterator[tuple[int, list[str] | RowError]]:
    for line, row in rows:
        if isinstance(row, RowError):
            yield line, row
        elif isinstance(row, Candidates):
            for label, hypothesis in zip(row.labels, row.hypotheses, strict=True):
                yield line, [row.premise, hypothesis, label, str(line)]
        else:
            _, label, *texts = row.fields()
            yield line, [*texts, label, str(line)]


def _check_count(where: str, fields: list[str], expected: tuple[str, ...]) -> None:
    if len(fields) != len(expected):
        cause = "a tab in a text?" if len(fields) > len(expected) else "a missing tab, or a line break in a text?"
        raise RowError(f"{where}: {_count(fields)}, expected {len(expected)}: {', '.join(expected)} ({cause})")


def _count(fields: list[str]) -> str:
    return "1 column" if len(fields) == 1 else f"{len(fields)} columns"


def _strings(where: str, field: str) -> tuple[str, ...]:
    try:
        value = ast.literal_eval(field)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise RowError(f"{where}: must be a list of strings such as ['B-PER', 'O'], received {quoted(field)}")
    return tuple(value)


def canonical_uids(task: TaskSpec, source: SourceConfig) -> dict[int, str]:
    """Return the uid of each line of a task's canonical file that can be read."""
    rows = _parsed_lines(source.path, layout_of(task), source.encoding)
    return {line: row.uid for line, row in rows if not isinstance(row, RowError)}
