"""The exceptions that are meant for the person at the keyboard: bad input, and a stop that was asked for."""

from __future__ import annotations

import difflib
import itertools
import signal
from collections.abc import Iterable

_LISTED = 400  # characters of known names
_COMPARED = 10_000  # names; a broken header can hold a million


class UserError(ValueError):
    """Bad input, told in one line: where (file and line, or configuration path), the rule, what came, what would be right.

    Entry points print the message alone and exit with status 1; `--debug` adds the traceback. Whatever received text or
    file name the message quotes, it stays one line that can be printed: other characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if message.isprintable() else "".join(map(_printable, message)))


class NotFiniteError(UserError):
    """Losses, gradients or outputs of a model are no longer finite numbers."""


class Interrupted(KeyboardInterrupt):
    """A run stopped because a signal asked for it; the message says what was saved."""

    def __init__(self, received: signal.Signals, message: str) -> None:
        super().__init__(f"{received.name}: {message}")
        self.received = received

    @property
    def exit_status(self) -> int:
        """What a process that a signal ended returns by convention: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.received


def _printable(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def closest_name(received: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the received one, whatever its case; None where none is like it."""
    names = list(itertools.islice(known, _COMPARED))
    same = [name for name in names if name.strip().casefold() == received.strip().casefold()]
    return next(iter(same or difflib.get_close_matches(received, names, n=1)), None)


def unknown_name(where: str, kind: str, received: str, known: Iterable[str]) -> str:
    """Return the line for a name that is not in a table: the closest known one, and all of them."""
    names = sorted(known)
    closest = closest_name(received, names)
    hint = f" Did you mean {closest!r}?" if closest else ""
    listed = ", ".join(names)
    if len(listed) > _LISTED:
        listed = f"{listed[:_LISTED]}... ({len(names)} in all)"
    return f"{where}: unknown {kind} {received!r}.{hint} Known: {listed}."
