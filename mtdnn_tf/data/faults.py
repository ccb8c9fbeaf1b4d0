"""Rows that cannot be read, as values among the good ones: the first is raised, or all are left out and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from mtdnn_tf.errors import UserError

Received = TypeVar("Received")
Made = TypeVar("Made")
_FORMS: ContextVar[Mapping[str, str] | None] = ContextVar("forms", default=None)


def option(name: str, value: str) -> str:
    """Return how the user of this command sets an option of a source, for messages: in a task file, unless `options_as` says else."""
    form = (_FORMS.get() or {}).get(name)
    return form.format(value) if form else f"`{name}: {value}`"


def column_option(role: str, column: str) -> str:
    """Return how the user of this command says which column a text of the task, its `label` or its `group` is; see `option`."""
    form = (_FORMS.get() or {}).get(role if role in ("label", "group") else "text")
    return form.format(column) if form else f"`columns: {{{role}: {column}}}`"


@contextmanager
def options_as(**forms: str) -> Iterator[None]:
    """Make messages advise options in other forms, `{}` for the value: for commands that read files without a task file."""
    token = _FORMS.set(forms)
    try:
        yield
    finally:
        _FORMS.reset(token)


class RowError(UserError):
    """One row is at fault; those after it can still be read.

    Readers yield it in the place of the row. What spoils the whole source (a cut-off file, a bad header) is raised as a
    plain UserError.
    """


class LineError(RowError):
    """A line with bytes or characters that no text may hold; `line` is it with replacement characters."""

    def __init__(self, message: str, line: str) -> None:
        super().__init__(message)
        self.line = line


def each_row(
    records: Iterable[tuple[int, Received | RowError]], make: Callable[[int, Received], Made]
) -> Iterator[tuple[int, Made | RowError]]:
    """Yield (line, `make(line, record)`), or the fault that came in the place of the record or that `make` raised."""
    for line, record in records:
        if isinstance(record, RowError):
            yield line, record
            continue
        try:
            made: Made | RowError = make(line, record)
        except RowError as error:
            made = error
        yield line, made


def all_good(records: Iterable[tuple[int, Received | RowError]]) -> Iterator[tuple[int, Received]]:
    """Yield (line, record) for each of them.

    Raises:
        RowError: the first fault.
    """
    for line, record in records:
        if isinstance(record, RowError):
            raise record
        yield line, record


class Faults:
    """What `on_error` says: `raise` the first fault, or `skip` the row and keep the message."""

    def __init__(self, on_error: str) -> None:
        self._skip = on_error == "skip"
        self._skipped: list[tuple[int, str]] = []

    def without(self, records: Iterable[tuple[int, Received | RowError]]) -> Iterator[Received]:
        """Yield the good records.

        Raises:
            RowError: the first fault, unless faults are skipped.
        """
        for line, record in records:
            if isinstance(record, RowError):
                self.leave_out(line, record)
            else:
                yield record

    def leave_out(self, line: int, fault: RowError) -> None:
        """Keep the message.

        Raises:
            RowError: the fault, unless faults are skipped.
        """
        if not self._skip:
            raise fault
        self._skipped.append((line, str(fault)))

    def messages(self) -> tuple[str, ...]:
        """Return one line for each row left out, in the order of the source."""
        return tuple(message for _, message in sorted(self._skipped, key=lambda item: item[0]))
