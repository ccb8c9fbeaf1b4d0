"""What a study's finished runs came to: a row for each run and task, all that a table or a test is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtdnn_tf.config import config_hash
from mtdnn_tf.data.hashes import source_hashes
from mtdnn_tf.evaluation.pages import read_metrics
from mtdnn_tf.provenance import read_header
from mtdnn_tf.run_files import CONFIG_FILE, METRICS_FILE
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.progress import FINISHED, scores_file
from mtdnn_tf.studies.study import Study


@dataclass(frozen=True)
class Result:
    """One task of one finished run."""

    arm: str
    task: str
    x: float | None  # of a point
    seed: int
    main_metric: str
    score: float  # the main metric, a fraction
    metrics: Mapping[str, float]
    epochs: int  # of this run
    steps: int
    steps_before: int  # of the runs that it builds on
    run: PlannedRun

    def as_json(self, folder: Path, versions: Mapping[str, str]) -> dict[str, object]:
        """Return it as plain values, with where it comes from."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "run"}
        return own | {
            "run": str(self.run.directory.relative_to(folder)),
            "started_from": str(self.run.parent.directory.relative_to(folder)) if self.run.parent else None,
            "configuration": config_hash(self.run.config),
            "command": f"python -m {' '.join(self.run.command)}",
            "data": source_hashes(self.run.specs),
            "versions": dict(versions),
        }


def collect(study: Study, runs: Sequence[PlannedRun], states: Mapping[str, str]) -> list[Result]:
    """Return a result for each task of the study that a finished run of an arm scores, in the order of the plan.

    Of a task that takes fewer seeds, only these are looked at, also where a run of several tasks has more.
    """
    found = []
    for run in runs:
        if not run.stage.options.scored or states[run.name] != FINISHED:
            continue
        scores = json.loads((run.directory / scores_file(study.options.split)).read_text(encoding="utf-8"))["tasks"]
        steps, before = steps_of(run), sum(steps_of(ancestor) for ancestor in run.ancestors)
        for spec in run.specs:
            if spec.name in scores and study.has_result(run, spec.name):
                found.append(
                    Result(
                        run.stage.name,
                        spec.name,
                        run.x,
                        run.config.training.seed,
                        spec.main_metric,
                        scores[spec.name][spec.main_metric],
                        scores[spec.name],
                        run.config.training.epochs,
                        steps,
                        before,
                        run,
                    )
                )
    return found


def steps_of(run: PlannedRun) -> int:
    """Return how many steps a run has taken by its metrics."""
    return max((int(line["step"]) for line in read_metrics(run.directory / METRICS_FILE)), default=0)


@dataclass(frozen=True)
class Summary:
    """An arm's scores of one task at one point, over its seeds; fractions."""

    mean: float
    deviation: float | None  # standard deviation, n - 1; None of one seed
    seeds: tuple[int, ...]
    scores: tuple[float, ...]  # by seed

    def __str__(self) -> str:
        """Say it in percent."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        return f"{100 * self.mean:.2f}{deviation}"


Cell = tuple[str, str, float | None]  # arm, task, point


def summaries(results: Iterable[Result]) -> dict[Cell, Summary]:
    """Return the summary of every arm, task and point that has results."""
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        cells.setdefault((result.arm, result.task, result.x), []).append(result)
    return {
        cell: _summary([result.seed for result in found], [result.score for result in found])
        for cell, found in cells.items()
    }


def most_seeds(cells: Mapping[Cell, Summary]) -> int:
    """Return how many seeds the summary of the most has; 0 of none."""
    return max((len(summary.seeds) for summary in cells.values()), default=0)


def mean_over_tasks(found: Sequence[Summary]) -> Summary:
    """Return the mean of an arm's tasks over its seeds; without a deviation where tasks have other seeds."""
    seeds = found[0].seeds
    if all(summary.seeds == seeds for summary in found):
        return _summary(seeds, np.mean([summary.scores for summary in found], axis=0).tolist())
    mean = float(np.mean([summary.mean for summary in found]))
    return Summary(mean, None, (), ())


def _summary(seeds: Sequence[int], scores: Sequence[float]) -> Summary:
    deviation = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Summary(float(np.mean(scores)), deviation, tuple(seeds), tuple(scores))


def results_json(
    study: Study, results: Sequence[Result], states: Mapping[str, str], folder: Path, command: str
) -> dict[str, object]:
    """Return the layout of results.json, but for the comparisons."""
    runs = {result.run.name: result.run for result in results}
    versions = {name: read_header(run.directory / CONFIG_FILE) for name, run in runs.items()}
    return {
        "title": study.options.title,
        "budget": study.options.budget,
        "split": study.options.split,
        "command": command,
        "remaining": [name for name, state in states.items() if state != FINISHED],
        "runs": [result.as_json(folder, versions[result.run.name]) for result in results],
        "summary": summaries_json(results),
    }


def summaries_json(results: Iterable[Result]) -> list[dict[str, object]]:
    """Return the summaries as plain values."""
    return [
        {"arm": arm, "task": task, "x": x, **asdict(summary)} for (arm, task, x), summary in summaries(results).items()
    ]


def arms_in_words(study: Study, results: Iterable[Result]) -> list[tuple[str, ...]]:
    """Return what each arm took: title, runs, epochs of a run, steps of a run, steps of the stages before it."""
    rows = []
    for arm in study.arms:
        found = list({result.run.name: result for result in results if result.arm == arm.name}.values())
        if found:
            numbers = ([getattr(result, name) for result in found] for name in ("epochs", "steps", "steps_before"))
            rows.append((arm.title, str(len(found)), *map(_span, numbers)))
    return rows


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
