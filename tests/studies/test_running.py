"""Several runs at once: what waits for what, how many, and what a failure does to the others."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.studies import progress, running
from mtdnn_tf.studies.planned import plan_runs
from mtdnn_tf.studies.processes import Processes
from mtdnn_tf.studies.progress import FINISHED, TO_DO, Ledger, Record, expected_seconds, remaining
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.stages import read_body, read_stages
from tests.small import write_experiment

RECIPE = """
config: small.yaml
stages:
  together: {tasks: [mood, pick]}
  other: {tasks: [mood]}
  kept: {init_from: together, heads: kept, each_task: true, tasks: [mood, pick]}
  last: {init_from: kept, heads: kept, each_task: true, tasks: [mood]}
"""


PARENT_LAST_BUT_ONE = """
config: small.yaml
stages:
  one: {tasks: [mood]}
  two: {tasks: [pick]}
  together: {tasks: [mood, pick]}
  last: {init_from: together, heads: kept, tasks: [mood, pick]}
"""


def _planned(folder, recipe):
    write_experiment(folder)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return plan_runs(read_stages(read_body(folder / "recipe.yaml"), "stages"), folder / "runs")


@pytest.fixture
def runs(tmp_path):
    return _planned(tmp_path, RECIPE)


class _Trainer:
    """In the place of training: notes who was at work with whom, and who was finished before."""

    def __init__(self, seconds=0.02, failing=()):
        self.seconds, self.failing = seconds, failing
        self.at_work, self.most, self.finished, self.before = set(), 0, [], {}
        self.lock = threading.Lock()

    def __call__(self, run, ledger, split, runner, is_parent):
        with self.lock:
            self.at_work.add(run.name)
            self.most = max(self.most, len(self.at_work))
            self.before[run.name] = list(self.finished)
        time.sleep(self.seconds)
        if run.name in self.failing:
            raise UserError(f"{run.name} failed")
        runner(["a_module"])
        with self.lock:
            self.at_work.remove(run.name)
            self.finished.append(run.name)


@pytest.fixture
def trainer(monkeypatch):
    found = _Trainer()
    monkeypatch.setattr(running, "_train", found)
    monkeypatch.setattr(Processes, "run", lambda self, words, output=None: None)
    return found


@pytest.mark.parametrize("jobs", [2, 3])
def test_so_many_are_at_work_and_none_before_what_it_starts_from(runs, trainer, tmp_path, jobs):
    states = run_all(runs, tmp_path / "runs", jobs=jobs)
    assert set(states.values()) == {FINISHED}
    assert sorted(trainer.finished) == sorted(run.name for run in runs)
    assert trainer.most == 2 if jobs == 2 else 2 <= trainer.most <= 3
    for run in runs:
        assert run.parent is None or run.parent.name in trainer.before[run.name]


def test_what_others_wait_for_comes_first(trainer, tmp_path):
    run_all(_planned(tmp_path, PARENT_LAST_BUT_ONE), tmp_path / "runs", jobs=2)
    assert trainer.before["together"] == []
    assert trainer.before["two"]


def test_runs_say_into_their_own_folders(runs, trainer, monkeypatch, tmp_path):
    outputs = []
    monkeypatch.setattr(Processes, "run", lambda self, words, output=None: outputs.append(output))
    run_all(runs, tmp_path / "runs", jobs=2)
    assert sorted(outputs) == sorted(run.directory / "output.txt" for run in runs)


def test_a_failure_stops_the_others_and_is_what_is_told(runs, trainer, monkeypatch, tmp_path):
    trainer.failing = ("together",)
    stopped = threading.Event()

    def run(self, words, output=None):
        if stopped.wait(timeout=10):
            raise Interrupted(15, "stopped")

    monkeypatch.setattr(Processes, "run", run)
    monkeypatch.setattr(Processes, "stop", lambda self: stopped.set())
    with pytest.raises(UserError, match="together failed"):
        run_all(runs, tmp_path / "runs", jobs=2)
    assert trainer.finished == []
    assert set(trainer.before) == {"together", "other"}


def test_a_run_is_expected_to_take_as_long_as_its_tasks_and_epochs(runs, tmp_path):
    ledger = Ledger(tmp_path)
    together, other, kept, *_ = runs
    ledger.write(together.name, Record(seconds=80.0))  # two tasks
    epochs = other.config.training.epochs
    longer = replace(other, config=replace(other.config, training=replace(other.config.training, epochs=3 * epochs)))
    assert expected_seconds(other, [together], ledger) == pytest.approx(40.0)
    assert expected_seconds(longer, [together], ledger) == pytest.approx(120.0)
    ledger.write(other.name, Record(seconds=15.0))
    assert expected_seconds(other, [together], ledger) == pytest.approx(25.0)
    assert expected_seconds(kept, [together, other], ledger) == pytest.approx((80 + 15) / 3)


def test_what_a_run_at_work_has_taken_is_taken_off(runs, monkeypatch, tmp_path):
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ledger = Ledger(tmp_path)
    together, other, *_ = runs
    ledger.write(together.name, Record(seconds=80.0))
    ledger.write(other.name, Record(seconds=4.0, started_from="somewhere"))
    with suppress(UserError), ledger.at_work(other.name):
        now[0] += 30
        assert expected_seconds(other, [together], ledger) == pytest.approx(6.0)
        raise UserError("stopped")
    now[0] += 30
    assert expected_seconds(other, [together], ledger) == pytest.approx(6.0)
    assert Ledger(tmp_path)[other.name] == Record(seconds=34.0, started_from="somewhere")


def test_what_remains_takes_as_long_as_its_longest_run(runs, tmp_path):
    ledger = Ledger(tmp_path)
    together, other, *more = runs
    ledger.write(together.name, Record(seconds=8000.0))
    ledger.write(other.name, Record(seconds=3700.0))
    states = {run.name: TO_DO for run in runs} | {together.name: FINISHED}
    told = [remaining([together, other, *left], states, ledger, jobs=2) for left in ([], more[:1], more[:2])]
    assert [line.partition("about ")[2].partition(" by")[0] for line in told] == ["5 min", "1 h 07 min", "1 h 09 min"]


def test_a_run_is_expected_to_take_as_long_as_another_arm_with_as_many_rows(runs, tmp_path):
    ledger = Ledger(tmp_path)
    few, many = (replace(runs[1], name=f"few/{x}", task="rte", x=x) for x in (1.0, 100.0))
    other = replace(many, name="other/100", stage=replace(many.stage, name="another arm"))
    ledger.write(few.name, Record(seconds=20.0))
    ledger.write(other.name, Record(seconds=900.0))
    assert expected_seconds(many, [few, other], ledger) == pytest.approx(900.0)
    assert expected_seconds(many, [few], ledger) == pytest.approx(20.0)


def test_one_after_the_other_is_the_rule(runs, trainer, tmp_path):
    run_all(runs, tmp_path / "runs")
    assert trainer.most == 1
    assert trainer.finished == [run.name for run in runs]
