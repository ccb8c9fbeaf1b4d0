"""What happens beside the steps: checkpoints, development scores, metrics.jsonl, TensorBoard, lines for a log file."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.errors import Interrupted
from mtdnn_tf.files import append_line, sync, told_as_user_error, write_text_atomically
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.means import RunningMeans
from mtdnn_tf.training.stopping import StopSignals
from mtdnn_tf.training.trainer import MultiTaskTrainer

Scores = dict[str, Any]  # {"rte": {"accuracy": 0.6}, ..., "average": 0.6}


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with the global step that it belongs to."""

    def __init__(self, path: Path, lines: int) -> None:
        """Open for appending after so many lines; those behind them belong to work that is about to be repeated, and go."""
        self.path, self.lines = path, 0
        if path.exists():
            kept = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[:lines]
            kept = [line for line in kept if _is_whole(line)]
            self.lines = len(kept)
            write_text_atomically(path, "".join(kept))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one line.

        Raises:
            UserError: the disk is full; the lines before are whole.
        """
        append_line(self.path, json.dumps({"event": event, "step": step, **values}))
        self.lines += 1

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self.lines:
            sync(self.path)


def _is_whole(line: str) -> bool:
    try:
        return line.endswith("\n") and "step" in json.loads(line)
    except (ValueError, TypeError):
        return False


class StepLog(keras.callbacks.Callback):
    """Writes loss by task, learning rate, gradient norm and speed: to a file, TensorBoard, and lines on screen.

    It does so every `every` steps and at the end of an epoch. Checkpoints hold the means since the last line; of a line that a
    run wrote after it went on, only `examples_per_second` counts the steps of that process alone.
    """

    def __init__(self, trainer: MultiTaskTrainer, log: MetricsLog, folder: Path, every: int, lines: bool) -> None:
        """Take where to write; `lines` also prints, for output that is no terminal."""
        super().__init__()
        self.trainer, self.log, self.every, self.lines = trainer, log, every, lines
        self.means = RunningMeans()  # of each task's losses since the last line
        with told_as_user_error(folder):
            self.writer = tf.summary.create_file_writer(str(folder))
        self._start_clock()

    def _start_clock(self) -> None:
        self._examples, self._started = 0, time.perf_counter()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Start the clock."""
        self._run_started, self._first_step = time.perf_counter(), self.trainer.progress.global_step
        self._start_clock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Collect the step; write when it is time."""
        progress = self.trainer.progress
        for task, loss in progress.losses:
            self.means.add(task, loss)
        self._examples += progress.examples
        ends_epoch = batch + 1 == self.params["steps"]
        if ends_epoch or progress.global_step % self.every == 0:
            self._write()
            self.means.reset()
            self._start_clock()

    def _write(self) -> None:
        progress = self.trainer.progress
        losses = self.means.means()
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
        with told_as_user_error(self.log.path.parent / "logs"):
            _summaries(self.writer, scalars, progress.global_step)
        if self.lines:
            text = "  ".join(f"{task} {loss:.4f}" for task, loss in losses.items())
            print(
                f"step {progress.global_step}/{progress.total_steps}  {self._time_left()} left  loss: {text}",
                flush=True,
            )

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
    """Scores the development sets after each epoch, keeps the best model apart, and saves where the run stands.

    Comes after `StepLog` among the callbacks. A stop that a signal asked for takes place here, once the step is saved.
    """

    def __init__(
        self,
        trainer: MultiTaskTrainer,
        tasks: Sequence[TaskSpec],
        folder: Path,
        score: Callable[[], Scores],
        best_metric: str,
        step_log: StepLog,
        every: int = 0,
        keep: int = 2,
        state: checkpoints.State | None = None,
        stop: StopSignals | None = None,
    ) -> None:
        """Take the run directory, the scoring function and the value that decides (`average` or `<task>/<metric>`).

        Args:
            trainer: whose model, optimizer and position are saved.
            tasks: whose labels are saved with them.
            folder: the run directory.
            score: scores the development sets.
            best_metric: see `pick_score`.
            step_log: whose metrics.jsonl takes the scores.
            every: steps between checkpoints; 0: at the end of each epoch only.
            keep: how many checkpoints stay.
            state: what the run goes on from.
            stop: the signals to look at; None: none.
        """
        super().__init__()
        self.trainer, self.tasks, self.folder, self.score = trainer, tasks, folder, score
        self.best_metric, self.step_log, self.every, self.keep = best_metric, step_log, every, keep
        self.best_score = state.best_score if state else None
        self.best_step = state.best_step if state else None
        self.stop = stop or StopSignals()
        self._parts = checkpoints.model_parts(trainer.model, tasks)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Note where the run stands."""
        self._reached = self._state(self.trainer.progress.epoch, self.trainer.progress.step)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save every `every` steps, and before a stop that was asked for."""
        progress = self.trainer.progress
        self._reached = self._state(progress.epoch, progress.step)
        if self.every and progress.global_step % self.every == 0:
            self._save(self._reached)
            self._stop_if_asked(saved=True)
        else:
            self._stop_if_asked(saved=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score, keep the best, save with the position at the start of the next epoch."""
        try:
            with self.stop.at_once():
                scores = self.score()
        except Interrupted:
            self._stop_if_asked(saved=False)
            raise
        value = pick_score(scores, self.best_metric)
        step = self.trainer.progress.global_step
        self.step_log.log.write("dev", step, epoch=epoch, scores=scores)
        if logs is not None:
            logs.update(_flat(scores))
        # A score that is not a number (Matthews of a constant, say) never beats one that is.
        if self.best_score is None or value > self.best_score:
            self.best_score, self.best_step = value, step
            state = self._state(epoch + 1, 0, score=value)
            checkpoints.save(self.folder / "best", self._parts, state, replace=True)
        self._save(self._state(epoch + 1, 0))
        self._stop_if_asked(saved=True)

    def _state(self, epoch: int, step: int, score: float | None = None) -> checkpoints.State:
        return checkpoints.State(
            epoch,
            step,
            self.trainer.progress.global_step,
            {task.name: list(task.labels) for task in self.tasks if task.head_of is None},
            score,
            self.best_score,
            copy.deepcopy(self.trainer.weighting.state()),
            self.best_step,
            self.trainer.epoch_means.state() if step else {},
            self.step_log.means.state(),
            self.step_log.log.lines,
        )

    def _save(self, state: checkpoints.State) -> None:
        folder = self.folder / "checkpoints"
        parts = self._parts | {"optimizer": checkpoints.optimizer_part(self.trainer.optimizer)}
        self.step_log.log.sync()
        saved = checkpoints.save(folder / f"step-{state.global_step:09d}", parts, state, replace=True)
        checkpoints.prune(folder, saved, self.keep)

    def _stop_if_asked(self, saved: bool) -> None:
        """Leave the run where a signal came in, with the last step saved."""
        if self.stop.received is None:
            return
        if not saved:
            self._save(self._reached)
        progress = self.trainer.progress
        raise Interrupted(
            self.stop.received,
            f"stopped after step {progress.global_step} of {progress.total_steps}, which is saved in "
            f"{self.folder / 'checkpoints'}; the same command goes on from there",
        )


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
