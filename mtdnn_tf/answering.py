"""Answers of one task for raw texts, from a run or from an exported text model."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of exported text models)

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.columns import MissingColumnError
from mtdnn_tf.data.sources import Examples, read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.evaluate import Predictor, predict_examples
from mtdnn_tf.evaluation.metrics import Predictions, score_task
from mtdnn_tf.evaluation.runs import load_run, task_named
from mtdnn_tf.tasks import TaskSpec

Rows = list[dict[str, Any]]


class RunAnswerer:
    """One task of a run directory."""

    def __init__(self, model_dir: str | Path, task: str) -> None:
        """Open the run.

        Raises:
            UserError: the directory is no run, or has no such task.
        """
        run = load_run(model_dir)
        self.task = task_named(run.tasks, task)
        self._predictor = Predictor(run.model, run.config.data)
        self._tokenizer = run.encoder.tokenizer

    def __call__(self, examples: Examples) -> Rows:
        """Return one answer for each example."""
        return predict_examples(self._predictor, self.task, self._tokenizer, examples)


class SavedModelAnswerer:
    """One task of an exported text model, asked as a server would ask it."""

    batch_size = 64

    def __init__(self, folder: str | Path, task: str) -> None:
        """Open the SavedModel.

        Raises:
            UserError: there is none, it takes ids, or it has no such task.
        """
        path = _version_folder(Path(folder))
        self._model = tf.saved_model.load(str(path))
        metadata = json.loads((path / "assets" / "metadata.json").read_text(encoding="utf-8"))
        if metadata["kind"] != "text":
            raise UserError(f"{path}: an ids model takes token ids; export with --kind=text, or use --model_dir")
        tasks = [TaskSpec(name=name, **_spec(values)) for name, values in metadata["tasks"].items()]
        self.task = task_named(tasks, task)
        self._signature = self._model.signatures[task]

    def __call__(self, examples: Examples) -> Rows:
        """Return one answer for each example."""
        rows: Rows = []
        for start in range(0, len(examples), self.batch_size):
            columns = zip(self.task.text, examples.texts, strict=True)
            inputs = {name: tf.constant(texts[start : start + self.batch_size]) for name, texts in columns}
            outputs = {name: value.numpy() for name, value in self._signature(**inputs).items()}
            rows += [self._answer(outputs, index) for index in range(len(inputs[self.task.text[0]]))]
        return rows

    def _answer(self, outputs: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
        if self.task.type == "classification":
            probabilities = zip(self.task.labels, outputs["probabilities"][index], strict=True)
            return {
                "label": outputs["label"][index].decode(),
                "label_id": int(outputs["label_id"][index]),
                "probabilities": {label: float(p) for label, p in probabilities},
            }
        name = "relevance" if self.task.type == "ranking" else "score"
        return {name: float(outputs[name][index])}


def _spec(values: Mapping[str, Any]) -> dict[str, Any]:
    metrics = tuple(values["metrics"])
    return {
        "type": values["type"],
        "text": tuple(values["text"]),
        "labels": tuple(values["labels"]),
        "range": tuple(values["range"]) if values["range"] else None,
        "metrics": metrics,
        "main_metric": values["main_metric"],
    }


def _version_folder(folder: Path) -> Path:
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [path for path in folder.glob("*") if path.name.isdigit() and (path / "saved_model.pb").is_file()]
    if not versions:
        raise UserError(f"{folder}: holds no SavedModel: neither saved_model.pb nor a numbered version folder")
    return max(versions, key=lambda path: int(path.name))


def read_input(task: TaskSpec, path: str) -> Examples:
    """Read texts to answer: a file with the task's columns in its header, or `-` for tab-separated lines on standard input.

    Raises:
        UserError: the file is missing or malformed, or a line of standard input has the wrong number of columns.
    """
    if path != "-":
        return _read_file(task, str(Path(path).resolve()))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stdin.tsv"
        copy.write_bytes(_stdin_bytes())
        columns = {name: position for position, name in enumerate(task.text)}
        try:
            return read_source(task, SourceConfig(path=str(copy), header=False, columns=columns), labelled=False)
        except UserError as error:
            raise UserError(str(error).replace(str(copy), "standard input")) from None


def _read_file(task: TaskSpec, path: str) -> Examples:
    """Read a file laid out as the task's own, or with the task's column names; labels are taken where there are any."""
    own = next((task.sources[split] for split in ("dev", "test", "train") if split in task.sources), SourceConfig(path))
    try:
        return read_source(task, replace(own, path=path, split=None, format="auto", on_error="raise"), labelled=None)
    except MissingColumnError:
        plain = SourceConfig(path, labels=own.labels, ignore_labels=own.ignore_labels)
        return read_source(task, plain, labelled=None)


def _stdin_bytes() -> bytes:
    stream = sys.stdin
    return stream.buffer.read() if isinstance(stream, io.TextIOWrapper) else stream.read().encode()


def score_input(task: TaskSpec, rows: Sequence[Mapping[str, Any]], examples: Examples) -> dict[str, float]:
    """Return the task's metrics for answered examples that came with labels."""
    if examples.labels is None:
        raise ValueError("the examples have no labels")
    if task.type == "classification":
        outputs = np.array([[row["probabilities"][label] for label in task.labels] for row in rows], np.float32)
    else:
        outputs = np.array([[next(iter(row.values()))] for row in rows], np.float32)
    return score_task(task, Predictions(outputs, examples.labels, examples.groups))
