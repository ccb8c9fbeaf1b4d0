"""The built-in example: data as its README says, a run that learns every task, and a run that survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.data.sources import read_examples
from tests.small import write_experiment

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart" / "quickstart.yaml"
SIZES = {"sentiment": (240, 80), "entailment": (240, 81), "similarity": (240, 80), "answers": (240, 80)}


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in mtdnn.load_tasks(mtdnn.load_config(CONFIG))}


def _items(examples):
    return len(examples) if examples.groups is None else int(examples.groups[-1]) + 1


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_balance_are_as_described(tasks, name):
    splits = [read_examples(tasks[name], split) for split in ("train", "dev")]
    assert tuple(_items(split) for split in splits) == SIZES[name]
    for split in splits:
        if tasks[name].labels:
            counts = Counter(split.labels.tolist())
            assert max(counts.values()) - min(counts.values()) <= 1
        elif tasks[name].type == "regression":
            bands = Counter(np.minimum(split.labels.astype(int), 4).tolist())
            assert max(bands.values()) - min(bands.values()) <= 1
        else:
            assert all(split.labels[split.groups == query].sum() == 1 for query in range(_items(split)))


@pytest.mark.parametrize("name", SIZES)
def test_no_text_stands_in_both_splits_or_twice(tasks, name):
    train, dev = (read_examples(tasks[name], split) for split in ("train", "dev"))
    rows = [tuple(row) for split in (train, dev) for row in zip(*split.texts, strict=True)]
    assert len(set(rows)) == len(rows)
    assert not {text.lower() for text in train.texts[0]} & {text.lower() for text in dev.texts[0]}


# Chance: 0.5, 0.33, 0, and 0.61 for the mean reciprocal rank of three candidates in any order.
ABOVE_CHANCE = {"sentiment": 0.62, "entailment": 0.48, "similarity": 0.6, "answers": 0.8}


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
def test_every_task_is_learned(minilm, tmp_path):
    from mtdnn_tf.experiment import run_experiment

    outcome = run_experiment(mtdnn.load_config(CONFIG), tmp_path / "run", verbose=0)
    for task in outcome.run.tasks:
        assert outcome.scores[task.name][task.main_metric] > ABOVE_CHANCE[task.name], outcome.scores


def _train(folder, model_dir):
    command = [sys.executable, "-m", "mtdnn_tf.train", "--config=small.yaml", f"--model_dir={model_dir}"]
    command += ["--set=training.epochs=6", "--set=training.checkpoint_every=5", "--set=training.keep_checkpoints=50"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [2, 7])
def test_a_killed_run_ends_with_the_numbers_of_an_uninterrupted_one(tmp_path, kill_after):
    write_experiment(tmp_path)
    assert _train(tmp_path, "whole").wait() == 0
    process = _train(tmp_path, "cut")
    saved = tmp_path / "cut" / "checkpoints"
    while process.poll() is None and (not saved.is_dir() or len(os.listdir(saved)) < kill_after):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert _train(tmp_path, "cut").wait() == 0
    whole, cut = ((tmp_path / name / "scores.json").read_text() for name in ("whole", "cut"))
    assert json.loads(cut) == json.loads(whole)
    losses = [_losses(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def _losses(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], line["losses"]) for line in lines if line["event"] == "train"]
