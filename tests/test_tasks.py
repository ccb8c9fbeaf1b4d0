"""Tasks are completed by their type or a ready-made specification, and refused where they make no sense."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from mtdnn_tf.config import load_config
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import METRICS
from mtdnn_tf.tasks import (
    KNOWN_METRICS,
    READY_MADE,
    RESERVED_NAMES,
    TaskSpec,
    dump_tasks,
    load_tasks,
    read_tasks,
    task_from_dict,
    task_to_dict,
)
from mtdnn_tf.training.losses import LOSSES

PAIR = {"type": "classification", "text": ["premise", "hypothesis"], "labels": ["no", "yes"], "train": "x.tsv"}


def _load(folder, tasks):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}, sort_keys=False))
    return load_tasks(load_config(path))


def _one(folder, **keys):
    return _load(folder, {"mine": PAIR | keys})[0]


DEFAULTS = {
    "single": ({"text": ["text"]}, "linear", "cross_entropy", "accuracy"),
    "pair": ({}, "san", "cross_entropy", "accuracy"),
    "regression": ({"type": "regression", "labels": None}, "linear", "mean_squared_error", "pearson_spearman"),
    "ranking": ({"type": "ranking", "labels": None}, "linear", "list_softmax", "mrr"),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_the_type_gives_what_is_left_open(tmp_path, case):
    keys, head, loss, main_metric = DEFAULTS[case]
    task = _one(tmp_path, **keys)
    assert (task.head, task.loss, task.main_metric) == (head, loss, main_metric)
    assert task.pair_order == "premise_first"
    assert task.loss_weight == 1.0


def _ready(folder, name):
    tasks = {name: {"use": name, "train": "train.tsv", "dev": "dev.tsv"}}
    if READY_MADE[name].task.head_of:
        del tasks[name]["train"]
        tasks = {"mnli": {"use": "mnli", "train": "train.tsv"}} | tasks
    return _load(folder, tasks)[-1]


@pytest.mark.parametrize("name", READY_MADE)
def test_every_ready_made_task_is_complete(tmp_path, name):
    task = _ready(tmp_path, name)
    assert task.main_metric in task.metrics
    assert task.labels or task.type == "regression"
    assert set(task.sources["dev"].columns) >= set(task.text)
    assert set(task.sources["dev"].labels.values()) <= set(task.labels)


NLI = ("contradiction", "neutral", "entailment")
ENTAILMENT = ("not_entailment", "entailment")
ORDERS = {
    "mnli": NLI, "mnli_mismatched": NLI, "snli": NLI, "ax": NLI, "qnli": ENTAILMENT, "rte": ENTAILMENT, "wnli": ENTAILMENT,
    "scitail": ("neutral", "entails"),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_label_orders_are_those_of_the_released_code(tmp_path, name):
    assert _ready(tmp_path, name).labels == ORDERS[name]


def test_dropout_and_metrics_are_those_of_the_paper(tmp_path):
    tasks = {name: _ready(tmp_path, name) for name in READY_MADE}
    own = {name: task.dropout for name, task in tasks.items() if task.head_of is None and task.dropout is not None}
    assert own == {"mnli": 0.3, "cola": 0.05}
    assert tasks["cola"].main_metric == "matthews"
    assert tasks["mrpc"].main_metric == tasks["qqp"].main_metric == "accuracy_f1"
    assert tasks["stsb"].main_metric == "pearson_spearman"
    assert {name for name, task in tasks.items() if task.head_of} == {"mnli_mismatched", "ax"}


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "folder"), [("cola", "CoLA"), ("sst2", "SST-2"), ("mrpc", "MRPC"), ("stsb", "STS-B"),
                                               ("qqp", "QQP"), ("qnli", "QNLI"), ("rte", "RTE"), ("mnli", "MNLI")])  # fmt: skip
def test_the_published_files_are_read_as_they_are(tmp_path, data_root, name, folder):
    from mtdnn_tf.data.sources import read_examples

    path = data_root / "glue" / folder / "dev.tsv"
    [task] = _load(tmp_path, {name: {"use": name, "dev": str(path), "train": str(path)}})
    examples = read_examples(task, "dev")
    assert len(examples) == len(examples.labels) > 200
    assert all(text.strip() for text in examples.texts[0])


def test_own_names_of_columns_and_settings_win_over_the_ready_made(tmp_path):
    tasks = {"rte": {"use": "rte", "text": ["a", "b"], "dropout": 0.4, "head": "linear", "train": "x.tsv"}}
    [task] = _load(tmp_path, tasks)
    assert (task.text, task.dropout, task.head) == (("a", "b"), 0.4, "linear")
    assert task.sources["train"].columns["a"] == "sentence1"


def test_columns_of_the_task_hold_for_every_source(tmp_path):
    task = _one(tmp_path, columns={"label": "gold"}, dev={"path": "y.tsv", "columns": {"label": "other"}})
    assert task.sources["train"].columns == {"label": "gold"}
    assert task.sources["dev"].columns == {"label": "other"}


def test_the_label_is_named_as_the_texts_are(tmp_path):
    task = _one(tmp_path, label="gold", dev={"path": "y.tsv", "columns": {"label": "other"}})
    assert task == _one(tmp_path, columns={"label": "gold"}, dev={"path": "y.tsv", "columns": {"label": "other"}})
    by_place = _one(tmp_path, label=2, columns={"premise": 0, "hypothesis": 1, "label": 2})
    assert by_place.sources["train"].columns == {"premise": 0, "hypothesis": 1, "label": 2}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("tfds:glue/mnli", "validation_matched"),
        ("tfds:glue/mnli:2.0.0", "validation_matched"),
        ("tfds:glue/rte", "validation"),
        ("tfds:glue/rte:train", None),
        ("tfds:glue/rte:2.0.0:train[:10%]", None),
    ],
)
def test_a_dataset_gets_the_split_that_development_has_there(tmp_path, path, split):
    name = "mnli" if "mnli" in path else "rte"
    [task] = _load(tmp_path, {name: {"use": name, "train": path, "dev": path}})
    assert task.sources["dev"].split == split


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "X.JSONL"])
def test_positions_of_the_published_files_are_not_those_of_json(tmp_path, name):
    [task] = _load(tmp_path, {"cola": {"use": "cola", "train": name}})
    assert (task.sources["train"].header, task.sources["train"].columns) == (None, {})


def test_tasks_are_written_and_read_back(tmp_path):
    tasks = [_ready(tmp_path, name) for name in READY_MADE]
    path = tmp_path / "tasks.yaml"
    path.write_text(dump_tasks(tasks), encoding="utf-8")
    assert read_tasks(path) == tuple(tasks)
    assert [task_from_dict(task_to_dict(task)) for task in tasks] == tasks


def test_the_names_that_tasks_may_use_are_those_of_the_tables():
    from mtdnn_tf.task_types import KNOWN_LOSSES

    assert set(KNOWN_METRICS) == set(METRICS)
    assert set(KNOWN_LOSSES) == set(LOSSES)


BAD = {
    "type": ({"type": "clasification"}, r"tasks\.mine\.type: .*mean 'classification'"),
    "no type": ({"type": None}, r"tasks\.mine\.type: is missing"),
    "ready-made": ({"use": "rtee"}, r"tasks\.mine\.use: .*mean 'rte'"),
    "head": ({"head": "sann"}, r"tasks\.mine\.head: .*mean 'san'"),
    "loss": ({"loss": "crossentropy"}, r"tasks\.mine\.loss: .*mean 'cross_entropy'"),
    "metric": ({"metrics": ["acuracy"]}, r"tasks\.mine\.metrics: .*mean 'accuracy'"),
    "metric of another type": ({"metrics": ["pearson"]}, r"'pearson' does not suit classification"),
    "loss of another type": ({"loss": "list_softmax"}, r"'list_softmax' does not suit classification"),
    "main metric": ({"main_metric": "f1"}, r"tasks\.mine\.main_metric"),
    "no text": ({"text": None}, r"tasks\.mine\.text: is missing"),
    "three texts": ({"text": ["a", "b", "c"]}, r"takes 1 or 2 text columns, received 3"),
    "ranking of one text": ({"type": "ranking", "text": ["a"], "labels": None}, r"takes 2 text columns, received 1"),
    "same text twice": ({"text": ["a", "a"]}, r"different names"),
    "text that no input can be called": (
        {"text": ["Review Text"]},
        r"text: 'Review Text' can't be the name of an exported model's input; take letters, digits and _",
    ),
    "text called by a word of the language": ({"text": ["class"]}, r"text: 'class' can't be the name"),
    "text named label": ({"text": ["label", "a"]}, r"none of them label"),
    "two columns for the label": (
        {"label": "a", "columns": {"label": "b"}},
        r"tasks\.mine\.label: 'a' and columns\.label 'b' name two columns for the label; keep one",
    ),
    "label column of running text": (
        {"type": "pretraining", "text": None, "labels": None, "label": "a"},
        r"tasks\.mine\.label: has no effect on a task of the type pretraining",
    ),
    "label that is no column": ({"label": ["a"]}, r"tasks\.mine\.label: must be a text or a whole number"),
    "no labels": ({"labels": None}, r"tasks\.mine\.labels: .*two or more"),
    "one label": ({"labels": ["yes"]}, r"two or more different names"),
    "label twice": ({"labels": ["yes", "yes"]}, r"two or more different names"),
    "labels of a regression": ({"type": "regression"}, r"tasks\.mine\.labels: regression has no label names"),
    "range of a classification": ({"range": [0, 1]}, r"tasks\.mine\.range: only regression"),
    "san on one text": ({"text": ["a"], "head": "san"}, r"'san' reads two texts"),
    "san on a regression": ({"type": "regression", "labels": None, "head": "san"}, r"'san' does not suit regression"),
    "f1 of three labels": ({"labels": ["a", "b", "c"], "metrics": ["f1"]}, r"'f1' needs exactly two labels"),
    "f1 of a regression": ({"type": "regression", "labels": None, "metrics": ["f1"]}, r"'f1' does not suit regression"),
    "ready-made with other texts": ({"use": "sst2", "metrics": None}, r"text: sst2 has the text columns sentence; rec"),
    "split of a file": (
        {"train": {"path": "x.tsv", "split": "train"}},
        r"tasks\.mine\.train\.split: is for datasets .* say rows",
    ),
    "class weight of no label": ({"class_weights": {"ja": 2}}, r"tasks\.mine\.class_weights\.ja: unknown label 'ja'"),
    "class weight of 0": ({"class_weights": {"yes": 0}}, r"tasks\.mine\.class_weights\.yes: must be more than 0"),
    "class weights by another name": ({"class_weights": "balance"}, r"class_weights: .*mean 'balanced'"),
    "class weights in a list": ({"class_weights": [1, 2]}, r"class_weights: must be a mapping or a text"),
    "class weights of a regression": (
        {"type": "regression", "labels": None, "class_weights": "balanced"},
        r"class_weights: has no effect on a task of the type regression",
    ),
    "range beyond float32": ({"type": "regression", "labels": None, "range": [0, 1e39]}, r"range: must lie between"),
    "range that float32 does not resolve": (
        {"type": "regression", "labels": None, "range": [1000000000, 1000000100]},
        r"range: holds fewer than 100 different .*\[1000000000, 1000000100\]\. Subtract 1000000000 from",
    ),
    "borrowed from itself": ({"head_of": "mine", "train": None}, r"tasks\.mine\.head_of: mine has no head"),
    "borrowed from nobody": ({"head_of": "nobody", "train": None}, r"tasks\.mine\.head_of: unknown task"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_told_by_its_key(tmp_path, case):
    keys, expected = BAD[case]
    with pytest.raises(UserError, match=expected) as raised:
        _one(tmp_path, **keys)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "Mine", "2nd", "_a", "my-task", "my task", "a/b", "é", *RESERVED_NAMES])
def test_names_that_cannot_be_layers_or_signatures_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=rf"tasks\.{name}: "):
        _load(tmp_path, {name: PAIR})


def test_a_dataset_of_a_ready_made_task_has_its_texts(tmp_path):
    with pytest.raises(
        UserError, match=r"tasks\.rte\.text: rte has the text columns sentence1, sentence2; received a$"
    ):
        _load(tmp_path, {"rte": {"use": "rte", "text": ["a"], "train": "tfds:glue/rte"}})


def test_a_head_is_borrowed_from_its_owner(tmp_path):
    borrower = PAIR | {"head_of": "mine", "train": None, "dev": "x.tsv"}
    tasks = _load(tmp_path, {"mine": PAIR, "other": borrower})
    assert [task.head_of for task in tasks] == [None, "mine"]
    with pytest.raises(UserError, match=r"tasks\.third\.head_of: other has no head of its own; name mine"):
        _load(tmp_path, {"mine": PAIR, "other": borrower, "third": borrower | {"head_of": "other"}})


READ = {
    "list": ("[1]\n", r"tasks\.yaml: must be a mapping of tasks by name"),
    "number": ("mine: 1\n", r"tasks\.yaml:1: mine: must be a mapping, received 1"),
    "incomplete": ("mine:\n  name: mine\n", r"mine\.type: is missing"),
    "key": ("mine:\n  heads: san\n", r"tasks\.yaml:2: mine\.heads: unknown key 'heads'.*mean 'head'"),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_no_list_of_tasks_is_told(tmp_path, case):
    text, expected = READ[case]
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_tasks(tmp_path / "tasks.yaml")


BORROWER = {"head_of": "mine", "dev": "x.tsv"}
OWNER = PAIR | {
    "head": "linear",
    "dropout": 0.0,
    "loss_weight": 2.0,
    "pair_order": "hypothesis_first",
    "batch_size": 7,
    "max_examples": 90,
    "sample_seed": 3,
}


def test_a_task_has_all_but_its_own_from_the_owner_of_its_head(tmp_path):
    owner, other = _load(tmp_path, {"mine": OWNER, "other": BORROWER | {"text": ["a", "b"], "metrics": ["f1"]}})
    assert (other.text, other.metrics, other.main_metric, other.head_of) == (("a", "b"), ("f1",), "f1", "mine")
    ours = {"name", "text", "metrics", "main_metric", "head_of", "sources"}
    same = {field.name for field in dataclasses.fields(TaskSpec)} - ours
    assert {name: getattr(other, name) for name in same} == {name: getattr(owner, name) for name in same}
    again, _ = _load(tmp_path, {"other": BORROWER | OWNER | {"train": None}, "mine": OWNER})
    assert {name: getattr(again, name) for name in same} == {name: getattr(owner, name) for name in same}


@pytest.mark.parametrize("name", ["mnli_mismatched", "ax"])
def test_a_ready_made_task_is_read_as_the_task_whose_head_it_uses(tmp_path, name):
    """Settings of mnli that its ready-made specification has not, and another order of labels."""
    changes = {"pair_order": "hypothesis_first", "labels": ["entailment", "neutral", "contradiction"], "head": "mlp"}
    tasks = {"mnli": {"use": "mnli", "train": "x.tsv"} | changes, name: {"use": name, "dev": "y.tsv"}}
    owner, other = _load(tmp_path, tasks)
    assert (owner.pair_order, owner.labels[0], owner.head) == ("hypothesis_first", "entailment", "mlp")
    assert (other.pair_order, other.labels, other.head) == (owner.pair_order, owner.labels, owner.head)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": ["yes", "no"]}, r"other\.labels: must be that of tasks\.mine, .*: \[no, yes\]; received \[yes, no\]"),
        ({"labels": ["a", "b", "c"]}, r"other\.labels: must be that of tasks\.mine"),
        ({"pair_order": "premise_first"}, r"other\.pair_order: .*: hypothesis_first; received premise_first; remove the key"),
        ({"type": "ranking"}, r"other\.type: must be that of tasks\.mine.*: classification; received ranking"),
        ({"range": [0, 5]}, r"other\.range: .*: not set; received \[0\.0, 5\.0\]"),
        ({"head": "san"}, r"other\.head: .*: linear; received san"),
        ({"dropout": 0.5}, r"other\.dropout: .*: 0\.0; received 0\.5"),
        ({"loss_weight": 0.5}, r"other\.loss_weight: .*: 2\.0; received 0\.5"),
        ({"batch_size": 4}, r"other\.batch_size: .*: 7; received 4"),
        ({"text": ["a"]}, r"other\.text: must have as many columns as tasks\.mine.*\[premise, hypothesis\]; received \[a\]"),
        ({"use": "ax"}, r"other\.use: ax has the labels \[contradiction, neutral, entailment\], and tasks\.mine"),
        ({"train": "x.tsv"}, r"other\.train: a task with head_of is scored, not trained"),
    ],
)  # fmt: skip
def test_a_task_that_sets_what_the_owner_of_its_head_decides_is_refused(tmp_path, changes, expected):
    with pytest.raises(UserError, match=rf"tasks\.{expected}") as raised:
        _load(tmp_path, {"mine": OWNER, "other": BORROWER | changes})
    assert "\n" not in str(raised.value)
