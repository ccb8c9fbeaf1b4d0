"""Data warnings: what in the data or the plan is likely to spoil a run or its scores, one line each, with what to do.

`plan` runs every check; `train` runs those that need no further pass over the texts, before the first step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdnn_tf.data.inspection import Inspection, SplitFacts
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.data.overlaps import contradictory_rows, repeated_rows, shared_rows
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec, is_near_unit_scale

FEW_EXAMPLES = 5  # a class with fewer is hardly learnt
LISTED = 3  # labels that get a line each
MAJORITY = 0.8  # share of one class
RARE_CLASS = 0.1  # of the share that each class would have if all had the same
UNUSED = 0.05  # share of its range that a task's scores span
CUT = 0.05  # share of rows that are cut
RARE = 0.01  # share of the steps
TOLERANCE = 0.1  # share of the range of scores that equal texts may differ by

Facts = Mapping[str, Mapping[str, SplitFacts]]  # by task and split


@dataclass(frozen=True)
class View:
    """What a check sees: one task, among all of them."""

    task: TaskSpec
    facts: Facts  # of all tasks
    share: float | None  # of the task in the steps of the run; None: it is not trained

    @property
    def splits(self) -> Mapping[str, SplitFacts]:
        """The task's own splits that were read."""
        return self.facts.get(self.task.name, {})

    @property
    def texts(self) -> Mapping[str, Inspection]:
        """Those of them whose texts were looked at; none while a run starts."""
        return _inspections(self.splits)


Messages = Iterator[tuple[str, str]]  # split (empty: the task as a whole), message
Check = Callable[[View], Messages]


@dataclass(frozen=True)
class Warned:
    """One warning."""

    kind: str  # a key of `CHECKS`
    task: str
    split: str  # empty: of the task as a whole
    message: str


def find_warnings(tasks: Sequence[TaskSpec], facts: Iterable[SplitFacts], shares: Mapping[str, float]) -> list[Warned]:
    """Run all checks; those of the texts see the splits that were inspected.

    Args:
        tasks: all of them; running text is not checked.
        facts: of every split that was read.
        shares: of each trained task in the steps of the run.
    """
    of_rows = [task for task in tasks if task.type not in DOCUMENT_TYPES]
    by_task: dict[str, dict[str, SplitFacts]] = {task.name: {} for task in of_rows}
    for found in facts:
        by_task[found.task.name][found.split] = found
    return [
        Warned(kind, task.name, split, f"tasks.{task.name}{f'.{split}' if split else ''}: {message}")
        for kind, check in CHECKS.items()
        for task in of_rows
        for split, message in check(View(task, by_task, shares.get(task.name)))
    ]


def step_shares(mixture: Mixture) -> dict[str, float]:
    """Return the share of each task in the steps of the run."""
    steps: Counter[str] = Counter()
    for epoch in range(mixture.epochs):
        steps.update(mixture.step_counts(epoch))
    return {name: count / steps.total() for name, count in steps.items()}


def _inspections(splits: Mapping[str, SplitFacts]) -> dict[str, Inspection]:
    return {split: found for split, found in splits.items() if isinstance(found, Inspection)}


def _skipped(view: View) -> Messages:
    for split, inspection in view.splits.items():
        if inspection.skipped:
            rows = _rows(len(inspection.skipped))
            yield split, f"on_error: skip leaves out {rows} (first: {inspection.skipped[0]})"


def _no_dev(view: View) -> Messages:
    dev = view.splits.get("dev")
    if view.task.head_of is None and (dev is None or dev.labels is None):
        yield (
            "",
            "has no dev split with labels, so that no score tells how well it is learnt; name one, or hold rows back from train",
        )


def _rare_task(view: View) -> Messages:
    if view.share is not None and view.share < RARE:
        yield (
            "",
            f"gets {_percent(view.share)} of the steps; cap the larger tasks with max_examples, or train it by itself",
        )


def _class_counts(found: SplitFacts | None) -> dict[str, int]:
    return (found.balance or {}) if found is not None and found.task.type == "classification" else {}


def _missing_class(view: View) -> Messages:
    counts = _class_counts(view.splits.get("train"))
    few = {label: count for label, count in counts.items() if count < FEW_EXAMPLES}
    if len(few) > LISTED:
        first = next(iter(few))
        yield (
            "train",
            f"{len(few):,} of {len(counts):,} labels have fewer than {FEW_EXAMPLES} examples (first: {first!r} with {few[first]}); add "
            "some, or take them out of labels",
        )
        return
    for label, count in few.items():
        some = "no example" if count == 0 else "1 example" if count == 1 else f"{count} examples"
        yield "train", f"label {label!r} has {some}; add some, or take it out of labels"


def _untrained_label(view: View) -> Messages:
    trained = _class_counts(view.facts[view.task.head_of or view.task.name].get("train"))
    for split in ("dev", "test"):
        counts = _class_counts(view.splits.get(split))
        new = {label: count for label, count in counts.items() if count and trained.get(label) == 0}
        if len(new) > LISTED:
            rows = _rows(sum(new.values()))
            yield (
                split,
                f"{len(new):,} labels (first: {next(iter(new))!r}) are in {rows} here, in none of train; they can't be learnt",
            )
            continue
        for label, count in new.items():
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


def _rare_class(view: View) -> Messages:
    counts = _class_counts(view.splits.get("train"))
    rows = sum(counts.values())
    rare = {label: count for label, count in counts.items() if 0 < count < RARE_CLASS * rows / len(counts)}
    if not rare or view.task.class_weights is not None:
        return
    label = min(rare, key=rare.__getitem__)
    others = "" if len(rare) == 1 else f", {len(rare) - 1:,} other label{'' if len(rare) == 2 else 's'} little more,"
    yield (
        "train",
        f"label {label!r} has {_rows(rare[label])} of {rows:,} ({_percent(rare[label] / rows)}){others} and may never be predicted; to "
        f"give rare classes more weight, set tasks.{view.task.name}.class_weights to balanced, or to a weight for each label",
    )


def _no_positive(view: View) -> Messages:
    for split, found in view.splits.items():
        count = (found.balance or {}).get("queries_without_positive", 0)
        if view.task.type != "ranking" or not count or (_learns_from_rows(view, split) and count < found.items):
            continue
        queries = _queries(count, found.items)
        if count == found.items:
            yield split, f"{queries} no relevant candidate (label above 0); {_nothing(split)}: check the labels"
        else:
            yield (
                split,
                f"{queries} no relevant candidate; they teach nothing and cannot be answered: take them out, or say so "
                "beside the scores",
            )


def _no_choice(view: View) -> Messages:
    for split, found in view.splits.items():
        count = (found.balance or {}).get("queries_without_choice", 0)
        if view.task.type != "ranking" or not count or _learns_from_rows(view, split):
            continue
        queries = _queries(count, found.items)
        if count == found.items:
            yield (
                split,
                f"{queries} one candidate only, or candidates of one relevance, so any order is right; {_nothing(split)}: give each "
                "query candidates that are not relevant, too",
            )
        else:
            effect = "teach nothing" if split == "train" else "raise the scores, whatever is predicted"
            yield (
                split,
                f"{queries} one candidate only, or candidates of one relevance; they {effect}: add others, or take them out",
            )


def _learns_from_rows(view: View, split: str) -> bool:
    """Return whether a ranking task learns from each candidate by itself, whatever the others of its query are."""
    return split == "train" and view.task.loss == "pointwise"


def _queries(count: int, of_all: int) -> str:
    if count == of_all:
        return "its only query has" if count == 1 else f"each of the {count:,} queries has"
    return f"{count:,} of {of_all:,} queries {'has' if count == 1 else 'have'}"


def _nothing(split: str) -> str:
    return "nothing can be learnt" if split == "train" else "the scores measure nothing"


def _constant_score(view: View) -> Messages:
    for split, found in view.splits.items():
        if (
            view.task.type == "regression"
            and found.labels is not None
            and len(found.labels) > 1
            and not np.ptp(found.labels)
        ):
            yield split, f"each of the {_rows(found.rows)} has the score {found.labels[0]:g}; {_nothing(split)}"


def _score_scale(view: View) -> Messages:
    scores = [found.labels for found in view.splits.values() if found.labels is not None]
    if view.task.type != "regression" or view.task.head_of is not None or not scores:
        return
    low, high = (float(reduce([reduce(each) for each in scores])) for reduce in (np.min, np.max))
    if low == high:
        return
    first, last = _around(low, high)
    suggested = f"set tasks.{view.task.name}.range to [{first:.12g}, {last:.12g}]"
    if view.task.range is None and not is_near_unit_scale(low, high):
        yield (
            "train",
            f"scores from {low:g} to {high:g} are far from the scale that a head starts at, and are hardly learnt as they are; "
            f"{suggested}: a range sets the scale",
        )
    elif view.task.score_map is not None and high - low < UNUSED * 2 * view.task.score_map.half_width:
        yield (
            "train",
            f"scores from {low:g} to {high:g} span {_percent((high - low) / (2 * view.task.score_map.half_width))} of the range, which sets "
            f"the scale that they are learnt on; {suggested}",
        )


def _around(low: float, high: float) -> tuple[float, float]:
    """Return short numbers at or beyond the ends, within a tenth of what lies between them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 10))
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _empty(view: View) -> Messages:
    for split, inspection in view.texts.items():
        if len(inspection.empty_rows):
            line = inspection.fingerprints.lines[inspection.empty_rows[0]]
            yield split, f"{_rows(len(inspection.empty_rows))} with an empty text (first: line {line}); take them out"


def _cut(view: View) -> Messages:
    for split, inspection in view.texts.items():
        if inspection.rows_cut > CUT:
            yield (
                split,
                f"{_percent(inspection.rows_cut)} of the rows are longer than data.max_length {inspection.max_length} and lose "
                f"{_percent(inspection.tokens_cut)} of the tokens; raise it (99 % of the rows have at most "
                f"{int(np.percentile(inspection.lengths, 99))} tokens), or shorten the texts",
            )


def _repeated(view: View) -> Messages:
    train = view.texts.get("train")
    found = repeated_rows(train.fingerprints) if train else None
    if found:
        yield (
            "train",
            f"{_rows(found.count)} repeat an earlier one (first: line {found.line} = line {found.other_line}); "
            "take them out unless they should weigh more",
        )


def _contradiction(view: View) -> Messages:
    train = view.texts.get("train")
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
        held_out = view.texts.get(split)
        for other, splits in view.facts.items():
            train = _inspections(splits).get("train")
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
    "rare_class": _rare_class,
    "no_positive": _no_positive,
    "no_choice": _no_choice,
    "constant_score": _constant_score,
    "score_scale": _score_scale,
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
