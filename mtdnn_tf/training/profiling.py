"""A profiler's trace of some steps, for TensorBoard's profile page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.training.trainer import MultiTaskTrainer

Steps = tuple[int, int]  # first and last, counted from 1 over the whole run


def parse_steps(text: str) -> Steps:
    """Return the first and last step of "10-20" or "10,20".

    Raises:
        UserError: it is neither, or no such steps can be.
    """
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*[-,]\s*([0-9]{1,9})\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--profile: must be the first and the last step, from 1, as in 10-20; received {text!r}")
    return int(found[1]), int(found[2])


def check_steps(steps: Steps, total: int) -> None:
    """Check that a run has the steps.

    Raises:
        UserError: it ends before the last one.
    """
    if steps[1] > total:
        raise UserError(f"--profile: must be steps of the run, which has {total}; received {steps[0]}-{steps[1]}")


class StepProfiler(keras.callbacks.Callback):
    """Records what TensorFlow does from the first to the last of the steps, in `<folder>/plugins/profile/`.

    It watches only: the numbers that come out of the run are the same.
    """

    def __init__(self, trainer: MultiTaskTrainer, folder: Path, steps: Steps) -> None:
        """Take the steps, and the folder that TensorBoard is pointed at."""
        super().__init__()
        self.trainer, self.folder = trainer, folder
        self._first, self._last = steps
        self._recording = False
        self._step: Any = None

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start with the first step, or within the steps where the run goes on there; mark each."""
        step = self.trainer.progress.global_step + 1
        if not self._first <= step <= self._last:
            return
        if not self._recording:
            tf.profiler.experimental.start(str(self.folder))
            self._recording = True
        self._step = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
        self._step.__enter__()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write the trace after the last step."""
        self._end_step()
        if self.trainer.progress.global_step == self._last:
            self.close()

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def close(self) -> None:
        """Write what was recorded so far, if anything; to be called also where training ended before the last step."""
        self._end_step()
        if self._recording:
            self._recording = False
            tf.profiler.experimental.stop()
            print(
                f"profile written: tensorboard --logdir={self.folder}, page Profile (tensorboard-plugin-profile)",
                flush=True,
            )
