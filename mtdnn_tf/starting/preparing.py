"""One task, from its files to what its lines in the task file say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtdnn_tf.data.labels import LabelNames
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.guessing import Guess, Wishes, guess_task
from mtdnn_tf.starting.holding_out import as_text, hold_out
from mtdnn_tf.starting.kinds import (
    Kind,
    LabelColumn,
    case_note,
    in_order,
    listed,
    merged_note,
    one_name_each,
    usual_range,
)
from mtdnn_tf.starting.missing_labels import notes_about_missing
from mtdnn_tf.starting.names import as_identifier
from mtdnn_tf.starting.splits import Split, companion, read_split, stem_of, without_train
from mtdnn_tf.starting.tables import FileTable, read_table
from mtdnn_tf.task_types import RESERVED_NAMES


@dataclass(frozen=True)
class Files:
    """What the user names of one task; None: looked for, else held out (dev) or done without (test)."""

    train: str
    dev: str | None = None
    test: str | None = None
    header: bool | None = None
    encoding: str = "utf-8"


@dataclass(frozen=True)
class HeldOut:
    """Training rows as two new files."""

    train: str  # their text
    dev: str
    sizes: tuple[int, int]  # rows
    ending: str


@dataclass(frozen=True)
class Prepared:
    """A task with its files."""

    name: str
    table: FileTable
    guess: Guess
    dev: Split | None
    test: Split | None
    held_out: HeldOut | None
    notes: tuple[str, ...]


def task_name(train: str, wished: str | None = None) -> str:
    """Return the name of a task: as wished, else after its file, else (train.tsv) after its folder.

    Raises:
        UserError: the wished name is none.
    """
    if wished is not None:
        if as_identifier(wished) != wished:
            raise UserError(f"--name: must be lower-case letters, digits and _, a letter first; received {wished!r}")
        name = wished
    else:
        candidates = (without_train(stem_of(train)[0]), Path(train).absolute().parent.name)
        name = next((found for found in map(as_identifier, candidates) if found), "task")
    return f"{name}_task" if name in RESERVED_NAMES else name


def prepare(name: str, files: Files, wishes: Wishes, share: float | None) -> Prepared:
    """Read the files of a task, guess what they are, and find or hold out its development set.

    Args:
        name: of the task.
        files: the training file, and the others if the user names them.
        wishes: what is not to be guessed.
        share: of the rows to hold out, between 0 and 1; None: 0.1 where there is no development file.

    Raises:
        UserError: a file is bad, or does not suit the task.
    """
    table = read_table(files.train, header=files.header, encoding=files.encoding)
    guess = guess_task(table, wishes)
    dev, dev_notes = (None, ()) if share else _other(files, "dev", table, guess)
    if dev is not None:
        guess = _with_labels_of(dev, guess)
    test, test_notes = _other(files, "test", table, guess)
    _check_no_variables(table, guess, *(split for split in (dev, test) if split is not None))
    held_out, held_notes = (None, ()) if dev else _held_out(table, guess, share or 0.1)
    notes = (*guess.notes, *dev_notes, *test_notes, *held_notes)
    return Prepared(name, table, guess, dev, test, held_out, notes)


def _check_no_variables(table: FileTable, guess: Guess, *others: Split) -> None:
    """Refuse what the task file would take for an environment variable: there is no other way to write it there."""
    columns = (str(column.key) for column in (*guess.text_columns, guess.label))
    missing = guess.kind.missing.union(*(split.missing for split in others))
    for text in (table.path, *guess.kind.labels, *columns, *missing):
        if "${" in text:
            raise UserError(
                f"{table.path}: {text!r} cannot stand in a task file, where ${{ begins a variable; rename it"
            )


def _other(files: Files, split: str, table: FileTable, guess: Guess) -> tuple[Split | None, tuple[str, ...]]:
    """Read the dev or test file: the named one, or the one beside the training file, which may turn out to be another thing."""
    named = getattr(files, split)
    path = named or companion(files.train, split)
    if path is None:
        return None, ()
    try:
        other = read_table(path, header=files.header if named else None, encoding=files.encoding)
        found = read_split(other, table, guess, labelled=split == "dev")
        return found, (*_notes_on_missing(found, guess), *(_notes_on_test(found, guess) if split == "test" else ()))
    except UserError as error:
        if named:
            raise
        return None, (f"not used as {split}: {error}",)


def _with_labels_of(dev: Split, guess: Guess) -> Guess:
    """Widen labels or range to those of the development file.

    Raises:
        UserError: the files have no label in common, or a score or relevance of this one is no number.
    """
    kind = guess.kind
    if dev.label is None:
        return guess
    label = LabelColumn(dev.table, dev.label, dev.missing)
    if not kind.labels:
        low, high = label.extremes()
        if kind.range is not None and not kind.range[0] <= low <= high <= kind.range[1]:
            kind = replace(kind, range=usual_range(min(low, kind.range[0]), max(high, kind.range[1])))
        return replace(guess, kind=kind)
    new, notes = _compared(label, kind)
    if new:
        kind = replace(kind, labels=in_order([*kind.labels, *new]))
        notes = (*notes, f"in {dev.table.path} only: {', '.join(new[:5])}", *case_note(new, kind.labels))
    return replace(guess, kind=kind, notes=(*guess.notes, *notes))


def _compared(label: LabelColumn, kind: Kind) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes that a file has beside those of the task, and a note on classes that it spells in another way.

    Raises:
        UserError: it has none of the task's classes.
    """
    names = LabelNames(kind.labels)
    found = {value: name for value in label.counts if (name := names.find(value)) is not None}
    new = in_order(one_name_each(Counter({value: 1 for value in label.counts if value not in found})))
    if not found:
        raise UserError(
            f"{label.place}: none of its labels ({listed(new)}) is one of training ({listed(kind.labels)}); write them as there, "
            "or name other files with --dev and --test (--split_dev=0.1 holds development rows out of the training file)"
        )
    spelled = {name: [name, *(value for value, one in found.items() if one == name)] for name in kind.labels}
    return new, merged_note(spelled, f"in {label.table.path}, ")


def _notes_on_test(test: Split, guess: Guess) -> tuple[str, ...]:
    """Return what there is to say about the labels of a file that is not trained on.

    Raises:
        UserError: as `_with_labels_of`.
    """
    if test.label is None:
        return ()
    label = LabelColumn(test.table, test.label, test.missing)
    if not guess.kind.labels:
        label.extremes()
        return ()
    new, notes = _compared(label, guess.kind)
    return (*notes, *([f"{test.table.path} has labels that training has not: {', '.join(new[:5])}"] if new else []))


def _notes_on_missing(split: Split, guess: Guess) -> tuple[str, ...]:
    """Return what there is to say about values that stand for no label in this file, and are not in the training file."""
    counts = Counter(split.label.stripped if split.label is not None else ())
    new = Counter({value: counts[value] for value in split.missing - guess.kind.missing if value in counts})
    taken_as = "class" if guess.kind.labels else "score"
    notes = notes_about_missing(new, set(new), guess.wishes.no_label, taken_as)
    return tuple(f"in {split.table.path}, {note}" for note in notes)


def _held_out(table: FileTable, guess: Guess, share: float) -> tuple[HeldOut, tuple[str, ...]]:
    trained, held, free = hold_out(table, guess, share)
    ending = "." + table.format.removeprefix("quoted_")
    note: tuple[str, ...] = ()
    if free is not None and guess.kind.type != "ranking":
        note = (f"held out by {guess.text[1 - free]}: too many rows share a {guess.text[free]}",)
    return HeldOut(as_text(table, trained), as_text(table, held), (len(trained), len(held)), ending), note


def prepare_all(
    names: Sequence[str], files: Sequence[Files], wishes: Wishes, share: float | None
) -> tuple[Prepared, ...]:
    """Prepare several tasks; those without a wished name are called after their files.

    Raises:
        UserError: as for `prepare`, or two tasks would have one name.
    """
    if names and len(names) != len(files):
        raise UserError(f"--name: give one for each --train; received {len(names)} for {len(files)} files")
    chosen = [task_name(one.train, names[place] if names else None) for place, one in enumerate(files)]
    for place, name in enumerate(chosen):
        if name in chosen[:place]:
            raise UserError(f"two tasks would be called {name!r}; give each a --name, in the order of --train")
    return tuple(prepare(name, one, wishes, share) for name, one in zip(chosen, files, strict=True))


def kind_of_source(prepared: Prepared, split: str, path: str) -> str | dict[str, Any]:
    """Return the value of a task's train, dev or test: the path alone where nothing else is to be said."""
    table, columns, missing = prepared.table, {}, prepared.guess.kind.missing
    if split != "train" and (found := getattr(prepared, split)) is not None:
        # Of an unlabelled file nothing need be said, but where something stands for "no label" in each of its rows.
        missing = found.missing if found.label is not None or found.missing != {""} else frozenset()
        table, columns = found.table, dict(found.columns)
    is_new = prepared.held_out is not None and split != "test"
    source: dict[str, Any] = {"path": path}
    if table.format == "quoted_tsv" if is_new else table.needs_format:
        source["format"] = table.format
    if table.header is False:
        source["header"] = False
    if columns:
        source["columns"] = columns
    if missing and not is_new:
        source["ignore_labels"] = sorted(missing)
    if table.encoding != "utf-8" and not is_new:
        source["encoding"] = table.encoding
    return path if len(source) == 1 else source
