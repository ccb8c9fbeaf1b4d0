"""The built-in example: data as its README says, a run that learns every task and answers the example's own questions, a killed run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
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

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "configs" / "quickstart" / "quickstart.yaml"
DATA = CONFIG.parent / "data"
SIZES = {"sentiment": (524, 120), "entailment": (336, 105), "similarity": (290, 80), "answers": (240, 80)}
LEAVES = "Why do leaves turn yellow in autumn?"
# What ask.py, export/ask.sh and export/README.md ask, with the right label, score or relevance.
QUESTIONS = {
    ("sentiment", "The food was wonderful and we will certainly come back."): "positive",
    ("sentiment", "The room was spotless."): "positive",
    ("sentiment", "Never again."): "negative",
    ("entailment", "The train left before noon.", "The train left in the evening."): "contradiction",
    ("entailment", "A woman plays the violin.", "Somebody makes music."): "entailment",
    ("similarity", "The shop closes at six.", "At six o'clock the shop shuts."): 5,
    ("answers", LEAVES, "Children like to jump into heaps of leaves."): 0,
    ("answers", LEAVES, "The green pigment breaks down, and the yellow that was hidden under it shows."): 1,
    ("answers", LEAVES, "The park keeps its gates open until eight."): 0,
}


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


def _asked():
    """Return the (task, text, ...) of every question in the example's programs and in the serving README."""
    spec = importlib.util.spec_from_file_location("ask", CONFIG.parent / "ask.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    for task, columns in program.QUESTIONS.items():
        yield from ((task, *row) for row in zip(*columns.values(), strict=True))
    for body in re.findall(r"'(\{.*\})'", (REPOSITORY / "export" / "ask.sh").read_text()):
        request = json.loads(body)
        task = request["signature_name"].partition("/")[0]
        rows = (
            request.get("instances")
            or request.get("examples")
            or [dict(zip(request["inputs"], row, strict=True)) for row in zip(*request["inputs"].values(), strict=True)]
        )
        yield from ((task, *row.values()) for row in rows)
    for text in re.findall(r'quickstart sentiment text="([^"]+)"', (REPOSITORY / "export" / "README.md").read_text()):
        yield ("sentiment", text)


def test_the_questions_are_those_with_a_known_answer():
    assert set(_asked()) == set(QUESTIONS)


def _words(text):
    return re.findall(r"[\w']+", text.lower())


def _is_near_copy(text, row):
    """Tell whether a row holds the text, or shares at least half of the words of both."""
    ours, theirs = _words(text), _words(row)
    together = set(ours) | set(theirs)
    return f" {' '.join(ours)} " in f" {' '.join(theirs)} " or 2 * len(set(ours) & set(theirs)) >= len(together)


def _rows(path):
    """Return each row's texts, one by one and joined."""
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        texts = line.split("\t")[:-1]
        yield from dict.fromkeys([*texts, " ".join(texts)])


@pytest.mark.parametrize("path", sorted(DATA.glob("*.tsv")), ids=lambda path: path.stem)
def test_no_question_is_in_the_data(path):
    asked = {text for _, *texts in QUESTIONS for text in (*texts, " ".join(texts))}
    assert not [(text, row) for row in _rows(path) for text in asked if _is_near_copy(text, row)]


@pytest.mark.parametrize("name", ["sentiment", "entailment"])
def test_the_probe_is_balanced_and_in_no_split(tasks, name):
    lines = (DATA / f"{name}_probe.tsv").read_text(encoding="utf-8").splitlines()[1:]
    counts = Counter(line.rpartition("\t")[2] for line in lines)
    assert set(counts) == set(tasks[name].labels)
    assert len(set(counts.values())) == 1
    for split in ("train", "dev"):
        rows = [" ".join(row) for row in zip(*read_examples(tasks[name], split).texts, strict=True)]
        probe = [" ".join(line.split("\t")[:-1]) for line in lines]
        assert not [(text, row) for row in rows for text in probe if _is_near_copy(text, row)]


# Chance: 0.5, 0.33, 0, and 0.61 for the mean reciprocal rank of three candidates in any order.
ABOVE_CHANCE = {"sentiment": 0.62, "entailment": 0.48, "similarity": 0.6, "answers": 0.8}


@pytest.fixture(scope="module")
def trained(minilm, tmp_path_factory):
    from mtdnn_tf.experiment import run_experiment

    return run_experiment(mtdnn.load_config(CONFIG), tmp_path_factory.mktemp("quickstart") / "run", verbose=0)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
def test_every_task_is_learned(trained):
    for task in trained.run.tasks:
        assert trained.scores[task.name][task.main_metric] > ABOVE_CHANCE[task.name], trained.scores


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SIZES)
def test_the_questions_are_answered_right(trained, tmp_path, name):
    from mtdnn_tf.answering import RunAnswerer, read_input

    answer = RunAnswerer(trained.run.model_dir, name)
    asked = [(texts, right) for (task, *texts), right in QUESTIONS.items() if task == name]
    lines = ["\t".join(answer.task.text), *("\t".join(texts) for texts, _ in asked)]
    (tmp_path / "questions.tsv").write_text("\n".join(lines) + "\n")
    rows, right = answer(read_input(answer.task, str(tmp_path / "questions.tsv"))), [right for _, right in asked]
    if answer.task.type == "classification":
        assert [row["label"] for row in rows] == right
    elif answer.task.type == "regression":
        assert [row["score"] for row in rows] == pytest.approx(right, abs=1)
    else:
        assert np.argmax([row["relevance"] for row in rows]) == np.argmax(right)


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
