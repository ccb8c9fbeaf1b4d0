"""Shell commands that messages advise: quoted for a shell, and derived from the command that is running."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from mtdnn_tf.config_tree import Branch, Leaf, parse_override
from mtdnn_tf.errors import UserError

_BOOLEAN = ("fresh",)  # flags without a value, of those that `changed` removes


def command_line(module: str, *arguments: str) -> str:
    """Return `python -m mtdnn_tf.<module>` with these arguments, each quoted where a shell needs it."""
    return shlex.join(["python", "-m", f"mtdnn_tf.{module}", *arguments])


def is_command(text: str) -> bool:
    """Return whether a text is what `command_line` returns: a program that trains by this package may note anything else."""
    return text.startswith("python -m mtdnn_tf.")


def setting(key: str, value: object) -> str:
    """Return the flag that sets a dotted key: `--set=key=value`, a text in quotes where YAML would take it for something else."""
    text = str(value)
    return f"--set={key}={text if not isinstance(value, str | Path) or _is_plain(text) else json.dumps(text)}"


def _is_plain(text: str) -> bool:
    try:
        tree = parse_override(f"key={text}")
    except UserError:
        return False
    node = tree.children.get("key") if isinstance(tree, Branch) else None
    return isinstance(node, Leaf) and node.value == text


def changed(command: str, *arguments: str, without: Sequence[str] = ()) -> str:
    """Return a command with other arguments.

    Args:
        command: as `command_line` returns it.
        arguments: appended; a flag, or the key of a `--set`, that the command has already is replaced.
        without: names of flags that are removed.
    """
    words = shlex.split(command)
    for name in without:
        words = _removed(words, name)
    for argument in arguments:
        flag, _, value = argument.removeprefix("--").partition("=")
        words = _removed(words, flag, f"{value.partition('=')[0]}=" if flag == "set" else "")
    return shlex.join([*words, *arguments])


def _removed(words: Sequence[str], name: str, value_start: str = "") -> list[str]:
    """Return the words without a flag whose value starts so, written as `--name=value` or as `--name value`."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = re.fullmatch(rf"--?{name}(=.*)?", word, re.DOTALL)
        if match is None:
            kept.append(word)
            continue
        separate = match[1] is None and name not in _BOOLEAN and rest
        value = rest.pop(0) if separate else (match[1] or "=")[1:]
        if not value.startswith(value_start):
            kept += [word, value] if separate else [word]
    return kept


def free_directory(model_dir: Path) -> Path:
    """Return the first of <name>_2, <name>_3, ... beside a run directory that does not exist."""
    number = 2
    while (found := model_dir.with_name(f"{model_dir.name}_{number}")).exists():
        number += 1
    return found
