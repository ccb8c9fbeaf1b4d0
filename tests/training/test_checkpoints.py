"""Weights go by name: whole, partial, misfitting, torn; and a run goes on bit for bit where it was cut off."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.checkpoints import State, load_model, model_parts, save, score_ranges
from tests.small import TINY


def _build(path, tasks=None, overrides=(), seed=1):
    config = mtdnn.load_config(path, [f"training.seed={seed}", f"encoder.source={TINY},seed={seed}", *overrides])
    if tasks:
        config = dataclasses.replace(config, tasks={name: config.tasks[name] for name in tasks})
    model, specs, _ = build_run_model(config)
    return model, specs


def _save(path, model, tasks):
    labels = {task.name: list(task.labels) for task in tasks}
    return save(path, model_parts(model, tasks), State(1, 0, 10, labels, ranges=score_ranges(tasks)))


def _same(model, other, tasks):
    mine, theirs = model_parts(model, tasks), model_parts(other, tasks)
    return {
        part: all(np.array_equal(mine[part][n], theirs[part][n]) for n in mine[part] if not n.startswith("seed"))
        for part in mine
    }


def test_a_model_comes_back_whole(experiment, tmp_path):
    model, tasks = _build(experiment)
    _save(tmp_path / "saved", model, tasks)
    other, _ = _build(experiment, seed=2)
    assert not any(_same(model, other, tasks).values())
    report = load_model(tmp_path / "saved", other, tasks)
    assert all(_same(model, other, tasks).values())
    assert not report.new
    assert not report.unused


def test_an_added_and_a_removed_task_are_told_and_read_no_other_head(experiment, tmp_path):
    model, tasks = _build(experiment, ["mood", "close"])
    _save(tmp_path / "saved", model, tasks)
    other, others = _build(experiment, ["pick", "close"], seed=2)
    fresh, _ = _build(experiment, ["pick", "close"], seed=2)
    with pytest.raises(mtdnn.UserError, match="missing heads/pick; not in the model heads/mood"):
        load_model(tmp_path / "saved", other, others)
    report = load_model(tmp_path / "saved", other, others, partial=True)
    assert report.new == ("heads/pick",)
    assert report.unused == ("heads/mood",)
    assert "new, not in the file: heads/pick" in str(report)
    shared = [task for task in tasks if task.name == "close"]
    assert all(_same(model, other, shared).values())
    assert _same(fresh, other, others)["heads/pick"]


def test_who_starts_from_others_weights_has_dropout_of_its_own(experiment, tmp_path):
    model, tasks = _build(experiment, overrides=["encoder.dropout=0"])
    _save(tmp_path / "saved", model, tasks)
    other, others = _build(experiment, seed=2)
    before = {name: variable.numpy() for name, variable in _seeds(other, others).items()}
    load_model(tmp_path / "saved", other, others, partial=True)
    assert all(_same(model, other, others).values())
    assert before
    for name, variable in _seeds(other, others).items():
        np.testing.assert_array_equal(variable, before[name])


def _seeds(model, tasks):
    parts = model_parts(model, tasks)
    return {(part, name): parts[part][name] for part in parts for name in parts[part] if name.startswith("seed")}


def test_another_kind_of_head_is_told_by_its_task(experiment, tmp_path):
    model, tasks = _build(experiment, ["follows"])
    _save(tmp_path / "saved", model, tasks)
    other, others = _build(experiment, ["follows"], ["tasks.follows.head=linear"])
    with pytest.raises(
        mtdnn.UserError, match=r"another kind of head for the task 'follows' .* set tasks\.follows\.head as"
    ):
        load_model(tmp_path / "saved", other, others, partial=True)


def test_labels_in_another_order_are_refused(experiment, tmp_path):
    model, tasks = _build(experiment, ["mood"])
    _save(tmp_path / "saved", model, tasks)
    other, others = _build(experiment, ["mood"], ["tasks.mood.labels=[positive, negative]"])
    with pytest.raises(mtdnn.UserError, match="'mood' was trained with labels"):
        load_model(tmp_path / "saved", other, others)


@pytest.mark.parametrize(
    ("before", "after"),
    [("[0, 5]", "[0, 500]"), ("[0, 500]", "[0, 5]"), ("[0, 500]", "[-500, 500]"), ("[0, 500]", "null")],
)
def test_scores_on_another_scale_are_refused(experiment, tmp_path, before, after):
    model, tasks = _build(experiment, ["close"], [f"tasks.close.range={before}"])
    _save(tmp_path / "saved", model, tasks)
    other, others = _build(experiment, ["close"], [f"tasks.close.range={after}"])
    with pytest.raises(mtdnn.UserError, match=r"'close' was trained on scores .* keep tasks\.close\.range"):
        load_model(tmp_path / "saved", other, others)
    model, tasks = _build(experiment, ["close"], [f"tasks.close.range={before}"])
    load_model(tmp_path / "saved", model, tasks)


def test_weights_of_another_size_are_refused_and_nothing_is_assigned(experiment, tmp_path):
    model, tasks = _build(experiment)
    _save(tmp_path / "saved", model, tasks)
    wide = "encoder.source=random://layers=2,hidden=64,heads=2,intermediate=64,positions=128"
    other, others = _build(experiment, overrides=[wide])
    same, _ = _build(experiment, overrides=[wide])
    with pytest.raises(mtdnn.UserError, match=r"has shape .* in the file, .* in the model"):
        load_model(tmp_path / "saved", other, others)
    assert all(_same(other, same, others).values())


@pytest.mark.parametrize("damage", ["state.json", "weights.index", "weights.data-00000-of-00001"])
def test_a_torn_checkpoint_is_told(experiment, tmp_path, damage):
    model, tasks = _build(experiment)
    folder = _save(tmp_path / "saved", model, tasks)
    file = folder / damage
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(mtdnn.UserError, match=str(folder)):
        load_model(folder, model, tasks)


def _run(experiment, folder):
    config = mtdnn.load_config(experiment, ["training.checkpoint_every=2", "training.keep_checkpoints=100"])
    run_experiment(select_tasks(config, ["follows", "pick"]), folder, verbose=0)


def _weights(folder):
    reader = checkpoints._open(folder)
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key.endswith("VARIABLE_VALUE")}


def test_a_run_goes_on_where_it_was_cut_off_bit_for_bit(experiment, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _run(experiment, whole)
    shutil.copytree(whole, cut)
    saved = sorted((cut / "checkpoints").iterdir())
    assert len(saved) > 4
    for later in saved[2:]:  # as if the process had died after the second checkpoint, in the middle of an epoch
        shutil.rmtree(later)
    shutil.rmtree(cut / "best")
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')  # a line that was being written
    _run(experiment, cut)
    expected, found = (
        _weights(checkpoints.latest(whole / "checkpoints")),
        _weights(checkpoints.latest(cut / "checkpoints")),
    )
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[key], found[key]) for key in expected)
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((cut / "scores.json").read_text()) == json.loads((whole / "scores.json").read_text())
