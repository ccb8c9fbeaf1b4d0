"""Rows that come twice: within a split, between the splits of a task, between tasks; and labels that contradict each other.

Texts are compared in lower case, with any run of white space as one space.
Of a row only two 64-bit digests are kept, so that half a million rows are compared in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mtdnn_tf.data.sources import Examples, read_examples
from mtdnn_tf.tasks import TaskSpec


@dataclass(frozen=True)
class Fingerprints:
    """The rows of a split as digests."""

    ordered: np.ndarray  # [rows] uint64: equal where the texts are, column by column
    unordered: np.ndarray  # [rows] uint64: equal also where a pair is the other way round
    lines: np.ndarray  # [rows] int32: where the rows stand in their source


@dataclass(frozen=True)
class Found:
    """Rows that a search found, and where the first of them stands."""

    count: int
    line: int  # of the first one
    other_line: int  # of the row that it is equal to


def fingerprints(examples: Examples) -> Fingerprints:
    """Return the digests of all rows; where a source holds token ids instead of texts, those of the ids."""
    if examples.tokens is not None:
        digests = _digests_of_bytes(np.ascontiguousarray(ids, np.int32).tobytes() for ids in examples.tokens.ids)
        return Fingerprints(digests, digests, examples.lines)
    texts = [[_normalised(text) for text in column] for column in examples.texts]
    rows = list(zip(*texts, strict=True))
    return Fingerprints(_digests(rows), _digests(sorted(row) for row in rows), examples.lines)


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def _digests(rows: Iterable[Iterable[str]]) -> np.ndarray:
    return _digests_of_bytes("\n".join(row).encode("utf-8", "surrogatepass") for row in rows)


def _digests_of_bytes(rows: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows), np.uint64)


def shared_rows(split: Fingerprints, train: Fingerprints) -> Found | None:
    """Return how many rows of a split are among the training rows, pairs in either order; None: none of them."""
    rows = np.flatnonzero(seen_rows(split, [train]))
    if not len(rows):
        return None
    other = int(np.argmax(train.unordered == split.unordered[rows[0]]))
    return Found(len(rows), int(split.lines[rows[0]]), int(train.lines[other]))


def seen_rows(split: Fingerprints, trained: Sequence[Fingerprints]) -> np.ndarray:
    """Return which rows of a split are among the rows of training splits, pairs in either order, `[rows] bool`."""
    known = np.concatenate([np.zeros(0, np.uint64), *(train.unordered for train in trained)])
    return np.isin(split.unordered, known)


def rows_seen_before(tasks: Iterable[TaskSpec], split: str) -> list[Fingerprints]:
    """Return the rows that a model of these tasks has seen before it is scored on a split: those that it trained on.

    Before a test split it has also seen the development rows: its epoch was chosen by them.
    """
    before = ("train", "dev") if split == "test" else ("train",)
    return [fingerprints(read_examples(task, name)) for task in tasks for name in before if name in task.sources]


def repeated_rows(split: Fingerprints) -> Found | None:
    """Return how many rows of a split have been there before in it; None: none."""
    first = _first_equal(split.ordered)
    rows = np.flatnonzero(first != np.arange(len(first)))
    if not len(rows):
        return None
    return Found(len(rows), int(split.lines[rows[0]]), int(split.lines[first[rows[0]]]))


def contradictory_rows(split: Fingerprints, labels: np.ndarray, tolerance: float = 0.0) -> Found | None:
    """Return how many rows have the texts of an earlier row but a label more than `tolerance` apart; None: none."""
    first = _first_equal(split.ordered)
    rows = np.flatnonzero(np.abs(labels - labels[first]) > tolerance)
    if not len(rows):
        return None
    return Found(len(rows), int(split.lines[rows[0]]), int(split.lines[first[rows[0]]]))


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """Return for each row the index of the first row equal to it, `[rows] int64`."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse]
