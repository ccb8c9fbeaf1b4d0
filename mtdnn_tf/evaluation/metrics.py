"""Metrics by name, as the GLUE leaderboard and the ranking literature define them, on whole splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mtdnn_tf.errors import NotFiniteError
from mtdnn_tf.task_types import MASKED_COUNT, MASKED_LOSS, MASKED_RIGHT, NEXT_LOGITS
from mtdnn_tf.tasks import TaskSpec


@dataclass(frozen=True)
class Predictions:
    """A model's output on one whole split, in file order.

    Attributes:
        logits: `[examples, classes] float32`; one column for regression and ranking.
        labels: `[examples]`, class ids, values or relevance.
        groups: `[examples] int32`, the query of each candidate; ranking only.
    """

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray:
        """Predicted class ids, `[examples] int64`."""
        return self.logits.argmax(axis=-1)

    @property
    def values(self) -> np.ndarray:
        """Predicted values or relevance, `[examples] float32`."""
        return self.logits[:, 0]

    def without(self, rows: np.ndarray) -> Predictions:
        """Return the rest, numbered anew, where these rows, `[examples] bool`, are left out: of ranking with all of their queries."""
        if self.groups is None:
            return Predictions(self.logits[~rows], self.labels[~rows])
        rows = np.isin(self.groups, self.groups[rows])
        groups = np.unique(self.groups[~rows], return_inverse=True)[1].astype(np.int32)
        return Predictions(self.logits[~rows], self.labels[~rows], groups)


Metric = Callable[[Predictions], float]


def accuracy(predictions: Predictions) -> float:
    """Share of examples whose most probable class is the label."""
    return float(np.mean(predictions.classes == predictions.labels))


def f1(predictions: Predictions) -> float:
    """F1 of class id 1 (MRPC, QQP); 0 where nothing is or should be positive."""
    return float(
        sklearn_metrics.f1_score(
            predictions.labels, predictions.classes, labels=[1], average="micro", zero_division=0.0
        )
    )


def accuracy_f1(predictions: Predictions) -> float:
    """Mean of accuracy and F1, what GLUE averages for MRPC and QQP."""
    return (accuracy(predictions) + f1(predictions)) / 2


def matthews(predictions: Predictions) -> float:
    """Matthews correlation (CoLA); 0 where the predictions are constant."""
    return float(sklearn_metrics.matthews_corrcoef(predictions.labels, predictions.classes))


def pearson(predictions: Predictions) -> float:
    """Pearson correlation; 0 where either side is constant."""
    return _correlation(stats.pearsonr, predictions)


def spearman(predictions: Predictions) -> float:
    """Spearman rank correlation; 0 where either side is constant."""
    return _correlation(stats.spearmanr, predictions)


def pearson_spearman(predictions: Predictions) -> float:
    """Mean of both correlations, what GLUE averages for STS-B."""
    return (pearson(predictions) + spearman(predictions)) / 2


def _correlation(function: Callable[..., tuple[float, float]], predictions: Predictions) -> float:
    values, labels = predictions.values.astype(np.float64), predictions.labels.astype(np.float64)
    if len(labels) < 2 or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(function(values, labels)[0])


def _ranked_queries(predictions: Predictions) -> Iterator[np.ndarray]:
    """Yield each query's relevance in predicted order, best first; queries without a relevant candidate are left out.

    Equal scores rank the irrelevant candidate first, so that a constant model gains nothing from file order.
    """
    if predictions.groups is None:
        raise ValueError("ranking metrics need groups")
    order = np.lexsort((predictions.labels, -predictions.values, predictions.groups))
    relevance, groups = predictions.labels[order], predictions.groups[order]
    for query in np.split(relevance, np.flatnonzero(np.diff(groups)) + 1):
        if np.any(query > 0):
            yield query


def _first_is_relevant(relevance: np.ndarray) -> float:
    return float(relevance[0] > 0)


def _reciprocal_rank(relevance: np.ndarray) -> float:
    return 1.0 / (1 + int(np.argmax(relevance > 0)))


def _average_precision(relevance: np.ndarray) -> float:
    hits = relevance > 0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def _normalised_gain(relevance: np.ndarray) -> float:
    discount = 1.0 / np.log2(np.arange(2, len(relevance) + 2))
    relevance = relevance.astype(np.float64)
    top = relevance.max()  # all gains over 2^top: their ratio stays, and counts of clicks overflow nothing
    gain = np.exp2(relevance - top) - np.exp2(-top)
    return float((gain * discount).sum() / (np.sort(gain)[::-1] * discount).sum())


# Of one query: its candidates' relevance in predicted order, best first, at least one of them above 0.
_OF_QUERY: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy_at_1": _first_is_relevant,
    "mrr": _reciprocal_rank,
    "map": _average_precision,
    "ndcg": _normalised_gain,
}


def query_scores(name: str, predictions: Predictions) -> np.ndarray:
    """Return a ranking metric of each query that has a relevant candidate, `[queries] float64`, by ascending group."""
    of_query = _OF_QUERY[name]
    return np.array([of_query(relevance) for relevance in _ranked_queries(predictions)], np.float64)


def _mean_over_queries(name: str, predictions: Predictions) -> float:
    scores = query_scores(name, predictions)
    return float(scores.mean()) if scores.size else 0.0


def accuracy_at_1(predictions: Predictions) -> float:
    """Share of queries whose first candidate is relevant."""
    return _mean_over_queries("accuracy_at_1", predictions)


def mrr(predictions: Predictions) -> float:
    """Mean reciprocal rank of the first relevant candidate."""
    return _mean_over_queries("mrr", predictions)


def mean_average_precision(predictions: Predictions) -> float:
    """Mean over queries of the mean precision at each relevant candidate."""
    return _mean_over_queries("map", predictions)


def ndcg(predictions: Predictions) -> float:
    """Normalised discounted cumulative gain over the whole list, gain 2^relevance - 1 (Burges et al. 2005)."""
    return _mean_over_queries("ndcg", predictions)


def masked_loss(predictions: Predictions) -> float:
    """Mean negative log likelihood of the masked tokens, in nats (outputs of `PretrainingHead`)."""
    return _over_masked(predictions, MASKED_LOSS)


def masked_accuracy(predictions: Predictions) -> float:
    """Share of the masked tokens that are found."""
    return _over_masked(predictions, MASKED_RIGHT)


def _over_masked(predictions: Predictions, column: int) -> float:
    total, count = (predictions.logits[:, each].sum(dtype=np.float64) for each in (column, MASKED_COUNT))
    return float(total / count)


def next_accuracy(predictions: Predictions) -> float:
    """Share of pairs of segments of which is told rightly whether the second follows the first."""
    return float(np.mean(predictions.logits[:, NEXT_LOGITS].argmax(axis=-1) == predictions.labels))


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "accuracy_f1": accuracy_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman": pearson_spearman,
    "accuracy_at_1": accuracy_at_1,
    "mrr": mrr,
    "map": mean_average_precision,
    "ndcg": ndcg,
    "masked_loss": masked_loss,
    "masked_accuracy": masked_accuracy,
    "next_accuracy": next_accuracy,
}


def score_task(task: TaskSpec, predictions: Predictions) -> dict[str, float]:
    """Return the task's metrics on a whole split.

    Raises:
        NotFiniteError: a prediction is not a finite number.
    """
    if not np.all(np.isfinite(predictions.logits)):
        raise NotFiniteError(
            f"task {task.name!r}: the model's outputs hold values that are not finite: there is nothing to score"
        )
    return {name: METRICS[name](predictions) for name in task.metrics}


_GLUE_RULE: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


def glue_score(scores: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return the leaderboard's Score in percent: the mean over nine tasks, two metrics of a task averaged first.

    MNLI counts once, as the mean of matched (`mnli`) and mismatched (`mnli_mismatched`); AX does not count.

    Returns:
        The score, or None where one of the nine tasks (or MNLI mismatched) is missing, or was not scored by these metrics.
    """
    needed = {**_GLUE_RULE, "mnli": ("accuracy",), "mnli_mismatched": ("accuracy",)}
    if not all(name in scores.get(task, {}) for task, names in needed.items() for name in names):
        return None
    by_task = [float(np.mean([scores[task][name] for name in names])) for task, names in _GLUE_RULE.items()]
    by_task.append((scores["mnli"]["accuracy"] + scores["mnli_mismatched"]["accuracy"]) / 2)
    return float(100 * np.mean(by_task))
