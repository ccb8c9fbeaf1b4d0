"""What a file is for: which columns are texts, which is the label, and what type of task that makes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mtdnn_tf.data.lines import quoted
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.starting.kinds import Kind, guess_kind
from mtdnn_tf.starting.missing_labels import missing_labels
from mtdnn_tf.starting.names import (
    LABEL_NAMES,
    as_identifier,
    is_id_name,
    is_label_name,
    is_text_name,
    plain_name,
    second_of_pair,
)
from mtdnn_tf.starting.tables import Column, FileTable
from mtdnn_tf.tasks import is_input_name

_SENTENCE = 3  # words on average: a text rather than a name
_MOST_CLASSES = 20  # that a column which is called an id may stand for
_LONGEST_LABEL = 5  # words on average


@dataclass(frozen=True)
class Wishes:
    """What the user has said; None or empty: to be guessed."""

    type: str | None = None
    text: tuple[str, ...] = ()
    label: str | None = None
    no_label: tuple[str, ...] | None = None  # values that stand for no label


@dataclass(frozen=True)
class Guess:
    """A task as its training file suggests it."""

    kind: Kind
    text: tuple[str, ...]  # the task's own names of its text columns
    text_columns: tuple[Column, ...]
    label: Column
    left_out: tuple[str, ...]
    notes: tuple[str, ...]  # what else it might be
    wishes: Wishes


def guess_task(table: FileTable, wishes: Wishes) -> Guess:
    """Guess texts, label and type.

    Raises:
        UserError: a column that the user named is not there, no column can be a label or a text, or the labels make no task.
    """
    wished = tuple(_named(table, "--text", name) for name in wishes.text)
    label, label_notes = guess_label(table, wishes.label, wished)
    texts, text_notes = (wished, ()) if wished else guess_texts(table, label)
    check_texts(table, texts, differ=True)
    kind = guess_kind(table, texts, label, wishes.type, wishes.no_label)
    used = {column.key for column in (*texts, label)}
    left_out = tuple(column.title for column in table.columns if column.key not in used)
    text_notes = () if kind.type == "ranking" else text_notes  # it always takes two
    notes = (*table.notes, *label_notes, *text_notes, *kind.notes)
    return Guess(kind, own_names(texts), texts, label, left_out, notes, wishes)


def _named(table: FileTable, flag: str, name: str) -> Column:
    column = table.column(name)
    if name in table.faults and (column is None or flag == "--text"):
        raise UserError(f"{table.faults[name]} ({flag})")
    if column is None:
        raise UserError(unknown_name(f"{table.path}: {flag}", "column", name, table.titles))
    if flag == "--text" and not column.is_text:
        raise UserError(f"{table.path}: {flag}: {name!r} must hold a text (in quotes) in every row")
    return column


def guess_label(table: FileTable, wished: str | None, texts: Sequence[Column]) -> tuple[Column, tuple[str, ...]]:
    """Return the column of the label, and what there is to say about it: by name, else the one with the fewest values."""
    if wished is not None:
        return _named(table, "--label", wished), ()
    taken = {column.key for column in texts}
    open_columns = [column for column in table.columns if column.key not in taken]
    called = sorted((column for column in open_columns if _may_be_called_label(column)), key=_rank)
    shaped = sorted((column for column in open_columns if _is_shaped_like_label(column, len(table))), key=_fewest)
    found = called or shaped
    spoiled = table.likely_fault("label") if not called else None
    if spoiled is not None and (not found or "is missing" in str(spoiled)):
        raise UserError(f"{spoiled}; for another column: --label=<column>")
    if not found:
        columns = ", ".join(table.titles)
        raise UserError(
            f"{table.path}: no column looks like a label; name one, as in --label={table.titles[-1]} (columns: {columns})"
        )
    # The keys of classes (emotion_id) are few; those of rows are not.
    keys = [
        column for column in open_columns if is_id_name(column.key) and column.distinct <= _MOST_CLASSES < len(table)
    ]
    others = [column.title for column in [*found[1:], *keys] if column.distinct > 1]
    note = f"the label might also be {', '.join(others)}: --label=<column> chooses" if others else ""
    return found[0], (note,) if note else ()


def _may_be_called_label(column: Column) -> bool:
    return not isinstance(column.key, int) and is_label_name(column.key) and column.mean_words <= _LONGEST_LABEL


def _rank(column: Column) -> int:
    name = plain_name(column.key)
    return LABEL_NAMES.index(name) if name in LABEL_NAMES else len(LABEL_NAMES)


def _is_shaped_like_label(column: Column, rows: int) -> bool:
    if isinstance(column.key, str) and (is_id_name(column.key) or is_text_name(column.key)):
        return False
    if column.distinct < 2 or column.mean_words >= _SENTENCE:
        return False
    return 2 * column.distinct <= rows or (column.is_numeric and not _counts_rows(column))


def _counts_rows(column: Column) -> bool:
    """Return whether these are whole numbers that are all different, as keys are."""
    return column.distinct == len(column.values) and all(value.isdecimal() for value in column.stripped)


def _fewest(column: Column) -> tuple[bool, int, int]:
    """Full columns before those with gaps, few values before many, later columns before earlier ones."""
    place = -column.key if isinstance(column.key, int) else 0
    return bool(missing_labels(Counter(column.stripped), None)), column.distinct, place


def guess_texts(
    table: FileTable, label: Column | None, count: int | None = None
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """Return the one or two columns of texts, and what there is to say about them.

    Args:
        table: the file.
        label: its label, which is no text.
        count: how many texts there must be; None: guessed.

    Raises:
        UserError: there are none, or not as many.
    """
    found = [column for column in table.columns if column is not label and _may_be_text(column)]
    full = [column for column in found if column.mean_words >= _SENTENCE or is_text_name(column.key)]
    chosen = full or sorted(found, key=lambda column: -column.mean_words)[:1]
    pair = _pair(chosen)
    texts = pair or (tuple(chosen) if len(chosen) <= 2 else _longest(chosen, count or 2))
    if count is not None and len(texts) != count:
        texts = _longest(found, count)
    if not texts or (count is not None and len(texts) != count):
        if (spoiled := table.likely_fault("text")) is not None:
            raise spoiled
        check_texts(table, [column for column in table.columns if column is not label and is_text_name(column.key)])
        columns = ", ".join(table.titles)
        raise UserError(
            f"{table.path}: no column looks like a text; name one or two, as in --text={table.titles[0]} (columns: {columns})"
        )
    return texts, _about(texts, chosen, pair is not None)


def check_texts(table: FileTable, texts: Sequence[Column], *, differ: bool = False) -> None:
    """Refuse a text that is empty in every row, and with `differ` texts that tell no row from another.

    Raises:
        UserError: they are.
    """
    alike = differ and len(table) > 1 and all(column.distinct == 1 for column in texts)
    for column in texts:
        empty = not any(column.stripped)
        if empty or alike:
            what = "is empty in every row" if empty else f"holds {quoted(column.stripped[0])} in every row"
            raise UserError(
                f"{table.path}: column {quoted(column.key)} {what}; fill it, or name another text with --text=<column>"
            )


def _may_be_text(column: Column) -> bool:
    name_speaks_against = isinstance(column.key, str) and (is_id_name(column.key) or is_label_name(column.key))
    return column.is_text and not column.is_numeric and column.distinct > 1 and not name_speaks_against


def _pair(columns: Sequence[Column]) -> tuple[Column, ...] | None:
    """Return two columns that are called as pairs are, the first text first."""
    by_name = {plain_name(column.key): column for column in columns}
    found = [
        (column, by_name[second])
        for column in columns
        for second in second_of_pair(column.key)
        if second in by_name and isinstance(column.key, str)
    ]
    return found[0] if found else None


def _longest(columns: Sequence[Column], count: int) -> tuple[Column, ...]:
    chosen = sorted(columns, key=lambda column: -column.mean_words)[:count]
    return tuple(column for column in columns if column in chosen)


def _about(texts: Sequence[Column], candidates: Sequence[Column], is_pair: bool) -> tuple[str, ...]:
    others = [column.title for column in candidates if column not in texts]
    if others:
        return (f"other texts are left out: {', '.join(others)}; --text=<column>,<column> chooses",)
    if len(texts) == 2 and not is_pair:
        return (f"two texts, taken as a pair; for one of them: {shlex.quote(f'--text={texts[0].key}')}",)
    return ()


def own_names(texts: Sequence[Column]) -> tuple[str, ...]:
    """Return what the task calls its texts: their names where these can name an input of a model, else text1 and text2."""
    names = [as_identifier(str(column.key)) for column in texts]
    plain = [name for name, column in zip(names, texts, strict=True) if name and str(column.key).lower() == name]
    if len(set(plain)) == len(texts) and not {"label", "group"} & set(plain) and all(map(is_input_name, plain)):
        return tuple(str(column.key) for column in texts)
    return ("text",) if len(texts) == 1 else tuple(f"text{place + 1}" for place in range(len(texts)))
