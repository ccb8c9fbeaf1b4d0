"""A run goes on where it was cut off: stopped by signals, with damaged files, on a full disk, beside another process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.errors import Interrupted
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.experiment import prepare_directory, run_experiment
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.training import callbacks, checkpoints
from mtdnn_tf.training.checkpoints import read_state, steps_saved
from mtdnn_tf.training.manifest import write_manifest
from tests.killing import STATEFUL, assert_same_run, weights
from tests.small import write_experiment

STEPS = 9  # of an epoch
OVERRIDES = (*STATEFUL, "mixing.steps_per_epoch=18", "training.epochs=2", "training.keep_checkpoints=100")


def _recorded(patch):
    """Return the list that the history of each later `fit` will be in."""
    fit, histories = mtdnn.MultiTaskTrainer.fit, []

    def recording(*args, **kwargs):
        histories.append(fit(*args, **kwargs).history)

    patch.setattr(mtdnn.MultiTaskTrainer, "fit", recording)
    return histories


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The configuration, directory and history of an uninterrupted run of two tasks; all checkpoints are kept."""
    folder = tmp_path_factory.mktemp("finished")
    config = mtdnn.load_config(write_experiment(folder), [*OVERRIDES, f"data.cache_dir={folder / 'cache'}"])
    config = select_tasks(config, ["mood", "close"])
    with pytest.MonkeyPatch.context() as patch:
        histories = _recorded(patch)
        run_experiment(config, folder / "run", verbose=0)
    return config, folder / "run", histories[0]


@pytest.fixture
def cut(finished, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def _go_on(finished, folder):
    return run_experiment(finished[0], folder, verbose=0)


def _step(folder, step):
    return folder / "checkpoints" / f"step-{step:09d}"


def _saved(folder):
    return [int(path.name[5:]) for path in steps_saved(folder / "checkpoints")]


def _damage(folder):
    with next(folder.glob("weights.data*")).open("r+b") as file:
        file.truncate(1000)


def _go_back(folder, step):
    """Leave what the run directory held after it had saved this step."""
    for later in _saved(folder):
        if later > step:
            shutil.rmtree(_step(folder, later))
    (folder / "scores.json").unlink()


def _at(step, act):
    """Return what `StepLog` does instead at the end of a step: act once, after the step was counted."""
    original = callbacks.StepLog.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.trainer.progress.global_step == step:
            act()

    return on_train_batch_end


def _send(number):
    os.kill(os.getpid(), number)


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _stopped(finished, run, error, target, name, instead):
    """Go on with something put in place of an attribute, and return the error that this ended with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, instead)
        with pytest.raises(error) as raised:
            _go_on(finished, run)
    return raised.value


def test_stopped_by_signals_and_a_full_disk_it_ends_the_same(finished, tmp_path):
    whole, run = finished[1], tmp_path / "run"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore for what they run in the background
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    step_log = callbacks.StepLog, "on_train_batch_end"

    stopped = _stopped(finished, run, Interrupted, *step_log, _at(5, lambda: _send(signal.SIGTERM)))
    assert stopped.exit_status == 143
    assert str(stopped).startswith(f"SIGTERM: stopped after step 5 of {2 * STEPS}, which is saved in {run}")
    assert _saved(run) == [3, 5]
    assert read_state(_step(run, 5)).log_means["counts"]  # lines are due at 4 and 8

    score = SplitScorer.__call__
    interrupting = lambda self: _send(signal.SIGINT) or score(self)  # noqa: E731
    stopped = _stopped(finished, run, Interrupted, SplitScorer, "__call__", interrupting)
    assert stopped.exit_status == 130
    state = read_state(_step(run, STEPS))
    assert (state.epoch, state.step, state.best_score) == (0, STEPS, None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers

    full = _stopped(finished, run, mtdnn.UserError, checkpoints, "write_manifest", _no_space)
    assert "no space left on device; what was there before is untouched" in str(full)
    assert _saved(run)[-1] == STEPS

    _go_on(finished, run)
    assert _saved(run) == sorted({*_saved(whole), 5})
    shutil.rmtree(_step(run, 5))  # that only the stopped run has
    assert_same_run(whole, run)


def test_after_a_damaged_checkpoint_the_one_before_gives_the_same_end_and_means(finished, cut, monkeypatch, capsys):
    _go_back(cut, 15)
    _damage(_step(cut, 15))
    histories = _recorded(monkeypatch)
    _go_on(finished, cut)
    said = capsys.readouterr()
    assert "step-000000015: damaged: weights.data" in said.err
    assert "taking the one before, step-000000012" in said.err
    assert f"going on from {_step(cut, 12)}: epoch 2, step 3" in said.out
    assert_same_run(finished[1], cut)
    # Means of the whole second epoch, of which this process saw the last steps only.
    assert histories == [{name: values[1:] for name, values in finished[2].items()}]


def test_a_torn_best_model_is_made_again_from_the_checkpoint_of_its_step(finished, cut, capsys):
    _damage(cut / "best")
    _go_on(finished, cut)
    said = capsys.readouterr()
    assert "best: damaged: weights.data" in said.err
    assert "made again from step-" in said.err
    assert "already trained" in said.out
    assert_same_run(finished[1], cut)


def test_a_best_model_that_is_lost_gives_way_to_the_best_of_the_epochs_to_come(finished, cut, capsys):
    _go_back(cut, 12)
    shutil.rmtree(cut / "best")
    shutil.rmtree(_step(cut, STEPS))
    _go_on(finished, cut)
    assert "best: damaged: is missing; the best model is chosen among the epochs to come" in capsys.readouterr().err
    assert read_state(_step(cut, 2 * STEPS)).best_step == read_state(cut / "best").global_step == 2 * STEPS


def test_a_finished_run_that_lost_its_best_model_is_told(finished, cut):
    last = _step(cut, 2 * STEPS)
    state = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps(state | {"best_step": STEPS}))
    write_manifest(last)
    shutil.rmtree(_step(cut, STEPS))
    _damage(cut / "best")
    with pytest.raises(mtdnn.UserError, match=r"best: damaged: .*step 9 is not kept.*--fresh"):
        _go_on(finished, cut)


def test_checkpoints_that_were_taken_away_are_missed(finished, cut):
    shutil.rmtree(cut / "checkpoints")
    before = weights(cut / "best")
    with pytest.raises(mtdnn.UserError, match=r"holds no checkpoint to go on from.*--fresh"):
        _go_on(finished, cut)
    assert all(np.array_equal(value, before[key]) for key, value in weights(cut / "best").items())


def test_a_second_process_is_refused_before_it_reads_data(finished, cut, monkeypatch):
    monkeypatch.setattr("mtdnn_tf.experiment.build_run_model", lambda config: pytest.fail("reads"))
    with DirectoryLock(cut) as lock:
        lock.acquire()
        with pytest.raises(mtdnn.UserError, match=r"another process .* trains in this directory"):
            _go_on(finished, cut)


def test_every_state_of_model_and_optimizer_is_saved(finished):
    """Whatever variable is added to a layer, a seed of its dropout say, must be in the checkpoints."""
    from mtdnn_tf.evaluation.runs import build_run_model
    from mtdnn_tf.training.checkpoints import model_parts, optimizer_part

    model, tasks, _ = build_run_model(finished[0])
    saved = {id(variable) for part in model_parts(model, tasks).values() for variable in part.values()}
    assert {id(variable.value) for variable in model.variables} == saved
    optimizer = mtdnn.build_optimizer(finished[0].optimizer, 10)
    optimizer.build(model.trainable_variables)
    assert {id(v.value) for v in optimizer.variables} == {id(v) for v in optimizer_part(optimizer).values()}


def test_what_kills_left_at_a_start_or_while_writing_is_cleared_and_nothing_else(finished, cut, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in (".lock", ".config.yaml.old.host.12.partial"):
        (begun / name).write_text("half")
    (cut / "best").rename(cut / ".best.old.host.12.replaced")
    (cut / "checkpoints" / ".step-000000021.old.host.12.partial").mkdir()
    (cut / "checkpoints" / ".notes").write_text("mine")
    (cut / "checkpoints" / "notes").write_text("mine")
    for folder in (begun, cut):
        with DirectoryLock(folder) as lock:
            prepare_directory(finished[0], folder, False, lock)
    assert sorted(path.name for path in begun.iterdir()) == [".lock", "config.yaml"]
    expected = {path.name for path in (finished[1] / "checkpoints").iterdir()} | {".notes", "notes"}
    assert {path.name for path in (cut / "checkpoints").iterdir()} == expected
    assert all(np.array_equal(v, weights(cut / "best")[k]) for k, v in weights(finished[1] / "best").items())


def test_a_start_over_that_was_killed_leaves_a_run_directory(finished, cut, monkeypatch):
    """The configuration goes last: until then the folder is known for what it is."""

    def killed(path, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, DirectoryLock(cut) as lock:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_directory(finished[0], cut, True, lock)
    assert not (cut / "checkpoints").exists()
    with DirectoryLock(cut) as lock:
        prepare_directory(finished[0], cut, True, lock)
    assert sorted(path.name for path in cut.iterdir()) == [".lock", "config.yaml"]
