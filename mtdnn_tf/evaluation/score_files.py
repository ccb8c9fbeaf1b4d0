"""Scores and submissions laid out as the original MT-DNN program writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.canonical import canonical_uids
from mtdnn_tf.data.preprocessed import preprocessed_uids
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.task_definitions import MEANINGS
from mtdnn_tf.tasks import TaskSpec

# Formats whose rows carry an id, and what returns it by line.
UIDS: dict[str, Callable[[TaskSpec, SourceConfig], Mapping[int, str]]] = {
    "canonical": canonical_uids,
    "preprocessed": preprocessed_uids,
}
_METRICS = {ours: theirs for meaning in MEANINGS.values() for theirs, ours in meaning.metrics.items()}


def write_score_files(folder: str | Path, scorer: SplitScorer, split: str, epoch: int) -> list[Path]:
    """Write `<task>_<split>_scores_<epoch>.json` and, but for ranking, the submission `.tsv` of every scored task.

    The JSON holds `metrics` (in percent), `predictions`, `uids` and `scores` (one flat list, a number for each row and class).
    A ranking task has a uid for each query, and a prediction (1 for the best candidate) and a score for each candidate.

    Raises:
        UserError: a uid is no whole number, by which a submission is sorted.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, tokenized in scorer.splits:
        outcome = _outcome(scorer.logits[task.name], task, tokenized.groups)
        content = {
            "metrics": {
                _METRICS.get(name, name): 100 * value for name, value in (scorer.scores or {})[task.name].items()
            },
            "predictions": outcome[0],
            "uids": _uids(task, split),
            "scores": outcome[1],
        }
        path = folder / f"{task.name}_{split}_scores_{epoch}.json"
        write_text_atomically(path, json.dumps(content) + "\n")
        written.append(path)
        if task.type != "ranking":
            written.append(_write_submission(path.with_suffix(".tsv"), task, content))
    return written


def _outcome(logits: np.ndarray, task: TaskSpec, groups: np.ndarray | None) -> tuple[list[Any], list[float]]:
    """Return predictions, and scores as one flat list."""
    if task.type == "regression":
        return logits[:, 0].tolist(), logits[:, 0].tolist()
    if groups is None:
        return logits.argmax(axis=-1).tolist(), _softmax(logits).ravel().tolist()
    predictions: list[int] = []
    scores: list[float] = []
    for relevance in np.split(logits[:, 0], np.flatnonzero(np.diff(groups)) + 1):  # a query's rows are together
        predictions += np.eye(len(relevance), dtype=int)[relevance.argmax()].tolist()
        scores += _softmax(relevance).tolist()
    return predictions, scores


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = exponent / exponent.sum(axis=-1, keepdims=True)
    return result


def _uids(task: TaskSpec, split: str) -> list[str]:
    """Return the id of each row (of ranking, query): that of the source, else the number of its line."""
    examples = read_examples(task, split)
    rows = np.arange(len(examples)) if examples.groups is None else np.unique(examples.groups, return_index=True)[1]
    source = task.sources[split]
    known = UIDS[source.format](task, source) if source.format in UIDS else {}
    lines = examples.lines[rows].tolist()
    return [known.get(line, str(line)) for line in lines]


def _write_submission(path: Path, task: TaskSpec, content: Mapping[str, Any]) -> Path:
    rows = []
    for uid, prediction in zip(content["uids"], content["predictions"], strict=True):
        if not uid.strip().isdecimal():
            raise UserError(f"{path}: a submission is sorted by uid, which must be a whole number, received {uid!r}")
        rows.append((int(uid), task.labels[prediction] if task.labels else f"{prediction:.6f}"))
    lines = [f"{uid}\t{answer}" for uid, answer in sorted(rows, key=lambda row: row[0])]
    write_text_atomically(path, "\n".join(["index\tprediction", *lines]) + "\n")
    return path
