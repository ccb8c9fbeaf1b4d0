"""Logits, scores and answers of a model: on whole splits and on raw texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mtdnn_tf.config import DataConfig, ExperimentConfig
from mtdnn_tf.data.batches import EvaluationBatches, TokenizedTask, evaluation_batches, tokenize_task
from mtdnn_tf.data.cache import tokenized_split
from mtdnn_tf.data.sources import Examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.metrics import Predictions, glue_score, score_task
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.model import input_spec, task_model, trained_length
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.distribution import Distribution


class Predictor:
    """Runs one head after another on tokenised splits; each head is compiled once and kept.

    On several devices each takes a share of the rows; every worker gets all results.
    """

    def __init__(self, model: keras.Model, data: DataConfig, distribution: Distribution | None = None) -> None:
        """Take a model of `build_model`, batch size and buckets from the configuration, and the devices (None: one)."""
        self.model, self.data = model, data
        self._distribution = distribution or Distribution()
        self._heads: dict[str, Any] = {}

    def batches(self, tokenized: TokenizedTask) -> EvaluationBatches:
        """Return what `logits` reads a split by: for those that read it often, as setting it up takes longer than a small split."""
        return evaluation_batches(tokenized, self.data.eval_batch_size, self.data.buckets, self._distribution.share)

    def logits(self, task: TaskSpec, tokenized: TokenizedTask, batches: EvaluationBatches | None = None) -> np.ndarray:
        """Return the logits of every row, in file order: `[examples, classes] float32`; `batches`: of that split, if at hand."""
        name = task.head_of or task.name
        head = self._head(name)
        dataset, order = batches or self.batches(tokenized)
        result = np.zeros([len(tokenized.lengths), self.model.output[name].shape[-1]], np.float32)
        if len(order):
            result[order] = np.concatenate([head(batch) for batch in dataset])
        return self._distribution.sum_over_workers(result)

    def _head(self, name: str) -> Any:
        if name not in self._heads:
            model = task_model(self.model, name)
            self._heads[name] = self._distribution.compile_rows(
                lambda inputs: model(inputs, training=False), input_spec(model)
            )
        return self._heads[name]


class SplitScorer:
    """Scores a model on one split of its tasks, as often as wanted: the split is read and tokenised once."""

    def __init__(
        self,
        model: keras.Model,
        tasks: Sequence[TaskSpec],
        tokenizer: Tokenizer,
        data: DataConfig,
        split: str = "dev",
        distribution: Distribution | None = None,
    ) -> None:
        """Read the split of every task that has it.

        Raises:
            UserError: no task has this split with labels, or one of its files is bad.
        """
        self._predictor = Predictor(model, data, distribution)
        self.split = split
        self.splits: list[tuple[TaskSpec, TokenizedTask]] = []
        self.logits: dict[str, np.ndarray] = {}  # by task, of the latest call
        self.scores: dict[str, Any] | None = None  # of the latest call
        self._batches: dict[str, EvaluationBatches] = {}  # by task
        for task in tasks:
            if split in task.sources:
                tokenized = tokenized_split(task, split, tokenizer, data)
                if tokenized.labels is not None:
                    self.splits.append((task, tokenized))
        if not self.splits:
            raise _nothing_to_score(split)

    def __call__(self) -> dict[str, Any]:
        """Return {task: {metric: value}, "average": mean of the main metrics}, values as fractions.

        Tasks that borrow another's head are listed, but do not count in the average. `glue_score` is added, in percent,
        where all nine GLUE tasks are there.
        """
        scores: dict[str, Any] = {}
        for task, tokenized in self.splits:
            if task.name not in self._batches:
                self._batches[task.name] = self._predictor.batches(tokenized)
            logits = self._predictor.logits(task, tokenized, self._batches[task.name])
            self.logits[task.name] = logits
            scores[task.name] = score_task(task, Predictions(logits, tokenized.known_labels, tokenized.groups))
        self.scores = with_aggregates(scores, [task for task, _ in self.splits], self.split)
        return self.scores


def with_aggregates(scores: Mapping[str, Any], tasks: Sequence[TaskSpec], split: str) -> dict[str, Any]:
    """Return scores by task with "average", and "glue_score" where all nine GLUE tasks are there; see `SplitScorer`.

    Raises:
        UserError: there are no scores.
    """
    if not scores:
        raise _nothing_to_score(split)
    own = [task for task in tasks if task.head_of is None and task.name in scores]
    counted = [scores[task.name][task.main_metric] for task in own]
    glue = glue_score(scores)
    average = float(np.mean(counted)) if counted else 0.0
    return {**scores, "average": average, **({} if glue is None else {"glue_score": glue})}


def _nothing_to_score(split: str) -> UserError:
    return UserError(f"no task has a labelled {split!r} split to be scored on: give tasks.<name>.{split} a source")


def evaluate_tasks(
    model: keras.Model,
    tasks: Sequence[TaskSpec],
    encoder: Encoder,
    split: str = "dev",
    *,
    config: ExperimentConfig | None = None,
) -> dict[str, Any]:
    """Score the model on a whole split of each task that has it (see `SplitScorer`).

    Args:
        model: of `build_model`.
        tasks: its tasks.
        encoder: its encoder.
        split: train, dev or test.
        config: of the run, which says where texts are cut (`data.max_length`); None: as in training (`trained_length`).

    Returns:
        {"rte": {"accuracy": 0.66}, ..., "average": 0.7}.

    Raises:
        UserError: no task has the split, or a file is bad.
    """
    data = config.data if config else DataConfig(max_length=trained_length(model, encoder))
    return SplitScorer(model, tasks, encoder.tokenizer, data, split)()


def predict_examples(
    predictor: Predictor, task: TaskSpec, tokenizer: Tokenizer, examples: Examples
) -> list[dict[str, Any]]:
    """Return one answer for each example, in order.

    Returns:
        classification: `label`, `label_id`, `probabilities` {label: p}; regression: `score`; ranking: `relevance`.
    """
    tokenized = tokenize_task(examples, task, tokenizer, predictor.data.max_length)
    return answers(task, predictor.logits(task, tokenized))


def answers(task: TaskSpec, logits: np.ndarray) -> list[dict[str, Any]]:
    """Turn logits `[examples, classes] float32` into answers with the label's name."""
    if task.type == "regression":
        return [{"score": float(value)} for value in logits[:, 0]]
    if task.type == "ranking":
        return [{"relevance": float(value)} for value in logits[:, 0]]
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = exponent / exponent.sum(axis=-1, keepdims=True)
    return [
        {
            "label": task.labels[int(row.argmax())],
            "label_id": int(row.argmax()),
            "probabilities": {label: float(p) for label, p in zip(task.labels, row, strict=True)},
        }
        for row in probabilities
    ]
