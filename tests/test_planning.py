"""A plan counts what training does, warns of what spoils it, and reads the same as table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import replace

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.data.batches import TokenizedTask
from mtdnn_tf.data.bucket_use import Bucket
from mtdnn_tf.data.inspection import facts_of
from mtdnn_tf.data.schedules import MIXING_STRATEGIES
from mtdnn_tf.plan_costs import chosen_batches, estimate_time, fit_line, memory_bytes
from mtdnn_tf.plan_table import WIDTH
from mtdnn_tf.plan_warnings import CHECKS, find_warnings
from mtdnn_tf.planning import make_plan, plan_table
from mtdnn_tf.tasks import TaskSpec
from tests.small import TINY


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    from tests.small import write_experiment

    config = mtdnn.load_config(write_experiment(tmp_path_factory.mktemp("plan")))
    return config, make_plan(config, timed=False)


def test_it_promises_the_steps_of_the_mixture(small):
    config, plan = small
    mixture = mtdnn.build_mixture(mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source), config)
    counts = [mixture.step_counts(epoch) for epoch in range(config.training.epochs)]
    for name, task in plan["tasks"].items():
        assert task["steps"] == sum(count[name] for count in counts)
        assert task["steps_per_epoch"] == counts[0][name] == sum(task["buckets"]["batches"].values())
        assert task["passes"] == 2
    assert plan["total_steps"] == 22
    assert plan["batches_looked_at"] == 11
    assert plan["tasks"]["mood"]["probability"] == pytest.approx(3 / 11, abs=1e-4)
    assert plan["tasks"]["pick"]["probability"] == pytest.approx(2 / 11, abs=1e-4)


def test_steps_that_differ_between_epochs_are_added_up(monkeypatch, small):
    from mtdnn_tf.data.mixing import Mixture

    config, _ = small
    monkeypatch.setattr(
        Mixture, "step_counts", lambda self, epoch: {"mood": 3 - epoch, "follows": 3, "close": 3, "pick": 2 + epoch}
    )
    plan = make_plan(config, timed=False)
    mood = plan["tasks"]["mood"]
    assert (mood["steps"], mood["steps_per_epoch_min"], mood["steps_per_epoch_max"]) == (5, 2, 3)
    assert mood["passes"] == pytest.approx(5 / 3, abs=0.01)
    assert "2 to 3" in plan_table(plan)


def test_it_survives_json(small):
    _, plan = small
    assert json.loads(json.dumps(plan)) == plan


def test_the_table_has_every_section_and_fits(small):
    _, plan = small
    table = plan_table(plan)
    for words in (
        "rows cut",
        "negative 50 %",
        "probability",
        "batches padded to",
        "steps: 22 in 2 epochs",
        "warnings: ",
    ):
        assert words in table
    assert "heads/follows" in table
    assert "GB" in table
    assert all(len(line) <= WIDTH for line in table.splitlines())
    assert all(warning["message"][:40] in table for warning in plan["warnings"])


def test_long_names_and_many_labels_fit_too(small):
    _, plan = small
    name, labels = "n" * 80, {f"label{index}": 1 for index in range(60)}
    mood = plan["tasks"]["mood"]
    split = mood["splits"]["train"] | {"labels": labels}
    buckets = mood["buckets"] | {"batches": {str(length): 1 for length in range(16, 400, 16)}}
    tasks = {name: mood | {"splits": {"train": split}, "head": name, "buckets": buckets}}
    table = plan_table(plan | {"tasks": tasks, "minutes": 1.5, "minutes_range": [1.0, 2.0]})
    assert all(len(line) <= WIDTH for line in table.splitlines())
    assert "longer ones: 176" in table
    assert "1.5 minutes (1 to 2)" in table


YAML = """
encoder: {{source: "{encoder}"}}
tasks:
  mood:
    type: classification
    text: [text]
    labels: [bad, fair, good]
    train: mood_train.tsv
    dev: mood_dev.tsv
  topic: {{type: classification, text: [text], labels: [a, b], train: {{path: topic_train.tsv, on_error: skip}}}}
  pick: {{type: ranking, text: [question, answer], train: pick_train.tsv, dev: pick_dev.tsv}}
  others: {{type: classification, text: [text], labels: [bad, fair, good], head_of: mood, test: others_test.tsv}}
data: {{max_length: 16, batch_size: 4}}
training: {{epochs: 1}}
"""
FILES = {
    # Line 2 is in topic's training rows; good stands in nine of eleven rows; fair in none.
    "mood_train.tsv": [f"m{index}\tgood" for index in range(9)] + ["m0\tbad", "\tbad"],
    "mood_dev.tsv": ["t7\tgood", "new\tfair", "M3\tbad"],
    "topic_train.tsv": [f"t{index}\t{'ab'[index % 2]}" for index in range(40)]
    + ["abcdefghijklmnopqrs\ta"] * 3
    + ["x\tneither"],
    "pick_train.tsv": ["q\ta\t1", "q\tb\t0", "r\ta\t0"],
    "others_test.tsv": ["u1\t", "u2\t"],
    "pick_dev.tsv": ["s\ta\t1", "s\tb\t0"],
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    for name, rows in FILES.items():
        head = "question\tanswer\tlabel" if name.startswith("pick") else "text\tlabel"
        (folder / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    (folder / "faulty.yaml").write_text(YAML.format(encoder=TINY), encoding="utf-8")
    return make_plan(mtdnn.load_config(folder / "faulty.yaml"), timed=False)


@pytest.fixture(scope="module")
def warned(faulty):
    return [(found["kind"], found["task"], found["split"], found["message"]) for found in faulty["warnings"]]


EXPECTED = [
    ("overlap", "mood", "dev", "1 of 3 rows are in tasks.mood.train too (first: line 4 = line 5 there)"),
    ("overlap", "mood", "dev", "1 of 3 rows are in tasks.topic.train too (first: line 2 = line 9 there)"),
    ("missing_class", "mood", "train", "label 'fair' has no example"),
    ("missing_class", "mood", "train", "label 'bad' has 2 examples"),
    ("untrained_label", "mood", "dev", "label 'fair' is in 1 row here"),
    (
        "contradiction",
        "mood",
        "train",
        "1 row with the texts of an earlier one but another label (first: line 11, line 2)",
    ),
    ("repeated", "topic", "train", "2 rows repeat an earlier one (first: line 43 = line 42)"),
    ("empty_text", "mood", "train", "1 row with an empty text (first: line 12)"),
    ("truncation", "topic", "train", "7.0 % of the rows are longer than data.max_length 16"),
    (
        "majority",
        "mood",
        "train",
        "81.8 % of the rows are 'good'; accuracy misleads here: set metrics to [accuracy, matthews] and main",
    ),
    ("no_positive", "pick", "train", "1 of 2 queries has no relevant candidate"),
    ("skipped", "topic", "train", "on_error: skip leaves out 1 row"),
    ("no_dev", "topic", "", "has no dev split"),
]


def test_weights_and_scale_of_a_loss_are_shown(small):
    changes = ["tasks.mood.class_weights=balanced", "tasks.close.range=[0, 100]"]
    config = mtdnn.load_config(small[0].tasks["mood"].train.path.replace("mood.tsv", "small.yaml"), changes)
    plan = make_plan(select_tasks(config, ["mood", "close"]), timed=False)
    assert plan["tasks"]["mood"]["class_weights"] == {"negative": 1.0, "positive": 1.0}
    assert plan["tasks"]["close"]["scaled_range"] == [0.0, 100.0]
    table = plan_table(plan)
    assert "class weights of mood: negative 1, positive 1" in table
    assert "scores of close: 0 to 100, learnt as -1 to 1" in table
    assert "scores from 0.5 to 5 span 4.5 % of the range" in " ".join(table.split())


@pytest.mark.parametrize("expected", EXPECTED, ids=[f"{kind}-{task}" for kind, task, _, _ in EXPECTED])
def test_what_is_wrong_is_said(warned, expected):
    kind, task, split, words = expected
    [message] = [found[3] for found in warned if found[:3] == (kind, task, split) and words in found[3]]
    assert message.startswith(f"tasks.{task}.{split}: " if split else f"tasks.{task}: ")
    assert "\n" not in message


def test_nothing_else_is_said(warned):
    # A row that contradicts an earlier one repeats it, too.
    assert len(warned) == len(EXPECTED) + 1


def test_every_check_is_tried(warned):
    assert {kind for kind, *_ in warned} | {case[3] for case in LABELS.values() if case[3]} == set(CHECKS) - {
        "rare_task"
    }


def test_a_task_with_the_head_of_another_is_scored_only(faulty):
    others = faulty["tasks"]["others"]
    assert (others["head"], others["examples"], others["steps"], others["probability"]) == ("mood", 0, 0, 0)
    assert others["splits"]["test"]["labels"] is None
    assert "buckets" not in others
    assert [line.split()[1] for line in plan_table(faulty).splitlines() if line.startswith("others")] == [
        "test",
        "classification",
    ]


def test_a_task_of_few_steps_is_warned_of():
    task = TaskSpec("mood", "classification", ("text",), ("bad", "good"))
    found = [warning for warning in find_warnings([task], [], {"mood": 0.004}) if warning.kind == "rare_task"]
    assert "0.4 % of the steps" in found[0].message


MOOD = TaskSpec("mood", "classification", ("text",), ("bad", "fair", "good"))
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax")
CLOSE = TaskSpec("close", "regression", ("text",))
# The task, labels, queries, the kind of the warning (None: there is none), words of it.
LABELS = {
    "one class in fifty": (
        MOOD,
        [0] * 500 + [1] * 490 + [2] * 20,
        None,
        "rare_class",
        "set tasks.mood.class_weights to bal",
    ),
    "the same with weights": (
        replace(MOOD, class_weights="balanced"),
        [0] * 500 + [1] * 490 + [2] * 20,
        None,
        None,
        "",
    ),
    "two of three rare": (
        MOOD,
        [0] * 500 + [1] * 9 + [2] * 8,
        None,
        "rare_class",
        "'good' has 8 rows of 517 (1.5 %), 1 other label",
    ),
    "a thousand classes": (
        replace(MOOD, labels=tuple(f"intent{index}" for index in range(1000))),
        [index // 2 for index in range(1990)],
        None,
        "missing_class",
        "1,000 of 1,000 labels have fewer than 5 examples (first: 'intent0' with 2)",
    ),
    "one in ten of three": (MOOD, [0] * 50 + [1] * 40 + [2] * 10, None, None, ""),
    "one candidate each": (PICK, [1, 1, 1], [0, 1, 2], "no_choice", "each of the 3 queries has one candidate only"),
    "all candidates relevant": (PICK, [1, 1, 1, 1], [0, 0, 1, 1], "no_choice", "nothing can be learnt"),
    "one of three queries": (PICK, [1, 1, 0, 1, 0], [0, 1, 1, 2, 2], "no_choice", "1 of 3 queries has one candidate"),
    "grades are a choice": (PICK, [1, 2, 2, 1], [0, 0, 1, 1], None, ""),
    "candidates by themselves": (replace(PICK, loss="pointwise"), [1, 1, 0, 0], [0, 1, 1, 2], None, ""),
    "none relevant": (PICK, [0, 0, 0], [0, 0, 1], "no_positive", "each of the 2 queries has no relevant candidate"),
    "none relevant, by themselves": (replace(PICK, loss="pointwise"), [0, 0], [0, 0], "no_positive", "can be learnt"),
    "salaries": (CLOSE, [20478, 89801], None, "score_scale", "set tasks.close.range to [20000, 90000]"),
    "hundredths": (CLOSE, [0.0101, 0.0208], None, "score_scale", "set tasks.close.range to [0.01, 0.021]"),
    "below zero": (CLOSE, [-955.5, -12.5], None, "score_scale", "set tasks.close.range to [-960, -10]"),
    "salaries with a range": (replace(CLOSE, range=(20000.0, 90000.0)), [20478, 89801], None, None, ""),
    "far too wide a range": (replace(CLOSE, range=(0.0, 1e6)), [3, 80], None, "score_scale", "range to [3, 80]"),
    "similarity": (CLOSE, [0, 5, 2.5], None, None, ""),
    "one score": (CLOSE, [3, 3, 3], None, "constant_score", "each of the 3 rows has the score 3"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_alone_tell_what_spoils_a_run(case):
    """What `train` knows without looking at texts again; the plan runs the same checks."""
    task, labels, queries, kind, words = LABELS[case]
    arrays = np.array(labels, np.int32 if task.labels else np.float32), None if queries is None else np.array(queries)
    rows = np.arange(len(labels) + 1)
    split = TokenizedTask(task, rows[:-1], rows, np.ones(len(labels), np.int32), *arrays, max_length=8, pad_id=0)
    found = find_warnings([task], [facts_of("train", split)], {})
    found = [each for each in found if each.kind not in ("no_dev", "majority") and "1 example" not in each.message]
    assert [each.kind for each in found] == ([kind] if kind else [])
    assert words in (found[0].message if found else "")


def _bucket(rows, length, batches=1):
    return Bucket(batches, batches * rows * length, 0, {"token_ids": np.zeros((rows, length))})


def test_a_line_through_exact_points():
    assert fit_line([(100, 2.0), (300, 4.0)]) == pytest.approx((1.0, 0.01))


@pytest.mark.parametrize("points", [[(100, 3.0)], [(100, 3.0), (100, 3.0)], [(100, 4.0), (200, 2.0)]])
def test_a_line_never_falls(points):
    overhead, slope = fit_line(points)
    assert (overhead, slope) == (pytest.approx(3.0), 0.0)


def test_a_line_never_starts_below_zero():
    assert fit_line([(100, 0.5), (200, 2.0)])[0] == 0.0


@pytest.mark.parametrize(("tasks", "each"), [(1, 5), (4, 3), (12, 1), (20, 1)])
def test_few_batches_are_timed(tasks, each):
    buckets = {
        f"task{index}": {length: _bucket(4, length) for length in (16, 32, 48, 64, 96)} for index in range(tasks)
    }
    chosen = chosen_batches(buckets)
    assert {len(batches) for batches in chosen.values()} == {each}
    lengths = {batch["token_ids"].shape[1] for batches in chosen.values() for batch in batches}
    assert lengths >= {16, 96}


def test_time_is_added_up_by_use_of_the_buckets(monkeypatch):
    """A clock that moves by a second and a tenth of a millisecond for each position."""
    from mtdnn_tf import plan_costs

    now = [0.0]

    class Trainer:
        def step(self, name, batch):
            now[0] += 1 + 1e-4 * batch["token_ids"].size

    for_numpy = {"a": {16: _bucket(10, 16, 30), 32: _bucket(10, 32, 10)}, "b": {64: _bucket(10, 64, 5)}}
    monkeypatch.setattr(plan_costs.time, "perf_counter", lambda: now[0])
    estimate = estimate_time(Trainer(), for_numpy, {"a": 80, "b": 5})
    assert estimate.seconds == pytest.approx(85 + 1e-4 * (60 * 160 + 20 * 320 + 5 * 640))
    assert estimate.low < estimate.seconds < estimate.high
    assert estimate.timed_steps == 6


def test_memory_grows_with_the_largest_batch(small):
    config, _ = small
    encoder = mtdnn.load_encoder(TINY)
    short, long = (memory_bytes(config, encoder, {"mood": {n: _bucket(4, n)}}, 1000) for n in (16, 32))
    # 2 layers, d 32, feed-forward 64, 2 heads: 4 bytes x rows x length x (12 x 32 + 4 x 64 + 3 x 2 x length).
    assert long - short == 4 * 4 * 2 * (32 * (640 + 6 * 32) - 16 * (640 + 6 * 16))


def test_time_is_not_measured_unless_asked(small):
    _, plan = small
    assert plan["minutes"] is plan["minutes_range"] is None
    assert "minutes" not in plan_table(plan)


STRATEGIES = {name: {} for name in MIXING_STRATEGIES} | {
    "uniform": {"steps_per_epoch": 9},
    "temperature": {"temperature": 2.0},
    "ratio": {"ratio": 0.7},
    "explicit": {"weights": {"mood": 1.0, "follows": 3.0}},
}


class TrainedCounts(keras.callbacks.Callback):
    """Counts the batches of each task that were really trained."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer, self.steps = trainer, Counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps.update(task for task, _ in self.trainer.progress.losses)


@pytest.fixture(scope="module")
def trained_parts(small):
    config = select_tasks(small[0], ["mood", "follows"])
    tasks = mtdnn.load_tasks(config)
    encoder = mtdnn.load_encoder(config.encoder.source)
    return config, tasks, encoder, mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks), tasks)


QUICK_STRATEGIES = ("annealed",)  # whose counts change from epoch to epoch


@pytest.mark.parametrize(
    "strategy",
    [name if name in QUICK_STRATEGIES else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES],
)
def test_what_is_planned_is_trained(trained_parts, strategy):
    """Over whole epochs, with last batches of fewer rows: follows has 9 rows in batches of 4."""
    config, tasks, encoder, trainer = trained_parts
    mixing = dataclasses.replace(config.mixing, strategy=strategy, **STRATEGIES[strategy])
    config = dataclasses.replace(config, mixing=mixing)
    plan = make_plan(config, timed=False)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer.compile(mtdnn.build_optimizer(config.optimizer, plan["total_steps"]))
    counts = TrainedCounts(trainer)
    trainer.fit(mixture, config.training.epochs, [counts], verbose=0)
    assert counts.steps == {name: task["steps"] for name, task in plan["tasks"].items() if task["steps"]}
    assert sum(counts.steps.values()) == plan["total_steps"] == trainer.progress.global_step
