"""Recipes as they are written: what they mean, and what is refused with file, line and key."""

from __future__ import annotations

import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.studies.planned import Grid, plan_runs
from mtdnn_tf.studies.stages import read_body, read_stages, refuse_unknown_keys
from tests.small import write_experiment


def _stages(folder, text):
    write_experiment(folder)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_stages(read_body(folder / "recipe.yaml"), "stages")


def test_a_root_with_two_dots_is_written_as_configurations_hold_it(tmp_path):
    text = "config: small.yaml\nstages:\n  one: {}\n  two: {init_from: one, heads: kept}"
    _, two = plan_runs(_stages(tmp_path, text), tmp_path / "sub" / ".." / "runs")
    assert two.config.training.init_from == str(tmp_path / "runs" / "one")


def test_a_recipe_says_nothing_that_nobody_reads(tmp_path):
    (tmp_path / "recipe.yaml").write_text("config: small.yaml\nsets: {training: {epochs: 9}}\nstages: {one: {}}")
    with pytest.raises(UserError, match=r"recipe\.yaml:2: sets: unknown key 'sets'\. Did you mean 'set'"):
        refuse_unknown_keys(read_body(tmp_path / "recipe.yaml"), ("config", "set", "stages"))


def _plan(folder, text, **options):
    return plan_runs(_stages(folder, text), folder / "runs", **options)


def test_a_stage_takes_file_and_changes_of_the_recipe_and_its_own_on_top(tmp_path):
    text = """
config: small.yaml
set: {training: {epochs: 3, seed: 5}}
stages:
  one:
  two: {set: {training: {epochs: 4}, data: {cache_dir: cache}}}
"""
    one, two = _plan(tmp_path, text, overrides=["optimizer.learning_rate=1e-3"])
    assert (one.config.training.epochs, one.config.training.seed) == (3, 5)
    assert (two.config.training.epochs, two.config.training.seed) == (4, 5)
    assert two.config.data.cache_dir == str(tmp_path / "cache")
    assert two.config.optimizer.learning_rate == 1e-3


def test_a_stage_starts_from_the_run_directory_and_encoder_of_the_one_before(tmp_path):
    text = """
config: small.yaml
stages:
  one: {set: {encoder: {source: "random://layers=1"}}}
  two: {init_from: one, heads: stripped}
"""
    _, two = _plan(tmp_path, text)
    assert two.config.training.init_from == str(tmp_path / "runs" / "one")
    assert two.config.training.init_heads == "stripped"
    assert two.config.encoder.source == "random://layers=1"


def test_pre_training_is_a_source(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    text = """
config: small.yaml
stages:
  pre_trained: {kind: pretrain}
  together: {init_from: pre_trained, heads: stripped}
  alone: {init_from: together, heads: kept, each_task: true}
"""
    first, second, *others = _plan(tmp_path, text)
    assert first.command[0] == "mtdnn_tf.pretrain"
    assert second.config.encoder.source == str(tmp_path / "runs" / "pre_trained")
    assert second.config.training.init_from is None
    assert {run.config.encoder.source for run in others} == {second.config.encoder.source}
    assert {run.config.training.init_from for run in others} == {str(tmp_path / "runs" / "together")}


def test_a_fan_out_may_start_from_a_fan_out_and_be_restricted(tmp_path):
    text = """
config: small.yaml
stages:
  one: {each_task: true}
  two: {init_from: one, heads: kept, each_task: true}
"""
    runs = _plan(tmp_path, text, grid=Grid(tasks=("mood", "pick")))
    assert [run.name for run in runs] == ["one/mood", "one/pick", "two/mood", "two/pick"]
    assert runs[3].config.training.init_from == str(tmp_path / "runs/one/pick")
    with pytest.raises(UserError, match="Did you mean 'mood'"):
        _plan(tmp_path, text, grid=Grid(tasks=("moot",)))


HEAD = "config: small.yaml\nstages:\n"
BAD = {
    "no stages": ("config: small.yaml", r"recipe\.yaml:1: stages: must be a mapping of one or more stages"),
    "no file": ("stages: {one: {}}", r"recipe\.yaml:1: stages\.one\.config: is missing"),
    "unknown key": (HEAD + "  one: {epochs: 3}", r"recipe\.yaml:3: stages\.one\.epochs: unknown key"),
    "unknown stage": (
        HEAD + "  one: {}\n  two: {init_from: ones, heads: kept}",
        r"recipe\.yaml:4: stages\.two\.init_from: unknown earlier stage 'ones'\. Did you mean 'one'",
    ),
    "later stage": (HEAD + "  one: {init_from: two, heads: kept}\n  two: {}", r"unknown earlier stage 'two'"),
    "heads not said": (
        HEAD + "  one: {}\n  two: {init_from: one}",
        r"stages\.two\.heads: is missing; say kept or stripped",
    ),
    "heads of nothing": (HEAD + "  one: {heads: kept}", r"stages\.one\.heads: belongs to init_from"),
    "one from many": (
        HEAD + "  one: {each_task: true}\n  two: {init_from: one, heads: kept}",
        r"stages\.two\.init_from: one has a run for each task; say each_task: true",
    ),
    "name": (HEAD + "  One: {}", r"stages\.One: a name must be lower-case"),
    "set": (HEAD + "  one: {set: 3}", r"recipe\.yaml:3: stages\.one\.set: must be a mapping"),
    "key of the configuration": (
        HEAD + "  one:\n    set: {training: {epoch: 3}}",
        r"recipe\.yaml:4: training\.epoch: unknown key 'epoch'\. Did you mean 'epochs'",
    ),
    "task": (HEAD + "  one: {tasks: [moot]}", r"recipe\.yaml:3: stages\.one\.tasks: unknown task 'moot'"),
    "task that the stage before has not": (
        HEAD + "  one: {each_task: true, tasks: [mood]}\n  two: {init_from: one, heads: kept, each_task: true}",
        r"stages\.two\.init_from: one has no run for follows",
    ),
    "file of a task": (
        HEAD + "  one: {set: {tasks: {mood: {train: {path: none.tsv}}}}}",
        r"stages\.one: tasks\.mood\.train: .*none\.tsv: there is no such file",
    ),
    "several machines": (
        HEAD + "  one: {set: {runtime: {strategy: multi_worker}}}",
        r"recipe\.yaml:3: stages\.one: runtime\.strategy: 'multi_worker' is not supported",
    ),
    "heads of pre-training": (
        HEAD + "  one: {kind: pretrain}\n  two: {init_from: one, heads: kept}",
        r"stages\.two\.heads: of one only the encoder can be taken over",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_told_in_one_line(tmp_path, case):
    text, expected = BAD[case]
    with pytest.raises(UserError, match=expected):
        _plan(tmp_path, text)
