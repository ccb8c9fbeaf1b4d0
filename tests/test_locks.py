"""One process at a time in a directory, until it ends, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.locks import DirectoryLock

HOLDER = """
import sys, time
from pathlib import Path
from mtdnn_tf.locks import DirectoryLock
with DirectoryLock(Path(sys.argv[1])) as lock:
    lock.acquire()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def _acquire(folder):
    with DirectoryLock(folder) as lock:
        lock.acquire()
        lock.acquire()  # what is held is held


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path, holder):
    with pytest.raises(UserError) as raised:
        _acquire(tmp_path / "run")
    assert f"process {holder.pid} on " in str(raised.value)
    assert "trains in this directory" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_holds_nothing(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    _acquire(tmp_path / "run")


def test_the_lock_is_given_back_at_the_end_and_after_an_error(tmp_path):
    _acquire(tmp_path)
    with pytest.raises(KeyError), DirectoryLock(tmp_path) as lock:
        {}[lock.acquire()]
    _acquire(tmp_path)


def test_two_in_one_process_exclude_each_other(tmp_path):
    with DirectoryLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(UserError, match="another process"):
            _acquire(tmp_path)
    _acquire(tmp_path)


def test_nothing_is_made_before_the_lock_is_taken(tmp_path):
    with DirectoryLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        _acquire(tmp_path / "file" / "run")
