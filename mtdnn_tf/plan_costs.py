"""What a run would cost: memory from sizes, time from a few steps that are taken and thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.data.bucket_use import Batch, Bucket, Buckets
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.training.trainer import MultiTaskTrainer

_PROCESS_BYTES = 1.05e9  # TensorFlow, Keras and their libraries, before there is a model
_TASK_BYTES = 0.08e9  # a task's compiled step
_COPIES_OF_WEIGHTS = 6  # the weights, Adamax's mean and maximum, the gradients, the same clipped, and one in passing
_TIMED_SHAPES = 12  # batches that are timed, each after one step that is not; one of every task whatever their number
_REPEATS = 2
_UNSTEADY = 0.1  # share by which machines vary from one minute to the next


def memory_bytes(config: ExperimentConfig, encoder: Encoder, buckets: Mapping[str, Buckets], parameters: int) -> float:
    """Estimate the peak memory of a training process on the CPU; task tokens are not counted in the length.

    To the weights come the activations of the largest batch: a Transformer layer keeps for its gradient about 12 tensors of
    [B, L, d], 4 of [B, L, feed-forward] and 3 of [B, heads, L, L]; with `runtime.recompute`, only the layer at work does, the
    others one of [B, L, d]. `training.ema` keeps one more copy of the weights.
    """
    backbone = encoder.backbone
    value_bytes = 2 if config.runtime.precision.startswith("mixed") else 4

    def activations(length: int, bucket: Bucket) -> int:
        positions = math.prod(bucket.largest["token_ids"].shape)
        width = 12 * backbone.hidden_dim + 4 * backbone.intermediate_dim + 3 * backbone.num_heads * length
        if config.runtime.recompute:
            return positions * (width + backbone.num_layers * backbone.hidden_dim) * value_bytes
        return positions * width * backbone.num_layers * value_bytes

    largest = max(activations(length, bucket) for used in buckets.values() for length, bucket in used.items())
    copies = _COPIES_OF_WEIGHTS + bool(config.training.ema)
    return _PROCESS_BYTES + len(buckets) * _TASK_BYTES + 4 * copies * parameters + largest


@dataclass(frozen=True)
class TimedShape:
    """Steps of one task on one shape of batch."""

    task: str
    positions: int  # rows times padded length
    seconds: tuple[float, ...]  # of each step


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of training, scoring and checkpoints not included."""

    seconds: float
    low: float
    high: float
    timed_steps: int


def estimate_time(trainer: MultiTaskTrainer, buckets: Mapping[str, Buckets], steps: Mapping[str, int]) -> TimeEstimate:
    """Time a few steps on batches of different lengths, and add up all steps of the run by how the buckets are used.

    Args:
        trainer: compiled; its weights change.
        buckets: of each task, from one epoch.
        steps: of each task in the whole run.
    """
    timed, start_up = _time_shapes(trainer, buckets)
    line = fit_line([(shape.positions, float(np.mean(shape.seconds))) for shape in timed])
    low, middle, high = (
        start_up + sum(_task_seconds(name, used, steps[name], timed, line, pick) for name, used in buckets.items())
        for pick in (min, np.mean, max)
    )
    return TimeEstimate(
        middle, (1 - _UNSTEADY) * low, (1 + _UNSTEADY) * high, sum(len(shape.seconds) for shape in timed)
    )


def _time_shapes(trainer: MultiTaskTrainer, buckets: Mapping[str, Buckets]) -> tuple[list[TimedShape], float]:
    """Return the timed shapes, and the seconds that tracing took."""
    timed, start_up = [], 0.0
    for name, batches in chosen_batches(buckets).items():
        for index, batch in enumerate(batches):
            first, *seconds = (_seconds_of_step(trainer, name, batch) for _ in range(1 + _REPEATS))
            timed.append(TimedShape(name, math.prod(batch["token_ids"].shape), tuple(seconds)))
            if index == 0:
                start_up += max(first - float(np.mean(seconds)), 0.0)
    return timed, start_up


def chosen_batches(buckets: Mapping[str, Buckets]) -> dict[str, list[Batch]]:
    """Return the batches to time: of each task some buckets from the shortest to the longest; of many tasks one each."""
    used = {name: [bucket.largest for bucket in own.values()] for name, own in buckets.items() if own}
    share = max(_TIMED_SHAPES // max(len(used), 1), 1)
    chosen = {}
    for index, (name, batches) in enumerate(used.items()):
        # One batch alone: now the longest, now the shortest, so that the line through all of them is known.
        spread = np.linspace(0, len(batches) - 1, share) if share > 1 else [(len(batches) - 1) * (index % 2 == 0)]
        chosen[name] = [batches[place] for place in sorted({round(place) for place in spread})]
    return chosen


def _seconds_of_step(trainer: MultiTaskTrainer, name: str, batch: Batch) -> float:
    started = time.perf_counter()
    trainer.step(name, batch)
    return time.perf_counter() - started


def fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return the overhead and slope, neither below 0, of seconds over positions, by least squares of the relative error."""
    positions, seconds = (np.array(values, float) for values in zip(*points, strict=True))
    matrix = np.stack([1 / seconds, positions / seconds], axis=1)
    overhead, slope = np.linalg.lstsq(matrix, np.ones(len(seconds)), rcond=None)[0]
    if slope <= 0 or len(set(positions)) == 1:
        return float(np.mean(seconds)), 0.0
    if overhead < 0:
        return 0.0, float(1 / np.mean(positions / seconds))
    return float(overhead), float(slope)


def _task_seconds(
    name: str,
    used: Buckets,
    steps: int,
    timed: Sequence[TimedShape],
    line: tuple[float, float],
    pick: Callable[[Sequence[float]], Any],
) -> float:
    """Return the seconds of one task's steps: the common line, times how the task's own steps lie to it."""
    overhead, slope = line
    own = [shape for shape in timed if shape.task == name]
    if not own or not used:
        return 0.0
    ratios = [second / (overhead + slope * shape.positions) for shape in own for second in shape.seconds]
    batches = sum(bucket.batches for bucket in used.values())
    mean_positions = sum(bucket.cells for bucket in used.values()) / batches
    return float(pick(ratios)) * steps * (overhead + slope * mean_positions)
