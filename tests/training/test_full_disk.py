"""A disk that fills up while weights are saved: one line, and the checkpoint that was there still loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.training.checkpoints import State, load, read_state, save

# Runs in a mount namespace of its own, on a file system of 300 kB.
ON_A_SMALL_DISK = """
import sys
import tensorflow as tf
from mtdnn_tf.errors import UserError
from mtdnn_tf.training.checkpoints import State, load, read_state, save
folder = sys.argv[1]
small = {"encoder": {"w": tf.Variable(tf.fill([1000], 1.0))}}
big = {"encoder": {"w": tf.Variable(tf.random.uniform([200_000]))}}
save(folder + "/best", small, State(1, 0, 1))
try:
    save(folder + "/best", big, State(2, 0, 2), replace=True)
except UserError as error:
    print("TOLD", error)
load(folder + "/best", small)
import os
print("LEFT", sorted(os.listdir(folder)), read_state(folder + "/best").epoch)
"""


def test_a_real_full_disk(tmp_path):
    script = 'mount -t tmpfs -o size=300k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        tmp_path,
        sys.executable,
        ON_A_SMALL_DISK,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command unshare (Linux)")
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this machine does not let users mount: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    told, left = (line for line in done.stdout.splitlines() if line.startswith(("TOLD", "LEFT")))
    assert "no space left on device; what was there before is untouched" in told
    assert left == "LEFT ['best'] 1"


def test_the_error_that_tensorflow_reports_a_full_disk_with(tmp_path, monkeypatch):
    parts = {"encoder": {"w": tf.Variable([1.0, 2.0])}}
    save(tmp_path / "best", parts, State(1, 0, 1))

    def full(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "weights_temp/part-00000; No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.raises(UserError, match="no space left on device"):
        save(tmp_path / "best", parts, State(2, 0, 2), replace=True)
    assert read_state(tmp_path / "best").epoch == 1
    assert load(tmp_path / "best", parts).loaded == ("encoder",)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
