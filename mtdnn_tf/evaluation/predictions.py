"""Answers as files: one TSV for each task of a scored split, and the rows of the predict entry point."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtdnn_tf.evaluation.evaluate import SplitScorer, answers
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec


def write_predictions(folder: str | Path, scorer: SplitScorer, split: str) -> list[Path]:
    """Write `<task>_<split>.tsv` for every task that the scorer has scored, in file order.

    Columns: number of the row, gold, answer columns; of ranking the number of the query, last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, tokenized in scorer.splits:
        if task.type in DOCUMENT_TYPES:
            continue  # rows made for scoring: nobody has their texts
        rows = answers(task, scorer.logits[task.name])
        gold = [_gold(task, label) for label in tokenized.known_labels]
        queries = [[]] * len(rows) if tokenized.groups is None else [[str(query)] for query in tokenized.groups]
        lines = [
            "\t".join([str(number), known, *_cells(row), *query])
            for number, (known, row, query) in enumerate(zip(gold, rows, queries, strict=True), 1)
        ]
        head = ["example", "gold", *columns(task), *([] if tokenized.groups is None else ["query"])]
        path = folder / f"{task.name}_{split}.tsv"
        write_text_atomically(path, "\n".join(["\t".join(head), *lines]) + "\n")
        written.append(path)
    return written


def columns(task: TaskSpec) -> list[str]:
    """Return the names of the answer's columns in a TSV."""
    if task.type == "classification":
        return ["label", *(f"probability_{label}" for label in task.labels)]
    return ["relevance" if task.type == "ranking" else "score"]


def _gold(task: TaskSpec, label: Any) -> str:
    return task.labels[int(label)] if task.type == "classification" else f"{label:g}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "label" in row:
        return [row["label"] or "", *map(_number, row["probabilities"].values())]
    return [_number(value) for value in row.values()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def no_answer(task: TaskSpec) -> dict[str, Any]:
    """Return what stands in the place of the answer to a line that holds no text: every value is None."""
    if task.type == "classification":
        return {"label": None, "label_id": None, "probabilities": dict.fromkeys(task.labels)}
    return dict.fromkeys(columns(task))


def as_tsv(task: TaskSpec, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return answers as TSV with a header."""
    return "\n".join(["\t".join(columns(task)), *("\t".join(_cells(row)) for row in rows)]) + "\n"


def as_jsonl(task: TaskSpec, rows: Iterable[Mapping[str, Any]], *, ascii_only: bool = False) -> str:
    r"""Return answers as JSON, one object a line; `ascii_only`: other characters as \uXXXX, for streams of other encodings."""
    return "".join(json.dumps({"task": task.name, **row}, ensure_ascii=ascii_only) + "\n" for row in rows)
