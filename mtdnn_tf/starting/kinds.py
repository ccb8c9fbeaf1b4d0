"""The type of a task, told from its labels: a few names are classes, many numbers a score, 0 and 1 under a question a ranking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.starting.names import QUERY_NAMES, SCORE_NAMES, plain_name
from mtdnn_tf.starting.tables import Column, FileTable, as_number

_NO_LABEL = ("", "-")  # "-": what SNLI has where its annotators disagree
_MOST_NUMBERED_CLASSES = 10
_MOST_CLASSES = 1000
_USUAL_RANGES = ((0, 1), (-1, 1), (1, 5), (0, 5), (1, 7), (1, 10), (0, 10), (0, 100))


@dataclass(frozen=True)
class Kind:
    """Type of a task and what goes with it."""

    type: str
    labels: tuple[str, ...] = ()  # classification
    range: tuple[float, float] | None = None  # regression
    seen: str = ""  # of the labels, for people
    notes: tuple[str, ...] = ()


def is_no_label(value: str) -> bool:
    """Return whether this stands for a label that is not there."""
    return value in _NO_LABEL


def no_labels_in(label: Column) -> tuple[str, ...]:
    """Return what stands in the rows of a column that have no label."""
    return tuple(value for value in _NO_LABEL if value in set(label.stripped))


def guess_kind(table: FileTable, texts: Sequence[Column], label: Column, wished: str | None) -> Kind:
    """Return the type, as wished or as the labels suggest.

    Raises:
        UserError: there are no labels, one class only, as many as rows, or labels that do not suit the wished type.
    """
    filled = [value for value in label.stripped if not is_no_label(value)]
    if not filled:
        raise UserError(
            f"{table.path}: column {quoted(label.key)} is empty in every row; training needs labels (another column: --label=...)"
        )
    guessed, notes = _type_of(table, texts, label, filled)
    make = KINDS.get(wished or guessed)
    if make is None:
        raise UserError(unknown_name("--type", "task type", str(wished), KINDS))
    kind = make(table, texts, label, filled)
    missing = len(label.values) - len(filled)
    gaps = (f"{missing:,} rows have no label and are left out",) if missing else ()
    return Kind(kind.type, kind.labels, kind.range, kind.seen, (*kind.notes, *(() if wished else notes), *gaps))


def _type_of(
    table: FileTable, texts: Sequence[Column], label: Column, filled: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Return the type that the labels suggest, and what there is to say about it."""
    numbers = [as_number(value) for value in filled]
    if None in numbers:
        return "classification", ()
    different = sorted({number for number in numbers if number is not None})
    whole = all(number.is_integer() for number in different)
    if set(different) <= {0, 1} and len(texts) == 2 and _may_be_queries(texts[0]):
        if not _stand_together(texts[0]):
            return "classification", ("for --type=ranking, the candidates of one question must stand together: sort",)
        return "ranking", ("candidates of one question are ranked; to judge each alone: --type=classification",)
    if not whole or len(different) > _MOST_NUMBERED_CLASSES:
        return "regression", ()
    if len(different) < 3:
        return "classification", ()
    seen = f"{len(different)} whole numbers, {different[0]:g} to {different[-1]:g}"
    if isinstance(label.key, str) and plain_name(label.key) in SCORE_NAMES:
        return "regression", (f"{seen}: taken as a score; for classes: --type=classification",)
    return "classification", (f"{seen}: taken as classes; for a score: --type=regression",)


def _may_be_queries(first: Column) -> bool:
    """Return whether a text comes several times as a question with its candidates does."""
    name = plain_name(first.key).rstrip("12_")
    known = isinstance(first.key, int) or name in QUERY_NAMES or name.startswith("text")
    return known and 2 * first.distinct <= len(first.values)


def _stand_together(first: Column) -> bool:
    return sum(1 for _ in groupby(first.values)) == len(set(first.values))


def _classification(table: FileTable, texts: Sequence[Column], label: Column, filled: Sequence[str]) -> Kind:
    counts = Counter(filled)
    names = in_order(counts)
    column = f"{table.path}: column {quoted(label.key)}"
    if len(names) == 1:
        raise UserError(f"{column} holds one class only, {quoted(names[0])}; expected two or more")
    if len(names) > _MOST_CLASSES or (len(names) > 10 and 2 * len(names) > len(filled)):
        raise UserError(
            f"{column} holds {len(names):,} different values in {len(filled):,} rows, too many for classes; "
            "name another one with --label, or a score with --type=regression"
        )
    return Kind("classification", labels=names, seen=counted(counts))


def _regression(table: FileTable, texts: Sequence[Column], label: Column, filled: Sequence[str]) -> Kind:
    low, high = _extremes(table, label)
    return Kind("regression", range=usual_range(low, high), seen=f"{low:g} to {high:g}")


def _ranking(table: FileTable, texts: Sequence[Column], label: Column, filled: Sequence[str]) -> Kind:
    if len(texts) != 2:
        raise UserError(f"{table.path}: ranking takes two texts, question and candidate; name them with --text=...,...")
    if _extremes(table, label)[0] < 0:
        raise UserError(f"{table.path}: column {quoted(label.key)}: relevance must be 0 or more")
    if not _stand_together(texts[0]):
        raise UserError(
            f"{table.path}: the candidates of one {texts[0].key} must stand together: sort the file by that column"
        )
    sizes = Counter(texts[0].values)
    seen = (
        f"{counted(Counter(filled))}; {len(sizes):,} questions, {len(texts[0].values) / len(sizes):.1f} candidates each"
    )
    return Kind("ranking", seen=seen)


# By type, as TASK_TYPES has them: what goes with it in a file.
KINDS: dict[str, Callable[[FileTable, Sequence[Column], Column, Sequence[str]], Kind]] = {
    "classification": _classification,
    "regression": _regression,
    "ranking": _ranking,
}


def _extremes(table: FileTable, label: Column) -> tuple[float, float]:
    """Return the lowest and the highest number of a label.

    Raises:
        UserError: one of them is none.
    """
    numbers = []
    for (line, _), value in zip(table.records, label.stripped, strict=True):
        number = as_number(value)
        if number is None and not is_no_label(value):
            raise UserError(
                f"{table.path}:{line}: column {quoted(label.key)} must be a number, received {quoted(value)}"
            )
        numbers.extend([] if number is None else [number])
    return min(numbers), max(numbers)


def usual_range(low: float, high: float) -> tuple[float, float]:
    """Return the smallest usual range (0 to 1, 1 to 5, ...) that holds these numbers, else the whole numbers around them."""
    around = math.floor(low), math.ceil(high) if math.ceil(high) > math.floor(low) else math.floor(low) + 1
    usual = [found for found in _USUAL_RANGES if found[0] <= low and high <= found[1]]
    fitting = [found for found in usual if high - low >= (found[1] - found[0]) / 4]
    first, last = min(fitting, key=lambda found: found[1] - found[0]) if fitting else around
    return float(first), float(last)


def in_order(names: Sequence[str] | Counter[str]) -> tuple[str, ...]:
    """Return label names sorted: as numbers where all are numbers, else by letters."""
    if all(as_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (as_number(name) or 0.0, name)))
    return tuple(sorted(names))


def counted(counts: Counter[str], limit: int = 6) -> str:
    """Return "no: 40, yes: 60", the first few of many."""
    names = in_order(counts)
    shown = [f"{shortened(name, 30)}: {counts[name]:,}" for name in names[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
