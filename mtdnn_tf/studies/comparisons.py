"""Pairs of arms compared on what they have in common: seeds, tasks, and the examples of the scored split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import METRICS, Predictions, query_scores
from mtdnn_tf.evaluation.significance import (
    Bootstrap,
    McNemar,
    PairedTest,
    mcnemar,
    paired_bootstrap,
    paired_test,
)
from mtdnn_tf.run_files import PREDICTIONS_FOLDER
from mtdnn_tf.studies.results import Result
from mtdnn_tf.studies.study import Study
from mtdnn_tf.tasks import TaskSpec

ALL_TASKS, ALL_PAIRS = "all tasks, one pair a task", "all tasks, one pair a task and seed"


@dataclass(frozen=True)
class Comparison:
    """One arm against another, on one task or on all of them, at one point. Differences are fractions."""

    arm: str
    other: str
    task: str  # or ALL_TASKS, ALL_PAIRS
    x: float | None
    seeds: tuple[int, ...]  # that both have
    over_seeds: PairedTest
    bootstrap: Bootstrap | None = None  # over examples, scores averaged over seeds
    mcnemar: Mapping[int, McNemar] | None = None  # by seed; classification only

    def as_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)


def compare(study: Study, results: Sequence[Result]) -> list[Comparison]:
    """Compare the study's pairs of arms at every point: each task, then all tasks.

    Raises:
        UserError: two runs have answered other rows of a task.
    """
    xs = list(dict.fromkeys(result.x for result in results))
    found: list[Comparison] = []
    for arm, other in study.pairs:
        for x in xs:
            sides = [_by_task([r for r in results if r.arm == side.name and r.x == x]) for side in (arm, other)]
            found += _compare_arms(study, arm.name, other.name, x, *sides)
    return found


_Runs = dict[int, Result]  # by seed


def _by_task(results: Iterable[Result]) -> dict[str, _Runs]:
    found: dict[str, _Runs] = {}
    for result in results:
        found.setdefault(result.task, {})[result.seed] = result
    return found


def _paired(first: _Runs, second: _Runs) -> dict[int, tuple[Result, Result]]:
    """Pair runs by seed; an arm of one run for all seeds is paired with each of the other's."""
    if _is_one_run(second):
        [only] = second.values()
        return {seed: (result, only) for seed, result in first.items()}
    if _is_one_run(first):
        [only] = first.values()
        return {seed: (only, result) for seed, result in second.items()}
    return {seed: (first[seed], second[seed]) for seed in first if seed in second}


def _is_one_run(runs: _Runs) -> bool:
    return all(result.run.stage.options.seed is not None for result in runs.values())


def _compare_arms(
    study: Study, arm: str, other: str, x: float | None, first: Mapping[str, _Runs], second: Mapping[str, _Runs]
) -> list[Comparison]:
    paired = {
        task: _paired(first[task], second[task]) for task in study.options.tasks if task in first and task in second
    }
    paired = {task: pairs for task, pairs in paired.items() if pairs}
    differences = {task: [one.score - two.score for one, two in pairs.values()] for task, pairs in paired.items()}
    for task, values in differences.items():
        if _is_one_run(first[task]) or _is_one_run(second[task]):
            differences[task] = [float(np.mean(values))]  # they share a run: no sample of several pairs
    rows = [
        Comparison(
            arm,
            other,
            task,
            x,
            tuple(pairs),
            paired_test(differences[task]),
            *_over_examples(study, task, pairs),
        )
        for task, pairs in paired.items()
    ]
    if len(paired) < 2:
        return rows
    means = [float(np.mean(values)) for values in differences.values()]
    every = [value for values in differences.values() for value in values]
    rows.append(Comparison(arm, other, ALL_TASKS, x, (), paired_test(means)))
    if len(every) > len(means):
        rows.append(Comparison(arm, other, ALL_PAIRS, x, (), paired_test(every)))
    return rows


def _over_examples(
    study: Study, task: str, pairs: Mapping[int, tuple[Result, Result]]
) -> tuple[Bootstrap | None, dict[int, McNemar] | None]:
    split, samples = study.options.split, study.options.bootstrap
    read = {seed: tuple(read_predictions(result, split) for result in pair) for seed, pair in pairs.items()}
    if not samples or not read or any(answers is None for pair in read.values() for answers in pair):
        return None, None
    spec = _spec(next(iter(pairs.values()))[0], task)
    sides = [(one, two) for one, two in read.values() if one is not None and two is not None]
    _check_same_rows(task, pairs, sides)
    scorers = [[resampled_score(spec, side) for side in pair] for pair in sides]

    def difference(rows: np.ndarray) -> float:
        return float(np.mean([one(rows) - two(rows) for one, two in scorers]))

    units = _units(spec, sides[0][0])
    if not units:  # of no query is a candidate relevant
        return None, None
    bootstrap = paired_bootstrap(difference, units, samples)
    if spec.type != "classification":
        return bootstrap, None
    tables = {
        seed: mcnemar(one.classes == one.labels, two.classes == two.labels)
        for seed, (one, two) in zip(pairs, sides, strict=True)
    }
    return bootstrap, tables


def _spec(result: Result, task: str) -> TaskSpec:
    return next(spec for spec in result.run.specs if spec.name == task)


def _check_same_rows(
    task: str, pairs: Mapping[int, tuple[Result, Result]], sides: Sequence[tuple[Predictions, Predictions]]
) -> None:
    results = [result for pair in pairs.values() for result in pair]
    answered = [predictions for pair in sides for predictions in pair]
    for result, predictions in zip(results, answered, strict=True):
        if not _has_rows_of(predictions, answered[0]):
            raise UserError(
                f"{results[0].run.directory} and {result.run.directory} were scored on other rows of {task}; runs are compared on the "
                "same: give them the same source, and remove runs that were scored on an earlier one"
            )


def _has_rows_of(one: Predictions, other: Predictions) -> bool:
    if one.groups is not None and other.groups is not None and not np.array_equal(one.groups, other.groups):
        return False
    return np.array_equal(one.labels, other.labels)


def resampled_score(spec: TaskSpec, predictions: Predictions) -> Callable[[np.ndarray], float]:
    """Return the main metric as a function of rows, of ranking of queries; rows may be there several times."""
    metric = METRICS[spec.main_metric]
    if predictions.groups is None:
        return lambda rows: metric(Predictions(predictions.logits[rows], predictions.labels[rows]))
    # Metrics of ranking are means over queries with a relevant candidate.
    values = query_scores(spec.main_metric, predictions)
    return lambda queries: float(values[queries].mean())


def _units(spec: TaskSpec, predictions: Predictions) -> int:
    return len(predictions.labels) if predictions.groups is None else len(_answerable(predictions))


def _answerable(predictions: Predictions) -> np.ndarray:
    assert predictions.groups is not None
    return np.unique(predictions.groups[predictions.labels > 0])


def read_predictions(result: Result, split: str) -> Predictions | None:
    """Return the answers that a run has written, `predictions/<task>_<split>.tsv`, or None where there are none.

    Logits of classification are 1 for the answer and 0 for the others: metrics of classes need no more.

    Raises:
        UserError: the file is damaged.
    """
    spec = _spec(result, result.task)
    path = result.run.directory / PREDICTIONS_FOLDER / f"{spec.name}_{split}.tsv"
    if not path.is_file():
        return None
    try:
        head, *lines = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
        columns = {name: [line[place] for line in lines] for place, name in enumerate(head)}
        if spec.type == "classification":
            ids = {label: number for number, label in enumerate(spec.labels)}
            logits = np.eye(len(ids), dtype=np.float32)[[ids[label] for label in columns["label"]]]
            return Predictions(logits, np.array([ids[label] for label in columns["gold"]], np.int32))
        values = columns["relevance" if spec.type == "ranking" else "score"]
        groups = np.array(columns["query"], np.int32) if spec.type == "ranking" else None
        return Predictions(np.array(values, np.float32)[:, None], np.array(columns["gold"], np.float32), groups)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}; remove the run's directory, so that it is made again") from None
