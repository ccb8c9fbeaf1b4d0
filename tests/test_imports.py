"""Imports run in one direction only, and the public names are what the package says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mtdnn_tf

PACKAGE = Path(mtdnn_tf.__file__).parent
# From left to right: a part may import itself and what stands to its left.
ORDER = [
    "errors",
    "common",
    "config",
    "tasks",
    "data",
    "starting",
    "modeling",
    "training",
    "evaluation",
    "serving",
    "studies",
    "top",
]
PART_OF_MODULE = {
    "files": "common",
    "locks": "common",
    "commands": "config",
    "seeds": "common",
    "streams": "common",
    "config_build": "config",
    "config_paths": "config",
    "config_tree": "config",
    "run_files": "config",
    "task_definitions": "config",
    "task_files": "config",
    "ready_made": "tasks",
    "task_types": "config",
    "provenance": "tasks",
}
TOP = {
    "experiment",
    "resuming",
    "planning",
    "pretrain",
    "pretraining",
    "plan_costs",
    "plan_table",
    "plan_warnings",
    "answering",
    "prediction_input",
    "cli",
    "train",
    "train_workers",
    "evaluate",
    "predict",
    "export",
    "plan",
    "init",
    "recipe",
    "compare",
    "__init__",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _part(dotted: str) -> str:
    first = dotted.split(".")[0]
    is_folder = (PACKAGE / first).is_dir()
    if not is_folder and first in TOP:
        return "top"
    return PART_OF_MODULE.get(first, first)


def _own(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    if len(relative.parts) == 1:
        return "top" if relative.name in TOP else PART_OF_MODULE.get(relative.name, relative.name)
    return relative.parts[0]


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mtdnn_tf."):
            found.add(node.module.removeprefix("mtdnn_tf."))
        elif isinstance(node, ast.Import):
            found |= {n.name.removeprefix("mtdnn_tf.") for n in node.names if n.name.startswith("mtdnn_tf.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_from_right_to_left(path):
    own = ORDER.index(_own(path))
    wrong = [name for name in _imported(path) if ORDER.index(_part(name)) > own]
    assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}, which stand to its right"


@pytest.mark.parametrize("name", mtdnn_tf.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mtdnn_tf, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mtdnn_tf.no_such_name


def test_reading_a_configuration_needs_no_tensorflow():
    code = "import sys; from mtdnn_tf.config import load_config; import mtdnn_tf.tasks; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["recipe", "compare"])
def test_who_starts_runs_needs_no_tensorflow(module):
    """It stands beside each run, whose memory and devices are its own."""
    code = f"import sys; import mtdnn_tf.{module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_writing_a_task_file_needs_no_tensorflow():
    code = "import sys; import mtdnn_tf.init; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
