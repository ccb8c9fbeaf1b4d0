"""The progress bar of a terminal: Keras' own, with the tasks' losses and the time left of the whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras


class RunProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar of an epoch, which counts down the epoch; beside the pace stands what is left of the run."""

    def __init__(self, time_left: Callable[[], str]) -> None:
        """Take what returns the time left as text."""
        super().__init__()
        self._time_left = time_left

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Draw the bar; `logs` hold the epoch's means so far, of all steps and of each task's own."""
        self.progbar.unit_name = f"step, run {self._time_left()} left"
        super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Draw the finished bar, or with `verbose=2` the epoch's line."""
        self.progbar.unit_name = "step"
        super().on_epoch_end(epoch, logs)


def clock(seconds: float) -> str:
    """Return a duration as "1h02m", "4m10s"."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"
