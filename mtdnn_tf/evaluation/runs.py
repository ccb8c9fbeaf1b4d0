"""A finished run opened again: its configuration, tasks, encoder and best model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from mtdnn_tf.config import ExperimentConfig, load_config
from mtdnn_tf.data.words import WordTokenizer, vocabulary_of_tasks
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.bert import no_bert
from mtdnn_tf.modeling.encoders import Encoder, load_encoder, prepare_encoder
from mtdnn_tf.modeling.model import build_model
from mtdnn_tf.modeling.saving import read_description, reads_words
from mtdnn_tf.modeling.word_encoders import without_vectors, words_settings
from mtdnn_tf.run_files import BEST_FOLDER, CHECKPOINTS_FOLDER, CONFIG_FILE, ENCODER_FILE, VOCABULARY_FILE
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec, load_tasks
from mtdnn_tf.training import checkpoints


@dataclass(frozen=True)
class Run:
    """A run directory in memory."""

    model: keras.Model
    tasks: tuple[TaskSpec, ...]
    encoder: Encoder
    config: ExperimentConfig
    model_dir: Path

    @property
    def name(self) -> str:
        """What the run directory is called, wherever it is looked at from."""
        return self.model_dir.resolve().name


def build_run_model(
    config: ExperimentConfig, encoder: Encoder | None = None
) -> tuple[keras.Model, tuple[TaskSpec, ...], Encoder]:
    """Build what a configuration describes, with the encoder's own weights and fresh heads.

    Args:
        config: the experiment.
        encoder: of a run that is opened again, from `kept_encoder`; None: what the configuration's source names.

    Raises:
        UserError: bad tasks, an encoder that can't be loaded or does not suit them, or settings that do not go together.
    """
    tasks = load_tasks(config)
    words = words_settings(config.encoder.source)
    if words is not None and any(task.type in DOCUMENT_TYPES for task in tasks):
        raise no_bert("pre-training")
    if encoder is None:
        encoder = load_encoder(
            config.encoder.source,
            dropout=config.encoder.dropout,
            seed=config.training.seed,
            vocabulary=None if words is None else _vocabulary(config, tasks, words),
        )
    prepare_encoder(encoder, config)
    return build_model(encoder, tasks, config=config), tasks, encoder


def _vocabulary(config: ExperimentConfig, tasks: Sequence[TaskSpec], words: Mapping[str, Any]) -> Sequence[str]:
    """Return the words of a new run: those of the run that it starts from, whose vectors it takes over; else as its source says."""
    earlier = Path(config.training.init_from or "")
    has_words = (
        config.training.init_from and (earlier / VOCABULARY_FILE).is_file() and reads_words(earlier / ENCODER_FILE)
    )
    known = WordTokenizer.from_file(earlier / VOCABULARY_FILE).vocab if has_words else None
    if not words["vocab"]:
        return known or vocabulary_of_tasks(tasks, words["min_count"])
    named = WordTokenizer.from_file(words["vocab"]).vocab
    if known not in (None, named):
        raise UserError(
            f"encoder.source: {words['vocab']} holds other words than the run of training.init_from, whose vectors are taken over; "
            "leave `vocab` out: that run's words are taken"
        )
    return named


def vocabulary_now(config: ExperimentConfig, tasks: Sequence[TaskSpec]) -> Sequence[str] | None:
    """Return the words that a run of this configuration would have if it began now; None: its encoder reads none, or files are gone."""
    words = words_settings(config.encoder.source)
    if words is None:
        return None
    needed = [words["vocab"], config.training.init_from]
    return _vocabulary(config, tasks, words) if all(Path(path).exists() for path in needed if path) else None


def load_run(model_dir: str | Path) -> Run:
    """Open a run directory with its best model, or its latest checkpoint where no epoch has ended yet.

    Raises:
        UserError: the directory is no run, or its weights don't fit its configuration.
    """
    model_dir = Path(model_dir)
    config = read_run_config(model_dir)
    weights = find_weights(model_dir)
    model, tasks, encoder = build_run_model(config, kept_encoder(model_dir, config))
    checkpoints.load_model(weights, model, tasks)
    return Run(model, tasks, encoder, config, model_dir)


def kept_encoder(model_dir: Path, config: ExperimentConfig) -> Encoder | None:
    """Return the encoder of a run as its directory describes it, with weights for a checkpoint to replace.

    Returns:
        None where an older version of this program wrote the directory: its encoder is built from its source.

    Raises:
        UserError: a file is missing or damaged.
    """
    settings, vocabulary, source = model_dir / ENCODER_FILE, model_dir / VOCABULARY_FILE, config.encoder.source
    dropout, seed = config.encoder.dropout, config.training.seed
    if settings.is_file():
        return read_description(settings, vocabulary, source=source, dropout=dropout, seed=seed)
    if words_settings(source) is None:
        return None
    words = WordTokenizer.from_file(vocabulary).vocab
    return load_encoder(without_vectors(source), dropout=dropout, seed=seed, vocabulary=words)


def read_run_config(model_dir: str | Path) -> ExperimentConfig:
    """Return the resolved configuration of a run directory.

    Raises:
        UserError: there is none.
    """
    path = Path(model_dir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{model_dir}: not a run directory: config.yaml is missing; train first, or name another --model_dir"
        )
    return load_config(path)


def find_weights(model_dir: str | Path) -> Path:
    """Return the checkpoint that stands for a run: `best`, else the latest.

    Raises:
        UserError: the run has not saved any weights.
    """
    best = Path(model_dir) / BEST_FOLDER
    found = best if best.is_dir() else checkpoints.latest(Path(model_dir) / CHECKPOINTS_FOLDER)
    if found is None:
        raise UserError(f"{model_dir}: the run holds no weights yet: neither best/ nor checkpoints/")
    return found


def refuse_pretraining(tasks: Sequence[TaskSpec], reason: str) -> None:
    """Refuse to go on with a task that is there to train an encoder.

    Raises:
        UserError: one of the tasks is of such a type.
    """
    for task in tasks:
        if task.type in DOCUMENT_TYPES:
            raise UserError(
                f"tasks.{task.name}: is of the type {task.type}: {reason}; train tasks on its encoder, with encoder.source: "
                "<run directory>/encoder"
            )


def task_named(tasks: Sequence[TaskSpec], name: str) -> TaskSpec:
    """Return the task of this name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    for task in tasks:
        if task.name == name:
            refuse_pretraining([task], "it answers no texts")
            return task
    raise UserError(f"--task: no task {name!r} in this model; it has {', '.join(task.name for task in tasks)}")
