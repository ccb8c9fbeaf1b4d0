"""Scores without the rows that were trained on: public test sets repeat rows of their own training sets, and of each other's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mtdnn_tf.data.overlaps import fingerprints, rows_seen_before, seen_rows
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.metrics import Predictions, score_task
from mtdnn_tf.tasks import TaskSpec


def scores_without_train_rows(scorer: SplitScorer, tasks: Iterable[TaskSpec]) -> dict[str, Any]:
    """Score again what a scorer has scored, without the rows whose texts are among the training rows of any task.

    Of a test split, rows are also left out that are among the development rows: the epoch was chosen by them.
    Of a ranking query none of the candidates is left where one of them was trained on. Texts are compared as in `overlaps`.

    Args:
        scorer: called once.
        tasks: all tasks of the run.

    Returns:
        `left_out` {task: rows}; `tasks` {task: {metric: value}}, without tasks that no row is left of; `average`: the mean of
        the main metrics of those with a head of their own.
    """
    trained = rows_seen_before(tasks, scorer.split)
    left_out: dict[str, int] = {}
    scores: dict[str, dict[str, float]] = {}
    for task, tokenized in scorer.splits:
        seen = seen_rows(fingerprints(read_examples(task, scorer.split)), trained)
        if tokenized.groups is not None:
            seen = np.isin(tokenized.groups, tokenized.groups[seen])
        left_out[task.name] = int(seen.sum())
        if not seen.all():
            answered = Predictions(scorer.logits[task.name], tokenized.known_labels, tokenized.groups)
            scores[task.name] = score_task(task, answered.without(seen))
    counted = [
        scores[task.name][task.main_metric] for task, _ in scorer.splits if task.head_of is None and task.name in scores
    ]
    return {"left_out": left_out, "tasks": scores, "average": float(np.mean(counted)) if counted else None}


def seen_rows_note(found: dict[str, Any]) -> str:
    """Say in one line how many rows were left out, and what the average is without them."""
    average = "no row is left" if found["average"] is None else f"average {100 * found['average']:.2f}"
    return f"without the {sum(found['left_out'].values())} rows that were trained on: {average}"
