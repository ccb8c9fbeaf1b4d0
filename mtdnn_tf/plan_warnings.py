"""What in the data or the plan is likely to spoil a run or its scores: one line each, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdnn_tf.data.inspection import Inspection
from mtdnn_tf.data.overlaps import contradictory_rows, repeated_rows, shared_rows
from mtdnn_tf.tasks import TaskSpec

FEW_EXAMPLES = 5  # a class with fewer is hardly learnt
MAJORITY = 0.8  # share of one class
CUT = 0.05  # share of rows that are cut
RARE = 0.01  # share of the steps
TOLERANCE = 0.1  # share of the range of scores that equal texts may differ by

Inspections = Mapping[str, Mapping[str, Inspection]]  # by task and split


@dataclass(frozen=True)
class Warned:
    """One warning."""

    kind: str  # a key of `CHECKS`
    task: str
    split: str  # empty: of the task as a whole
    message: str


def find_warnings(tasks: Sequence[TaskSpec], inspections: Inspections, shares: Mapping[str, float]) -> list[Warned]:
    """Run all checks.

    Args:
        tasks: all of them.
        inspections: of every split that has a source.
        shares: of each trained task in the steps of the run.
    """
    return [
        Warned(kind, task.name, split, f"tasks.{task.name}{f'.{split}' if split else ''}: {message}")
        for kind, check in CHECKS.items()
        for task in tasks
        for split, message in check(task, inspections, shares)
    ]


Check = Callable[[TaskSpec, Inspections, Mapping[str, float]], Iterator[tuple[str, str]]]


def _no_dev(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    if task.head_of is None and "dev" not in inspections[task.name]:
        yield (
            "",
            "has no dev split, so that no score tells how well it is learnt; name one, or hold rows back from train",
        )


def _rare_task(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    if shares.get(task.name, 1.0) < RARE:
        yield (
            "",
            f"gets {_percent(shares[task.name])} of the steps; cap the larger tasks with max_examples, or train it by itself",
        )


def _class_counts(inspection: Inspection | None) -> dict[str, int]:
    classes = inspection is not None and inspection.task.type == "classification"
    return (inspection.balance or {}) if inspection is not None and classes else {}


def _missing_class(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for label, count in _class_counts(inspections[task.name].get("train")).items():
        if count < FEW_EXAMPLES:
            some = "no example" if count == 0 else "1 example" if count == 1 else f"{count} examples"
            yield "train", f"label {label!r} has {some}; add some, or take it out of labels"


def _untrained_label(
    task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    trained = _class_counts(inspections[task.head_of or task.name].get("train"))
    for split in ("dev", "test"):
        for label, count in _class_counts(inspections[task.name].get(split)).items():
            if count and trained.get(label) == 0:
                yield split, f"label {label!r} is in {_rows(count)} here, in none of train; they can't be learnt"


def _majority(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    counts = _class_counts(inspections[task.name].get("train"))
    if not counts:
        return
    label = max(counts, key=counts.__getitem__)
    share = counts[label] / sum(counts.values())
    if share > MAJORITY:
        judge = "set main_metric to matthews" if task.main_metric == "accuracy" else f"judge by {task.main_metric}"
        yield "train", f"{_percent(share)} of the rows are {label!r}; accuracy misleads here: {judge}"


def _no_positive(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for split, inspection in inspections[task.name].items():
        count = (inspection.balance or {}).get("queries_without_positive", 0)
        if task.type == "ranking" and count:
            yield (
                split,
                f"{count:,} of {inspection.items:,} queries have no relevant candidate; "
                "they teach nothing and cannot be answered: take them out, or say so beside the scores",
            )


def _empty(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for split, inspection in inspections[task.name].items():
        if len(inspection.empty_rows):
            line = inspection.fingerprints.lines[inspection.empty_rows[0]]
            yield split, f"{_rows(len(inspection.empty_rows))} with an empty text (first: line {line}); take them out"


def _cut(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for split, inspection in inspections[task.name].items():
        if inspection.rows_cut > CUT:
            yield (
                split,
                f"{_percent(inspection.rows_cut)} of the rows are longer than data.max_length {inspection.max_length} and lose "
                f"{_percent(inspection.tokens_cut)} of the tokens; raise it (99 % of the rows have at most "
                f"{int(np.percentile(inspection.lengths, 99))} tokens), or shorten the texts",
            )


def _repeated(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    train = inspections[task.name].get("train")
    found = repeated_rows(train.fingerprints) if train else None
    if found:
        yield (
            "train",
            f"{_rows(found.count)} repeat an earlier one (first: line {found.line} = line {found.other_line}); "
            "take them out unless they should weigh more",
        )


def _contradiction(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    train = inspections[task.name].get("train")
    if train is None or train.labels is None:
        return
    spread = float(np.ptp(train.labels)) if task.range is None else task.range[1] - task.range[0]
    tolerance = TOLERANCE * spread if task.type == "regression" else 0.0
    found = contradictory_rows(train.fingerprints, train.labels, tolerance)
    if found:
        yield (
            "train",
            f"{_rows(found.count)} with the texts of an earlier one but another label "
            f"(first: line {found.line}, line {found.other_line}); settle on one label",
        )


def _overlap(task: TaskSpec, inspections: Inspections, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for split in ("dev", "test"):
        held_out = inspections[task.name].get(split)
        for other, splits in inspections.items():
            train = splits.get("train")
            found = shared_rows(held_out.fingerprints, train.fingerprints) if held_out and train else None
            if found and held_out:
                yield (
                    split,
                    f"{found.count:,} of {_rows(held_out.rows)} are in tasks.{other}.train too (first: line {found.line} = line "
                    f"{found.other_line} there); take them out of train, or say so beside the scores",
                )


# A check is added here: from a task to the splits and messages that it warns of.
CHECKS: dict[str, Check] = {
    "overlap": _overlap,
    "missing_class": _missing_class,
    "untrained_label": _untrained_label,
    "contradiction": _contradiction,
    "repeated": _repeated,
    "empty_text": _empty,
    "truncation": _cut,
    "majority": _majority,
    "no_positive": _no_positive,
    "no_dev": _no_dev,
    "rare_task": _rare_task,
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def as_json(warnings: Sequence[Warned]) -> list[dict[str, Any]]:
    """Return warnings as `kind`, `task`, `split`, `message`."""
    return [vars(warning) for warning in warnings]
