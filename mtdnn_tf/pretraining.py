"""Stage one: an encoder pre-trained on running text in an ordinary run, then written for the runs that start from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.data.batches import evaluation_batches
from mtdnn_tf.data.pretraining import TokenizedDocuments, tokenize_documents
from mtdnn_tf.errors import UserError
from mtdnn_tf.experiment import Outcome, run_experiment, write_pages
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.modeling.saving import save_encoder
from mtdnn_tf.run_files import BASELINE_FILE, ENCODER_FOLDER
from mtdnn_tf.task_types import DOCUMENT_TYPES, shown_score
from mtdnn_tf.tasks import TaskSpec, load_tasks

_MODEL = {"sharing": "stack_cls", "pooler": "pretrained"}  # with others, not all that is trained would be written


@dataclass(frozen=True)
class Baseline:
    """What an encoder must beat to have learnt anything: guesses that look at no context, on the development rows."""

    masked_loss: float  # in nats, of the masked tokens under the frequencies of the training tokens
    next_accuracy: float  # of always giving the more frequent answer


def run_pretraining(config: ExperimentConfig, model_dir: str | Path, **options: Any) -> tuple[Outcome, Baseline]:
    """Run an experiment whose one task is of the type `pretraining`; write its best encoder and the baseline.

    Args:
        config: the experiment.
        model_dir: the run directory. `encoder/` in it is the best encoder, in the Hugging Face layout, and `baseline.json` the
            baseline; all else is as after `run_experiment`, heads included.
        options: of `run_experiment`.

    Raises:
        UserError: as `run_experiment`; also where there is another task.
    """
    task = pretraining_task(config)
    outcome = run_experiment(config, model_dir, **options)
    baseline = _baseline(task, outcome, config)
    if outcome.is_chief:
        folder = Path(model_dir)
        save_encoder(outcome.run.encoder, folder / ENCODER_FOLDER, replace=True)
        facts = {"masked_loss": baseline.masked_loss, "next_accuracy": baseline.next_accuracy}
        command = options.get("command", "")
        beside = [(task.name, f"{name} without context", shown_score(name, value)) for name, value in facts.items()]
        write_text_atomically(folder / BASELINE_FILE, json.dumps(facts, indent=2) + "\n")
        write_pages(outcome.run, outcome.mixture, outcome.scores, command, beside)
    return outcome, baseline


def pretraining_task(config: ExperimentConfig) -> TaskSpec:
    """Return the task of a pre-training configuration.

    Raises:
        UserError: there is none, or another one beside it, or predictions would not come from what is written as the encoder.
    """
    for key, needed in _MODEL.items():
        if getattr(config.model, key) != needed:
            raise UserError(
                f"model.{key}: must be {needed!r} in pre-training: the next sentence is told from the pooled [CLS], which the encoder "
                f"is written with, and tokens of tasks are not. Received: {getattr(config.model, key)!r}"
            )
    tasks = load_tasks(config)
    [task, *others] = sorted(tasks, key=lambda each: each.type not in DOCUMENT_TYPES)
    if task.type not in DOCUMENT_TYPES or others:
        raise UserError(
            f"tasks: pre-training takes one task, of the type {' or '.join(DOCUMENT_TYPES)}; received "
            f"{', '.join(f'{each.name} ({each.type})' for each in tasks)}"
        )
    return task


def _baseline(task: TaskSpec, outcome: Outcome, config: ExperimentConfig) -> Baseline:
    train = outcome.mixture.tokenized[task.name]
    dev = tokenize_documents(task, "dev", outcome.run.encoder.tokenizer, config.data.max_length)
    share = float(np.mean(dev.known_labels))
    return Baseline(unigram_loss(train.token_ids, dev), max(share, 1 - share))


def unigram_loss(train_ids: np.ndarray, dev: TokenizedDocuments) -> float:
    """Return the mean negative log likelihood, in nats, of the masked development tokens under the training frequencies.

    Every token of the vocabulary counts once more than it occurs, so that none has the probability 0.

    Args:
        train_ids: `[tokens] int32`.
        dev: its rows are masked as they are when a model is scored.
    """
    counts = np.bincount(train_ids, minlength=dev.tokenizer.vocab_size) + 1.0
    log_probabilities = np.log(counts / counts.sum())
    batches, _ = evaluation_batches(dev, 64, (dev.max_length,))
    masked = np.concatenate([batch["masked_ids"].numpy().ravel() for batch in batches])
    return float(-log_probabilities[masked[masked >= 0]].mean())
