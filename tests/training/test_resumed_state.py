"""A run with an average of its weights, patience and a loss scale goes on from a checkpoint bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.training import checkpoints

OPTIONS = ["training.ema=0.9", "training.patience=5", "training.checkpoint_every=2", "training.keep_checkpoints=100"]


@pytest.fixture
def float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


def _stored(folder):
    reader = checkpoints._open(checkpoints.latest(folder / "checkpoints"))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key.endswith("VARIABLE_VALUE")}


@pytest.mark.usefixtures("float32_afterwards")
@pytest.mark.parametrize("options", [[], ["training.accumulate=2", "training.gradient_surgery=pcgrad"]])
def test_average_patience_and_loss_scale_go_on_where_they_were(experiment, tmp_path, options):
    config = mtdnn.load_config(experiment, ["runtime.precision=mixed_float16", *OPTIONS, *options])
    config = dataclasses.replace(config, tasks={name: config.tasks[name] for name in ("mood", "close")})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_experiment(config, whole, verbose=0)
    shutil.copytree(whole, cut)
    first, *later = sorted((cut / "checkpoints").iterdir())
    assert checkpoints.read_state(first).step > 0  # in the middle of an epoch
    for folder in (*later, cut / "best"):
        shutil.rmtree(folder)
    run_experiment(config, cut, verbose=0)
    expected, found = _stored(whole), _stored(cut)
    assert expected.keys() == found.keys()
    assert {key.split("/")[0] for key in expected} == {"encoder", "heads", "optimizer", "average", "loss_scale"}
    assert expected["loss_scale/good_steps/.ATTRIBUTES/VARIABLE_VALUE"] > 0
    assert all(np.array_equal(expected[key], found[key]) for key in expected)
    states = [checkpoints.read_state(checkpoints.latest(folder / "checkpoints")) for folder in (whole, cut)]
    assert states[0] == states[1]
    assert json.loads((cut / "scores.json").read_text()) == json.loads((whole / "scores.json").read_text())
