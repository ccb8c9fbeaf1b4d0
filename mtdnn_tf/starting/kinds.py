"""The type of a task, told from its labels: a few names are classes, many numbers a score, 0 and 1 under a question a ranking."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from mtdnn_tf.data.labels import finite_number, has_decimal_comma, label_key
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.starting.missing_labels import lone_negative, missing_labels, notes_about_missing
from mtdnn_tf.starting.names import QUERY_NAMES, SCORE_NAMES, plain_name
from mtdnn_tf.starting.tables import Column, FileTable, as_number

_MOST_NUMBERED_CLASSES = 10
_MOST_CLASSES = 1000
_USUAL_RANGES = ((0, 1), (-1, 1), (1, 5), (0, 5), (1, 7), (1, 10), (0, 10), (0, 100))
_LISTED = 3  # examples in a note
_JOINT = re.compile(r"\s*[,;|]\s*")  # between several labels of one text


@dataclass(frozen=True)
class Kind:
    """Type of a task and what goes with it."""

    type: str
    labels: tuple[str, ...] = ()  # classification
    range: tuple[float, float] | None = None  # regression
    seen: str = ""  # of the labels, for people
    notes: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset({""})  # values of the training file that stand for no label


@dataclass(frozen=True)
class LabelColumn:
    """The label of a file, row by row."""

    table: FileTable
    column: Column
    missing: frozenset[str]  # values that stand for no label

    @cached_property
    def labelled(self) -> list[int]:
        """The rows that have a label."""
        return [row for row, value in enumerate(self.column.stripped) if value not in self.missing]

    @cached_property
    def counts(self) -> Counter[str]:
        """Rows of each value that is a label."""
        return Counter(self.column.stripped[row] for row in self.labelled)

    @property
    def place(self) -> str:
        """How messages call the column."""
        return f"{self.table.path}: column {quoted(self.column.key)}"

    def number(self, row: int) -> float:
        """Return a row's score or relevance.

        Raises:
            RowError: it is none, as when the file is trained on.
        """
        line = self.table.records[row][0]
        return finite_number(
            self.column.stripped[row], lambda: f"{self.table.path}:{line}: column {quoted(self.column.key)}"
        )

    def extremes(self) -> tuple[float, float]:
        """Return the lowest and the highest score or relevance.

        Raises:
            RowError: as `number`.
        """
        numbers = [self.number(row) for row in self.labelled]
        return min(numbers), max(numbers)


def guess_kind(
    table: FileTable,
    texts: Sequence[Column],
    column: Column,
    wished: str | None,
    no_label: Sequence[str] | None = None,
) -> Kind:
    """Return the type, as wished or as the labels suggest.

    Args:
        table: the training file.
        texts: its columns of texts.
        column: its label.
        wished: the type that the user names.
        no_label: the values that the user says stand for no label; None: guessed.

    Raises:
        UserError: there are no labels, one class only, as many as rows, or labels that do not suit the wished type.
    """
    if wished is not None and wished not in KINDS:
        raise UserError(unknown_name("--type", "task type", wished, KINDS))
    counts = Counter(column.stripped)
    label = LabelColumn(table, column, missing_labels(counts, no_label))
    if not label.labelled:
        reason = "is empty in every row" if set(counts) == {""} else f"holds no label, only {listed(sorted(counts))}"
        raise UserError(f"{label.place} {reason}; training needs labels (another column: --label=...)")
    guessed, notes = (wished, ()) if wished else _type_of(texts, label)
    kind = KINDS[guessed](texts, label, wished is not None)
    about = notes_about_missing(counts, label.missing, no_label, "class" if kind.labels else "score")
    return replace(kind, notes=(*kind.notes, *notes, *about), missing=label.missing)


def _type_of(texts: Sequence[Column], label: LabelColumn) -> tuple[str, tuple[str, ...]]:
    """Return the type that the labels suggest, and what there is to say about it."""
    numbers = [as_number(value) for value in label.counts]
    if None in numbers:
        _check_decimal_commas(label)
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
    if isinstance(label.column.key, str) and plain_name(label.column.key) in SCORE_NAMES:
        return "regression", (f"{seen}: taken as a score; for classes: --type=classification",)
    return "classification", (f"{seen}: taken as classes; for a score: --type=regression",)


def _check_decimal_commas(label: LabelColumn) -> None:
    """Refuse numbers with decimal commas, as training would, where no other value is anything else."""
    if not all(as_number(value) is not None or has_decimal_comma(value) for value in label.counts):
        return
    try:
        label.extremes()
    except UserError as error:
        raise UserError(f"{error}; if these are classes: --type=classification") from None


def _may_be_queries(first: Column) -> bool:
    """Return whether a text comes several times as a question with its candidates does."""
    name = plain_name(first.key).rstrip("12_")
    known = isinstance(first.key, int) or name in QUERY_NAMES or name.startswith("text")
    return known and 2 * first.distinct <= len(first.values)


def _stand_together(first: Column) -> bool:
    return sum(1 for _ in groupby(first.values)) == len(set(first.values))


def _classification(texts: Sequence[Column], label: LabelColumn, wished: bool) -> Kind:
    spellings = one_name_each(label.counts)
    counts = Counter({name: sum(label.counts[value] for value in found) for name, found in spellings.items()})
    names, rows = in_order(counts), len(label.labelled)
    if len(names) == 1:
        missing = [value for value in label.missing if value and value in label.column.stripped]
        beside = f" beside {listed(sorted(missing))}, taken for no label (--no_label= keeps it)" if missing else ""
        raise UserError(f"{label.place} holds one class only, {quoted(names[0])}{beside}; expected two or more")
    if not wished and (len(names) > _MOST_CLASSES or (len(names) > 10 and 2 * len(names) > rows)):
        raise UserError(
            f"{label.place} holds {len(names):,} different values in {rows:,} rows, too many for classes; name another one "
            "with --label, a score with --type=regression, or say --type=classification where each is a class"
        )
    notes = (*merged_note(spellings), *case_note(names), *_joined_note(names))
    return Kind("classification", labels=names, seen=counted(counts), notes=notes)


def _regression(texts: Sequence[Column], label: LabelColumn, wished: bool) -> Kind:
    low, high = label.extremes()
    return Kind("regression", range=usual_range(low, high), seen=f"{low:g} to {high:g}")


def _ranking(texts: Sequence[Column], label: LabelColumn, wished: bool) -> Kind:
    if len(texts) != 2:
        raise UserError(
            f"{label.table.path}: ranking takes two texts, question and candidate; name them with --text=...,..."
        )
    if label.extremes()[0] < 0:
        lone = lone_negative(label.counts)
        remedy = f" (where {lone} stands for no label: --no_label={lone})" if lone else ""
        raise UserError(f"{label.place}: relevance must be 0 or more{remedy}")
    if not _stand_together(texts[0]):
        raise UserError(
            f"{label.table.path}: the candidates of one {texts[0].key} must stand together: sort the file by that column"
        )
    candidates: dict[str, list[float]] = defaultdict(list)
    for row in label.labelled:
        candidates[texts[0].values[row]].append(label.number(row))
    teaching = sum(max(relevance) > min(relevance) for relevance in candidates.values())
    if not teaching:
        other = " or --type=classification to judge each pair alone" if len(one_name_each(label.counts)) > 1 else ""
        raise UserError(
            f"{label.place} ranks nothing: no {texts[0].key} has candidates of different relevance; "
            f"choose another column with --label=...{other}"
        )
    questions = len(candidates)
    seen = f"{counted(label.counts)}; {questions:,} questions, {len(label.labelled) / questions:.1f} candidates each"
    idle = questions - teaching
    note = f"{idle:,} of {questions:,} questions teach nothing: all their candidates are equally relevant"
    return Kind("ranking", seen=seen, notes=(note,) if idle else ())


# By type, as TASK_TYPES has them: what goes with it in a file, from its texts, its label and whether the user named the type.
KINDS: dict[str, Callable[[Sequence[Column], LabelColumn, bool], Kind]] = {
    "classification": _classification,
    "regression": _regression,
    "ranking": _ranking,
}


def one_name_each(counts: Counter[str]) -> dict[str, list[str]]:
    """Return the spellings of each class by its name, which is the shortest one, among these the most frequent."""
    groups: dict[object, list[str]] = defaultdict(list)
    for value in counts:
        groups[label_key(value)].append(value)
    names = (min(found, key=lambda value: (len(_composed(value)), -counts[value], value)) for found in groups.values())
    return {_composed(name): found for name, found in zip(names, groups.values(), strict=True)}


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def merged_note(spellings: Mapping[str, Collection[str]], where: str = "") -> tuple[str, ...]:
    """Return a note on classes of several spellings; `where` begins it."""
    several = [
        " = ".join(shown)
        if len(shown := sorted({quoted(_composed(value)) for value in found})) > 1
        else f"{shown[0]} in two Unicode forms"
        for found in spellings.values()
        if len(set(found)) > 1
    ]
    if not several:
        return ()
    more = f" and {len(several) - _LISTED} more" if len(several) > _LISTED else ""
    apart = "to keep them apart, list all spellings under labels in the task file"
    return (f"{where}spellings of one class: {', '.join(several[:_LISTED])}{more}; {apart}",)


def case_note(names: Iterable[str], others: Collection[str] = ()) -> tuple[str, ...]:
    """Return a note on names that differ from one another, or from others, in upper and lower case only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys([*others, *names]):
        groups[name.casefold()].append(name)
    told = [groups[key] for key in dict.fromkeys(name.casefold() for name in names)]
    alike = [" and ".join(map(quoted, found)) for found in told if len(found) > 1]
    if not alike:
        return ()
    more = f" and {len(alike) - _LISTED} more" if len(alike) > _LISTED else ""
    one, other = next(found for found in told if len(found) > 1)[:2]
    merge = f"to merge two, map one in each source, as in labels: {{{one}: {other}}}"
    return (f"classes that differ in upper and lower case only: {', '.join(alike[:_LISTED])}{more}; {merge}",)


def _joined_note(names: Sequence[str]) -> tuple[str, ...]:
    """Return a note on values that look like several labels of one text: each part is there in other values too."""
    parts = {name: [part for part in _JOINT.split(name.strip("[](){}")) if part] for name in names}
    seen = Counter(part for found in parts.values() for part in set(found))
    joined = [name for name, found in parts.items() if len(found) > 1 and all(seen[part] > 1 for part in found)]
    if len(joined) < 2:
        return ()
    return (
        f"{listed(joined)} look like several labels of one text; a text has one class here, and each such combination is one",
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names in quotes."""
    return ", ".join(map(quoted, names[:_LISTED])) + (
        f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    )


def usual_range(low: float, high: float) -> tuple[float, float]:
    """Return the smallest usual range (0 to 1, 1 to 5, ...) that holds these numbers, else the whole numbers around them."""
    around = math.floor(low), math.ceil(high) if math.ceil(high) > math.floor(low) else math.floor(low) + 1
    usual = [found for found in _USUAL_RANGES if found[0] <= low and high <= found[1]]
    fitting = [found for found in usual if high - low >= (found[1] - found[0]) / 4]
    first, last = min(fitting, key=lambda found: found[1] - found[0]) if fitting else around
    return float(first), float(last)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return label names sorted: as numbers where all are numbers, else by letters."""
    names = list(names)
    if all(as_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (as_number(name) or 0.0, name)))
    return tuple(sorted(names))


def counted(counts: Counter[str], limit: int = 6) -> str:
    """Return "no: 40, yes: 60", the first few of many."""
    names = in_order(counts)
    shown = [f"{shortened(name, 30)}: {counts[name]:,}" for name in names[:limit]]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
