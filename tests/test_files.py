"""Files and folders appear complete or not at all, and say why where they do not."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import append_line, atomic_directory, clear_leftovers, write_text_atomically


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


EXHAUSTED = tf.errors.ResourceExhaustedError
FAILURES = {
    "full disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UserError, "no space left on device"),
    "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), UserError, "disk quota exceeded"),
    "tensorflow": (EXHAUSTED(None, None, "x; No space left on device"), UserError, "no space left on device"),
    "memory": (EXHAUSTED(None, None, "OOM when allocating\nmore"), UserError, "out/?: OOM when allocating; what was"),
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
    with pytest.raises(expected, match=message) as raised:
        _fail_half_way(tmp_path / "out", replace, error)
    assert "\n" not in str(raised.value)
    assert _names(tmp_path) == before
    if replace:
        assert (tmp_path / "out" / "old").read_text() == "precious"


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    write_text_atomically(tmp_path / "x.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(tmp_path / "x.txt", "new" * 10_000 + "\ud800")
    assert (tmp_path / "x.txt").read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_links_are_followed(tmp_path):
    for name, write in {"file": write_text_atomically, "folder": _replace_folder}.items():
        write(tmp_path / f"real_{name}", "old")
        (tmp_path / name).symlink_to(tmp_path / f"real_{name}")
        write(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real_file").read_text() == "new"
    assert _names(tmp_path / "real_folder") == ["new"]


def _replace_folder(path, name):
    with atomic_directory(path, replace=True) as folder:
        (folder / name).touch()


def test_others_may_read_a_folder_as_the_umask_says(tmp_path):
    _replace_folder(tmp_path / "out", "x")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_gives_way_to_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="already exists"), atomic_directory(tmp_path / "out", replace=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").read_text() == "mine"


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


def _dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_others_are_writing_is_left_alone(tmp_path):
    kept = [
        f".out.{socket.gethostname()}.{os.getppid()}.partial",
        f".out.elsewhere.{_dead_process()}.partial",
        ".out.txt",
    ]
    gone = f".out.{socket.gethostname()}.{_dead_process()}.partial"
    for name in [*kept, gone]:
        (tmp_path / name).write_text("1")
    write_text_atomically(tmp_path / "out", "text")
    assert _names(tmp_path) == sorted([*kept, "out"])


def test_a_folder_set_aside_by_a_killed_process_comes_back(tmp_path):
    aside = tmp_path / f".out.{socket.gethostname()}.{_dead_process()}.replaced"
    _replace_folder(aside, "precious")
    with pytest.raises(UserError, match="no space left"):
        _fail_half_way(tmp_path / "out", True, OSError(errno.ENOSPC, "No space left on device"))
    assert _names(tmp_path) == ["out"]
    assert _names(tmp_path / "out") == ["precious"]
    _replace_folder(aside, "older")
    _replace_folder(tmp_path / "out", "new")
    assert _names(tmp_path) == ["out"]
    assert _names(tmp_path / "out") == ["new"]


def test_a_target_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomically(tmp_path / "file" / "x.txt", "text")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_stream_is_written_directly(tmp_path):
    code = "from mtdnn_tf.files import write_text_atomically; write_text_atomically('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    append_line(path, "one")
    append_line(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "one\nzwei é\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # the next line fits in part
    try:
        with pytest.raises(UserError, match="cannot write"):
            append_line(path, "a long line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text(encoding="utf-8") == "one\nzwei é\n"


def test_whoever_is_alone_in_a_folder_clears_leftovers_of_any_process(tmp_path):
    """A container that starts again has another host name, or the same process numbers."""
    mine, elsewhere = f".best.{socket.gethostname()}.{os.getppid()}", ".best.old.host.7"
    (tmp_path / f"{mine}.partial").mkdir()
    (tmp_path / f"{mine}.partial" / "x").write_text("half")
    (tmp_path / ".config.yaml.there.7.partial").write_text("half")
    (tmp_path / f"{elsewhere}.replaced").mkdir()
    (tmp_path / f"{elsewhere}.replaced" / "x").write_text("precious")
    others = [".lock", ".best.notes", ".mine.there.7.partial", ".best.there.7.partial.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    clear_leftovers(tmp_path, "best|config\\.yaml")
    assert _names(tmp_path) == sorted(["best", *others])
    assert (tmp_path / "best" / "x").read_text() == "precious"
    (tmp_path / f"{elsewhere}.replaced").mkdir()
    clear_leftovers(tmp_path, "best|config\\.yaml")
    assert _names(tmp_path) == sorted(["best", *others])
    clear_leftovers(tmp_path / "missing", "best")
