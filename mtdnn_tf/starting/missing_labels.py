"""Which values of a label column say that a row has no label."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence

from mtdnn_tf.data.labels import label_key
from mtdnn_tf.data.lines import quoted
from mtdnn_tf.starting.tables import as_number

_DASH = "-"  # what SNLI has where its annotators disagree
# Missing values of data frames and spreadsheets, which no one calls a class.
_NEVER_CLASSES = frozenset({"nan", "NaN", "NaT", "<NA>", "#N/A", "N/A", "n/a"})
# Those of Python, SQL, R and ARFF; a class may have the same name, as "None" for "none of the other intents".
_SELDOM_CLASSES = frozenset({"None", "null", "NULL", "NA", "?"})


def missing_labels(
    counts: Counter[str], wished: Sequence[str] | None, classes: Collection[str] = (), missing: Collection[str] = ()
) -> frozenset[str]:
    """Return the values of one file that stand for no label; the empty one always does.

    Guessed are: values that no class is called; beside numbers "-" and the names that classes seldom have; beside other names "-",
    unless one of them is a sign (+), and seldom names with fewer rows than any class or with other missing values. What would
    leave less than two classes stays a class.

    Args:
        counts: rows by value, without surrounding spaces.
        wished: the values that the user names; None: to be guessed.
        classes: of a file beside the training file, the classes of that one.
        missing: and what stands for no label there.
    """
    if wished is not None:
        keys = {"", *map(label_key, wished)}
        return frozenset(value for value in counts if label_key(value) in keys)
    known = {label_key(name) for name in classes}
    found = {value for value in counts if value == "" or value in _NEVER_CLASSES or value in missing}
    found -= {value for value in found if label_key(value) in known}
    others = {value: rows for value, rows in counts.items() if value not in found}
    unsure = {value for value in others if value == _DASH or value in _SELDOM_CLASSES}
    unsure -= {value for value in unsure if label_key(value) in known}
    names = {*classes, *others} - unsure
    if len(names) < 2:  # without it, nothing would be left to tell apart
        return frozenset(found)
    if all(as_number(name) is not None for name in names):
        lone = lone_negative(Counter({name: others.get(name, 0) for name in names}))
        return frozenset({*found, *unsure, *({lone} if classes and lone and label_key(lone) not in known else ())})
    if _DASH in unsure and any(not any(map(str.isalnum, name)) for name in names):
        unsure.discard(_DASH)  # beside "+" it is a sign
    told = bool(found - {""}) or bool(classes)
    fewest = min(others.get(name, 0) for name in names)
    return frozenset(found | {value for value in unsure if value == _DASH or told or others[value] < fewest})


def lone_negative(counts: Counter[str]) -> str | None:
    """Return the one whole number below 0 beside two or more others that are none, as libraries write "no label" (-1, -100)."""
    numbers = {value: as_number(value) for value in counts}
    negative = [value for value, number in numbers.items() if number is not None and number < 0]
    lone = len(negative) == 1 and len(counts) > 2 and (numbers[negative[0]] or 0.0).is_integer()
    return negative[0] if lone else None


def notes_about_missing(
    counts: Counter[str], missing: Collection[str], wished: Sequence[str] | None, taken_as: str
) -> tuple[str, ...]:
    """Return what there is to say: which values are left out, which may have to be, and the flag for it.

    Args:
        counts: as of `missing_labels`.
        missing: what that returned.
        wished: as there.
        taken_as: what the other values are, "class" or "score".
    """
    left_out = sum(counts[value] for value in missing)
    words = sorted(value for value in missing if value)
    notes = []
    if left_out:
        seen = [f"{quoted(value)}: {counts[value]:,}" for value in words]
        seen += [f"empty: {counts['']:,}"] if words and counts[""] else []
        about = f" ({', '.join(seen)})" if seen else ""
        note = f"{_rows(left_out)} without a label{about}: left out"
        keep = f"; to keep such values as a {taken_as}: --no_label=" if words and wished is None else ""
        notes.append(note + keep)
    for value in _doubtful(counts, missing) if wished is None else ():
        flag = shlex.quote(f"--no_label={','.join([*words, value])}")
        notes.append(
            f"{quoted(value)} ({_rows(counts[value])}) is taken as a {taken_as}; where it stands for no label: {flag}"
        )
    return tuple(notes)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _doubtful(counts: Counter[str], missing: Collection[str]) -> list[str]:
    """Return values that are kept, but may stand for no label."""
    kept = Counter({value: rows for value, rows in counts.items() if value not in missing})
    doubtful = [value for value in kept if value in _SELDOM_CLASSES or (value == _DASH and "+" not in kept)]
    lone = lone_negative(kept)
    if lone is not None:
        others = {value: rows for value, rows in kept.items() if value != lone}
        three_way = {as_number(value) for value in kept} == {-1, 0, 1}  # most often against, neither, for
        doubtful += [lone] if not three_way or kept[lone] < min(others.values()) else []
    return doubtful
