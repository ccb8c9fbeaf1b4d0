"""One device, two devices of one process and two processes take the same steps; only the chief writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import STRATEGIES as NAMES
from mtdnn_tf.evaluation.runs import load_run
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.train_workers import worker_environments
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.distribution import STRATEGIES, build_distribution
from tests.conftest import REPOSITORY
from tests.nine_tasks import write_nine_tasks

# Without dropout: its masks differ. Small and by KerasHub's layers, because most of the time goes into tracing.
SETTINGS = (
    "encoder.source=random://layers=1,hidden=16,heads=2,intermediate=32,positions=64",
    "encoder.dropout=0",
    "model.dropout=0",
    "model.san_prediction_dropout=0",
    "model.san_steps=2",
    "training.epochs=1",
    "training.log_every=1",
    "training.checkpoint_every=16",
    "runtime.encoder=reference",
    "tasks.mood1.class_weights={negative: 1, positive: 5}",
    "tasks.follows2.class_weights=balanced",
    "tasks.close2.range=[0, 20]",  # learnt on a scale of its own
)


def _start(config: Path, model_dir: Path, devices: int, settings: tuple[str, ...], environment=None):
    command = [sys.executable, "-m", "tests.nine_tasks", str(config), str(model_dir), str(devices), *settings]
    environment = (environment or dict(os.environ)) | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _scores(*processes: subprocess.Popen) -> list[dict]:
    outputs = [process.communicate(timeout=500) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def _mirrored(config: Path, model_dir: Path, *more: str) -> list[dict]:
    return _scores(_start(config, model_dir, 2, (*SETTINGS, "runtime.strategy=mirrored", *more)))


def _workers(config: Path, model_dir: Path, *more: str) -> list[dict]:
    """Two processes, of which the second is given a folder of its own, where nothing may appear."""
    settings = (*SETTINGS, "runtime.strategy=multi_worker", *more)
    other = model_dir.with_name(f"{model_dir.name}_worker")
    folders = [model_dir, other]
    environments = worker_environments(2)
    scores = _scores(
        *(_start(config, folder, 1, settings, own) for folder, own in zip(folders, environments, strict=True))
    )
    assert not other.exists()
    return scores


RUNS = {"mirrored": _mirrored, "multi_worker": _workers}


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nine")
    return write_nine_tasks(folder)


@pytest.fixture(scope="module")
def one(nine):
    """The run on one device."""
    config = mtdnn.load_config(nine, SETTINGS)
    return run_experiment(config, nine.parent / "one", verbose=0)


@pytest.fixture(scope="module", params=["mirrored", pytest.param("multi_worker", marks=pytest.mark.slow)])
def several(request, nine):
    """A run on two devices or of two workers: its folder, and the scores that each process ended with."""
    folder = nine.parent / request.param
    return folder, RUNS[request.param](nine, folder), RUNS[request.param]


def _steps(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "train"]


def _weights(folder: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(checkpoints.latest(folder / "checkpoints") / "weights"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")]
    return {name: reader.get_tensor(name) for name in names}


def _same_weights(found: Path, expected: Path) -> None:
    ours, theirs = _weights(found), _weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if "/seed_" not in name:
            np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)


def test_losses_and_gradients_of_every_step_are_those_of_one_device(one, several):
    expected, found = _steps(one.run.model_dir), _steps(several[0])
    assert len(expected) == len(found) == 22
    assert {task for step in expected for task in step["losses"]} == {task.name for task in one.run.tasks}
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], abs=1e-4)
        assert ours["learning_rate"] == theirs["learning_rate"]


def test_weights_and_slots_end_the_same(one, several):
    _same_weights(several[0], one.run.model_dir)


def test_scores_are_those_that_one_device_gives_the_same_model(several):
    folder, of_workers, _ = several
    run = load_run(folder)  # its best model, on one device
    expected = mtdnn.evaluate_tasks(run.model, run.tasks, run.encoder, config=run.config)
    for scores in of_workers:
        assert scores.keys() == expected.keys()
        for task, values in expected.items():
            assert scores[task] == pytest.approx(values, abs=1e-6), task


def test_every_prediction_is_that_of_one_device(one, several):
    paths = [sorted((folder / "predictions").iterdir()) for folder in (several[0], one.run.model_dir)]
    assert [path.name for path in paths[0]] == [path.name for path in paths[1]]
    assert len(paths[0]) == 9
    for ours, theirs in zip(*paths, strict=True):
        cells = [[line.split("\t") for line in path.read_text().splitlines()[1:]] for path in (ours, theirs)]
        assert [row[:2] for row in cells[0]] == [row[:2] for row in cells[1]]
        values = [[float(row[-1]) for row in rows] for rows in cells]  # the last probability, or the score
        np.testing.assert_allclose(*values, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not(several):
    folder, scores, run = several
    again = folder.with_name(f"{folder.name}_again")
    shutil.copytree(folder, again)
    for path in ("scores.json", "report.html"):
        (again / path).unlink()
    shutil.rmtree(again / "best")
    shutil.rmtree(checkpoints.latest(again / "checkpoints"))
    config = folder.parent / "nine.yaml"
    resumed = run(config, again)
    _same_weights(again, folder)
    for ours, theirs in zip(resumed, scores, strict=True):
        assert ours["average"] == pytest.approx(theirs["average"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", RUNS)
def test_accumulation_surgery_and_learned_loss_weights_are_those_of_one_device(nine, strategy):
    more = (
        "training.accumulate=3",
        "training.gradient_surgery=pcgrad",
        "training.loss_weighting=gradnorm",
        "training.epochs=2",
    )
    folders = [nine.parent / f"{name}_{strategy}_surgery" for name in ("one", "several")]
    run_experiment(mtdnn.load_config(nine, [*SETTINGS, *more]), folders[0], verbose=0)
    RUNS[strategy](nine, folders[1], *more)
    for theirs, ours in zip(*map(_steps, folders), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
        assert ours["loss_weights"] == pytest.approx(theirs["loss_weights"], abs=1e-5)
    _same_weights(folders[1], folders[0])


@pytest.mark.slow
def test_fused_kernels_do_the_same_on_two_devices(nine, tmp_path):
    fused = ("runtime.encoder=fused",)
    outcome = run_experiment(mtdnn.load_config(nine, [*SETTINGS, *fused]), tmp_path / "one", verbose=0)
    _mirrored(nine, tmp_path / "two", *fused)
    for theirs, ours in zip(_steps(outcome.run.model_dir), _steps(tmp_path / "two"), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)


DROPOUT = """
import sys
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import mtdnn_tf as mtdnn
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.modeling.model import task_model
from mtdnn_tf.training.checkpoints import model_parts
from mtdnn_tf.training.distribution import build_distribution

distribution = build_distribution("mirrored")
strategy = distribution._strategy
config = mtdnn.load_config(sys.argv[1], sys.argv[2:])
with distribution.scope():
    model, tasks, encoder = build_run_model(config)
distribution.prepare_model(model)
row = {"token_ids": [[7] * 8], "segment_ids": [[0] * 4 + [1] * 4], "padding_mask": [[1] * 8]}
inputs = {name: tf.constant(value * 3) for name, value in row.items()}
states = [v for part in model_parts(model, tasks).values() for name, v in part.items() if name.startswith("seed_")]
for name in ("mood1", "follows1"):
    head = task_model(model, name)
    step = tf.function(lambda: strategy.experimental_local_results(strategy.run(lambda: head(inputs, training=True))))
    saved = [state.numpy() for state in states]
    first, second = step(), step()
    assert not np.allclose(*first, atol=1e-4), "masks of two replicas are the same"
    assert not np.allclose(first[1], second[1], atol=1e-4), "masks of two steps are the same"
    for state in states:  # what a checkpoint holds is the same on every replica
        np.testing.assert_array_equal(*(copy.numpy() for copy in strategy.experimental_local_results(state)))
    for state, value in zip(states, saved, strict=True):
        state.assign(value)
    np.testing.assert_array_equal(first, step())
print("differ")
"""


@pytest.mark.parametrize("encoder", ["reference", "fused"])
def test_dropout_differs_between_replicas_and_steps(nine, encoder):
    settings = ["encoder.dropout=0.3", "model.dropout=0.3", f"runtime.encoder={encoder}"]
    command = [sys.executable, "-c", DROPOUT, str(nine), *settings]
    environment = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["differ"], ended.stderr[-3000:]


def test_the_configuration_and_the_flag_know_every_strategy():
    assert set(NAMES) == set(STRATEGIES)


GOOD = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": %s}}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not set"),
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ('{"task": {"type": "worker", "index": 0}}', "'cluster'"),
        (GOOD % 2, "its cluster has no worker 2"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}', "it names ps"),
    ],
)
def test_workers_without_a_good_tf_config_are_refused_in_one_line(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(mtdnn.UserError) as caught:
        build_distribution("multi_worker")
    assert str(caught.value).startswith("runtime.strategy: 'multi_worker' needs the environment variable TF_CONFIG")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "no-such-tpu"])
def test_a_tpu_that_is_not_there_is_refused_in_one_line(experiment, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(mtdnn.UserError, match=r"^runtime\.strategy: 'tpu' .*TPU") as caught:
        run_experiment(mtdnn.load_config(experiment, ["runtime.strategy=tpu"]), tmp_path / "run", verbose=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_tpu_needs_few_lengths(experiment, tmp_path):
    config = mtdnn.load_config(experiment, ["runtime.strategy=tpu", "data.bucketing=none"])
    with pytest.raises(mtdnn.UserError, match=r"^runtime\.strategy: 'tpu' .*data\.bucketing"):
        run_experiment(config, tmp_path / "run", verbose=0)
