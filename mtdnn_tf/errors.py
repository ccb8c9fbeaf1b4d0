"""The exceptions that are meant for the person at the keyboard: bad input, and a stop that was asked for."""

from __future__ import annotations

import difflib
import itertools
import signal
import unicodedata
from collections.abc import Iterable

_LISTED = 400  # characters of known names
_COMPARED = 10_000  # names; a broken header can hold a million
# Of the characters that Unicode lists as confusable, those of keyboards that people switch between and of word processors.
_LOOK_ALIKE = {
    **str.maketrans("АВЕЅІЈКМНОРСТУХаеѕіјорсух", "ABESIJKMHOPCTYXaesijopcyx"),  # Cyrillic
    **str.maketrans("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo"),  # Greek
    **str.maketrans("‘’“”„‐‑‒–—−", "''" + '"' * 3 + "-" * 6, "\ufe0e\ufe0f"),  # quotes, dashes, variation selectors
}


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


def _look(name: str) -> str:
    """Return what names that look alike have in common: no case, no blanks around, nothing invisible, one form of each letter."""
    if not name.isascii():
        composed = unicodedata.normalize("NFKC", name).translate(_LOOK_ALIKE)
        name = "".join(character for character in composed if unicodedata.category(character) != "Cf")
    return " ".join(name.casefold().split())


def closest_name(received: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the received one, first one that looks the same; None where none is like it."""
    names = list(itertools.islice(known, _COMPARED))
    look = _look(received)
    same = [name for name in names if _look(name) == look]
    return next(iter(same or difflib.get_close_matches(received, names, n=1)), None)


def difference(received: str, known: str) -> str:
    """Return what sets apart two names that look alike, to stand behind the known one; "" where anyone sees it."""
    if _look(received) != _look(known):
        return ""
    if received.casefold() == known.casefold():
        return " (upper and lower case count)"
    for text, other, words in ((received, known, "received with"), (known, received, "which has")):
        odd = [character for character in dict.fromkeys(text) if not character.isascii() and character not in other]
        if odd:
            named = [f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip() for character in odd[:2]]
            return f" ({words} {', '.join(named)})"
    return ""


def unknown_name(where: str, kind: str, received: str, known: Iterable[str]) -> str:
    """Return the line for a name that is not in a table: the closest known one, what sets it apart, and all of them."""
    names = sorted(known)
    closest = closest_name(received, names)
    hint = f" Did you mean {closest!r}{difference(received, closest)}?" if closest else ""
    listed = ", ".join(names)
    if len(listed) > _LISTED:
        listed = f"{listed[:_LISTED]}... ({len(names)} in all)"
    return f"{where}: unknown {kind} {received!r}.{hint} Known: {listed}."
