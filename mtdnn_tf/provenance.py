"""Where a result comes from: versions and configuration hash."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from mtdnn_tf.config import ExperimentConfig, config_hash

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


def read_header(path: Path) -> dict[str, str]:
    """Return the versions that a resolved configuration was run with, from its second line; none of a file that is not there."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        lines = [file.readline().strip() for _ in range(2)]
    if not lines[1].startswith("# "):
        return {}
    pairs = (item.partition(" ") for item in lines[1].removeprefix("# ").split(", "))
    return {name: version for name, _, version in pairs}
