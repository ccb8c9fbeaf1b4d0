"""Pairs of arms: how runs are paired, and scores of resampled rows: with every row once, they are the metric itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import METRICS, Predictions
from mtdnn_tf.studies.comparisons import ALL_TASKS, compare, read_predictions, resampled_score
from mtdnn_tf.studies.results import Result, mean_over_tasks, summaries
from mtdnn_tf.task_types import TASK_TYPES
from mtdnn_tf.tasks import TaskSpec

CASES = [(name, metric) for name, kind in TASK_TYPES.items() for metric in kind.known_metrics]


def _predictions(kind):
    random = np.random.default_rng(3)
    columns = 2 if kind == "classification" else 1
    labels = random.integers(0, 2, 60).astype(np.float32 if columns == 1 else np.int32)
    groups = np.repeat(np.arange(12), 5).astype(np.int32) if kind == "ranking" else None
    if groups is not None:
        labels[:5] = 0  # a query without an answer
    return Predictions(random.normal(size=[60, columns]).astype(np.float32), labels, groups)


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_every_row_once_gives_the_metric(kind, metric):
    predictions = _predictions(kind)
    spec = TaskSpec("t", kind, ("a", "b"), main_metric=metric)
    units = 60 if predictions.groups is None else len(np.unique(predictions.groups[predictions.labels > 0]))
    score = resampled_score(spec, predictions)
    assert score(np.arange(units)) == pytest.approx(METRICS[metric](predictions), abs=1e-6)
    random = np.random.default_rng(4)
    assert len({score(random.integers(0, units, units)) for _ in range(5)}) > 1


SPECS = tuple(
    TaskSpec(name, "classification", ("text",), labels=("no", "yes"), main_metric="accuracy") for name in "ab"
)


def _study(bootstrap=0):
    pair = (SimpleNamespace(name="many"), SimpleNamespace(name="one"))
    options = SimpleNamespace(tasks=dict.fromkeys("ab"), split="dev", bootstrap=bootstrap)
    return SimpleNamespace(pairs=(pair,), options=options)


def _result(folder, arm, task, seed, score, fixed=None):
    stage = SimpleNamespace(options=SimpleNamespace(seed=fixed))
    run = SimpleNamespace(stage=stage, specs=SPECS, directory=folder / f"{arm}-{seed}")
    return Result(arm, task, None, seed, "accuracy", score, {}, 1, 1, 0, run)


def test_an_arm_of_one_run_makes_one_pair_with_the_mean_of_the_others(tmp_path):
    results = [
        _result(tmp_path, "many", task, seed, score)
        for task, scores in {"a": (0.812, 0.813, 0.811), "b": (0.5, 0.6, 0.7)}.items()
        for seed, score in enumerate(scores)
    ]
    results += [_result(tmp_path, "one", task, 7, 0.8, fixed=7) for task in "ab"]
    found = {comparison.task: comparison for comparison in compare(_study(), results)}
    assert set(found) == {"a", "b", ALL_TASKS}
    test = found["a"].over_seeds
    assert (test.pairs, test.deviation, test.t_p_value, test.sign_flip_p_value) == (1, None, None, None)
    assert test.difference == pytest.approx(0.012)
    assert found["a"].seeds == (0, 1, 2)
    assert found[ALL_TASKS].over_seeds.pairs == 2
    assert found[ALL_TASKS].over_seeds.difference == pytest.approx((0.012 - 0.2) / 2)


def test_runs_are_paired_with_those_of_their_seed(tmp_path):
    scores = {"many": (0.5, 0.9, 0.7), "one": (0.4, 0.8, 0.5)}
    orders = {"many": (0, 1, 2), "one": (2, 0, 1)}
    results = []
    for arm, order in orders.items():
        for seed in order:
            folder = tmp_path / f"{arm}-{seed}" / "predictions"
            folder.mkdir(parents=True)
            answers = ["yes"] * (seed + 1) if arm == "many" else []
            lines = [f"yes\t{label}\n" for label in answers + ["no"] * (4 - len(answers))]
            (folder / "a_dev.tsv").write_text("gold\tlabel\n" + "".join(lines))
            results.append(_result(tmp_path, arm, "a", seed, scores[arm][seed]))
    [found] = compare(_study(bootstrap=10), results)
    assert found.over_seeds.deviation == pytest.approx(np.std([0.1, 0.1, 0.2], ddof=1))
    assert {seed: table.first_only for seed, table in found.mcnemar.items()} == {0: 1, 1: 2, 2: 3}


def test_the_mean_over_tasks_deviates_as_its_seeds_do(tmp_path):
    """Not as the mean of the tasks' deviations: what one task gains by a seed another may lose."""
    scores = {"a": (0.5, 0.7, 0.9), "b": (0.9, 0.7, 0.6)}
    results = [_result(tmp_path, "many", task, seed, score) for task in "ab" for seed, score in enumerate(scores[task])]
    mean = mean_over_tasks(list(summaries(results).values()))
    assert str(mean) == "71.67 ± 2.89"
    other = mean_over_tasks(list(summaries(results[:-1]).values()))
    assert other.mean == pytest.approx((0.7 + 0.8) / 2)
    assert other.deviation is None


def test_a_file_of_answers_without_a_line_is_told(tmp_path):
    result = _result(tmp_path, "many", "a", 0, 0.5)
    path = tmp_path / "many-0" / "predictions" / "a_dev.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match=r"a_dev\.tsv: damaged"):
        read_predictions(result, "dev")


def test_runs_that_answered_other_rows_are_refused_whichever_their_seed(tmp_path):
    results = []
    for seed, labels in enumerate((["yes", "no", "no"], ["yes", "no"])):
        for arm in ("many", "one"):
            folder = tmp_path / f"{arm}-{seed}" / "predictions"
            folder.mkdir(parents=True)
            (folder / "a_dev.tsv").write_text("gold\tlabel\n" + "".join(f"{label}\tyes\n" for label in labels))
            results.append(_result(tmp_path, arm, "a", seed, 0.5))
    with pytest.raises(UserError, match=r"many-0 and .*many-1 were scored on other rows of a"):
        compare(_study(bootstrap=10), results)
