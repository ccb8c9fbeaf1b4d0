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


# The disk is filled while a run trains, at a step where nothing is written; then it is emptied, and the run goes on.
A_RUN_ON_A_SMALL_DISK = """
import json, shutil, sys
from pathlib import Path
import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.training import callbacks, checkpoints
from tests.killing import assert_same_run
from tests.small import write_experiment
folder = Path(sys.argv[1])
options = ["data.batch_size=1", "training.checkpoint_every=5", "training.log_every=2", "training.epochs=1"]
config = select_tasks(mtdnn.load_config(write_experiment(folder), options), ["mood"])
original = callbacks.StepLog.on_train_batch_end
def fill(self, batch, logs=None):
    original(self, batch, logs)
    if self.trainer.progress.global_step == 7 and FILL:
        ballast = (folder / "ballast").open("wb", buffering=0)
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
callbacks.StepLog.on_train_batch_end = fill
FILL = True
try:
    run_experiment(config, folder / "run", verbose=0)
except mtdnn.UserError as error:
    print("TOLD", error)
lines = (folder / "run" / "metrics.jsonl").read_text().split("\\n")
print("LEFT", lines[-1] == "", [json.loads(line)["step"] for line in lines[:-1]][:3],
    [path.name for path in (folder / "run" / "checkpoints").iterdir()], checkpoints.latest(folder / "run" / "checkpoints").name)
(folder / "ballast").unlink()
FILL = False
run_experiment(config, folder / "run", verbose=0)
run_experiment(config, folder / "whole", verbose=0)
assert_same_run(folder / "whole", folder / "run")
print("SAME")
"""


def _on_a_small_disk(folder, size, code):
    """Return what a program prints, told by first words, that runs on a file system of its own; its argument is the folder."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        folder,
        sys.executable,
        code,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command unshare (Linux)")
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this machine does not let users mount: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("TOLD", "LEFT", "SAME"))]


def test_a_run_whose_disk_fills_up_goes_on_when_there_is_space_again(tmp_path):
    told, left, same = _on_a_small_disk(tmp_path, "6m", A_RUN_ON_A_SMALL_DISK)
    assert "no space left on device; what was there before is untouched" in told
    assert left == "LEFT True [2, 4, 6] ['step-000000005'] step-000000005"
    assert same == "SAME"


def test_a_real_full_disk(tmp_path):
    told, left = _on_a_small_disk(tmp_path, "300k", ON_A_SMALL_DISK)
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
