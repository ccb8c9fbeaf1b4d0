"""Real exports killed between their steps: the old version stays, nothing half appears, the next export clears up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from mtdnn_tf.serving.fingerprint import FINGERPRINT_FILE, file_hashes
from mtdnn_tf.serving.versions import version_numbers
from tests.small import TINY, write_experiment

# Exports a small model; kills itself after the named step, if one is named.
EXPORT = """
import os, signal, sys
import mtdnn_tf as mtdnn
from mtdnn_tf.serving import saved_model, versions
config, encoder, base, step = sys.argv[1:]
owner, name = {"warm-up": (saved_model.Warmup, "write"), "flush": (versions, "sync_tree")}.get(step, (saved_model, step))
if step:
    function = getattr(owner, name)
    def deadly(*arguments, **options):
        function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, deadly)
tasks = mtdnn.load_tasks(mtdnn.load_config(config))[:1]
encoder = mtdnn.load_encoder(encoder, seed=1)
model = mtdnn.build_model(encoder, tasks, seed=1)
mtdnn.export_saved_model(model, tasks, encoder, base, "ids", max_length=16)
"""


def _start(folder, base, step=""):
    config = folder / "small.yaml"
    words = [
        sys.executable,
        "-c",
        EXPORT,
        str(config if config.exists() else write_experiment(folder)),
        TINY,
        str(base),
        step,
    ]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})


def _check_versions(base, numbers):
    assert version_numbers(base) == numbers
    for number in numbers:
        folder = base / str(number)
        assert json.loads((folder / FINGERPRINT_FILE).read_text())["files"] == file_hashes(folder)
        assert "mood" in tf.saved_model.load(str(folder)).signatures


def test_a_kill_while_files_are_written_leaves_the_served_version(tmp_path):
    base = tmp_path / "base"
    assert _start(tmp_path, base).wait(300) == 0
    killed = _start(tmp_path, base)
    while not list(base.glob(".version.*.partial/saved_model.pb")):
        assert killed.poll() is None
        assert version_numbers(base) == [1]
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert len(list(base.glob(".version.*"))) == 1
    _check_versions(base, [1])
    assert _start(tmp_path, base).wait(300) == 0
    assert not list(base.glob(".version.*"))
    _check_versions(base, [1, 2])
    # Two processes, one run: not a byte differs.
    assert file_hashes(base / "1") == file_hashes(base / "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["_save", "finish_graph", "_add_assets", "warm-up", "fingerprint", "write_fingerprint", "flush"]
)
def test_a_kill_between_two_steps_leaves_nothing_that_a_server_sees(tmp_path, step):
    base = tmp_path / "base"
    assert _start(tmp_path, base, step).wait(300) == -signal.SIGKILL
    _check_versions(base, [])
    assert _start(tmp_path, base).wait(300) == 0
    _check_versions(base, [1])
    assert [path.name for path in base.iterdir()] == ["1"]
