"""Commands whose output is cut off, full, closed or of another encoding: their work is done all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import pathlib, subprocess, sys
from mtdnn_tf import cli
def main():
    for number in range(3):
        print("line", number, "café", flush=True)
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    pathlib.Path("done").touch()
    if pathlib.Path("fails").exists():
        raise cli.UserError("the reason")
cli.run(main)
"""
LINES = "line 0 café\nline 1 café\nline 2 café\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")


def _run(folder, redirections="", **environment):
    """Run the program in a shell, and return its own status, standard output and standard error."""
    words = f"'{sys.executable}' -c \"$PROGRAM\" {redirections}"
    return subprocess.run(
        ["sh", "-c", words], cwd=folder, env=os.environ | {"PROGRAM": PROGRAM, "PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_reader_that_leaves_does_not_end_the_work(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        pytest.param(">/dev/full", "no space left on device", marks=needs_full),
        (">&-", "bad file descriptor"),
        ("1</dev/null", "bad file descriptor"),
    ],
)
def test_output_that_is_lost_is_one_line_and_a_failure(tmp_path, redirection, reason):
    done = _run(tmp_path, redirection)
    line = f"error: cannot write to standard output: {reason}; further output is dropped\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert (tmp_path / "done").exists()


def test_no_file_takes_the_number_of_a_stream_that_is_closed(tmp_path):
    """It would get the lines of `print`."""
    code = (
        "import sys; from mtdnn_tf import cli\n"
        "def main():\n"
        "    with open('x', 'w') as file: print(file.fileno(), file=file); print('y', file=sys.stderr)\n"
        "cli.run(main)"
    )
    done = subprocess.run(["sh", "-c", f"'{sys.executable}' -c \"$0\" <&- >&- 2>&-", code], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert int((tmp_path / "x").read_text()) > 2


@pytest.mark.parametrize(
    ("environment", "written"),
    [
        ({"PYTHONIOENCODING": "ascii"}, LINES.replace("é", r"\xe9").encode()),
        ({"PYTHONIOENCODING": "latin-1:strict"}, LINES.encode("latin-1")),
        ({"PYTHONIOENCODING": "", "LC_ALL": "C"}, LINES.encode()),
    ],
)
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, environment, written):
    done = _run(tmp_path, ">out", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_bytes() == written + b"child\n"


def test_the_error_stands_behind_the_output_before_it(tmp_path):
    (tmp_path / "fails").touch()
    done = _run(tmp_path, "2>&1", PYTHONUNBUFFERED="")
    assert (done.returncode, done.stdout) == (1, f"{LINES}child\nerror: the reason\n")


def test_a_pipe_that_does_not_block_gets_everything(tmp_path):
    """As programs that read by events leave it, for all who share it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "from mtdnn_tf import cli\ncli.run(lambda: print('x' * 300_000))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    with open(read, "rb") as stream:
        assert len(stream.read()) == 300_001
    assert process.communicate()[1] == b""
    assert process.returncode == 0
