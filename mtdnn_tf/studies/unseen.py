"""Scores without the rows that any task was trained on: the same rows left out of every run, whatever it saw itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import METRICS, Predictions
from mtdnn_tf.studies.comparisons import read_predictions
from mtdnn_tf.studies.results import Result
from mtdnn_tf.studies.study import Study
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec


@dataclass(frozen=True)
class Unseen:
    """What is left of a study's results.

    Attributes:
        results: with scores of the rows left; none for answers that were not kept, and tasks of which no row is left, of ranking no
            query with an answer.
        left_out: how many rows of each task are left out.
    """

    results: tuple[Result, ...]
    left_out: dict[str, int]


def without_train_rows(study: Study, results: Sequence[Result]) -> Unseen:
    """Score again what runs have answered, without the rows whose texts are among the training rows of any task of any run, those that
    it builds on included.

    Of a test split, rows are also left out that are among the development rows: epochs were chosen by them. Of a ranking query none of
    the candidates is left where one of them was seen. Texts are compared as in `mtdnn_tf.data.overlaps`.

    Raises:
        UserError: answers and rows of a split are not of one number.
    """
    from mtdnn_tf.data.overlaps import fingerprints, rows_seen_before, seen_rows  # which import TensorFlow
    from mtdnn_tf.data.sources import read_examples

    split = study.options.split
    specs = {spec.name: spec for result in results for spec in result.run.specs}
    trained = rows_seen_before(_trained_on(results), split)
    seen = {
        task: seen_rows(fingerprints(read_examples(specs[task], split)), trained)
        for task in dict.fromkeys(result.task for result in results)
    }
    found, left_out = [], {}
    for result in results:
        answers = read_predictions(result, split)
        if answers is not None:
            kept = _kept(answers, seen[result.task], result)
            left_out[result.task] = len(answers.labels) - len(kept.labels)
            if _is_scorable(kept):
                found.append(replace(result, score=METRICS[result.main_metric](kept)))
    return Unseen(tuple(found), left_out)


def _is_scorable(answers: Predictions) -> bool:
    """Return whether rows are left, of ranking a query that has an answer."""
    return bool(len(answers.labels) if answers.groups is None else np.any(answers.labels > 0))


def _trained_on(results: Sequence[Result]) -> list[TaskSpec]:
    """Return the tasks of all runs and of those that they build on, each choice of rows once."""
    found: list[tuple[object, TaskSpec]] = []
    for run in {run.name: run for result in results for run in (result.run, *result.run.ancestors)}.values():
        for spec in run.specs:
            rows = (spec.sources, spec.max_examples, spec.sample_seed)
            if spec.type not in DOCUMENT_TYPES and all(rows != other for other, _ in found):
                found.append((rows, spec))
    return [spec for _, spec in found]


def _kept(answers: Predictions, seen: np.ndarray, result: Result) -> Predictions:
    if len(seen) != len(answers.labels):
        raise UserError(
            f"{result.run.directory}: holds {len(answers.labels)} answers for {result.task}, whose file now has {len(seen)} rows; "
            "put the file back, or remove the run's directory, so that it is made again"
        )
    return answers.without(seen)
