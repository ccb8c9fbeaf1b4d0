"""Where a result comes from: versions, configuration hash, hashes of data files."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mtdnn_tf.config import ExperimentConfig, config_hash
from mtdnn_tf.files import matching_files, sha256
from mtdnn_tf.tasks import TaskSpec

_PACKAGES = ("mtdnn_tf", "tensorflow", "keras", "keras-hub", "tensorflow-text", "tensorflow-datasets", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def header(config: ExperimentConfig) -> str:
    """Return comment lines for the top of a resolved configuration: its hash, and the versions it was run with."""
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"# configuration {config_hash(config)}\n# {listed}\n"


def source_hashes(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """Return the first 12 hexadecimal digits of the sha256 of every data file of the tasks, by path.

    Sources of tensorflow-datasets have versions of their own and are left out.
    """
    named = {source.path for task in tasks for source in task.sources.values() if not source.path.startswith("tfds:")}
    paths = {path for name in named for path in matching_files(name)}
    return {path: _digest(Path(path)) for path in sorted(paths) if Path(path).is_file()}


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_as_of(path, stat.st_size, stat.st_mtime_ns)


@functools.cache  # runs of a study have files in common, which its reports and its archive ask for again
def _digest_as_of(path: Path, size: int, changed: int) -> str:
    return sha256(path)[:12]


def read_header(path: Path) -> dict[str, str]:
    """Return the versions that a resolved configuration was run with, from its second line."""
    with path.open(encoding="utf-8") as file:
        lines = [file.readline().strip() for _ in range(2)]
    if not lines[1].startswith("# "):
        return {}
    pairs = (item.partition(" ") for item in lines[1].removeprefix("# ").split(", "))
    return {name: version for name, _, version in pairs}
