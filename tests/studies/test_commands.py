"""Recipes and studies as a user types them: each run in a process of its own, which hears of signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.killing import metrics
from tests.small import write_experiment

pytestmark = pytest.mark.slow

RECIPE = """
config: small.yaml
stages:
  together: {tasks: [mood, close], set: {training: {epochs: 30, log_every: 1}}}
  tuned: {init_from: together, heads: kept, each_task: true, tasks: [mood], set: {training: {epochs: 1}}}
"""
STUDY = """
title: On the test rows
budget: one epoch
config: small.yaml
set: {training: {epochs: 1}, tasks: {mood: {test: mood.tsv}}}
split: test
tasks: {mood: {}}
arms: {alone: {each_task: true}, together: {tasks: [mood, close]}}
"""


def _start(folder, module, *flags):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"mtdnn_tf.{module}", *flags],
            stdout=log, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
        )  # fmt: skip


def test_a_terminated_recipe_saves_where_it_stands_and_goes_on(tmp_path):
    write_experiment(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    command = ("recipe", "--config=recipe.yaml", "--model_dir=runs")
    process = _start(tmp_path, *command)
    log = tmp_path / "runs" / "together" / "metrics.jsonl"
    while not log.is_file() or len(log.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 143, said
    assert "the same command goes on" in said.splitlines()[-1]
    assert list((tmp_path / "runs" / "together" / "checkpoints").glob("step-*"))
    process = _start(tmp_path, *command)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    assert "going on from" in (tmp_path / "log").read_text()
    assert [line["epoch"] for line in metrics(log.parent) if line["event"] == "dev"] == list(range(30))
    assert (tmp_path / "runs" / "tuned" / "mood" / "scores.json").is_file()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_study_is_scored_on_the_split_that_it_names(tmp_path, jobs):
    write_experiment(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    process = _start(tmp_path, "compare", "--config=study.yaml", f"--jobs={jobs}")
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    results = json.loads((tmp_path / "runs" / "study" / "results.json").read_text())
    assert results["split"] == "test"
    for row in results["runs"]:
        scores = json.loads((tmp_path / "runs" / "study" / row["run"] / "scores_test.json").read_text())
        assert row["metrics"] == scores["tasks"]["mood"]
    assert results["comparisons"][0]["bootstrap"] is not None
    said = [path for path in (tmp_path / "runs").rglob("output.txt") if "scores:" in path.read_text()]
    assert len(said) == (2 if jobs == 2 else 0)
