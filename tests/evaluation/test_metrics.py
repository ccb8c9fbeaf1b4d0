"""Metrics against values worked out by hand, and the leaderboard's rule against published rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import METRICS, Predictions, glue_score, score_task
from mtdnn_tf.tasks import KNOWN_METRICS, TaskSpec


def _classes(predicted, labels):
    return Predictions(np.eye(max(*predicted, *labels) + 1)[predicted], np.array(labels))


def _values(predicted, labels, groups=None):
    return Predictions(np.array(predicted, np.float32)[:, None], np.array(labels, np.float32), groups)


def test_the_table_holds_the_names_that_tasks_may_use():
    assert set(METRICS) == set(KNOWN_METRICS)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("accuracy", 4 / 6), ("f1", 2 * 2 / (2 * 2 + 1 + 1)), ("accuracy_f1", 4 / 6), ("matthews", (2 * 2 - 1) / 9)],
)
def test_class_metrics(metric, expected):
    # true positives 2, false positives 1, false negatives 1, true negatives 2
    predictions = _classes([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0])
    assert METRICS[metric](predictions) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_constant_classes_score_zero(metric):
    assert METRICS[metric](_classes([0, 0, 0, 0], [1, 0, 1, 0])) == 0.0


def test_correlations():
    predictions = _values([1, 2, 3, 10], [1, 2, 3, 4])
    x, y = np.array([1, 2, 3, 10.0]) - 4, np.array([1, 2, 3, 4]) - 2.5
    pearson = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
    assert METRICS["pearson"](predictions) == pytest.approx(pearson)
    assert METRICS["spearman"](predictions) == pytest.approx(1.0)
    assert METRICS["pearson_spearman"](predictions) == pytest.approx((pearson + 1) / 2)


@pytest.mark.parametrize("metric", ["pearson", "spearman", "pearson_spearman"])
def test_a_constant_has_no_correlation(metric):
    assert METRICS[metric](_values([2, 2, 2], [1, 2, 3])) == 0.0
    assert METRICS[metric](_values([1, 2, 3], [2, 2, 2])) == 0.0


# Query 0 ranks its answer second of three, query 1 its two answers first and third of four; query 2 has no answer.
RANKED = _values(
    [3, 2, 1, 9, 8, 7, 6, 5, 4],
    [0, 1, 0, 1, 0, 1, 0, 0, 0],
    np.array([0, 0, 0, 1, 1, 1, 1, 2, 2]),
)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy_at_1", 1 / 2),
        ("mrr", (1 / 2 + 1) / 2),
        ("map", (1 / 2 + (1 + 2 / 3) / 2) / 2),
        ("ndcg", (1 / np.log2(3) + (1 + 1 / 2) / (1 + 1 / np.log2(3))) / 2),
    ],
)
def test_ranking_metrics_take_ragged_lists(metric, expected):
    assert METRICS[metric](RANKED) == pytest.approx(expected)


def test_gains_of_clicks_overflow_nothing():
    """2^3000 - 1 is no float. The second place keeps 1 / log2(3) of the gain: beside it the other candidates have next to none."""
    predictions = _values([3, 2, 1], [5, 3000, 200], np.zeros(3))
    assert METRICS["ndcg"](predictions) == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize("metric", ["accuracy_at_1", "mrr", "map", "ndcg"])
def test_a_constant_ranking_gains_nothing_from_file_order(metric):
    first = _values([0, 0, 0], [1, 0, 0], np.zeros(3))
    last = _values([0, 0, 0], [0, 0, 1], np.zeros(3))
    assert METRICS[metric](first) == METRICS[metric](last)
    assert METRICS["accuracy_at_1"](first) == 0.0


def test_scores_need_finite_outputs():
    task = TaskSpec("rte", "classification", ("a", "b"), ("no", "yes"))
    with pytest.raises(UserError, match=r"'rte'.*not finite"):
        score_task(task, Predictions(np.array([[np.nan, 0.0]]), np.array([0])))


# Rows of the paper's Table 2: CoLA, SST-2, MRPC F1/acc, STS-B P/S, QQP F1/acc, MNLI m/mm, QNLI, RTE, WNLI, Score.
TABLE_2 = [
    (60.5, 94.9, 89.3, 85.4, 87.6, 86.5, 72.1, 89.3, 86.7, 85.9, 92.7, 70.1, 65.1, 80.52),
    (58.9, 94.6, 90.1, 86.4, 89.5, 88.8, 72.7, 89.6, 86.5, 85.8, 93.1, 79.1, 65.1, 81.72),
    (62.5, 95.6, 91.1, 88.2, 89.5, 88.8, 72.7, 89.6, 86.7, 86.0, 93.1, 81.4, 65.1, 82.67),
]


def _scores(row):
    percent = iter(np.array(row[:-1]) / 100)
    return {
        "cola": {"matthews": next(percent)},
        "sst2": {"accuracy": next(percent)},
        "mrpc": {"f1": next(percent), "accuracy": next(percent)},
        "stsb": {"pearson": next(percent), "spearman": next(percent)},
        "qqp": {"f1": next(percent), "accuracy": next(percent)},
        "mnli": {"accuracy": next(percent)},
        "mnli_mismatched": {"accuracy": next(percent)},
        "qnli": {"accuracy": next(percent)},
        "rte": {"accuracy": next(percent)},
        "wnli": {"accuracy": next(percent)},
        "ax": {"matthews": 0.4},
    }


@pytest.mark.parametrize("row", TABLE_2, ids=["BERT", "MT-DNN without fine-tuning", "MT-DNN"])
def test_glue_score_agrees_with_the_leaderboard(row):
    assert glue_score(_scores(row)) == pytest.approx(row[-1], abs=0.005)


@pytest.mark.parametrize("missing", ["wnli", "mnli_mismatched"])
def test_glue_score_needs_all_nine_tasks(missing):
    scores = _scores(TABLE_2[0])
    del scores[missing]
    assert glue_score(scores) is None


@pytest.mark.parametrize(("task", "metric"), [("stsb", "pearson"), ("mnli_mismatched", "accuracy")])
def test_glue_score_needs_the_metrics_of_its_rule(task, metric):
    scores = _scores(TABLE_2[0])
    scores[task]["another"] = scores[task].pop(metric)
    assert glue_score(scores) is None


def _one_query_after_the_other(metric, predictions):
    """The metric from its definition: each query's rows picked out by themselves, ties against the model."""
    values = []
    for query in set(predictions.groups.tolist()):
        rows = [row for row, group in enumerate(predictions.groups) if group == query]
        ranked = sorted(rows, key=lambda row: (-predictions.values[row], predictions.labels[row]))
        gains = [float(predictions.labels[row]) for row in ranked]
        places = [place for place, gain in enumerate(gains, 1) if gain > 0]
        if places:
            values.append(metric(gains, places))
    return sum(values) / len(values) if values else 0.0


def _discounted(gains):
    return sum((2.0**gain - 1.0) / math.log2(place + 1) for place, gain in enumerate(gains, 1))


DEFINITIONS = {
    "accuracy_at_1": lambda gains, places: float(places[0] == 1),
    "mrr": lambda gains, places: 1 / places[0],
    "map": lambda gains, places: sum((hit + 1) / place for hit, place in enumerate(places)) / len(places),
    "ndcg": lambda gains, places: _discounted(gains) / _discounted(sorted(gains, reverse=True)),
}


@pytest.mark.parametrize("metric", DEFINITIONS)
def test_ranking_metrics_follow_their_definitions(metric):
    """Random rows: ties, queries of one candidate, queries without a relevant one, rows of a query apart from each other."""
    random = np.random.default_rng(5)
    for count in (1, 2, 7, 60, 200):
        scores, labels = random.integers(0, 4, count) / 4, random.choice([0, 0, 0, 1, 2], count)
        predictions = _values(scores, labels, random.integers(0, 1 + count // 4, count).astype(np.int32))
        expected = _one_query_after_the_other(DEFINITIONS[metric], predictions)
        assert METRICS[metric](predictions) == pytest.approx(expected), count


def test_no_query_costs_a_pass_over_all_rows():
    """200,000 queries: a scan of the rows for each would be 80,000 million comparisons, more than a test's time allows."""
    groups = np.repeat(np.arange(200_000), 2)
    predictions = _values(np.tile([2.0, 1.0], 200_000), np.tile([0, 1], 200_000), groups)
    assert METRICS["mrr"](predictions) == pytest.approx(0.5)
