"""Which Python `make` sets its environment up with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
OLD = "#!/bin/sh\n# what any program of an older Python ends with\nexit 1\n"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _first_line(path, *words):
    command = [shutil.which("make"), "-n", "VENV=.none", *words, ".none/bin/python"]
    done = subprocess.run(command, cwd=REPOSITORY, env={"PATH": path}, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()[0]


@pytest.fixture
def path(tmp_path):
    """Two folders of programs: the first one's Pythons cannot be used."""
    first, second = tmp_path / "first", tmp_path / "my programs"
    for folder in (first, second):
        folder.mkdir()
    (second / "sh").symlink_to(shutil.which("sh"))
    for name, program in (("python3.11", SHIM), ("python3.13", SHIM), ("python3", OLD)):
        (first / name).write_text(program)
        (first / name).chmod(0o755)
    return first, second, os.pathsep.join(map(str, (first, second)))


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3", "python"])
def test_a_python_that_runs_is_taken_wherever_it_is_on_the_path(path, name):
    _, folder, searched = path
    # A program of its own: a link would lose the environment that this Python belongs to.
    (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / name).chmod(0o755)
    assert _first_line(searched) == (0, f'"{folder / name}" -m venv .none')


def test_without_one_there_is_one_clear_line(path):
    status, line = _first_line(path[2])
    assert status == 2
    assert "no Python 3.11, 3.12 or 3.13 with venv on the path: install one, or name it" in line


def test_a_python_that_is_named_is_taken(path):
    assert _first_line(path[2], "PYTHON=/opt/python/bin/python3") == (0, '"/opt/python/bin/python3" -m venv .none')
