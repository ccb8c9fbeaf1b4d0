"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, told in one line: where (file and line, or configuration path), the rule, what came, what would be right.

    Entry points print the message alone and exit with status 1; `--debug` adds the traceback.
    """


def unknown_name(where: str, kind: str, received: str, known: Iterable[str]) -> str:
    """Return the line for a name that is not in a table: the closest known one, and all of them."""
    names = sorted(known)
    closest = difflib.get_close_matches(received, names, n=1)
    hint = f" Did you mean {closest[0]!r}?" if closest else ""
    return f"{where}: unknown {kind} {received!r}.{hint} Known: {', '.join(names)}."
