"""Rows of TSV, CSV and JSON-lines files as they stand there, each with its line number."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import LineError, RowError, each_row
from mtdnn_tf.data.lines import quoted, read_lines, shortened, without_line_end
from mtdnn_tf.errors import UserError

Record = TypeVar("Record")
_AHEAD = 100  # rows looked at to tell the columns of a file that does not name them
_LONGEST_FIELD = 2**27  # characters; the module's own limit of 131,072 is less than long documents have
csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))


@dataclass(frozen=True)
class Table:
    """The rows of one source.

    `rows` yields (line, values): a list by position, or a mapping by name where `by_name` is true; a `RowError` stands in
    the place of a row that cannot be read. `names` are the header's (TSV, CSV), the keys of the first objects (JSON lines)
    or the features (tensorflow-datasets); None without header.
    """

    origin: str  # for messages: `<origin>:<line>`
    rows: Iterator[tuple[int, Any]]
    names: tuple[str, ...] | None
    width: int  # columns of every row; by_name: of the names
    by_name: bool = False
    no_label: frozenset[str] = frozenset({""})  # what stands where a row has no label
    unreadable: frozenset[str] = frozenset()  # features that are there, but no single text or number


def read_tsv(source: SourceConfig) -> Table:
    """Open a tab-separated file. Quoting is off: quotes are text, and a text holds neither tab nor line feed.

    Raises:
        UserError: see `read_lines`; no rows; a header that cannot be read or names two columns alike. Faults of a row: an
            empty line before it; another number of columns than the header or, without one, than most of the first rows.
    """
    lines = read_lines(source.path, source.encoding)
    records: Iterator[tuple[int, list[str] | RowError]]
    records = each_row(lines, lambda _, line: without_line_end(line).split("\t"))
    return _tabular(source, records, is_blank=lambda record: record == [""])


def read_csv(source: SourceConfig) -> Table:
    """Open a comma-separated file with RFC 4180 quoting; a row's line is the one it starts in.

    Raises:
        UserError: as for `read_tsv`, and for faulty quoting over several lines: where the next row starts is unknown then.
            Within a line it is a fault of the row.
    """
    return _tabular(source, _csv_records(source), is_blank=lambda record: not record)


def read_jsonl(source: SourceConfig) -> Table:
    """Open a file with one JSON object on each line.

    Raises:
        UserError: see `read_lines`; no rows. Faults of a row: an empty line before it; a line that is not one object, or has
            a key twice.
    """
    path = source.path
    lines: Iterator[tuple[int, str | RowError]]
    lines = each_row(read_lines(path, source.encoding), lambda _, line: line.strip())
    filled = without_blanks(path, lines, lambda line: not line)
    first, objects = _first_rows(path, each_row(filled, lambda number, line: _json_object(f"{path}:{number}", line)))
    names = tuple(dict.fromkeys(key for _, value in first for key in value))
    return Table(path, objects, names, len(names), by_name=True)


def _tabular(
    source: SourceConfig, records: Iterator[tuple[int, list[str] | RowError]], is_blank: Callable[[list[str]], bool]
) -> Table:
    path = source.path
    filled = without_blanks(path, records, is_blank)
    if source.header is False:
        first, records = _first_rows(path, filled)
        width = Counter(len(values) for _, values in first).most_common(1)[0][0]
        model = next(line for line, values in first if len(values) == width)
        return Table(path, _same_width(path, records, width, f"in line {model}"), None, width)
    line, values = _header(path, filled)
    names = _header_names(f"{path}:{line}", values)
    return Table(path, _same_width(path, filled, len(names), "in the header"), names, len(names))


def _header(path: str, records: Iterator[tuple[int, list[str] | RowError]]) -> tuple[int, list[str]]:
    line, values = next(records, (0, _empty_file(path)))
    if isinstance(values, UserError):
        raise values
    return line, values


def _first_rows(
    path: str, records: Iterator[tuple[int, Record | RowError]]
) -> tuple[list[tuple[int, Record]], Iterator[tuple[int, Record | RowError]]]:
    """Return the good ones among the first rows, and all rows from the first on."""
    ahead = list(itertools.islice(records, _AHEAD))
    good = [(line, record) for line, record in ahead if not isinstance(record, RowError)]
    if not good:
        raise next((record for _, record in ahead if isinstance(record, RowError)), _empty_file(path))
    return good, itertools.chain(ahead, records)


def _empty_file(path: str) -> UserError:
    return UserError(f"{path}: the file is empty; expected rows")


def without_blanks(
    path: str, records: Iterator[tuple[int, Record | RowError]], is_blank: Callable[[Record], bool]
) -> Iterator[tuple[int, Record | RowError]]:
    """Leave out empty lines at the end of the file, where editors put them; elsewhere a row is likely to be missing."""
    blank = 0
    for line, record in records:
        if not isinstance(record, RowError) and is_blank(record):
            blank = blank or line
            continue
        if blank:
            yield blank, RowError(f"{path}:{blank}: an empty line; only the end of the file may have any")
            blank = 0
        yield line, record


def _header_names(where: str, values: Sequence[str]) -> tuple[str, ...]:
    names = tuple(value.strip() for value in values)
    if any("\r" in value for value in values):
        raise UserError(rf"{where}: a bare carriage return in the header; lines must end in \n or \r\n")
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name and first.setdefault(name, position) < position:  # without a name, it can't be asked for
            raise UserError(
                f"{where}: column {quoted(name)} stands twice in the header (positions {first[name]} and {position}); "
                "rename one (a file without a header: `header: false`)"
            )
    return names


def _same_width(
    path: str, records: Iterator[tuple[int, list[str] | RowError]], width: int, model: str
) -> Iterator[tuple[int, list[str] | RowError]]:
    def checked(line: int, values: list[str]) -> list[str]:
        if len(values) == width:
            return values
        cause = "a stray separator?" if len(values) > width else "a missing separator, or a line break in a text?"
        if path.lower().removesuffix(".gz").endswith((".tsv", ".txt")):
            cause = cause.replace("separator", "tab")
        columns = "1 column" if len(values) == 1 else f"{len(values)} columns"
        raise RowError(f"{path}:{line}: {columns}, expected {width} as {model} ({cause})")

    return each_row(records, checked)


def _csv_records(source: SourceConfig) -> Iterator[tuple[int, list[str] | RowError]]:
    unreadable: list[LineError] = []  # among the lines of the record that is being read

    def texts() -> Iterator[str]:
        for _, line in read_lines(source.path, source.encoding):
            if isinstance(line, LineError):
                unreadable.append(line)
                line = line.line  # its quotes still tell where records end
            yield line

    reader = csv.reader(texts(), strict=True)
    while True:
        start = reader.line_num + 1
        record: list[str] | RowError | None
        try:
            record = next(reader, None)
        except csv.Error as error:
            record = _faulty_csv(f"{source.path}:{start}", error, start, reader.line_num)
        if record is None:
            return
        yield start, unreadable[0] if unreadable else record
        unreadable.clear()


def _faulty_csv(where: str, error: csv.Error, start: int, end: int) -> RowError:
    """Return the fault of a record of one line.

    Raises:
        UserError: it took several lines: a stray quote has swallowed line ends, and no one can tell which are rows.
    """
    reason = shortened(str(error))
    if reason.startswith("new-line character"):
        reason = "a bare carriage return outside quotes"
    reach = f", read as far as line {end}" if end > start else ""
    message = (
        f"{where}: faulty CSV row ({reason}{reach}); a text with commas, quotes or line breaks stands in double quotes, "
        'each quote inside as ""'
    )
    if reach:
        raise UserError(message) from None
    return RowError(message)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys)
    except UserError as error:
        raise RowError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets nested as deep
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise RowError(
            f"{where}: not JSON ({shortened(reason)}); each line must hold one whole object, received {quoted(line)}"
        ) from None
    if not isinstance(value, dict):
        raise RowError(f"{where}: each line must hold one JSON object, received {quoted(line)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"key {quoted(twice)} stands twice in one object; rename one")
    return values
