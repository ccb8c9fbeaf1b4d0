"""Runs a program of export/examples in a process that has neither this package nor what it is built with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "export" / "examples"
HIDDEN = ("mtdnn_tf", "keras_hub", "keras_nlp")
# `python -I` knows neither PYTHONPATH nor the working directory; the finder hides what is installed.
_RUNNER = """
import runpy, sys
HIDDEN = {hidden}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name + " is not on this machine")
sys.meta_path.insert(0, Hide())
for name in HIDDEN:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(name + " can be imported")
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def command(name: str, *arguments: object, hidden: tuple[str, ...] = ()) -> list[str]:
    """Return the command that runs an example without the modules in HIDDEN and `hidden`."""
    argv = [str(EXAMPLES / name), *map(str, arguments)]
    return [sys.executable, "-I", "-c", _RUNNER.format(hidden=list(HIDDEN + hidden), argv=argv)]


def run(name: str, *arguments: object, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return subprocess.run(
        command(name, *arguments, hidden=hidden), capture_output=True, text=True, check=False, timeout=300
    )


def lines(name: str, *arguments: object, hidden: tuple[str, ...] = ()) -> list[str]:
    """Return what an example prints that has to succeed."""
    done = run(name, *arguments, hidden=hidden)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()
