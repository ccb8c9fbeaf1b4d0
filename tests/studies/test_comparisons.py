"""Scores of resampled rows: with every row once, they are the metric itself."""

from __future__ import annotations

import numpy as np
import pytest

from mtdnn_tf.evaluation.metrics import METRICS, Predictions
from mtdnn_tf.studies.comparisons import resampled_score
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
