"""TensorBoard's files: a run for each task, so that one chart overlays the tasks, and one for what belongs to no task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtdnn_tf.files import told_as_user_error

RUN = "run"


class EventFiles:
    """Writes scalars under `<folder>/<task>/` and `<folder>/run/`; a run's file is made when it is first needed."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder that TensorBoard is pointed at; None: nothing is written, as on workers that are not the chief."""
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def write(self, run: str, step: int, scalars: Mapping[str, float]) -> None:
        """Add one point to each of a run's curves.

        Raises:
            UserError: the files can't be written.
        """
        if self.folder is None:
            return
        with told_as_user_error(self.folder):
            if run not in self._writers:
                self._writers[run] = tf.summary.create_file_writer(str(self.folder / run))
            writer = self._writers[run]
            with writer.as_default(step=step):
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value)
            writer.flush()

    def write_scores(self, step: int, scores: Mapping[str, Any]) -> None:
        """Add development scores: `dev/<metric>` to each task's run, the aggregates to `run`."""
        for name, value in scores.items():
            if isinstance(value, Mapping):
                self.write(name, step, {f"dev/{metric}": score for metric, score in value.items()})
            else:
                self.write(RUN, step, {f"dev/{name}": value})

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
