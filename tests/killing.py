"""Training commands that are killed at places spread over the run, and what two runs must have in common."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtdnn_tf.training import checkpoints

# Everything that has a state: passes carried over epochs, accumulated batches, learned loss weights, random projections.
STATEFUL = (
    "data.batch_size=1",
    "mixing.strategy=uniform",
    "training.accumulate=2",
    "training.loss_weighting=gradnorm",
    "training.gradient_surgery=pcgrad",
    "training.checkpoint_every=3",
    "training.log_every=4",
)
WAYS = ("kill", "kill while writing", "terminate", "kill while writing", "kill")


@dataclass(frozen=True)
class Command:
    """One training command; each call to `start` types it again."""

    config: Path
    model_dir: Path
    overrides: tuple[str, ...]
    tasks: str

    def start(self) -> subprocess.Popen[str]:
        words = [f"--config={self.config}", f"--model_dir={self.model_dir}", f"--tasks={self.tasks}"]
        words += ["--deterministic", *(f"--set={override}" for override in self.overrides)]
        # To a file: a pipe that nobody reads would stop the run.
        with (self.model_dir.parent / f"{self.model_dir.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mtdnn_tf.train", *words], stdout=log, stderr=subprocess.PIPE, text=True
            )

    def finish(self) -> None:
        process = self.start()
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said

    def kill(self, way: str, step: int, chance: random.Random) -> None:
        """Start it, and end it when its metrics tell of so many steps: a moment later, or while it writes a checkpoint."""
        before = self._log_file()
        process = self.start()
        try:
            self._wait(process, lambda: self._log_file() != before)  # which it writes anew when it goes on
            self._wait(process, lambda: self.logged_step() >= step)
            if way == "kill while writing":
                self._wait(process, lambda: any((self.model_dir / "checkpoints").glob(".*.partial")))
                time.sleep(chance.uniform(0, 0.004))
            else:
                time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGTERM if way == "terminate" else signal.SIGKILL)
            _, said = process.communicate(timeout=600)
        finally:
            process.kill()
        if way == "terminate":
            assert process.returncode == 143, said
            assert [line for line in said.splitlines() if "SIGTERM" in line] == said.splitlines()[-1:], said
            assert said.splitlines()[-1].startswith("SIGTERM: stopped after step "), said
        else:
            assert process.returncode == -signal.SIGKILL, said

    def _wait(self, process: subprocess.Popen[str], happened) -> None:
        while not happened():
            assert process.poll() is None, f"ended before it was killed: {process.communicate()[1]}"
            time.sleep(0.0005)

    def _log_file(self) -> int | None:
        path = self.model_dir / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else None

    def logged_step(self) -> int:
        path = self.model_dir / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0


def places(total_steps: int, ways: tuple[str, ...], chance: random.Random) -> list[tuple[str, int]]:
    """Return a way and a step for each kill, one in each of as many equal parts of the run's first nine tenths."""
    part = 0.9 * total_steps / len(ways)
    return [(way, int(part * (index + chance.random()))) for index, way in enumerate(ways)]


def weights(folder: Path) -> dict[str, np.ndarray]:
    reader = checkpoints._open(folder)
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key.endswith("VARIABLE_VALUE")}


def metrics(model_dir: Path) -> list[dict[str, object]]:
    """Return the lines of metrics.jsonl but for the speed, which is measured."""
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "examples_per_second"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, slots, seeds and state bit for bit; the same metrics, best model, scores and predictions."""
    assert metrics(one) == metrics(other)
    saved = [path.name for path in checkpoints.steps_saved(one / "checkpoints")]
    assert saved == [path.name for path in checkpoints.steps_saved(other / "checkpoints")]
    for name in ("best", *(f"checkpoints/{step}" for step in saved)):
        expected, found = weights(one / name), weights(other / name)
        assert expected.keys() == found.keys()
        assert [key for key in expected if not np.array_equal(expected[key], found[key])] == [], name
        assert asdict(checkpoints.read_state(one / name)) == asdict(checkpoints.read_state(other / name)), name
    for path in [one / "scores.json", *sorted((one / "predictions").iterdir())]:
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path.name
    names = [{path.name for path in folder.iterdir()} for folder in (one, other)]
    assert names[0] == names[1]
    assert not [path for path in os.listdir(other / "checkpoints") if path.startswith(".")]
