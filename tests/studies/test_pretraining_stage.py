"""A recipe whose first stage pre-trains: the stages after it start from its encoder, its vocabulary and its sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.studies.planned import plan_runs
from mtdnn_tf.studies.progress import FINISHED, Ledger, states_of
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.stages import read_body, read_stages
from tests.small import write_experiment

PRETRAINING = """
encoder: {source: "random://layers=1,hidden=16,heads=2,intermediate=32,positions=64"}
tasks:
  text: {type: pretraining, train: train.jsonl, dev: dev.jsonl}
data: {max_length: 32, batch_size: 4}
mixing: {strategy: uniform, steps_per_epoch: 4}
training: {epochs: 1}
"""
RECIPE = """
config: small.yaml
set: {training: {epochs: 1}, data: {max_length: 24}}
stages:
  pre_trained: {kind: pretrain, config: pre.yaml, set: {data: {max_length: 32}}}
  multi_task: {init_from: pre_trained, heads: stripped, tasks: [mood, close], set: {optimizer: {learning_rate: 1.0e-9}}}
  fine_tuned: {init_from: multi_task, heads: kept, each_task: true, tasks: [mood]}
"""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_experiment(folder)
    for split, topics in {"train": ("fish", "bread", "stars"), "dev": ("fish", "bread")}.items():
        rows = [{"text": " ".join(f"Here are {topic} and {n} more." for n in range(30))} for topic in topics]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "pre.yaml").write_text(PRETRAINING, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    runs = plan_runs(read_stages(read_body(folder / "recipe.yaml"), "stages"), folder / "runs")
    run_all(runs, folder / "runs")  # in processes of their own: two entry points define the same flags
    return folder / "runs", runs


def test_the_chain_is_finished_in_order(chain):
    root, runs = chain
    assert [run.name for run in runs] == ["pre_trained", "multi_task", "fine_tuned/mood"]
    assert set(states_of(runs, Ledger(root)).values()) == {FINISHED}


def test_later_stages_start_from_the_pre_trained_encoder(chain):
    root, _ = chain
    before = mtdnn.load_encoder(str(root / "pre_trained")).backbone
    after = mtdnn.load_run(root / "multi_task").encoder.backbone  # whose rate was next to nothing
    assert after.hidden_dim == 16
    assert len(before.weights) == len(after.weights)
    for mine, theirs in zip(after.weights, before.weights, strict=True):
        if "seed" not in mine.path:
            np.testing.assert_allclose(mine, theirs, atol=1e-5, err_msg=mine.path)
    assert mtdnn.load_run(root / "fine_tuned" / "mood").encoder.backbone.hidden_dim == 16
