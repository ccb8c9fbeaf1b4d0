"""The licences that weights and data come with, as far as files beside them say."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from mtdnn_tf.tasks import TaskSpec

_STATED = re.compile(r"\blicen[cs]e:\s*(\S[^\n]*)", re.IGNORECASE)  # of a README, or of its front matter
_UNKNOWN = "not found beside it"
_LOOKED_AT = 100_000  # characters
_OF_CODE = ("pyproject.toml", "setup.py", "setup.cfg", "package.json", "Cargo.toml", "go.mod")  # in a program's folder


def weights_licence(source: str) -> str:
    """Return the licence of an encoder's weights, from the files of its folder; `source` as in `load_encoder`."""
    if source.startswith("words://"):
        source = source.partition("vectors=")[2].partition(",")[0] or "random://"
    if source.startswith("random://"):
        return "none needed: random numbers"
    folder = _package_folder(source) if source.startswith("package://") else Path(source)
    return (_stated_in(folder) if folder and folder.is_dir() else None) or _UNKNOWN


def data_licences(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the licence of each task's data by task name, from the files beside them or in the folder above."""
    return {task.name: _data_licence(task) for task in tasks if task.sources}


def _data_licence(task: TaskSpec) -> str:
    paths = [Path(source.path) for source in task.sources.values()]
    folders = [folder for path in paths if path.is_file() for folder in (path.parent, path.parent.parent)]
    # A program's folder states the licence of its code.
    found = (_stated_in(folder) for folder in folders if not any((folder / name).exists() for name in _OF_CODE))
    return next((licence for licence in found if licence), _UNKNOWN)


def _package_folder(source: str) -> Path | None:
    package, _, inside = source.removeprefix("package://").partition("/")
    found = importlib.util.find_spec(package.partition(".")[0])
    return Path(found.origin).parent / inside if found and found.origin else None


def _stated_in(folder: Path) -> str | None:
    for path in sorted(folder.glob("README*")):
        match = _STATED.search(_beginning(path))
        if match:
            return f"{_cell(match.group(1))} ({path.name})"
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        lines = [line.strip() for line in _beginning(path).splitlines() if line.strip()]
        if lines:
            return f"{_cell(lines[0])} ({path.name})"
    return None


def _beginning(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_LOOKED_AT)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:120]
