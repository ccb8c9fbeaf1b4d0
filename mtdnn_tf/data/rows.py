"""Rows of TSV, CSV and JSON-lines files as they stand there, each with its line number."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.lines import quoted, read_lines, shortened, without_line_end
from mtdnn_tf.errors import UserError

Record = TypeVar("Record")


@dataclass(frozen=True)
class Table:
    """The rows of one source.

    `rows` yields (line, values): a list by position, or a mapping by name where `by_name` is true. `names` are the
    header's (TSV, CSV), the first object's keys (JSON lines) or the features (tensorflow-datasets); None without header.
    """

    origin: str  # for messages: `<origin>:<line>`
    rows: Iterator[tuple[int, Any]]
    names: tuple[str, ...] | None
    width: int  # columns of every row; by_name: of the first
    by_name: bool = False
    no_label: frozenset[str] = frozenset({""})  # what stands where a row has no label


def read_tsv(source: SourceConfig) -> Table:
    """Open a tab-separated file. Quoting is off: quotes are text, and a text holds neither tab nor line feed.

    Raises:
        UserError: here or while rows are taken: see `read_lines`; no rows; an empty line between rows; a row with another
            number of columns than the first; two columns of one name.
    """
    lines = read_lines(source.path, source.encoding)
    records = ((number, without_line_end(line).split("\t")) for number, line in lines)
    return _tabular(source, records, is_blank=lambda record: record == [""])


def read_csv(source: SourceConfig) -> Table:
    """Open a comma-separated file with RFC 4180 quoting; a row's line is the one it starts in.

    Raises:
        UserError: as for `read_tsv`, and for faulty quoting.
    """
    return _tabular(source, _csv_records(source), is_blank=lambda record: not record)


def read_jsonl(source: SourceConfig) -> Table:
    """Open a file with one JSON object on each line.

    Raises:
        UserError: here or while rows are taken: see `read_lines`; no rows; an empty line between rows; a line that is not
            one object, or has a key twice.
    """
    path = source.path
    lines = ((number, line.strip()) for number, line in read_lines(path, source.encoding))
    filled = _without_blanks(path, lines, lambda line: not line)
    objects = ((number, _json_object(f"{path}:{number}", line)) for number, line in filled)
    first = _first(path, objects)
    names = tuple(first[1])
    return Table(path, _chain(first, objects), names, len(names), by_name=True)


def _tabular(
    source: SourceConfig, records: Iterator[tuple[int, list[str]]], is_blank: Callable[[list[str]], bool]
) -> Table:
    path = source.path
    records = _without_blanks(path, records, is_blank)
    line, values = first = _first(path, records)
    if source.header is False:
        rows = _same_width(path, _chain(first, records), len(values), f"in line {line}")
        return Table(path, rows, None, len(values))
    names = _header_names(f"{path}:{line}", values)
    return Table(path, _same_width(path, records, len(names), "in the header"), names, len(names))


def _first(path: str, records: Iterator[tuple[int, Record]]) -> tuple[int, Record]:
    first = next(records, None)
    if first is None:
        raise UserError(f"{path}: the file is empty; expected rows")
    return first


def _chain(first: tuple[int, Record], rest: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
    yield first
    yield from rest


def _without_blanks(
    path: str, records: Iterator[tuple[int, Record]], is_blank: Callable[[Record], bool]
) -> Iterator[tuple[int, Record]]:
    """Leave out empty lines at the end of the file, where editors put them; elsewhere a row is likely to be missing."""
    blank = 0
    for line, record in records:
        if is_blank(record):
            blank = blank or line
        elif blank:
            raise UserError(f"{path}:{blank}: an empty line; only the end of the file may have any")
        else:
            yield line, record


def _header_names(where: str, values: Sequence[str]) -> tuple[str, ...]:
    names = tuple(value.strip() for value in values)
    if any("\r" in value for value in values):
        raise UserError(rf"{where}: a bare carriage return in the header; lines must end in \n or \r\n")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UserError(
                f"{where}: column {quoted(name)} stands twice in the header (positions {names.index(name)} and {position}); "
                "rename one (a file without a header: `header: false`)"
            )
    return names


def _same_width(
    path: str, records: Iterator[tuple[int, list[str]]], width: int, model: str
) -> Iterator[tuple[int, list[str]]]:
    for line, values in records:
        if len(values) != width:
            cause = "a stray separator?" if len(values) > width else "a missing separator, or a line break in a text?"
            if path.lower().removesuffix(".gz").endswith((".tsv", ".txt")):
                cause = cause.replace("separator", "tab")
            columns = "1 column" if len(values) == 1 else f"{len(values)} columns"
            raise UserError(f"{path}:{line}: {columns}, expected {width} as {model} ({cause})")
        yield line, values


def _csv_records(source: SourceConfig) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in read_lines(source.path, source.encoding)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            reach = f", read as far as line {reader.line_num}" if reader.line_num > start else ""
            raise UserError(
                f"{source.path}:{start}: faulty CSV row ({shortened(str(error))}{reach}); a text with commas, quotes "
                'or line breaks stands in double quotes, each quote inside as ""'
            ) from None
        if record is None:
            return
        yield start, record


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets nested as deep
        raise UserError(
            f"{where}: not JSON ({shortened(str(error))}); each line must hold one whole object, received {quoted(line)}"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: each line must hold one JSON object, received {quoted(line)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"key {quoted(twice)} stands twice in one object; rename one")
    return values
