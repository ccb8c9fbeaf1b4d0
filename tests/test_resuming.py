"""A run goes on where it was cut off: stopped by signals, with damaged files, on a full disk, beside another process."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.cli import select_tasks
from mtdnn_tf.errors import Interrupted
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.runs import find_weights
from mtdnn_tf.experiment import run_experiment
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.training import callbacks, checkpoints
from mtdnn_tf.training.checkpoints import read_state, steps_saved
from tests.killing import STATEFUL, assert_same_run, metrics, weights
from tests.small import write_experiment

STEPS = 9  # of an epoch
OVERRIDES = (*STATEFUL, "mixing.steps_per_epoch=18", "training.epochs=2", "training.keep_checkpoints=100")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of two tasks, all of its checkpoints kept."""
    folder = tmp_path_factory.mktemp("finished")
    config = mtdnn.load_config(write_experiment(folder), [*OVERRIDES, f"data.cache_dir={folder / 'cache'}"])
    config = select_tasks(config, ["mood", "close"])
    run_experiment(config, folder / "run", verbose=0)
    return config, folder / "run"


@pytest.fixture
def cut(finished, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def _go_on(finished, folder):
    return run_experiment(finished[0], folder, verbose=0)


def _saved(folder):
    return [int(path.name[5:]) for path in steps_saved(folder / "checkpoints")]


def _damage(folder):
    with next(folder.glob("weights.data*")).open("r+b") as file:
        file.truncate(1000)


def _go_back(folder, step):
    """Leave what the run directory held after it had saved this step."""
    for path in steps_saved(folder / "checkpoints"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    (folder / "scores.json").unlink()


def _at(step, act):
    """Return what `StepLog` does instead at the end of a step: act once, after the step was counted."""
    original, acted = callbacks.StepLog.on_train_batch_end, []

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.trainer.progress.global_step == step and not acted:
            acted.append(step)
            act()

    return on_train_batch_end


def _send(number):
    os.kill(os.getpid(), number)


def _fill_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_stopped_by_signals_and_a_full_disk_it_ends_the_same(finished, tmp_path, monkeypatch):
    whole, run = finished[1], tmp_path / "run"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        patch.setattr(callbacks.StepLog, "on_train_batch_end", _at(5, lambda: _send(signal.SIGTERM)))
        _go_on(finished, run)
    assert stopped.value.exit_status == 143
    assert str(stopped.value).startswith(f"SIGTERM: stopped after step 5 of {2 * STEPS}, which is saved in {run}")
    assert _saved(run) == [3, 5]
    assert read_state(run / "checkpoints" / "step-000000005").log_means["counts"]  # a line was due at 4, the next at 8

    score = SplitScorer.__call__
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        patch.setattr(SplitScorer, "__call__", lambda self: _send(signal.SIGINT) or score(self))
        _go_on(finished, run)
    assert stopped.value.exit_status == 130
    state = read_state(run / "checkpoints" / f"step-{STEPS:09d}")
    assert (state.epoch, state.step, state.best_score) == (0, STEPS, None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers

    with monkeypatch.context() as patch, pytest.raises(mtdnn.UserError, match=r"no space left on device.*untouched"):
        patch.setattr(callbacks.StepLog, "on_train_batch_end", _at(11, lambda: _fill(patch)))
        _go_on(finished, run)
    assert _saved(run)[-1] == STEPS

    _go_on(finished, run)
    expected = [step for step in _saved(whole)]
    assert _saved(run) == sorted({*expected, 5})
    shutil.rmtree(run / "checkpoints" / "step-000000005")  # that only the stopped run has
    assert_same_run(whole, run)


def _fill(patch):
    patch.setattr(checkpoints, "write_manifest", _fill_disk)


class _Means(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.of_epoch = {}

    def on_epoch_end(self, epoch, logs=None):
        self.of_epoch[epoch] = {name: value for name, value in logs.items() if name.endswith("loss")}


def test_after_a_damaged_checkpoint_the_one_before_gives_the_same_end_and_means(finished, cut, monkeypatch, capsys):
    _go_back(cut, 15)
    _damage(cut / "checkpoints" / "step-000000015")
    means = _Means()
    trainer_fit = mtdnn.MultiTaskTrainer.fit
    monkeypatch.setattr(
        mtdnn.MultiTaskTrainer,
        "fit",
        lambda self, mixture, epochs, parts, *rest: trainer_fit(self, mixture, epochs, [means, *parts], *rest),
    )
    _go_on(finished, cut)
    said = capsys.readouterr()
    assert "step-000000015: damaged: weights.data" in said.err
    assert "taking the one before, step-000000012" in said.err
    assert "going on from" in said.out
    assert_same_run(finished[1], cut)
    # Means of the whole second epoch, though this process saw only its last steps.
    saved = read_state(finished[1] / "checkpoints" / "step-000000015").epoch_means
    assert saved["counts"]["loss"] == 2 * (15 - STEPS)
    assert sorted(means.of_epoch) == [1]
    assert means.of_epoch[1] == _Expected.means


class _Expected:
    means: dict[str, float] = {}


def test_a_torn_best_model_is_made_again_from_the_checkpoint_of_its_step(finished, cut, capsys):
    _damage(cut / "best")
    _go_on(finished, cut)
    assert "damaged: weights.data" in capsys.readouterr().err
    assert_same_run(finished[1], cut)


def _without_best(finished, cut):
    _damage(cut / "best")
    step = read_state(steps_saved(finished[1] / "checkpoints")[-1]).best_step
    shutil.rmtree(cut / "checkpoints" / f"step-{step:09d}")


def test_a_finished_run_that_lost_its_best_model_is_told(finished, cut):
    _without_best(finished, cut)
    if not (cut / "checkpoints" / f"step-{2 * STEPS:09d}").is_dir():
        shutil.copytree(finished[1] / "checkpoints" / f"step-{2 * STEPS:09d}", cut / "checkpoints" / "step-000000018")
    with pytest.raises(mtdnn.UserError, match=r"best: damaged: weights\.data"):
        _go_on(finished, cut)


def test_checkpoints_that_were_taken_away_are_missed(finished, cut):
    shutil.rmtree(cut / "checkpoints")
    before = weights(cut / "best")
    with pytest.raises(mtdnn.UserError, match=r"holds no checkpoint to go on from.*--fresh"):
        _go_on(finished, cut)
    assert all(np.array_equal(value, before[key]) for key, value in weights(cut / "best").items())


def test_a_second_process_is_refused_before_it_reads_data(finished, tmp_path):
    with DirectoryLock(tmp_path / "run") as lock:
        lock.acquire()
        shutil.copy(finished[1] / "config.yaml", tmp_path / "run")
        with pytest.raises(mtdnn.UserError, match="another process .* trains in this directory"):
            _go_on(finished, tmp_path / "run")
