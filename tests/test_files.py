"""Files and folders appear complete or not at all, and say why where they do not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import atomic_directory, write_text_atomically


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    write_text_atomically(path, "é\n")
    write_text_atomically(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert _names(path.parent) == ["x.txt"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with atomic_directory(tmp_path / "out") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "out").exists()
        assert not folder.name.isdigit()
    assert (tmp_path / "out" / "x").read_text() == "1"
    assert _names(tmp_path) == ["out"]


class _ResourceExhaustedError(Exception):
    """Named as TensorFlow names it; the real one is raised in tests/training/test_full_disk.py."""


_ResourceExhaustedError.__name__ = "ResourceExhaustedError"
FAILURES = {
    "full disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UserError, "no space left on device"),
    "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), UserError, "disk quota exceeded"),
    "tensorflow": (_ResourceExhaustedError("x; No space left on device"), UserError, "no space left on device"),
    "own": (UserError("bad row"), UserError, "^bad row$"),
    "other": (ValueError("a defect"), ValueError, "^a defect$"),
    "interrupt": (KeyboardInterrupt(), KeyboardInterrupt, None),
}


def _fail_half_way(path, replace, error):
    with atomic_directory(path, replace=replace) as folder:
        (folder / "half").write_text("written")
        raise error


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, case, replace):
    error, expected, message = FAILURES[case]
    if replace:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("precious")
    before = _names(tmp_path)
    with pytest.raises(expected, match=message):
        _fail_half_way(tmp_path / "out", replace, error)
    assert _names(tmp_path) == before
    if replace:
        assert (tmp_path / "out" / "old").read_text() == "precious"


def test_what_is_there_is_only_replaced_when_asked(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"), atomic_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    with atomic_directory(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("1")
    assert _names(tmp_path / "out") == ["new"]


def test_leftovers_of_killed_processes_are_cleared(tmp_path):
    code = (
        "import os, sys; from mtdnn_tf.files import atomic_directory\n"
        "with atomic_directory(sys.argv[1]) as folder: os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False).returncode == 9
    assert len(_names(tmp_path)) == 1
    with atomic_directory(tmp_path / "out"):
        pass
    assert _names(tmp_path) == ["out"]


def test_a_target_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomically(tmp_path / "file" / "x.txt", "text")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_stream_is_written_directly(tmp_path):
    code = "from mtdnn_tf.files import write_text_atomically; write_text_atomically('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"
