"""Chains of stages: what a stage starts from, what is skipped, what goes on, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.studies.planned import plan_runs
from mtdnn_tf.studies.progress import CUT_OFF, FINISHED, Ledger, fingerprint, states_of
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.stages import read_body, read_stages
from mtdnn_tf.training import callbacks
from mtdnn_tf.training.manifest import write_manifest
from tests.killing import weights
from tests.small import write_experiment
from tests.studies.in_process import run_here

RECIPE = """
config: small.yaml
set: {training: {epochs: 1}, optimizer: {learning_rate: 1.0e-9}}
stages:
  together: {tasks: [mood, close]}
  kept: {init_from: together, heads: kept, each_task: true, tasks: [mood, close], set: {training: {seed: 7}}}
  stripped: {init_from: together, heads: stripped, tasks: [mood], set: {training: {seed: 7}}}
"""


def _plan(folder, root, overrides=()):
    return plan_runs(read_stages(read_body(folder / "recipe.yaml"), "stages"), root, overrides=overrides)


def _states(runs, root):
    return states_of(runs, Ledger(root))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of the files, root of the runs, the plan, and what was run."""
    folder = tmp_path_factory.mktemp("recipe")
    write_experiment(folder)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    runs = _plan(folder, folder / "runs")
    commands = []
    run_all(runs, folder / "runs", runner=lambda words: commands.append(words) or run_here(words))
    return folder, folder / "runs", runs, commands


@pytest.fixture
def copy(trained, tmp_path):
    """The same in a folder of its own, to be damaged: its configurations name the new places."""
    folder = shutil.copytree(trained[0], tmp_path / "copy")
    for path in (*folder.rglob("config.yaml"), folder / "runs" / "ledger.json"):
        path.write_text(path.read_text().replace(str(trained[0]), str(folder)))
    return folder, folder / "runs", _plan(folder, folder / "runs")


def test_each_stage_has_its_runs(trained):
    _, root, runs, commands = trained
    assert [run.name for run in runs] == ["together", "kept/mood", "kept/close", "stripped"]
    assert [words[2] for words in commands] == [f"--model_dir={root / run.name}" for run in runs]
    assert set(_states(runs, root).values()) == {FINISHED}
    assert set(json.loads((root / "kept/mood/scores.json").read_text())["tasks"]) == {"mood"}


def _head(root, name, task):
    found = weights(root / name / "best")
    return np.concatenate(
        [found[key].ravel() for key in sorted(found) if f"heads/{task}/" in key and "seed" not in key]
    )


def test_kept_heads_are_the_stage_befores_and_stripped_ones_are_new(trained):
    """The rate is so small that what a stage starts from is what it ends with."""
    _, root, _, _ = trained
    before = _head(root, "together", "mood")
    np.testing.assert_allclose(_head(root, "kept/mood", "mood"), before, atol=1e-6)
    assert np.abs(_head(root, "stripped", "mood") - before).max() > 1e-3
    encoders = [weights(root / name / "best") for name in ("together", "stripped")]
    keys = [key for key in encoders[0] if key.startswith("encoder/") and "seed" not in key]
    assert all(np.allclose(encoders[0][key], encoders[1][key], atol=1e-6) for key in keys)


def test_finished_stages_are_not_touched(trained, capsys):
    _, root, runs, _ = trained
    run_all(runs, root, runner=lambda words: pytest.fail(str(words)))
    assert "all 4 runs are finished" in capsys.readouterr().out


def test_a_stage_that_was_cut_off_goes_on(copy, monkeypatch, capsys):
    _, root, runs = copy
    shutil.rmtree(root / "kept" / "close")

    def stopped(self, batch, logs=None):
        raise Interrupted(signal.SIGTERM, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Keeper, "on_epoch_end", stopped)
        with pytest.raises(Interrupted):
            run_all(runs, root, runner=run_here)
    states = _states(runs, root)
    assert [states[run.name] for run in runs] == [FINISHED, FINISHED, CUT_OFF, FINISHED]
    commands = []
    run_all(runs, root, keep="results", runner=lambda words: commands.append(words) or run_here(words))
    assert [words[2] for words in commands] == [f"--model_dir={root / 'kept/close'}"]
    assert "run 3 of 4: kept/close, goes on" in capsys.readouterr().out
    assert set(_states(runs, root).values()) == {FINISHED}
    assert Ledger(root)["kept/close"].seconds > 0
    assert not [name for name in ("best", "checkpoints") if (root / "kept" / "close" / name).exists()]


def test_a_changed_configuration_is_refused_by_stage_and_key(trained):
    folder, root, _, _ = trained
    changed = _plan(folder, root, ["training.epochs=3"])
    with pytest.raises(UserError, match=r"recipe\.yaml:5: stages\.together: .*training\.epochs: 1 -> 3"):
        run_all(changed, root, runner=lambda words: pytest.fail(str(words)))


def test_a_stage_that_started_from_other_weights_is_refused(copy):
    _, root, runs = copy
    ledger = Ledger(root)
    record = ledger["stripped"]
    assert record.started_from == ledger["kept/mood"].started_from == fingerprint(root / "together")
    ledger.write("stripped", replace(record, started_from="0123456789ab"))
    with pytest.raises(
        UserError, match=r"recipe\.yaml:7: stages\.stripped: .* other weights than .*together holds now"
    ):
        _states(runs, root)


def _cut_off(run, has_checkpoints):
    """Leave of a finished run what one has that was stopped: before its first line of metrics, or in its first epoch."""
    (run.directory / "scores.json").unlink()
    shutil.rmtree(run.directory / "best")
    if has_checkpoints:
        (run.directory / "metrics.jsonl").unlink()
    else:
        shutil.rmtree(run.directory / "checkpoints")


def test_a_run_that_was_stopped_before_its_first_line_goes_on_with_its_own_configuration_only(copy):
    folder, root, runs = copy
    shutil.rmtree(root / "together")
    shutil.rmtree(root / "kept")
    _cut_off(runs[3], has_checkpoints=True)
    assert _states(runs, root)["stripped"] == CUT_OFF
    changed = _plan(folder, root, ["training.log_every=3"])
    before = (root / "stripped" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"stages\.stripped: .*training\.log_every: \d+ -> 3"):
        run_all(changed, root, runner=lambda words: pytest.fail(str(words)))
    assert (root / "stripped" / "config.yaml").read_text() == before


def test_what_was_cut_off_does_not_go_on_from_weights_that_were_made_again(copy):
    _, root, runs = copy
    shutil.rmtree(root / "kept")
    _cut_off(runs[3], has_checkpoints=True)
    scores = root / "together" / "scores.json"
    kept = scores.read_text()
    scores.unlink()

    def make_other_weights(words):
        if words[2] == f"--model_dir={root / 'stripped'}":
            pytest.fail("it went on")
        with next((root / "together" / "best").glob("weights.data*")).open("ab") as file:
            file.write(b"other")
        write_manifest(root / "together" / "best")
        scores.write_text(kept)

    with pytest.raises(UserError, match=r"stages\.stripped: .* other weights than .*together holds now; remove it"):
        run_all(runs, root, wanted=runs[3:], runner=make_other_weights)


def test_what_has_no_checkpoint_yet_begins_with_the_weights_as_they_are(copy):
    _, root, runs = copy
    _cut_off(runs[3], has_checkpoints=False)
    ledger = Ledger(root)
    ledger.write("stripped", replace(ledger["stripped"], started_from="0123456789ab"))
    commands = []
    run_all(runs, root, runner=lambda words: commands.append(words) or run_here(words))
    assert [words[2] for words in commands] == [f"--model_dir={root / 'stripped'}"]
    assert Ledger(root)["stripped"].started_from == fingerprint(root / "together")
    assert set(_states(runs, root).values()) == {FINISHED}


def test_a_run_of_other_data_is_refused(copy):
    folder, root, runs = copy
    with (folder / "mood.tsv").open("a") as file:
        file.write("more bread\tpositive\n")
    with pytest.raises(
        UserError,
        match=r"recipe\.yaml:5: stages\.together: .* other data: sha256 of .*mood\.tsv: \w{12}; here, now: \w{12}\.",
    ):
        run_all(runs, root, runner=lambda words: pytest.fail(str(words)))


def test_a_damaged_model_that_others_start_from_is_not_finished(copy):
    _, root, runs = copy
    with next((root / "together" / "best").glob("weights.data*")).open("r+b") as file:
        file.truncate(100)
    assert _states(runs, root)["together"] == CUT_OFF


def test_a_finished_run_that_lacks_a_split_is_scored_and_not_trained(copy):
    _, root, runs = copy
    commands = []

    def runner(words):
        commands.append(words[0])
        [directory] = [word.partition("=")[2] for word in words if word.startswith("--model_dir=")]
        (Path(directory) / "scores_test.json").write_text('{"tasks": {}}')

    run_all(runs, root, split="test", runner=runner)
    assert commands == ["mtdnn_tf.evaluate"] * 4
