"""Rows of TSV and CSV files as they stand there, each with its line number."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import LineError, RowError, each_row, option
from mtdnn_tf.data.lines import quoted, read_lines, shortened, without_line_end
from mtdnn_tf.errors import UserError

Record = TypeVar("Record")
_AHEAD = 100  # rows looked at to tell the columns of a file that does not name them
_LONGEST_FIELD = 2**27  # characters; the module's own limit of 131,072 is less than long documents have
csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)  # a spreadsheet's first line
# The last column of one word a line, as in CoNLL files: IOB tags, parts of speech.
_TAGGED = re.compile(r"\S+([ \t]\S+){0,12}[ \t](O|[BIESLUM]-\S+|[A-Z]{1,5}\$?|_)")
# What the only name of a header suggests where it holds the separator of another format.
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}


@dataclass(frozen=True)
class Table:
    """The rows of one source.

    `rows` yields (line, values): a list by position, or a mapping by name where `by_name` is true; a `RowError` stands in
    the place of a row that cannot be read. `names` are the header's (TSV, CSV), the keys of the first objects (JSON) or the
    features (tensorflow-datasets); None without header.
    """

    origin: str  # for messages: `<origin>:<line>`
    rows: Iterator[tuple[int, Any]]
    names: tuple[str, ...] | None
    width: int  # columns of every row; by_name: of the names
    by_name: bool = False
    no_label: frozenset[str] = frozenset({""})  # what stands where a row has no label
    unreadable: frozenset[str] = frozenset()  # features that are there, but no single text or number
    first: tuple[str, ...] = ()  # TSV and CSV, for messages: the cells of the header or, without one, of a typical row


def read_tsv(source: SourceConfig) -> Table:
    """Open a tab-separated file. Quoting is off: quotes are text, and a text holds neither tab nor line feed.

    A first line `sep=<tab>`, as spreadsheets write it, is left out.

    Raises:
        UserError: see `read_lines`; no rows; a header that cannot be read or names two columns alike. Faults of a row: an
            empty line before it; another number of columns than the header or, without one, than most of the first rows.
    """
    lines = read_lines(source.path, source.encoding)
    records: Iterator[tuple[int, list[str] | RowError]]
    records = each_row(lines, lambda _, line: without_line_end(line).split("\t"))
    return _tabular(source, records, "\t", is_blank=lambda record: record == [""])


def read_quoted_tsv(source: SourceConfig) -> Table:
    """Open a tab-separated file in which fields may be quoted, as csv writers and data frames write it; else as `read_csv`."""
    return read_separated(source, "\t")


def read_csv(source: SourceConfig) -> Table:
    """Open a comma-separated file with RFC 4180 quoting; a row's line is the one it starts in.

    A first line `sep=,`, as spreadsheets write it, is left out.

    Raises:
        UserError: as for `read_tsv`, and for faulty quoting over several lines: where the next row starts is unknown then.
            Within a line it is a fault of the row.
    """
    return read_separated(source, ",")


def read_separated(source: SourceConfig, separator: str) -> Table:
    """Open a file as `read_csv` does, with another separator."""
    return _tabular(source, _csv_records(source, separator), separator, is_blank=lambda record: not record)


def _tabular(
    source: SourceConfig,
    records: Iterator[tuple[int, list[str] | RowError]],
    separator: str,
    is_blank: Callable[[list[str]], bool],
) -> Table:
    path = source.path
    filled = without_blanks(path, _without_separator_line(path, records, separator), is_blank)
    if source.header is False:
        first, records = first_rows(path, filled)
        width = Counter(len(values) for _, values in first).most_common(1)[0][0]
        line, model = next(row for row in first if len(row[1]) == width)
        rows = _same_width(path, records, model, f"in line {line}", separator)
        return Table(path, rows, None, width, first=tuple(model))
    line, values = _header(path, filled)
    names = _header_names(f"{path}:{line}", values)
    rows = _same_width(path, filled, values, "in the header", separator)
    return Table(path, rows, names, len(names), first=names)


def _without_separator_line(
    path: str, records: Iterator[tuple[int, list[str] | RowError]], separator: str
) -> Iterator[tuple[int, list[str] | RowError]]:
    """Leave out a first line that names the separator.

    Raises:
        UserError: it names another one.
    """
    for line, values in records:
        named = None if isinstance(values, RowError) else _SEPARATOR_LINE.fullmatch(separator.join(values).strip(" "))
        if named is None:
            yield line, values
        elif named[1] != separator:
            raise UserError(
                f"{path}:{line}: the columns are separated by {quoted(named[1])}; {separator_advice(named[1])}"
            )
        break
    yield from records


def separator_advice(separator: str) -> str:
    """Return what to do about a file with this separator that is read with another one."""
    if separator in "\t,":
        return f"set {option('format', 'tsv' if separator == chr(9) else 'csv')}"
    return "save the file with commas or tabs"


def other_layout(cell: str) -> str:
    """Return what the only cell of a first line suggests that the file is, and what to do; "" for nothing."""
    if cell.lstrip().startswith(("{", "[")):
        return f"the file seems to hold JSON: set {option('format', 'jsonl')}"
    found = next((separator for separator in _SEPARATORS if separator in cell), None)
    return f"the file seems to be separated by {_SEPARATORS[found]}: {separator_advice(found)}" if found else ""


def layout_advice(cells: Sequence[str]) -> str:
    """Return what the cells of a first line suggest that the file is instead, and what to do; "" for nothing."""
    if len(cells) == 1 or (cells and cells[0].lstrip().startswith("{")):
        return other_layout(cells[0])
    if any(is_quoted(cell) for cell in cells):
        return f"the fields seem to be quoted: set {option('format', 'quoted_tsv')}"
    return ""


def is_quoted(field: str) -> bool:
    """Return whether a field as it stands in the file is in quotes as csv writers put them: each one inside is doubled."""
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', "")


def _header(path: str, records: Iterator[tuple[int, list[str] | RowError]]) -> tuple[int, list[str]]:
    line, values = next(records, (0, _empty_file(path)))
    if isinstance(values, UserError):
        raise values
    return line, values


def first_rows(
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
    before: Record | RowError | None = None
    for line, record in records:
        if not isinstance(record, RowError) and is_blank(record):
            blank = blank or line
            continue
        if blank:
            hint = _tagged_words(before)
            yield blank, RowError(f"{path}:{blank}: an empty line; only the end of the file may have any{hint}")
            blank = 0
        before = record
        yield line, record


def _tagged_words(record: object) -> str:
    """Return what a record before an empty line suggests: in CoNLL files such lines end the sentences."""
    text = "\t".join(record) if isinstance(record, list) else str(record).strip()
    if len(text) > 200 or not _TAGGED.fullmatch(text):
        return ""
    return (
        f"; if lines such as {quoted(text)} hold a word and its tag (CoNLL format): tagging tasks are not trained here"
    )


def _header_names(where: str, values: Sequence[str]) -> tuple[str, ...]:
    names = tuple(value.strip() for value in values)
    if any("\r" in value for value in values):
        raise UserError(rf"{where}: a bare carriage return in the header; lines must end in \n or \r\n")
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name and first.setdefault(name, position) < position:  # without a name, it can't be asked for
            raise UserError(
                f"{where}: column {quoted(name)} appears twice in the header (positions {first[name]} and {position}); "
                f"rename one (a file without a header: {option('header', 'false')})"
            )
    return names


def _same_width(
    path: str,
    records: Iterator[tuple[int, list[str] | RowError]],
    model: Sequence[str],
    where: str,
    separator: str,
) -> Iterator[tuple[int, list[str] | RowError]]:
    """Put a fault in the place of each row that has not as many columns as `model`, which stands `where`."""
    width = len(model)

    def checked(line: int, values: list[str]) -> list[str]:
        if len(values) == width:
            return values
        columns = "1 column" if len(values) == 1 else f"{len(values)} columns"
        cause = _cause_of_width(model, values).replace("separator", "tab" if separator == "\t" else "separator")
        raise RowError(f"{path}:{line}: {columns}, expected {width} as {where} ({cause})")

    return each_row(records, checked)


def _cause_of_width(model: Sequence[str], values: Sequence[str]) -> str:
    if len(model) == 1 and (advice := other_layout(model[0])):
        return advice
    if any("\r" in value[:-1] for value in values):
        return r"a bare carriage return? lines must end in \n or \r\n"
    return "a stray separator?" if len(values) > len(model) else "a missing separator, or a line break in a text?"


def _csv_records(source: SourceConfig, separator: str) -> Iterator[tuple[int, list[str] | RowError]]:
    unreadable: list[LineError] = []  # among the lines of the record that is being read

    def texts() -> Iterator[str]:
        for _, line in read_lines(source.path, source.encoding):
            if isinstance(line, LineError):
                unreadable.append(line)
                line = line.line  # its quotes still tell where records end
            yield line

    reader = csv.reader(texts(), strict=True, delimiter=separator)
    while True:
        start = reader.line_num + 1
        record: list[str] | RowError | None
        try:
            record = next(reader, None)
        except csv.Error as error:
            record = _faulty_csv(f"{source.path}:{start}", error, start, reader.line_num, separator)
        if record is None:
            return
        yield start, unreadable[0] if unreadable else record
        unreadable.clear()


def _faulty_csv(where: str, error: csv.Error, start: int, end: int, separator: str) -> RowError:
    """Return the fault of a record of one line.

    Raises:
        UserError: it took several lines: a stray quote has swallowed line ends, and no one can tell which are rows.
    """
    reason = shortened(str(error))
    if reason.startswith("new-line character"):
        reason = "a bare carriage return outside quotes"
    reach = f", read as far as line {end}" if end > start else ""
    message = (
        f"{where}: faulty CSV row ({reason}{reach}); a text with {_SEPARATORS[separator]}, quotes or line breaks stands in double quotes, "
        'each quote inside as ""'
    )
    if reach:
        raise UserError(message) from None
    return RowError(message)
