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
class View:
    """What a check sees: one task, among all of them."""

    task: TaskSpec
    inspections: Inspections  # of all tasks
    share: float | None  # of the task in the steps of the run; None: it is not trained

    @property
    def splits(self) -> Mapping[str, Inspection]:
        """The task's own splits that have a source."""
        return self.inspections[self.task.name]


Messages = Iterator[tuple[str, str]]  # split (empty: the task as a whole), message
Check = Callable[[View], Messages]


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
        for split, message in check(View(task, inspections, shares.get(task.name)))
    ]


def _skipped(view: View) -> Messages:
    for split, inspection in view.splits.items():
        if inspection.skipped:
            rows = _rows(len(inspection.skipped))
            yield split, f"on_error: skip leaves out {rows} (first: {inspection.skipped[0]})"


def _no_dev(view: View) -> Messages:
    if view.task.head_of is None and "dev" not in view.splits:
        yield (
            "",
            "has no dev split, so that no score tells how well it is learnt; name one, or hold rows back from train",
        )


def _rare_task(view: View) -> Messages:
    if view.share is not None and view.share < RARE:
        yield (
            "",
            f"gets {_percent(view.share)} of the steps; cap the larger tasks with max_examples, or train it by itself",
        )


def _class_counts(inspection: Inspection | None) -> dict[str, int]:
    classes = inspection is not None and inspection.task.type == "classification"
    return (inspection.balance or {}) if inspection is not None and classes else {}


def _missing_class(view: View) -> Messages:
    for label, count in _class_counts(view.splits.get("train")).items():
        if count < FEW_EXAMPLES:
            some = "no example" if count == 0 else "1 example" if count == 1 else f"{count} examples"
            yield "train", f"label {label!r} has {some}; add some, or take it out of labels"


def _untrained_label(view: View) -> Messages:
    trained = _class_counts(view.inspections[view.task.head_of or view.task.name].get("train"))
    for split in ("dev", "test"):
        for label, count in _class_counts(view.splits.get(split)).items():
            if count and trained.get(label) == 0:
                yield split, f"label {label!r} is in {_rows(count)} here, in none of train; they can't be learnt"


def _majority(view: View) -> Messages:
    counts = _class_counts(view.splits.get("train"))
    if not counts:
        return
    label = max(counts, key=counts.__getitem__)
    share = counts[label] / sum(counts.values())
    if share > MAJORITY:
        judge = (
            f"set metrics to [{', '.join(dict.fromkeys([*view.task.metrics, 'matthews']))}] and main_metric to matthews"
            if view.task.main_metric == "accuracy"
            else f"judge by {view.task.main_metric}"
        )
        yield "train", f"{_percent(share)} of the rows are {label!r}; accuracy misleads here: {judge}"


def _no_positive(view: View) -> Messages:
    for split, inspection in view.splits.items():
        count = (inspection.balance or {}).get("queries_without_positive", 0)
        if view.task.type == "ranking" and count:
            yield (
                split,
                f"{count:,} of {inspection.items:,} queries have no relevant candidate; "
                "they teach nothing and cannot be answered: take them out, or say so beside the scores",
            )


def _empty(view: View) -> Messages:
    for split, inspection in view.splits.items():
        if len(inspection.empty_rows):
            line = inspection.fingerprints.lines[inspection.empty_rows[0]]
            yield split, f"{_rows(len(inspection.empty_rows))} with an empty text (first: line {line}); take them out"


def _cut(view: View) -> Messages:
    for split, inspection in view.splits.items():
        if inspection.rows_cut > CUT:
            yield (
                split,
                f"{_percent(inspection.rows_cut)} of the rows are longer than data.max_length {inspection.max_length} and lose "
                f"{_percent(inspection.tokens_cut)} of the tokens; raise it (99 % of the rows have at most "
                f"{int(np.percentile(inspection.lengths, 99))} tokens), or shorten the texts",
            )


def _repeated(view: View) -> Messages:
    train = view.splits.get("train")
    found = repeated_rows(train.fingerprints) if train else None
    if found:
        yield (
            "train",
            f"{_rows(found.count)} repeat an earlier one (first: line {found.line} = line {found.other_line}); "
            "take them out unless they should weigh more",
        )


def _contradiction(view: View) -> Messages:
    train = view.splits.get("train")
    if train is None or train.labels is None:
        return
    spread = float(np.ptp(train.labels)) if view.task.range is None else view.task.range[1] - view.task.range[0]
    tolerance = TOLERANCE * spread if view.task.type == "regression" else 0.0
    found = contradictory_rows(train.fingerprints, train.labels, tolerance)
    if found:
        yield (
            "train",
            f"{_rows(found.count)} with the texts of an earlier one but another label "
            f"(first: line {found.line}, line {found.other_line}); settle on one label",
        )


def _overlap(view: View) -> Messages:
    for split in ("dev", "test"):
        held_out = view.splits.get(split)
        for other, splits in view.inspections.items():
            train = splits.get("train")
            found = shared_rows(held_out.fingerprints, train.fingerprints) if held_out and train else None
            if found and held_out:
                yield (
                    split,
                    f"{found.count:,} of {_rows(held_out.rows)} are in tasks.{other}.train too (first: line {found.line} = line "
                    f"{found.other_line} there); take them out of train, or say so beside the scores",
                )


# A check is added here: from the view of a task to what it warns of.
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
    "skipped": _skipped,
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
