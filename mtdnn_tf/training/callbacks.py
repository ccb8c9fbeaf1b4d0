"""What happens beside the steps: checkpoints, development scores, metrics.jsonl, TensorBoard, lines for a log file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.trainer import MultiTaskTrainer

Scores = dict[str, Any]  # {"rte": {"accuracy": 0.6}, ..., "average": 0.6}


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with the global step that it belongs to."""

    def __init__(self, path: Path | None, resume_at: int) -> None:
        """Open for appending; lines of steps after `resume_at` belong to work that is about to be repeated and go.

        Without a path (on a worker that is not the chief) nothing is written.
        """
        self.path = path
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= resume_at]
            write_text_atomically(path, "".join(f"{line}\n" for line in kept))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one line."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "step": step, **values}) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a crash


class StepLog(keras.callbacks.Callback):
    """Writes loss by task, learning rate, gradient norm and speed: to a file, TensorBoard, and lines on screen.

    It does so every `every` steps, and wherever a checkpoint is saved: a run that goes on from there logs the same means.
    """

    def __init__(
        self, trainer: MultiTaskTrainer, log: MetricsLog, folder: Path, every: int, checkpoint_every: int, lines: bool
    ) -> None:
        """Take where to write; `lines` also prints, for output that is no terminal."""
        super().__init__()
        self.trainer, self.log, self.lines = trainer, log, lines
        self.periods = [period for period in (every, checkpoint_every) if period]
        self.writer = tf.summary.create_file_writer(str(folder))
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._examples, self._started = 0, time.perf_counter()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start the clock."""
        self._run_started, self._first_step = time.perf_counter(), self.trainer.progress.global_step
        self._reset()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Collect the step; write when it is time."""
        progress = self.trainer.progress
        for task, loss in progress.losses:
            self._losses.setdefault(task, []).append(loss)
        self._examples += progress.examples
        ends_epoch = batch + 1 == self.params["steps"]
        if ends_epoch or any(progress.global_step % period == 0 for period in self.periods):
            self._write()

    def _write(self) -> None:
        progress = self.trainer.progress
        losses = {task: sum(values) / len(values) for task, values in sorted(self._losses.items())}
        weights = {task: self.trainer.weighting.weight(task) for task in losses}
        speed = self._examples / max(time.perf_counter() - self._started, 1e-9)
        self.log.write(
            "train",
            progress.global_step,
            epoch=progress.epoch,
            losses=losses,
            loss_weights=weights,
            learning_rate=progress.learning_rate,
            gradient_norm=progress.gradient_norm,
            examples_per_second=round(speed, 2),
        )
        scalars = {f"loss/{task}": loss for task, loss in losses.items()}
        scalars |= {f"loss_weight/{task}": weight for task, weight in weights.items()}
        scalars |= {"learning_rate": progress.learning_rate, "gradient_norm": progress.gradient_norm}
        scalars["examples_per_second"] = speed
        _summaries(self.writer, scalars, progress.global_step)
        if self.lines:
            text = "  ".join(f"{task} {loss:.4f}" for task, loss in losses.items())
            print(
                f"step {progress.global_step}/{progress.total_steps}  {self._time_left()} left  loss: {text}",
                flush=True,
            )
        self._reset()

    def _time_left(self) -> str:
        progress = self.trainer.progress
        done = max(progress.global_step - self._first_step, 1)
        seconds = (time.perf_counter() - self._run_started) / done * (progress.total_steps - progress.global_step)
        return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Close the TensorBoard file."""
        self.writer.close()


def _summaries(writer: Any, scalars: Mapping[str, float], step: int) -> None:
    with writer.as_default(step=step):
        for name, value in scalars.items():
            tf.summary.scalar(name, value)
    writer.flush()


class Keeper(keras.callbacks.Callback):
    """Scores the development sets after each epoch, keeps the best model apart, and saves where the run stands."""

    def __init__(
        self,
        trainer: MultiTaskTrainer,
        tasks: Sequence[TaskSpec],
        folder: Path,
        score: Callable[[], Scores],
        best_metric: str,
        log: MetricsLog,
        every: int = 0,
        keep: int = 2,
        best_score: float | None = None,
        writes: bool = True,
    ) -> None:
        """Take the run directory, the scoring function and the value that decides (`average` or `<task>/<metric>`).

        Of several workers all score, each its share, and only the chief writes.
        """
        super().__init__()
        self.writes = writes
        self.trainer, self.tasks, self.folder, self.score = trainer, tasks, folder, score
        self.best_metric, self.log, self.every, self.keep = best_metric, log, every, keep
        self.best_score = best_score
        self._parts = checkpoints.model_parts(trainer.model, tasks)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save every `every` steps."""
        progress = self.trainer.progress
        if self.every and progress.global_step % self.every == 0:
            self._save(progress.epoch, progress.step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score, keep the best, save with the position at the start of the next epoch."""
        scores = self.score()
        value = pick_score(scores, self.best_metric)
        step = self.trainer.progress.global_step
        self.log.write("dev", step, epoch=epoch, scores=scores)
        if logs is not None:
            logs.update(_flat(scores))
        # A score that is not a number (Matthews of a constant, say) never beats one that is.
        if self.best_score is None or value > self.best_score:
            self.best_score = value
            state = self._state(epoch + 1, 0, score=value)
            if self.writes:
                checkpoints.save(self.folder / "best", self._parts, state, replace=True)
        self._save(epoch + 1, 0)

    def _state(self, epoch: int, step: int, score: float | None = None) -> checkpoints.State:
        labels = {task.name: list(task.labels) for task in self.tasks if task.head_of is None}
        global_step = self.trainer.progress.global_step
        weighting = self.trainer.weighting.state()
        return checkpoints.State(epoch, step, global_step, labels, score, self.best_score, weighting)

    def _save(self, epoch: int, step: int) -> None:
        if not self.writes:
            return
        folder = self.folder / "checkpoints"
        parts = self._parts | {"optimizer": checkpoints.optimizer_part(self.trainer.optimizer)}
        name = f"step-{self.trainer.progress.global_step:09d}"
        checkpoints.save(folder / name, parts, self._state(epoch, step), replace=True)
        checkpoints.prune(folder, self.keep)


def pick_score(scores: Scores, name: str) -> float:
    """Return the value named `average` or `<task>/<metric>`; not-a-number counts as minus infinity."""
    value: Any = scores
    for key in name.split("/"):
        value = value[key]
    return -math.inf if math.isnan(value) else float(value)


def _flat(scores: Scores) -> dict[str, float]:
    """Turn {"rte": {"accuracy": x}, "average": y} into {"rte_accuracy": x, "average": y}."""
    flat: dict[str, float] = {}
    for task, values in scores.items():
        if isinstance(values, Mapping):
            flat |= {f"{task}_{metric}": value for metric, value in values.items()}
        else:
            flat[task] = values
    return flat
