"""The development and test files beside a training file: found by their names, read with its columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtdnn_tf.data.columns import Key
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.guessing import Guess, check_texts, guess_label, guess_texts
from mtdnn_tf.starting.missing_labels import missing_labels
from mtdnn_tf.starting.names import plain_name
from mtdnn_tf.starting.tables import Column, FileTable

# What stands for "train" in the names of the other files.
WORDS = {"dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
_TRAIN = re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """One file of a task."""

    table: FileTable
    label: Column | None  # None: unlabelled
    columns: Mapping[str, Key]  # where they stand elsewhere than in the training file
    missing: frozenset[str]  # values that stand for no label


def stem_of(path: str | Path) -> tuple[str, str]:
    """Return the name of a file without its ending, and the ending (with .gz)."""
    name = Path(path).name
    packed = name[-3:] if name.lower().endswith(".gz") else ""
    plain = Path(name[: len(name) - len(packed)])
    return plain.stem, plain.suffix + packed


def without_train(stem: str) -> str:
    """Return the stem of a training file without the word for it: reviews_train -> reviews."""
    return _TRAIN.sub("", stem).strip("_-. ")


def companion(train: str, split: str) -> str | None:
    """Return the file beside `train` that is called as its dev or test file is, or None.

    reviews_train.tsv has reviews_dev.tsv, reviews.tsv has reviews_dev.tsv, reviews-dev.tsv or reviews.dev.tsv.
    """
    folder, (stem, suffix) = Path(train).parent, stem_of(train)
    for word in WORDS[split]:
        stems = [f"{stem}{gap}{word}" for gap in "_-."]
        if _TRAIN.search(stem):
            stems = [_TRAIN.sub(word, stem)]
        for candidate in (folder / f"{found}{suffix}" for found in stems):
            if candidate.is_file():
                return str(candidate)
    return None


def task_columns(table: FileTable, guess: Guess) -> dict[str, Key]:
    """Return where the columns of the task stand in the training file, as far as their names do not say it."""
    keys = {
        **dict(zip(guess.text, (column.key for column in guess.text_columns), strict=True)),
        "label": guess.label.key,
    }
    return keys if table.header is False else {role: key for role, key in keys.items() if role != key}


def read_split(table: FileTable, train: FileTable, guess: Guess, *, labelled: bool) -> Split:
    """Find the columns of the task in another of its files.

    Args:
        table: the file.
        train: the training file.
        guess: the task.
        labelled: whether there must be labels.

    Raises:
        UserError: columns are missing, or there are no labels where there must be.
    """
    texts = [table.column(str(column.key)) for column in guess.text_columns]
    label = table.column(str(guess.label.key))
    demanded = [*guess.text_columns, *([guess.label] if labelled and label is None else [])]
    for column in demanded:
        if column.key in table.faults:
            raise UserError(table.faults[str(column.key)])
    alike = (table.header is False) == (train.header is False) and all(texts)
    if table.header is False:
        alike = alike and len(table.columns) == len(train.columns)
    columns: Mapping[str, Key] = {}
    if not alike:
        texts, label = _found_anew(table, guess, labelled)
        columns = _mapping(table, guess, texts, label)
    check_texts(table, [column for column in texts if column is not None])
    counts = Counter(label.stripped if label is not None else ())
    missing = missing_labels(counts, guess.wishes.no_label, guess.kind.labels, guess.kind.missing)
    if set(counts) <= missing:
        label = None
    if labelled and label is None:
        raise UserError(f"{table.path}: no labels in column {guess.label.title}; a development file needs them")
    return Split(table, label, columns, missing)


def _found_anew(table: FileTable, guess: Guess, labelled: bool) -> tuple[list[Column | None], Column | None]:
    """Guess the columns of a file that is laid out in another way than the training file (CoLA's test file)."""
    label = guess_label(table, None, ())[0] if labelled else _called_label(table, guess)
    own = [table.column(name) for name in guess.text]
    return (own if all(own) else [*guess_texts(table, label, len(guess.text))[0]]), label


def _called_label(table: FileTable, guess: Guess) -> Column | None:
    wanted = ("label", plain_name(guess.label.key))
    return next((column for column in table.columns if plain_name(column.key) in wanted), None)


def _mapping(table: FileTable, guess: Guess, texts: list[Column | None], label: Column | None) -> dict[str, Key]:
    # A label that is not there is mapped as well: the training file's mapping would find another column.
    nowhere: Key = len(table.columns) if table.header is False else "label"
    found = {name: column.key for name, column in zip(guess.text, texts, strict=True) if column is not None}
    return {**found, "label": nowhere if label is None else label.key}
