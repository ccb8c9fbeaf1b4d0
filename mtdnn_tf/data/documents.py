"""Running text from files as documents of sentences: plain text, Wikipedia extracts, JSON lines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import Faults, LineError, RowError, each_row
from mtdnn_tf.data.json_rows import read_jsonl
from mtdnn_tf.data.lines import quoted, read_lines, text_fault, without_line_end
from mtdnn_tf.data.sentences import split_sentences
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.files import matching_files

_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
_OPENING = re.compile(r"<doc(\s.*)?>\s*")
_CLOSING = "</doc>"

Lines = Iterator[tuple[int, str]]

Document = tuple[str, ...]
"""The sentences of one text, in order."""


def read_documents(source: SourceConfig) -> tuple[list[Document], tuple[str, ...]]:
    """Read all documents of a source, in the order of its files' names.

    `path` is a file (.gz is unpacked) or a pattern such as `wiki/*.txt`. `format` is one of `DOCUMENT_FORMATS`, or auto: jsonl by
    the ending or where the first line is a JSON object, wikipedia where it is a `<doc>`, else text. With `on_error: skip`, lines
    that cannot be decoded and rows that are no objects with a text are left out.

    Returns:
        The documents, each with one sentence at least; and a message for each line or row left out.

    Raises:
        UserError: no file has such a name, one is no text, its elements don't match, or nothing is in them.
    """
    found: list[Document] = []
    skipped: list[str] = []
    for path in document_files(source):
        faults = Faults(source.on_error)
        found += _read_file(replace(source, path=path), faults)
        skipped += faults.messages()
    documents = [document for document in found if document]
    if not documents:
        raise UserError(f"{source.path}: holds no text; expected sentences")
    return documents, tuple(skipped)


def document_files(source: SourceConfig) -> list[str]:
    """Return the files of a source.

    Raises:
        UserError: it is a folder, or no file has such a name.
    """
    if os.path.isdir(source.path):
        raise UserError(f"{source.path}: this is a directory; name the files in it, as in {source.path}/*.txt")
    paths = matching_files(source.path)
    if not paths:
        raise UserError(f"{source.path}: no file has such a name")
    return paths


def _read_file(source: SourceConfig, faults: Faults) -> Iterator[Document]:
    name = source.format if source.format != "auto" else _format(source)
    if name not in DOCUMENT_FORMATS:
        raise UserError(unknown_name(f"{source.path}: format", "format of running text", name, DOCUMENT_FORMATS))
    return DOCUMENT_FORMATS[name](source, faults)


def _format(source: SourceConfig) -> str:
    if source.path.lower().removesuffix(".gz").endswith(_JSON_ENDINGS):
        return "jsonl"
    decoded = (
        line.line if isinstance(line, LineError) else line for _, line in read_lines(source.path, source.encoding)
    )
    first = next((line for line in decoded if line.strip()), "")
    if _OPENING.fullmatch(first):
        return "wikipedia"
    return "jsonl" if _is_json_object(first) else "text"


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _good_lines(source: SourceConfig, faults: Faults, kept: re.Pattern[str] | None = None) -> Lines:
    """Yield (number, line) of the lines that can be decoded, and of those at fault that `kept` matches, where faults are skipped."""
    for number, line in read_lines(source.path, source.encoding):
        if isinstance(line, LineError):
            faults.leave_out(number, line)
            line = line.line
            if kept is None or not kept.fullmatch(line):
                continue
        yield number, without_line_end(line)


def _sentences(paragraphs: Iterable[str]) -> Document:
    return tuple(sentence for paragraph in paragraphs for sentence in split_sentences(paragraph))


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield what stands between blank lines, its lines joined by spaces."""
    block: list[str] = []
    for line in (*lines, ""):
        if line.strip():
            block.append(line.strip())
        elif block:
            yield " ".join(block)
            block = []


def _read_text(source: SourceConfig, faults: Faults) -> Iterator[Document]:
    """Yield the file as one document; a paragraph ends at a blank line."""
    lines = [line for _, line in _good_lines(source, faults)]
    yield _sentences(_paragraphs(lines))


def _read_wikipedia(source: SourceConfig, faults: Faults) -> Iterator[Document]:
    """Yield each `<doc ...>` element, as WikiExtractor writes them; every line is a paragraph."""
    begun: int | None = None
    lines: list[str] = []
    for number, line in _good_lines(source, faults, kept=_OPENING):
        where = f"{source.path}:{number}"
        if _OPENING.fullmatch(line):
            if begun is not None:
                raise UserError(
                    f"{where}: a <doc> inside the one that begins in line {begun}; </doc> must stand before it"
                )
            begun, lines = number, []
        elif line.strip() == _CLOSING:
            if begun is None:
                raise UserError(f"{where}: </doc> without a <doc> before it")
            yield _sentences(lines)
            begun = None
        elif begun is not None:
            lines.append(line)
        elif line.strip():
            raise UserError(f"{where}: text outside <doc> and </doc>, received {quoted(line)}; or say `format: text`")
    if begun is not None:
        raise UserError(f"{source.path}:{begun}: this <doc> has no </doc>; the file is cut off, fetch it again")


def _read_jsonl(source: SourceConfig, faults: Faults) -> Iterator[Document]:
    """Yield the text of each object, under the key that `columns: {text: ...}` names; blank lines in it end paragraphs."""
    if not any(read_lines(source.path, source.encoding)):
        return
    key = str(source.columns.get("text", "text"))
    rows = each_row(read_jsonl(source).rows, partial(_text_of, source.path, key))
    for text in faults.without(rows):
        yield _sentences(_paragraphs(text.split("\n")))


def _text_of(path: str, key: str, line: int, row: dict[str, object]) -> str:
    if key not in row:
        raise RowError(
            f"{path}:{line}: the key {quoted(key)} is missing; this row has {', '.join(row) or 'none'} "
            "(name another: `columns: {text: body}`)"
        )
    fault = text_fault(row[key])
    if fault is not None:
        raise RowError(f"{path}:{line}: {key} {fault}")
    return str(row[key])


DOCUMENT_FORMATS: dict[str, Callable[[SourceConfig, Faults], Iterator[Document]]] = {
    "text": _read_text,
    "wikipedia": _read_wikipedia,
    "jsonl": _read_jsonl,
}
