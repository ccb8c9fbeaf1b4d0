"""Several task files with data in several folders are trained together, and their scores written as the original writes them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mtdnn_tf.config import load_config
from mtdnn_tf.data.batches import tokenize_task
from mtdnn_tf.data.preprocessed import write_preprocessed
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.runs import load_run
from mtdnn_tf.evaluation.score_files import write_score_files
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.tasks import load_tasks
from tests.small import TINY

FOLLOWS = """\
follows:
  data_format: PremiseAndOneHypothesis
  enable_san: true
  labels: ["no", "yes"]
  metric_meta: [ACC, F1]
  loss: CeCriterion
  n_class: 2
  split_names: [train, seen_dev, unseen_dev]
  task_type: Classification
close:
  data_format: PremiseAndOneHypothesis
  enable_san: false
  metric_meta: [Pearson]
  n_class: 1
  task_type: Regression
"""
PICK = """\
pick:
  data_format: PremiseAndMultiHypothesis
  enable_san: false
  metric_meta: [ACC]
  loss: RankCeCriterion
  n_class: 1
  task_type: Ranking
"""
PAIRS = "11\tyes\tthe dog runs\tan animal runs\n9\tno\tthe dog runs\ta cat sleeps\n10\tyes\train falls\tit is wet\n"
ONE = {
    "follows_train": PAIRS,
    "follows_seen_dev": PAIRS,
    "follows_unseen_dev": PAIRS[: PAIRS.index("10\t")],
    "close_train": "0\t4.5\ta dog\ta hound\n1\t0.5\ta dog\ta star\n2\t5\ttea\ttea\n",
    "close_dev": "0\t4.5\ta dog\ta hound\n1\t0.5\ta dog\ta star\n2\t5\ttea\ttea\n",
}
TWO = {
    "pick_train": "0\t1,2\t1,0\twho?\tthe baker\tat noon\n1\t1,2,3\t0,1,0\twhen?\tthe baker\tat noon\thome\n",
    "pick_dev": "5\t1,2\t1,0\twho?\tthe baker\tat noon\n6\t1,2,3\t0,1,0\twhen?\tthe baker\tat noon\thome\n",
}
SETTINGS = [
    f"encoder.source={TINY.replace('layers=2', 'layers=1')}",
    "data.max_length=32",
    "data.batch_size=2",
    "training.epochs=1",
    "tasks.follows.metrics=[accuracy, f1]",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("original")
    for name, definition, data in (("one", FOLLOWS, ONE), ("two", PICK, TWO)):
        (root / name).mkdir()
        (root / f"{name}_task_def.yml").write_text(definition)
        for stem, rows in data.items():
            (root / name / f"{stem}.tsv").write_text(rows)
    return root


@pytest.fixture(scope="module")
def config(folder):
    return load_config(None, SETTINGS, [f"{folder}/{name}_task_def.yml:{folder}/{name}" for name in ("one", "two")])


@pytest.fixture(scope="module")
def scorer(folder, config):
    run_experiment(config, folder / "run", verbose=0)
    run = load_run(folder / "run")
    scorer = SplitScorer(run.model, run.tasks, run.encoder.tokenizer, run.config.data)
    scorer()
    return scorer


@pytest.fixture(scope="module")
def written(folder, scorer):
    return {path.name: path for path in write_score_files(folder / "scores", scorer, "dev", 1)}


def _json(written, name):
    return json.loads(written[name].read_text())


def test_every_task_has_its_files(written):
    tables = {f"{name}_dev_scores_1.tsv" for name in ("follows", "follows_unseen", "close")}
    assert set(written) == tables | {name.replace(".tsv", ".json") for name in tables} | {"pick_dev_scores_1.json"}


def test_scores_of_a_classification_task(written, scorer):
    content = _json(written, "follows_dev_scores_1.json")
    assert list(content) == ["metrics", "predictions", "uids", "scores"]
    assert content["uids"] == ["11", "9", "10"]
    probabilities = np.reshape(content["scores"], [3, 2])
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (
        content["predictions"] == probabilities.argmax(axis=1).tolist() == scorer.logits["follows"].argmax(1).tolist()
    )
    right = np.mean(np.array(content["predictions"]) == [1, 0, 1])
    assert content["metrics"]["ACC"] == pytest.approx(100 * right)
    assert set(content["metrics"]) == {"ACC", "F1"}


def test_a_submission_is_sorted_by_number_and_has_label_names(written):
    content = _json(written, "follows_dev_scores_1.json")
    names = dict(zip(content["uids"], (["no", "yes"][row] for row in content["predictions"]), strict=True))
    rows = written["follows_dev_scores_1.tsv"].read_text().splitlines()
    assert rows == ["index\tprediction", *(f"{uid}\t{names[uid]}" for uid in ("9", "10", "11"))]


def test_a_regression_predicts_its_score(written, scorer):
    content = _json(written, "close_dev_scores_1.json")
    assert content["predictions"] == content["scores"] == scorer.logits["close"][:, 0].tolist()
    assert "Pearson" in content["metrics"]


def test_a_ranking_has_a_uid_for_each_query_and_a_score_for_each_candidate(written):
    content = _json(written, "pick_dev_scores_1.json")
    assert content["uids"] == ["5", "6"]
    assert [sum(content["scores"][:2]), sum(content["scores"][2:])] == pytest.approx([1, 1])
    assert [sum(content["predictions"][:2]), sum(content["predictions"][2:])] == [1, 1]
    assert content["predictions"][np.argmax(content["scores"][:2])] == 1


def test_a_uid_that_is_no_number_is_told(folder, scorer, tmp_path):
    rows = (folder / "one" / "follows_seen_dev.tsv").read_text()
    (tmp_path / "named.tsv").write_text(rows.replace("11\t", "eleven\t"))
    other = copy.copy(scorer)
    task, tokenized = scorer.splits[0]
    named = replace(task.sources["dev"], path=str(tmp_path / "named.tsv"))
    other.splits = [(replace(task, sources={"dev": named}), tokenized)]
    with pytest.raises(UserError, match=r"whole number, received 'eleven'"):
        write_score_files(tmp_path, other, "dev", 0)


def test_preprocessed_files_are_found_and_scored_as_their_texts(folder, config, scorer):
    run = load_run(folder / "run")
    made = folder / "made"
    made.mkdir()
    for task in load_tasks(config)[:1]:
        for split, stem in (("train", "follows_train"), ("dev", "follows_seen_dev")):
            tokenized = tokenize_task(read_examples(task, split), task, run.encoder.tokenizer, 64)
            write_preprocessed(made / f"{stem}.json", tokenized, uids=["11", "9", "10"])
    path = folder / "made.yaml"
    path.write_text("task_files: [{path: one_task_def.yml, data: made, datasets: [follows]}]\n")
    tasks = load_tasks(load_config(path, SETTINGS))
    assert [task.sources["dev"].format for task in tasks] == ["preprocessed"]
    other = SplitScorer(run.model, tasks, run.encoder.tokenizer, config.data)
    assert other()["follows"] == scorer.scores["follows"]
    files = write_score_files(folder / "made_scores", other, "dev", 1)
    assert json.loads(files[0].read_text()) == json.loads((folder / "scores" / files[0].name).read_text())


def _run(module, *flags, cwd):
    command = [sys.executable, "-m", f"mtdnn_tf.{module}", *flags]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_evaluate_writes_them_on_request(folder, written):
    done = _run("evaluate", "--model_dir=run", "--score_files=theirs", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (folder / "theirs").iterdir()} == set(written)
    assert (folder / "theirs" / "pick_dev_scores_1.json").read_bytes() == written["pick_dev_scores_1.json"].read_bytes()
