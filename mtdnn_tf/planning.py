"""What a configuration would train: examples, steps, lengths, parameters, memory and time, before any of it is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtdnn_tf.config import ExperimentConfig, config_hash
from mtdnn_tf.data.batches import TokenizedTask
from mtdnn_tf.data.mixing import Mixture, build_mixture
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.model import parameter_counts
from mtdnn_tf.training.optimizers import build_optimizer
from mtdnn_tf.training.trainer import MultiTaskTrainer

_FLOAT_BYTES = 4
_COPIES_OF_WEIGHTS = 4  # the weights, their gradients, and Adamax's mean and maximum
_TIMED_STEPS = 4


def make_plan(config: ExperimentConfig, *, timed: bool = True) -> dict[str, Any]:
    """Return what a run of this configuration would do.

    Args:
        config: the experiment.
        timed: take a few real steps (nothing is kept of them) to estimate the time.

    Returns:
        `tasks` {name: examples, steps_per_epoch, probability, length_median, length_95, length_max, at_limit}, `steps_per_epoch`,
        `total_steps`, `parameters` by part, `memory_gb` (estimate), `minutes` (estimate, scoring not included; None if not timed).

    Raises:
        UserError: bad configuration, data or weights.
    """
    model, tasks, encoder = build_run_model(config)
    mixture = build_mixture(tasks, encoder, config)
    counts = parameter_counts(model)
    plan: dict[str, Any] = {
        "configuration": config_hash(config),
        "tasks": {name: _task_plan(name, split, mixture, config) for name, split in mixture.tokenized.items()},
        "epochs": config.training.epochs,
        "steps_per_epoch": mixture.steps_per_epoch,
        "total_steps": mixture.steps_per_epoch * config.training.epochs,
        "parameters": counts,
        "memory_gb": round(_memory_bytes(config, encoder, mixture.tokenized.values(), sum(counts.values())) / 1e9, 2),
        "minutes": None,
    }
    if timed:
        trainer = MultiTaskTrainer(model, tasks)
        trainer.compile(build_optimizer(config.optimizer, plan["total_steps"]), config.optimizer.clip_norm)
        plan["minutes"] = round(_seconds_per_epoch(trainer, mixture) * config.training.epochs / 60, 1)
    return plan


def _task_plan(name: str, split: TokenizedTask, mixture: Mixture, config: ExperimentConfig) -> dict[str, Any]:
    lengths = split.lengths
    return {
        "examples": mixture.example_counts[name],
        "steps_per_epoch": mixture.batch_counts[name],
        "probability": round(mixture.batch_counts[name] / mixture.steps_per_epoch, 4),
        "length_median": int(np.median(lengths)),
        "length_95": int(np.percentile(lengths, 95)),
        "length_max": int(lengths.max()),
        "at_limit": round(float(np.mean(lengths >= config.data.max_length)), 4),
    }


def _memory_bytes(config: ExperimentConfig, encoder: Encoder, splits: Any, parameters: int) -> float:
    """Estimate the peak: copies of the weights, and the activations that the longest batch keeps for its gradient."""
    longest = max(int(split.lengths.max()) for split in splits)
    rows, width = config.data.batch_size, encoder.hidden_dim
    # A Transformer layer keeps about 16 tensors of [B, L, d] (its feed-forward part is 4 d wide) and 3 of [B, heads, L, L].
    heads = max(width // 64, 1)
    per_layer = rows * longest * (16 * width + 3 * heads * longest)
    return _FLOAT_BYTES * (_COPIES_OF_WEIGHTS * parameters + per_layer * encoder.num_layers)


def _seconds_per_epoch(trainer: MultiTaskTrainer, mixture: Mixture) -> float:
    """Time a few steps of every task, the first one (tracing) left out, and add them up by the tasks' step counts."""
    seconds: dict[str, list[float]] = {name: [] for name in mixture.task_names}
    for task_id, batch in zip(mixture.schedule(0), mixture.epoch_dataset(0), strict=True):
        name = mixture.task_names[task_id]
        if len(seconds[name]) > min(_TIMED_STEPS, mixture.batch_counts[name]):
            continue
        repeats = 2 if not seconds[name] else 1  # a task with one batch must still be timed after its tracing
        for _ in range(repeats):
            started = time.perf_counter()
            trainer.step(name, batch)
            seconds[name].append(time.perf_counter() - started)
        if all(len(times) > min(_TIMED_STEPS, mixture.batch_counts[n]) for n, times in seconds.items()):
            break
    return sum(float(np.mean(times[1:])) * mixture.batch_counts[name] for name, times in seconds.items())


def plan_table(plan: Mapping[str, Any]) -> str:
    """Return the plan as text for the terminal."""
    head = ("task", "examples", "steps/epoch", "probability", "tokens: median", "95 %", "max", "at limit")
    rows = [head, *(_row(name, task) for name, task in plan["tasks"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append("")
    lines.append(f"{plan['epochs']} epochs of {plan['steps_per_epoch']} steps: {plan['total_steps']} steps")
    lines.append("parameters: " + ", ".join(f"{part} {count:,}" for part, count in plan["parameters"].items()))
    lines.append(f"memory, estimated: {plan['memory_gb']} GB")
    if plan["minutes"] is not None:
        lines.append(f"training time, estimated from a few steps: {plan['minutes']} minutes (scoring not included)")
    return "\n".join(lines)


def _row(name: str, task: Mapping[str, Any]) -> Sequence[str]:
    return (
        name,
        f"{task['examples']:,}",
        str(task["steps_per_epoch"]),
        f"{100 * task['probability']:.1f} %",
        str(task["length_median"]),
        str(task["length_95"]),
        str(task["length_max"]),
        f"{100 * task['at_limit']:.1f} %",
    )
