"""What happens beside the steps: checkpoints, development scores, early stopping, metrics.jsonl, lines for a log file."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.errors import Interrupted, UserError, unknown_name
from mtdnn_tf.files import append_line, sync, write_text_atomically
from mtdnn_tf.run_files import BEST_FOLDER, CHECKPOINTS_FOLDER
from mtdnn_tf.task_types import LOWER_IS_BETTER
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.event_files import RUN, EventFiles
from mtdnn_tf.training.means import RunningMeans
from mtdnn_tf.training.stopping import StopSignals
from mtdnn_tf.training.trainer import MultiTaskTrainer

Scores = dict[str, Any]  # {"rte": {"accuracy": 0.6}, ..., "average": 0.6}
SECONDS_AT_STAKE = 60.0  # an epoch without scores ends with a checkpoint where the last one is as old


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with the global step that it belongs to."""

    def __init__(self, path: Path | None, lines: int) -> None:
        """Open for appending after so many lines; those behind them belong to work that is about to be repeated, and go.

        Without a path (on a worker that is not the chief) nothing is written.
        """
        self.path, self.lines = path, 0
        if path is not None and path.exists():
            kept = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[:lines]
            kept = [line for line in kept if _is_whole(line)]
            self.lines = len(kept)
            write_text_atomically(path, "".join(kept))

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one line.

        Raises:
            UserError: the disk is full; the lines before are whole.
        """
        if self.path is not None:
            append_line(self.path, json.dumps({"event": event, "step": step, **values}))
        self.lines += 1

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self.path is not None and self.lines:
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

    def __init__(
        self,
        trainer: MultiTaskTrainer,
        mixture: Mixture,
        log: MetricsLog,
        events: EventFiles,
        every: int,
        lines: bool,
    ) -> None:
        """Take where to write; `lines` also prints, for output that is no terminal."""
        super().__init__()
        self.trainer, self.mixture, self.log, self.events = trainer, mixture, log, events
        self.every, self.lines = every, lines
        self.means = RunningMeans()  # of each task's losses since the last line
        self._start_clock()

    def _start_clock(self) -> None:
        self._examples, self._started = 0, time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start the clock; tell TensorBoard each task's share of the epoch's batches."""
        counts = self.mixture.step_counts(epoch)
        shares = {f"probability/{task}": count / sum(counts.values()) for task, count in counts.items()}
        self.events.write(RUN, self.trainer.progress.global_step, shares)
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
    """Scores the development sets after epochs, keeps the best model apart, saves where the run stands, stops early.

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
        score_every: int = 1,
        patience: int = 0,
        state: checkpoints.State | None = None,
        stop: StopSignals | None = None,
        writes: bool = True,
        how_to_resume: str = "the same command resumes from there",
    ) -> None:
        """Take where to write, and what decides.

        Args:
            trainer: its weights are scored and saved; with an average of the weights, that is scored and kept as the best.
            tasks: of the model; their labels are saved with it.
            folder: the run directory.
            score: returns the development scores.
            best_metric: the value that decides, `average` or `<task>/<metric>`.
            step_log: whose files take the scores, and a line for an early stop.
            every: steps between checkpoints besides those at the end of scored epochs, and of others where the last one is
                `SECONDS_AT_STAKE` old; 0: those only.
            keep: how many checkpoints stay.
            score_every: epochs between scorings; the last epoch is scored whatever it is.
            patience: scored epochs in a row without a better value after which training stops; 0: it does not.
            state: what the run goes on from.
            stop: the signals to look at; None: none.
            writes: False on all workers but the chief: they score their share, and write nothing.
            how_to_resume: the end of the message of a stop.
        """
        super().__init__()
        self.trainer, self.tasks, self.folder, self.score = trainer, tasks, folder, score
        self.best_metric, self.step_log, self.every, self.keep = best_metric, step_log, every, keep
        self.score_every, self.patience, self.writes = score_every, patience, writes
        self.how_to_resume = how_to_resume
        self.best_score = state.best_score if state else None
        self.best_step = state.best_step if state else None
        self.stale_epochs = state.stale_epochs if state else 0
        self.stop = stop or StopSignals()
        self._parts = checkpoints.model_parts(trainer.model, tasks)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Note where the run stands."""
        self._reached = self._state(self.trainer.progress.epoch, self.trainer.progress.step)
        self._saved_at = time.monotonic()

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
        """Score, keep the best, save with the position at the start of the next epoch; stop where patience is at its end."""
        scored = (epoch + 1) % self.score_every == 0 or epoch + 1 == self.params["epochs"]
        if scored:
            self._score(epoch, logs)
        # Many an epoch is shorter than a checkpoint takes.
        saved = scored or time.monotonic() - self._saved_at >= SECONDS_AT_STAKE
        if saved:
            self._save(self._state(epoch + 1, 0))
        self._stop_if_asked(saved)

    def _score(self, epoch: int, logs: dict[str, Any] | None) -> None:
        step = self.trainer.progress.global_step
        try:
            with self.trainer.scored_weights():
                with self.stop.at_once():  # not while weights are exchanged
                    scores = self.score()
                self.step_log.log.write("dev", step, epoch=epoch, scores=scores)
                self._compare(pick_score(scores, self.best_metric), epoch)
        except Interrupted:
            self._stop_if_asked(saved=False)
            raise
        self.step_log.events.write_scores(step, scores)
        if logs is not None:
            logs.update(_flat(scores))
        if is_patience_spent(self.patience, self.stale_epochs):
            self._stop_early(step, epoch)

    def _compare(self, value: float, epoch: int) -> None:
        # A score that is not a number (Matthews of a constant, say) never beats one that is.
        if self.best_score is None or value > self.best_score:
            self.best_score, self.best_step, self.stale_epochs = value, self.trainer.progress.global_step, 0
            state = self._state(epoch + 1, 0, score=value)
            if self.writes:
                checkpoints.save(self.folder / BEST_FOLDER, self._parts, state, replace=True)
        else:
            self.stale_epochs += 1

    def _stop_early(self, step: int, epoch: int) -> None:
        self.trainer.model.stop_training = True
        facts = {"best_metric": self.best_metric, "best_score": self.best_score, "patience": self.patience}
        self.step_log.log.write("early_stop", step, epoch=epoch, **facts)
        if self.writes:
            print(
                f"early stop after epoch {epoch + 1}: {self.best_metric} has not been better than {self.best_score:.4f} for "
                f"{self.stale_epochs} {'scored ' if self.score_every > 1 else ''}epochs (training.patience)",
                flush=True,
            )

    def _state(self, epoch: int, step: int, score: float | None = None) -> checkpoints.State:
        return checkpoints.State(
            epoch,
            step,
            self.trainer.progress.global_step,
            {task.name: list(task.labels) for task in self.tasks if task.head_of is None},
            score,
            self.best_score,
            copy.deepcopy(self.trainer.weighting.state()),
            self.stale_epochs,
            self.best_step,
            self.trainer.epoch_means.state() if step else {},
            self.step_log.means.state(),
            self.step_log.log.lines,
            checkpoints.score_ranges(self.tasks),
        )

    def _save(self, state: checkpoints.State) -> None:
        if not self.writes:
            return
        folder = self.folder / CHECKPOINTS_FOLDER
        self.step_log.log.sync()
        saved = checkpoints.save(folder / f"step-{state.global_step:09d}", self.trainer.parts(), state, replace=True)
        checkpoints.prune(folder, saved, self.keep)
        self._saved_at = time.monotonic()

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
            f"{self.folder / CHECKPOINTS_FOLDER}; {self.how_to_resume}",
        )


def is_patience_spent(patience: int, stale_epochs: int) -> bool:
    """Return whether training ends after so many scored epochs in a row without a better score; patience 0: it goes on."""
    return 0 < patience <= stale_epochs


def check_best_metric(name: str, scored: Sequence[TaskSpec]) -> None:
    """Check the value that decides which model is the best.

    Args:
        name: `average`, or `<task>/<metric>`.
        scored: tasks with a labelled development split.

    Raises:
        UserError: there is no such value.
    """
    known = [f"{task.name}/{metric}" for task in scored for metric in task.metrics if metric not in LOWER_IS_BETTER]
    if name not in ("average", *known):
        raise UserError(unknown_name("training.best_metric", "score", name, ["average", *known]))
    if name == "average" and all(task.head_of is not None for task in scored):
        raise UserError(
            "training.best_metric: 'average' is over tasks with heads of their own, and none of these has development rows; name "
            f"one of {', '.join(known)}"
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
