"""The texts that `predict` answers: a file or standard input, laid out as the user says or as the task's own files."""

from __future__ import annotations

import io
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.columns import MissingColumnError
from mtdnn_tf.data.faults import LineError, column_option
from mtdnn_tf.data.formats import FILE_FORMATS, file_ending
from mtdnn_tf.data.lines import quoted, read_lines, shortened
from mtdnn_tf.data.sources import Examples, open_table, read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.predictions import no_answer
from mtdnn_tf.tasks import TaskSpec

Rows = list[dict[str, Any]]
_STDIN = "standard input"
_LISTED_LABELS = 5  # unknown ones, in a note


@dataclass(frozen=True)
class InputLayout:
    """What the user says of the file to answer; None and (): as the task's own files have it, or by the task's names."""

    text: tuple[str, ...] = ()  # columns of the task's texts: header names, or positions from 0 without a header
    label: str | None = None  # the label's column
    header: bool | None = None
    format: str | None = None
    encoding: str | None = None  # None: UTF-8 where the file is valid UTF-8


@dataclass(frozen=True)
class Input:
    """Texts to answer."""

    examples: Examples
    blank: tuple[int, ...] = ()  # lines of standard input that hold no text, and get no answer

    def in_order_of_lines(self, task: TaskSpec, rows: Rows) -> Rows:
        """Return the answers to the examples in the order of the lines, with an empty answer for each blank line.

        Reading may bring rows of one query together.
        """
        lines = np.concatenate([self.examples.lines, np.array(self.blank, np.int32)])
        every = [*rows, *([no_answer(task)] * len(self.blank))]
        return [every[place] for place in np.argsort(lines, kind="stable")]

    def notes(self, task: TaskSpec) -> list[str]:
        """Return a line for each thing that the user has to know of the answers."""
        notes = []
        if self.blank:
            lines = "1 blank line is" if len(self.blank) == 1 else f"{len(self.blank)} blank lines are"
            notes.append(
                f"{_STDIN}: {lines} not answered (the first is line {self.blank[0]}); each has an empty row in the answers, "
                "which have one row for each line"
            )
        if self.examples.unknown_labels:
            notes.append(_unknown_labels_note(task, self.examples))
        return notes


def options_as_flags(text: Sequence[str]) -> dict[str, str]:
    """Return how `predict` takes the options of a source, for `options_as`, of a task with these text columns."""
    return {
        "text": f"`--text={','.join(['{0}'] * len(text))}`",
        "label": "`--label={}`",
        "header": "`--noheader`",
        "format": "`--input_format={}`",
        "encoding": "`--encoding={}`",
    }


def read_input(task: TaskSpec, path: str, layout: InputLayout | None = None) -> Input:
    """Read texts to answer: a file with the task's columns, or `-` for standard input.

    Without a layout, standard input holds a row of tab-separated texts in each line. A row whose label is none of the task's is
    answered all the same, and listed in `unknown_labels`.

    Raises:
        UserError: the file is missing or malformed, or has other columns.
    """
    layout = layout or InputLayout()
    if path in ("-", "/dev/stdin"):
        return _read_stdin(task, layout)
    return Input(_read_file(task, os.path.abspath(path), layout))


def _read_stdin(task: TaskSpec, layout: InputLayout) -> Input:
    content = _stdin_bytes()
    blank: tuple[int, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stdin"
        copy.write_bytes(content)
        try:
            next(read_lines(str(copy)), None)  # what is no text at all has no lines to look at
            if layout.format in (None, "tsv") and not layout.header:
                layout = replace(layout, header=False)
                content, blank = _with_filled_blanks(task, layout, content)
                copy.write_bytes(content)
                layout = replace(layout, text=layout.text or tuple(map(str, range(len(task.text)))))
            with redirect_stderr(io.StringIO()) as warnings:
                examples = _read_file(task, str(copy), replace(layout, format=layout.format or "tsv"))
            print(warnings.getvalue().replace(str(copy), _STDIN), end="", file=sys.stderr)
        except UserError as error:
            raise UserError(str(error).replace(str(copy), _STDIN)) from None
    examples = replace(examples, origin=_STDIN)
    return Input(examples.only(np.flatnonzero(~np.isin(examples.lines, blank))), blank)


def _with_filled_blanks(task: TaskSpec, layout: InputLayout, content: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return lines of texts with a row in the place of each blank line, and the numbers of these; messages then number lines as the user does.

    Raises:
        UserError: there is no text, a bare carriage return, or another number of columns than the task has texts.
    """
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    blank = tuple(number for number, line in enumerate(lines, 1) if not line.strip())
    first = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
    if first is None:
        raise UserError(f"{_STDIN}: holds no text; expected {', '.join(task.text)} in each line")
    for number, line in enumerate(lines, 1):
        if b"\r" in line.removesuffix(b"\r"):
            raise UserError(
                rf"{_STDIN}:{number}: a bare carriage return within the line; lines must end in \n: convert them, as in tr '\r' '\n'"
            )
    width = lines[first - 1].count(b"\t") + 1
    if width != len(task.text) and not layout.text:
        raise UserError(
            f"{_STDIN}:{first}: {width} column{'s' if width > 1 else ''}, expected {len(task.text)}: {', '.join(task.text)}"
            f"{', separated by a tab' if len(task.text) > 1 else ''} (a tab in a text? else name the texts: "
            f"{column_option(task.text[0], '<position from 0>')})"
        )
    row = b"\t".join([b"-"] * width)
    return b"".join((line if line.strip() else row) + b"\n" for line in lines), blank


def _read_file(task: TaskSpec, path: str, layout: InputLayout) -> Examples:
    """Read a file laid out as the user says, else as the task's own, or with the task's column names; labels are taken where there are any."""
    own = task.layout
    plain = SourceConfig(
        path,
        format=layout.format or _own_format(own, path),
        header=layout.header,
        columns=_given_columns(task, layout),
        labels=own.labels,
        encoding=layout.encoding or _encoding(path, own.encoding),
        gather=task.type == "ranking",  # answers go back to the order of the file
    )

    def read(source: SourceConfig) -> Examples:
        return read_source(task, source, labelled=True if layout.label else None, keep_unknown=True)

    if layout.text:
        return read(plain)
    if own.format == "canonical" and layout == InputLayout(encoding=layout.encoding) and _may_be_canonical(task, plain):
        return read(replace(plain, format="canonical"))
    header = own.header if layout.header is None else layout.header
    same_kind = (header is False) == (own.header is False) and own.format != "canonical"
    if not same_kind or (own.header is False and _names_texts(task, plain)):
        return read(plain)
    try:
        return read(replace(plain, header=header, columns={**own.columns, **plain.columns}))
    except MissingColumnError:
        return read(plain)


def _given_columns(task: TaskSpec, layout: InputLayout) -> dict[str, str | int]:
    """Return the columns that the user names, by the task's names."""
    if layout.text and len(layout.text) != len(task.text):
        raise UserError(
            f"--text: task {task.name} reads {len(task.text)} column{'s' if len(task.text) > 1 else ''} "
            f"({', '.join(task.text)}), received {len(layout.text)}"
        )
    named = dict(zip(task.text, layout.text, strict=False)) | ({"label": layout.label} if layout.label else {})
    if layout.header is not False:
        return dict(named)
    for role, name in named.items():
        if not name.isdecimal():
            flag = "--label" if role == "label" else "--text"
            raise UserError(
                f"{flag}: in a file without a header, name a column by its position from 0; received {name!r}"
            )
    return {role: int(name) for role, name in named.items()}


def _may_be_canonical(task: TaskSpec, plain: SourceConfig) -> bool:
    is_tsv = plain.path.lower().removesuffix(".gz").endswith((".tsv", ".txt"))
    return is_tsv and not _names_texts(task, plain)


def _own_format(own: SourceConfig, path: str) -> str:
    """Return the format that the task names for its own files, where this file has their ending."""
    names_one = own.format in FILE_FORMATS and not own.is_dataset
    return own.format if names_one and file_ending(path) == file_ending(own.path) else "auto"


def _encoding(path: str, own: str) -> str:
    """Return UTF-8 where a file is that, else the encoding of the task's own files."""
    if own == "utf-8":
        return own
    return own if any(isinstance(line, LineError) for _, line in read_lines(path)) else "utf-8"


def _names_texts(task: TaskSpec, source: SourceConfig) -> bool:
    """Return whether the first line of a file, or its keys, name the task's texts."""
    try:
        names = open_table(source).names or ()
    except UserError:
        return False
    return set(task.text) <= set(names)


def _stdin_bytes() -> bytes:
    stream = sys.stdin
    if stream is None:
        raise UserError(f"{_STDIN} is closed; pipe the texts to this command, or name a file with --input")
    try:
        return stream.buffer.read() if isinstance(stream, io.TextIOWrapper) else stream.read().encode()
    except OSError as error:
        raise UserError(
            f"{_STDIN}: cannot be read ({error.strerror}); pipe the texts, or name a file with --input"
        ) from None


def _unknown_labels_note(task: TaskSpec, examples: Examples) -> str:
    lines: dict[str, list[int]] = {}
    for row, label in examples.unknown_labels.items():
        lines.setdefault(label, []).append(int(examples.lines[row]))
    listed = [
        f"{quoted(label)} ({'1 row' if len(found) == 1 else f'{len(found)} rows'}, the first in line {min(found)})"
        for label, found in itertools.islice(lines.items(), _LISTED_LABELS)
    ]
    if len(lines) > _LISTED_LABELS:
        listed.append(f"{len(lines) - _LISTED_LABELS} others")
    low, high = task.range or (None, None)
    number = "a number" if low is None else f"a number from {low:g} to {high:g}"
    expected = {"classification": shortened(", ".join(task.labels), 200), "regression": number}
    return (
        f"{examples.origin}: {len(examples.unknown_labels)} of {len(examples)} rows are answered but not scored"
        f"{', nor are the other candidates of their queries' if task.type == 'ranking' else ''}, as their labels are unknown: "
        f"{', '.join(listed)}; expected {expected.get(task.type, 'a number of 0 or more')}"
    )
