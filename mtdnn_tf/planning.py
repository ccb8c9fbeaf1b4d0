"""What a configuration would train: data, steps, buckets, parameters, memory, time and warnings, before any of it is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from mtdnn_tf.config import ExperimentConfig, config_hash
from mtdnn_tf.data.bucket_use import Buckets, bucket_summary, bucket_use, padding
from mtdnn_tf.data.inspection import Inspection, inspect_examples, length_summary
from mtdnn_tf.data.mixing import Mixture, build_mixture
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.experiment import compile_trainer
from mtdnn_tf.modeling.model import parameter_counts
from mtdnn_tf.plan_costs import estimate_time, memory_bytes
from mtdnn_tf.plan_table import plan_table
from mtdnn_tf.plan_warnings import as_json, find_warnings
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.averaging import horizon
from mtdnn_tf.training.losses import with_class_weights
from mtdnn_tf.training.trainer import MultiTaskTrainer, updates_per_epoch

__all__ = ["make_plan", "plan_table"]

_SPLITS = ("train", "dev", "test")


def make_plan(config: ExperimentConfig, *, timed: bool = True) -> dict[str, Any]:
    """Return what a run of this configuration would do.

    Args:
        config: the experiment.
        timed: take a few real steps (nothing is kept of them) to estimate the time.

    Returns:
        Plain values, fit for JSON:

        - `configuration` (hash), `epochs`, `mixing`, `max_length`;
        - `tasks` {name: `type`, `head` (with `head_of`: that task's name), `batch_size`, `examples` (trained; ranking:
          queries), `steps_per_epoch` (of the first epoch), `steps_per_epoch_min`, `steps_per_epoch_max`, `steps` (of the run),
          `probability` (share of the run's steps), `passes` (how often the run sees the task's data), `buckets`, `splits`};
        - of a task with class weights `class_weights` {label: weight}; of one whose scores are learnt as -1 to 1 `scaled_range`
          [low, high];
        - of a trained task `buckets`: `batches` {padded length: batches of the first epoch}, `padding`, `padding_unsorted`:
          see `bucket_summary`;
        - `splits` {train, dev, test where there: `examples` (ranking: queries), `rows`, `labels` (see `label_balance`; None:
          unlabelled), `length` {median, percentile_95, percentile_99, max} in tokens before truncation, `rows_cut`,
          `tokens_cut` (shares)};
        - `steps_per_epoch` (of the first epoch), `total_steps`, `updates` (fewer than steps where batches are
          accumulated), `batches_looked_at` (for buckets), `padding` (of all tasks);
        - `parameters` {`encoder`, `heads/<task>`: number};
        - `average` {`decay` (training.ema), `horizon` (updates that the average looks back over at the end)}; None without one;
        - `memory_gb` (estimate of the process's peak, on a CPU);
        - `minutes`, `minutes_range` [low, high], `timed_steps`: training without scoring and saving; None if not timed;
        - `warnings` [{kind, task, split, message}].

    Raises:
        UserError: bad configuration, data or weights.
    """
    model, tasks, encoder = build_run_model(config)
    mixture = build_mixture(tasks, encoder, config)
    inspections = {task.name: _inspect(task, encoder.tokenizer, config.data.max_length) for task in tasks}
    epochs = [mixture.step_counts(epoch) for epoch in range(config.training.epochs)]
    steps = sum((Counter(counts) for counts in epochs), Counter())
    total = steps.total()
    used = bucket_use(mixture)
    parameters = parameter_counts(model)
    inspected = [found for splits in inspections.values() for found in splits.values()]
    warnings = find_warnings(tasks, inspected, {name: steps[name] / total for name in mixture.task_names})
    updates = config.training.epochs * updates_per_epoch(mixture, config.training.accumulate)
    decay = config.training.ema
    return {
        "configuration": config_hash(config),
        "epochs": config.training.epochs,
        "mixing": config.mixing.strategy,
        "max_length": config.data.max_length,
        "tasks": {
            task.name: _steps_plan(task, config, [counts.get(task.name, 0) for counts in epochs], total)
            | _training_plan(task, config, mixture, used, steps[task.name])
            | {"splits": {split: _split_plan(found) for split, found in inspections[task.name].items()}}
            for task in tasks
        },
        "steps_per_epoch": sum(epochs[0].values()),
        "total_steps": total,
        "updates": updates,
        "batches_looked_at": sum(bucket.batches for own in used.values() for bucket in own.values()),
        "padding": round(padding(bucket for own in used.values() for bucket in own.values()), 4),
        "parameters": parameters,
        "average": {"decay": decay, "horizon": round(horizon(decay, updates))} if decay else None,
        "memory_gb": round(memory_bytes(config, encoder, used, sum(parameters.values())) / 1e9, 2),
        **_time_plan(config, model, tasks, mixture, used, steps, timed),
        "warnings": as_json(warnings),
    }


def _inspect(task: TaskSpec, tokenizer: Tokenizer, max_length: int) -> dict[str, Inspection]:
    if task.type in DOCUMENT_TYPES:
        return {}  # no rows, labels or cuts to look at
    return {
        split: inspect_examples(read_examples(task, split), task, split, tokenizer, max_length)
        for split in _SPLITS
        if split in task.sources
    }


def _split_plan(found: Inspection) -> dict[str, Any]:
    return {
        "examples": found.items,
        "rows": found.rows,
        "labels": found.balance,
        "length": length_summary(found.lengths),
        "rows_cut": round(found.rows_cut, 4),
        "tokens_cut": round(found.tokens_cut, 4),
    }


def _steps_plan(task: TaskSpec, config: ExperimentConfig, counts: Sequence[int], total: int) -> dict[str, Any]:
    """Describe a task and its steps, of which `counts` has each epoch's and `total` those of all tasks in the run."""
    return {
        "type": task.type,
        "head": task.head_of or task.head,
        "batch_size": task.batch_size or config.data.batch_size,
        "steps_per_epoch": counts[0],
        "steps_per_epoch_min": min(counts),
        "steps_per_epoch_max": max(counts),
        "steps": sum(counts),
        "probability": round(sum(counts) / total, 4),
    }


def _training_plan(
    task: TaskSpec, config: ExperimentConfig, mixture: Mixture, used: Mapping[str, Buckets], steps: int
) -> dict[str, Any]:
    """Describe what a task's steps take; a task with another's head takes none."""
    name = task.name
    if name not in mixture.tokenized:
        return {"examples": 0, "passes": 0.0}
    batch_size = task.batch_size or config.data.batch_size
    return {
        "examples": mixture.example_counts[name],
        "passes": round(steps / mixture.batch_counts[name], 2),
        "buckets": bucket_summary(used[name], mixture.tokenized[name], batch_size),
        **_loss_plan(task, mixture),
    }


def _loss_plan(task: TaskSpec, mixture: Mixture) -> dict[str, Any]:
    """Describe what makes the task's loss differ from that of its type."""
    weights = with_class_weights(task, mixture.tokenized[task.name].labels).class_weights
    if isinstance(weights, Mapping):
        return {"class_weights": {label: float(f"{weight:.4g}") for label, weight in weights.items()}}
    return {} if task.score_map is None else {"scaled_range": list(task.range or ())}


def _time_plan(
    config: ExperimentConfig,
    model: keras.Model,
    tasks: Sequence[TaskSpec],
    mixture: Mixture,
    used: Mapping[str, Buckets],
    steps: Counter[str],
    timed: bool,
) -> dict[str, Any]:
    trainer = MultiTaskTrainer(model, tasks)
    compile_trainer(trainer, config, mixture)
    if not timed:
        return {"minutes": None, "minutes_range": None, "timed_steps": 0}
    estimate = estimate_time(trainer, used, steps)
    return {
        "minutes": round(estimate.seconds / 60, 2),
        "minutes_range": [round(estimate.low / 60, 2), round(estimate.high / 60, 2)],
        "timed_steps": estimate.timed_steps,
    }
