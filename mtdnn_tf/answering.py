"""Predict on raw text with a trained run or an exported SavedModel, and score the predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops of exported text models)

from mtdnn_tf.data.sources import Examples, read_examples
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.evaluate import Predictor, predict_examples, with_aggregates
from mtdnn_tf.evaluation.metrics import Predictions, score_task
from mtdnn_tf.evaluation.runs import load_run, task_named
from mtdnn_tf.prediction_input import Rows
from mtdnn_tf.serving.metadata import described_task
from mtdnn_tf.tasks import TaskSpec


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


class ExportedModel:
    """An exported text model: its tasks, and answers by its signatures as a server would give them."""

    batch_size = 64

    def __init__(self, folder: str | Path) -> None:
        """Open the SavedModel.

        Args:
            folder: a version folder, or the folder above, whose newest version is taken.

        Raises:
            UserError: there is none, or it takes ids.
        """
        self.path = _version_folder(Path(folder))
        try:
            metadata = json.loads((self.path / "assets" / "metadata.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path}: assets/metadata.json can't be read ({error}); expected a model as mtdnn_tf.export writes it, whole"
            ) from None
        if metadata["kind"] != "text":
            raise UserError(f"{self.path}: an ids model takes token ids; export with --kind=text, or use --model_dir")
        self._signatures = tf.saved_model.load(str(self.path)).signatures
        self.tasks = tuple(described_task(name, told) for name, told in metadata["tasks"].items())
        self.weights = metadata.get("weights", "float32")

    def answers(self, task: TaskSpec, examples: Examples) -> Rows:
        """Return one answer of a task of `tasks` for each example, in order; texts of similar size are asked together."""
        sizes = np.sum([[len(text) for text in column] for column in examples.texts], axis=0)
        order = np.argsort(sizes, kind="stable")
        rows: Rows = [{}] * len(examples)
        for start in range(0, len(examples), self.batch_size):
            places = order[start : start + self.batch_size]
            columns = zip(task.text, examples.texts, strict=True)
            inputs = {name: tf.constant([texts[place] for place in places]) for name, texts in columns}
            outputs = {name: value.numpy() for name, value in self._signatures[task.name](**inputs).items()}
            for index, place in enumerate(places):
                rows[place] = _answer(task, outputs, index)
        return rows


class SavedModelAnswerer:
    """One task of an exported text model, asked as a server would ask it."""

    def __init__(self, folder: str | Path, task: str) -> None:
        """Open the SavedModel.

        Raises:
            UserError: there is none, it takes ids, or it has no such task.
        """
        self._model = ExportedModel(folder)
        self.task = task_named(self._model.tasks, task)

    def __call__(self, examples: Examples) -> Rows:
        """Return one answer for each example."""
        return self._model.answers(self.task, examples)


def _answer(task: TaskSpec, outputs: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    if task.type == "classification":
        probabilities = zip(task.labels, outputs["probabilities"][index], strict=True)
        return {
            "label": outputs["label"][index].decode(),
            "label_id": int(outputs["label_id"][index]),
            "probabilities": {label: float(p) for label, p in probabilities},
        }
    name = "relevance" if task.type == "ranking" else "score"
    return {name: float(outputs[name][index])}


def _version_folder(folder: Path) -> Path:
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [path for path in folder.glob("*") if path.name.isdigit() and (path / "saved_model.pb").is_file()]
    if not versions:
        raise UserError(f"{folder}: holds no SavedModel: neither saved_model.pb nor a numbered version folder")
    return max(versions, key=lambda path: int(path.name))


def score_input(task: TaskSpec, rows: Rows, examples: Examples) -> dict[str, float]:
    """Return the task's metrics for answered examples that have labels; none where no label is the task's.

    Rows whose labels are unknown are left out.
    """
    if examples.labels is None:
        raise ValueError("the examples have no labels")
    if task.type == "classification":
        outputs = np.array([[row["probabilities"][label] for label in task.labels] for row in rows], np.float32)
    else:
        outputs = np.array([[next(iter(row.values()))] for row in rows], np.float32)
    unknown = np.isin(np.arange(len(examples)), list(examples.unknown_labels))
    known = Predictions(outputs, examples.labels, examples.groups).without(unknown)
    return score_task(task, known) if len(known.labels) else {}


def score_exported(model: ExportedModel, tasks: Sequence[TaskSpec], split: str = "dev") -> dict[str, Any]:
    """Score an exported text model on a whole split of each task that has it with labels.

    Args:
        model: the exported model.
        tasks: with their sources; those that borrow a head are answered by the lender's signature.
        split: train, dev or test.

    Returns:
        As `evaluate_tasks`.

    Raises:
        UserError: the model lacks one of the tasks or has other labels for it, no task has the split, or a file is bad.
    """
    scores: dict[str, Any] = {}
    for task in tasks:
        if split in task.sources:
            examples = read_examples(task, split)
            if examples.tokens is not None:
                raise UserError(
                    f"tasks.{task.name}.{split}: {examples.origin} holds token ids; a text model takes texts"
                )
            if examples.labels is not None:
                rows = model.answers(_served_task(model, task), examples)
                scores[task.name] = score_input(task, rows, examples)
    return with_aggregates(scores, tasks, split)


def _served_task(model: ExportedModel, task: TaskSpec) -> TaskSpec:
    """Return the task of the model that answers for `task`."""
    found = next((each for each in model.tasks if each.name == (task.head_of or task.name)), None)
    if found is None:
        known = ", ".join(each.name for each in model.tasks)
        raise UserError(f"tasks.{task.name}: {model.path} does not answer it; it has {known}")
    if set(found.labels) != set(task.labels) or len(found.text) != len(task.text):
        raise UserError(
            f"tasks.{task.name}: {model.path} was exported for other data: labels {list(found.labels)} and "
            f"{len(found.text)} texts; received labels {list(task.labels)} and {len(task.text)} texts"
        )
    return found
