"""What happens beside the steps: checkpoints, development scores, early stopping, metrics.jsonl, lines for a log file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.event_files import RUN, EventFiles
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
        self,
        trainer: MultiTaskTrainer,
        mixture: Mixture,
        log: MetricsLog,
        events: EventFiles,
        every: int,
        checkpoint_every: int,
        lines: bool,
    ) -> None:
        """Take where to write; `lines` also prints, for output that is no terminal."""
        super().__init__()
        self.trainer, self.mixture, self.log, self.events, self.lines = trainer, mixture, log, events, lines
        self.periods = [period for period in (every, checkpoint_every) if period]
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._examples, self._started = 0, time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start the clock; tell TensorBoard each task's share of the epoch's batches."""
        counts = self.mixture.step_counts(epoch)
        shares = {f"probability/{task}": count / sum(counts.values()) for task, count in counts.items()}
        self.events.write(RUN, self.trainer.progress.global_step, shares)
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
            self._reset()

    def _write(self) -> None:
        progress = self.trainer.progress
        losses = {task: sum(values) / len(values) for task, values in sorted(self._losses.items())}
        weights = {task: self.trainer.weighting.weight(task) for task in losses}
        values = {"learning_rate": progress.learning_rate}
        if math.isfinite(progress.gradient_norm):  # there is none before the first step that was not skipped
            values["gradient_norm"] = progress.gradient_norm
        values["examples_per_second"] = round(self._examples / max(time.perf_counter() - self._started, 1e-9), 2)
        scale = self.trainer.loss_scale
        if scale is not None:
            values |= {"loss_scale": float(scale.value), "skipped_steps": scale.skipped}
        self.log.write(
            "train", progress.global_step, epoch=progress.epoch, losses=losses, loss_weights=weights, **values
        )
        for task, loss in losses.items():
            self.events.write(task, progress.global_step, {"loss": loss, "loss_weight": weights[task]})
        self.events.write(RUN, progress.global_step, values)
        if self.lines:
            print(self._line(losses, values), flush=True)

    def _line(self, losses: Mapping[str, float], values: Mapping[str, float]) -> str:
        progress = self.trainer.progress
        parts = [
            f"epoch {progress.epoch + 1}/{self.params['epochs']}",
            f"step {progress.global_step}/{progress.total_steps}",
            "loss: " + "  ".join(f"{task} {loss:.4f}" for task, loss in losses.items()),
            f"rate {values['learning_rate']:.2e}",
            f"{values['examples_per_second']:.1f} examples/s",
            f"{progress.time_left()} left",
        ]
        if values.get("skipped_steps"):
            parts.append(f"steps skipped: {values['skipped_steps']} (loss scale {values['loss_scale']:g})")
        return "  ".join(parts)


class Keeper(keras.callbacks.Callback):
    """Scores the development sets after each epoch, keeps the best model apart, saves where the run stands, stops early."""

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
        patience: int = 0,
        stale_epochs: int = 0,
        events: EventFiles | None = None,
        writes: bool = True,
    ) -> None:
        """Take where to write, and what decides.

        Args:
            trainer: its weights are scored and saved; with an average of the weights, that is scored and kept as the best.
            tasks: of the model.
            folder: the run directory.
            score: returns the development scores.
            best_metric: the value that decides, `average` or `<task>/<metric>`.
            log: gets a line for each scoring, and for an early stop.
            every: steps between checkpoints; 0: at the end of each epoch only.
            keep: how many checkpoints stay.
            best_score: of the epochs before, where a run goes on.
            patience: epochs in a row without a better value after which training stops; 0: it does not.
            stale_epochs: how many such epochs there were, where a run goes on.
            events: TensorBoard's files.
            writes: False on all workers but the chief: they score their share, and write nothing.
        """
        super().__init__()
        self.writes = writes
        self.trainer, self.tasks, self.folder, self.score = trainer, tasks, folder, score
        self.best_metric, self.log, self.every, self.keep = best_metric, log, every, keep
        self.best_score = best_score
        self.patience, self.stale_epochs, self.events = patience, stale_epochs, events
        self._parts = checkpoints.model_parts(trainer.model, tasks)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save every `every` steps."""
        progress = self.trainer.progress
        if self.every and progress.global_step % self.every == 0:
            self._save(progress.epoch, progress.step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score, keep the best, save with the position at the start of the next epoch; stop where patience is at its end."""
        step = self.trainer.progress.global_step
        with self.trainer.scored_weights():
            scores = self.score()
            self._compare(pick_score(scores, self.best_metric), epoch)
        self.log.write("dev", step, epoch=epoch, scores=scores)
        if self.events is not None:
            self.events.write_scores(step, scores)
        if logs is not None:
            logs.update(_flat(scores))
        if is_patience_spent(self.patience, self.stale_epochs):
            self._stop(step, epoch)
        self._save(epoch + 1, 0)

    def _compare(self, value: float, epoch: int) -> None:
        # A score that is not a number (Matthews of a constant, say) never beats one that is.
        if self.best_score is None or value > self.best_score:
            self.best_score, self.stale_epochs = value, 0
            state = self._state(epoch + 1, 0, score=value)
            if self.writes:
                checkpoints.save(self.folder / "best", self._parts, state, replace=True)
        else:
            self.stale_epochs += 1

    def _stop(self, step: int, epoch: int) -> None:
        self.trainer.model.stop_training = True
        facts = {"best_metric": self.best_metric, "best_score": self.best_score, "patience": self.patience}
        self.log.write("early_stop", step, epoch=epoch, **facts)
        if self.writes:
            print(
                f"early stop after epoch {epoch + 1}: {self.best_metric} has not been better than {self.best_score:.4f} for "
                f"{self.stale_epochs} epochs (training.patience)",
                flush=True,
            )

    def _state(self, epoch: int, step: int, score: float | None = None) -> checkpoints.State:
        labels = {task.name: list(task.labels) for task in self.tasks if task.head_of is None}
        global_step = self.trainer.progress.global_step
        weighting = self.trainer.weighting.state()
        return checkpoints.State(epoch, step, global_step, labels, score, self.best_score, weighting, self.stale_epochs)

    def _save(self, epoch: int, step: int) -> None:
        if not self.writes:
            return
        folder = self.folder / "checkpoints"
        name = f"step-{self.trainer.progress.global_step:09d}"
        checkpoints.save(folder / name, self.trainer.parts(), self._state(epoch, step), replace=True)
        checkpoints.prune(folder, self.keep)


def is_patience_spent(patience: int, stale_epochs: int) -> bool:
    """Return whether training ends after so many epochs in a row without a better score; patience 0: it goes on."""
    return 0 < patience <= stale_epochs


def check_best_metric(name: str, scored: Sequence[TaskSpec]) -> None:
    """Check the value that decides which model is the best.

    Args:
        name: `average`, or `<task>/<metric>`.
        scored: tasks with a labelled development split.

    Raises:
        UserError: there is no such value.
    """
    known = [f"{task.name}/{metric}" for task in scored for metric in task.metrics]
    if name not in ("average", *known):
        raise UserError(unknown_name("training.best_metric", "score", name, ["average", *known]))


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
