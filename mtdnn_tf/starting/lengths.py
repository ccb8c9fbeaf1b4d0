"""How long texts will be in tokens, told from their words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtdnn_tf.config import DataConfig
from mtdnn_tf.starting.tables import Column

TOKENS_PER_WORD = 1.5  # of English in WordPiece, on the safe side
_SHARE = 98  # of 100 examples are not cut
_CHARACTERS = re.compile("[\u2e80-\u9fff\uac00-\ud7af]")  # Chinese, Japanese, Korean: each about a token


@dataclass(frozen=True)
class Lengths:
    """Words of a text column, and what they come to."""

    median: int
    longest: int


def words_of(column: Column) -> Lengths:
    """Return the words of a column's texts."""
    words = [len(text.split()) for text in column.values]
    return Lengths(int(np.median(words)), max(words))


def tokens_of(columns: Sequence[Column]) -> np.ndarray:
    """Return about how many tokens each row has: `[rows] float64`, all texts with the special tokens."""
    total = np.full(len(columns[0].values), 1.0 + len(columns))
    for column in columns:
        total += [
            TOKENS_PER_WORD * len(text.split()) + (0 if text.isascii() else len(_CHARACTERS.findall(text)))
            for text in column.values
        ]
    return total


def fitting_length(tokens: Sequence[np.ndarray]) -> int:
    """Return the smallest bucket that holds 98 of 100 examples of every task, at most the largest bucket."""
    wanted = max(float(np.percentile(of_task, _SHARE)) for of_task in tokens)
    buckets = DataConfig().buckets
    return next((bucket for bucket in buckets if bucket >= wanted), buckets[-1])
