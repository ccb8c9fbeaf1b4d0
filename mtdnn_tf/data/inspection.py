"""What a split's examples tell before anything is trained: balance of labels, lengths, and what truncation cuts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import TokenizedTask
from mtdnn_tf.data.overlaps import Fingerprints, fingerprints
from mtdnn_tf.data.pipelines import PARALLEL_CALLS, without_tuner
from mtdnn_tf.data.sources import Examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.tasks import TaskSpec

_CHUNK = 4096  # texts tokenised at once


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One task's split in numbers, as far as its labels tell them: known of every split that is read."""

    task: TaskSpec
    split: str
    rows: int
    items: int  # rows; of ranking, queries
    labels: np.ndarray | None  # [rows]
    balance: dict[str, Any] | None  # see `label_balance`; None: unlabelled
    skipped: tuple[str, ...] = ()  # a line for each row that `on_error: skip` leaves out


@dataclass(frozen=True, kw_only=True)
class Inspection(SplitFacts):
    """The same with what a pass over the texts tells; the texts themselves are not kept."""

    lengths: np.ndarray  # [rows] int64: tokens before truncation, special ones included
    max_length: int
    empty_rows: np.ndarray  # [count] int64: indices of rows with a text of nothing but white space
    fingerprints: Fingerprints

    @property
    def rows_cut(self) -> float:
        """The share of rows that truncation shortens."""
        return float(np.mean(self.lengths > self.max_length))

    @property
    def tokens_cut(self) -> float:
        """The share of tokens that truncation takes away."""
        return float(np.maximum(self.lengths - self.max_length, 0).sum() / self.lengths.sum())


def facts_of(split: str, tokenized: TokenizedTask) -> SplitFacts:
    """Return what a tokenised split tells without its texts."""
    return SplitFacts(
        task=tokenized.task,
        split=split,
        rows=len(tokenized.lengths),
        items=tokenized.num_items,
        labels=tokenized.labels,
        balance=label_balance(tokenized, tokenized.task),
        skipped=tokenized.skipped,
    )


def inspect_examples(
    examples: Examples, task: TaskSpec, split: str, tokenizer: Tokenizer, max_length: int
) -> Inspection:
    """Count what there is to know of a split, in one pass over its texts."""
    return Inspection(
        task=task,
        split=split,
        rows=len(examples),
        items=len(examples) if examples.groups is None else int(examples.groups[-1]) + 1,
        lengths=token_lengths(examples, tokenizer),
        max_length=max_length,
        labels=examples.labels,
        balance=label_balance(examples, task),
        empty_rows=_empty_rows(examples),
        fingerprints=fingerprints(examples),
        skipped=examples.skipped,
    )


def _empty_rows(examples: Examples) -> np.ndarray:
    if examples.tokens is not None:  # of their texts nothing is known
        return np.zeros(0, np.int64)
    return np.flatnonzero([not all(map(str.strip, texts)) for texts in zip(*examples.texts, strict=True)])


def token_lengths(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of every example if nothing were cut, [CLS] and [SEP] included, `[rows] int64`."""
    if examples.tokens is not None:
        return np.array([len(ids) for ids in examples.tokens.ids], np.int64)
    counts = np.stack([_text_lengths(texts, tokenizer) for texts in examples.texts])
    lengths: np.ndarray = 1 + len(examples.texts) + counts.sum(axis=0)
    return lengths


def _text_lengths(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    chunks = tf.data.Dataset.from_tensor_slices(texts).batch(_CHUNK)
    counts = chunks.map(lambda chunk: tokenizer(chunk).row_lengths(), num_parallel_calls=PARALLEL_CALLS)
    return np.concatenate(list(without_tuner(counts).as_numpy_iterator()))


def length_summary(lengths: np.ndarray) -> dict[str, int]:
    """Return `median`, `percentile_95`, `percentile_99` and `max` of lengths."""
    median, high, higher = (int(np.percentile(lengths, percent)) for percent in (50, 95, 99))
    return {"median": median, "percentile_95": high, "percentile_99": higher, "max": int(lengths.max())}


def label_balance(examples: Examples | TokenizedTask, task: TaskSpec) -> dict[str, Any] | None:
    """Return how the labels of a split are spread.

    Returns:
        Classification: {label name: rows}, labels without a row included. Regression: `min`, `quartile_1`, `median`,
        `quartile_3`, `max`, `mean`. Ranking: `candidates_min`, `candidates_median`, `candidates_max`, `positives_mean` (of a
        query), `queries_without_positive`, `queries_without_choice` (all candidates equally relevant, or one alone). None
        where the split is unlabelled; ranking has its candidates all the same.
    """
    return _BALANCES[task.type](examples, task)


def _of_classes(examples: Examples | TokenizedTask, task: TaskSpec) -> dict[str, Any] | None:
    if examples.labels is None:
        return None
    counts = np.bincount(examples.labels, minlength=len(task.labels)).tolist()
    return dict(zip(task.labels, counts, strict=True))


def _of_scores(examples: Examples | TokenizedTask, task: TaskSpec) -> dict[str, Any] | None:
    if examples.labels is None:
        return None
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    values = np.percentile(examples.labels, [0, 25, 50, 75, 100]).round(4).tolist()
    return {**dict(zip(names, values, strict=True)), "mean": round(float(np.mean(examples.labels)), 4)}


def _of_candidates(examples: Examples | TokenizedTask, task: TaskSpec) -> dict[str, Any] | None:
    if examples.groups is None:
        raise ValueError(f"task {task.name!r}: ranking examples have groups")
    candidates = np.bincount(examples.groups)
    balance: dict[str, Any] = {
        "candidates_min": int(candidates.min()),
        "candidates_median": int(np.median(candidates)),
        "candidates_max": int(candidates.max()),
    }
    if examples.labels is None:
        return balance
    positives = np.bincount(examples.groups, weights=examples.labels > 0)
    starts = np.flatnonzero(np.diff(examples.groups, prepend=-1))
    least, most = (reduce.reduceat(examples.labels, starts) for reduce in (np.minimum, np.maximum))
    return balance | {
        "positives_mean": round(float(positives.mean()), 4),
        "queries_without_positive": int(np.sum(positives == 0)),
        "queries_without_choice": int(np.sum((least == most) & (most > 0))),
    }


# A task type is added here.
_BALANCES = {"classification": _of_classes, "regression": _of_scores, "ranking": _of_candidates}
