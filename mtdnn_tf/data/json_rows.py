"""Rows of JSON files: JSON lines, or one array of objects, at the top of a file or under one key of an object."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import LineError, RowError, each_row
from mtdnn_tf.data.lines import quoted, read_lines, shortened
from mtdnn_tf.data.rows import Table, first_rows, other_layout, without_blanks
from mtdnn_tf.errors import UserError

Lines = Iterable[tuple[int, str | LineError]]

# Texts whole, and what stands between white space and punctuation; a quote alone begins a text that its line does not end.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+|"')
_CLOSING = {"{": "}", "[": "]"}
_REPLACED = re.compile("[\ufffd\0]")  # what a line that cannot be decoded has, so that its other rows can be told
_LINE = "each line must hold one JSON object"
_ELEMENT = "each row must be one JSON object"
_LAYOUTS = "expected one object on each line, or one array of objects"


def read_jsonl(source: SourceConfig) -> Table:
    """Open a file of JSON objects, each of them a row.

    It holds one object on each line; or objects over several lines; or one array of objects, also under one key of an object that
    holds no second one. A row's line is the one that its object starts in. Objects are parsed one by one: of an array, too, no more
    than one is held.

    Raises:
        UserError: see `read_lines`; no rows; an object by column; here or while rows are taken: objects over several lines are not
            JSON, or the file holds several arrays of objects. Faults of a row: an empty line before it; a line or element that is not
            one object, or has a key twice.
    """
    path = source.path
    lines = read_lines(path, source.encoding)
    ahead = _until_two_filled(lines)
    lines = chain(ahead, lines)
    start = [_text_of(line).strip() for _, line in ahead if _text_of(line).strip()]
    objects = _Document(path).rows(lines) if _is_document(path, start) else _one_a_line(path, lines)
    first, objects = first_rows(path, objects)
    if len(first) == 1:
        _refuse_by_column(f"{path}:{first[0][0]}", first[0][1])
    names = tuple(dict.fromkeys(key for _, value in first for key in value))
    return Table(path, objects, names, len(names), by_name=True)


def _text_of(line: str | LineError) -> str:
    return line.line if isinstance(line, LineError) else line


def _until_two_filled(lines: Iterator[tuple[int, str | LineError]]) -> list[tuple[int, str | LineError]]:
    """Take lines until two of them are not blank."""
    taken: list[tuple[int, str | LineError]] = []
    filled = 0
    while filled < 2 and (found := list(islice(lines, 1))):
        taken += found
        filled += bool(_text_of(found[0][1]).strip())
    return taken


def _is_document(path: str, start: list[str]) -> bool:
    """Return whether objects are not one a line, as the first lines that are not blank tell."""
    if not start or start[0][0] not in "[{":
        return False
    if start[0][0] == "[":
        return True
    if len(start) == 1:  # one object may be a row, or hold the rows
        return not path.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    return start[0][-1] in "[{,:" or (start[0][-1] != "}" and start[1][0] in ',]}:"')


def _one_a_line(path: str, lines: Lines) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    stripped: Iterator[tuple[int, str | RowError]] = each_row(lines, lambda _, line: line.strip())
    filled = without_blanks(path, stripped, lambda line: not line)
    return each_row(filled, lambda number, line: _object(path, number, line, _LINE))


class _Document:
    """The rows of a file in which objects take several lines or stand in one array.

    Objects that are rows are cut out and parsed one by one. What stands around them is parsed last, with `{}` in the place of each and
    with all line ends, so that the parser's line is the file's.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[str] = []  # brackets, from the outermost on
        self._around = io.StringIO()  # what stands around the rows
        self._row: io.StringIO | None = None  # the row that is open
        self._begun = {"top": 0, "row": 0}  # the lines in which the outermost value and the row begin
        self._key = ""  # the latest text in an outermost object
        self._rows_under: str | None = None  # the key of the array of rows; "": the array is outermost
        self._done = False  # the array of rows has ended
        self._undecoded: LineError | None = None  # the latest line with characters that were replaced

    def rows(self, lines: Lines) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        """Yield (line, row)."""
        number = 0
        for number, line in lines:
            self._undecoded = line if isinstance(line, LineError) else self._undecoded
            yield from self._rows_of_line(number, _text_of(line))
        if self._open:
            begun = self._begun["top" if self._row is None else "row"]
            raise self._not_json(number, f"the file ends inside the value that begins in line {begun}")

    def _rows_of_line(self, number: int, text: str) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        start = 0
        for match in _TOKEN.finditer(text):
            token = match[0]
            if token == '"':
                raise self._not_json(number, f"the text at character {match.start() + 1} does not end in its line")
            if not self._open:
                self._begin(number, token)
                start = match.start()
            elif self._row is None and token == "{" and self._is_row(number):
                self._around.write(text[start : match.start()])
                self._row, self._begun["row"], start = io.StringIO(), number, match.start()
            elif self._row is None and token not in ",:]}" and self._is_element():
                yield number, RowError(f"{self._path}:{number}: {_ELEMENT}, received {quoted(token)}")
            elif len(self._open) == 1 and token[0] == '"':
                self._key = token
            if token in _CLOSING:
                self._open.append(token)
            elif token in "]}":
                self._close(number, token)
                if not self._open or (self._row is not None and self._is_element()):
                    yield from self._finished(number, text[start : match.end()])
                    start = match.end()
        if self._open:
            (self._around if self._row is None else self._row).write(text[start:])

    def _begin(self, number: int, token: str) -> None:
        if token not in _CLOSING:
            raise self._not_json(number, f"{quoted(token)} outside of objects and arrays")
        if self._done or (token == "[" and self._begun["top"]):
            raise self._not_json(number, "a second value beside the array of rows")
        self._around, self._begun["top"] = io.StringIO(), number
        self._rows_under = "" if token == "[" else None

    def _is_element(self) -> bool:
        """Return whether what stands here is an element of the array of rows."""
        return self._open == ["["] or (self._open == ["{", "["] and self._rows_under == self._key)

    def _is_row(self, number: int) -> bool:
        """Return whether an object that opens here is a row; the first one in an array makes that the array of rows."""
        if self._open == ["{", "["] and self._rows_under != self._key:
            if self._rows_under is not None:
                raise UserError(
                    f"{self._path}:{number}: a second array of objects, under {self._key} beside {self._rows_under}; write the "
                    "rows to a file of their own"
                )
            self._rows_under = self._key
        return self._is_element()

    def _close(self, number: int, token: str) -> None:
        expected = _CLOSING[self._open[-1]]
        if token != expected:
            raise self._not_json(number, f"{token!r} where {expected!r} is expected")
        self._open.pop()

    def _finished(self, number: int, rest: str) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
        """Yield the row that ends here; check what stands around the rows where that ends."""
        if self._row is not None:
            begun, text = self._begun["row"], self._row.getvalue() + rest
            self._row = None
            self._around.write("{}" + "\n" * (number - begun))
            yield self._parsed(begun, text)
            return
        begun, text = self._begun["top"], self._around.getvalue() + rest
        if self._rows_under is None:  # an object without an array of rows is itself one
            yield self._parsed(begun, text)
            return
        self._done = True
        self._check_around(begun, text)

    def _parsed(self, begun: int, text: str) -> tuple[int, dict[str, Any] | RowError]:
        if self._undecoded is not None and _REPLACED.search(text):
            return begun, self._undecoded
        return next(each_row([(begun, text)], lambda line, text: _object(self._path, line, text, _ELEMENT)))

    def _check_around(self, begun: int, text: str) -> None:
        if self._undecoded is not None and _REPLACED.search(text):
            raise UserError(str(self._undecoded))
        try:
            json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise self._not_json(*_place_and_reason(begun, error)) from None

    def _not_json(self, number: int, reason: str) -> UserError:
        return UserError(f"{self._path}:{number}: not JSON ({shortened(reason)}); {_LAYOUTS}")


def _object(path: str, begun: int, text: str, rule: str) -> dict[str, Any]:
    """Return the object of a row that begins in this line."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except UserError as error:
        raise RowError(f"{path}:{begun}: {error}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets nested as deep
        number, reason = _place_and_reason(begun, error)
        advice = "" if text.startswith(("{", "[")) else other_layout(text)
        advice = advice or f"{rule}, received {quoted(text)}"
        raise RowError(f"{path}:{number}: not JSON ({shortened(reason)}); {advice}") from None
    if not isinstance(value, dict):
        raise RowError(f"{path}:{begun}: {rule}, received {quoted(text)}")
    return value


def _place_and_reason(begun: int, error: Exception) -> tuple[int, str]:
    """Return the line in which a text that begins in line `begun` is not JSON, and why."""
    if isinstance(error, json.JSONDecodeError):
        return begun + error.lineno - 1, f"{error.msg.removesuffix(' at')} at character {error.colno}"
    return begun, str(error)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise UserError(f"key {quoted(twice)} appears twice in one object; rename one")
    return values


def _refuse_by_column(where: str, only: dict[str, Any]) -> None:
    """Refuse the only object of a file where it is a table by column, as data frames write it by default."""
    if only and all(isinstance(value, dict | list) for value in only.values()) and _holds_text(only, 3):
        raise UserError(
            f"{where}: one object with a column (or a row number) under each key; expected one object for each row "
            '(of a pandas data frame: `to_json(path, orient="records", lines=True)`)'
        )


def _holds_text(value: Any, depth: int) -> bool:
    """Return whether one of the first values in it, at most so deep, is a text; token ids are not."""
    if isinstance(value, dict | list) and depth:
        inner = value.values() if isinstance(value, dict) else value
        return any(_holds_text(item, depth - 1) for item in islice(inner, 100))
    return isinstance(value, str)
