"""Checksums tell which file of a checkpoint is not what was saved, and what is wrong with it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.checkpoints import State
from mtdnn_tf.training.manifest import MANIFEST

DATA = "weights.data-00000-of-00001"


def _truncate(folder):
    content = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(content[: len(content) // 2])


def _flip_a_bit(folder):
    content = bytearray((folder / DATA).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / DATA).write_bytes(content)


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _cut_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-10])


DAMAGES = {
    "truncated": (_truncate, f"{DATA} is torn or was changed"),
    "flipped": (_flip_a_bit, f"{DATA} is torn or was changed"),
    "no index": (lambda folder: (folder / "weights.index").unlink(), "weights.index is missing"),
    "no state": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "other state": (lambda folder: (folder / "state.json").write_text("{}"), "state.json is torn or was changed"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "cut manifest": (_cut_manifest, "is missing"),
    "empty manifest": (lambda folder: (folder / MANIFEST).write_text(""), f"{MANIFEST} is torn"),
    "zeros": (lambda folder: (folder / MANIFEST).write_bytes(bytes(200)), f"{MANIFEST} is torn"),
    "added": (lambda folder: (folder / "more").write_text("x"), f"more is not listed in {MANIFEST}"),
    "empty": (_empty, "the folder is empty"),
    "gone": (shutil.rmtree, "is missing"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder of three checkpoints; the value of the only weight is the step."""
    for step in (1, 2, 30):
        _save(tmp_path, step)
    return tmp_path


def _save(folder, step):
    parts = {"encoder": {"w": tf.Variable(tf.fill([1000], float(step)))}}
    return checkpoints.save(folder / f"step-{step:09d}", parts, State(0, step, step), replace=True)


def test_sha256sum_reads_the_manifest(folder):
    done = subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=folder / "step-000000030", check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_told_and_nothing_is_loaded(folder, name):
    damage, expected = DAMAGES[name]
    newest = folder / "step-000000030"
    damage(newest)
    variable = tf.Variable(tf.zeros([1000]))
    with pytest.raises(UserError, match=f"step-000000030: damaged: .*{expected}"):
        checkpoints.load(newest, {"encoder": {"w": variable}})
    assert not variable.numpy().any()


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"gone"}))
def test_the_checkpoint_before_a_damaged_one_is_taken_and_said(folder, name, capsys):
    damage, expected = DAMAGES[name]
    damage(folder / "step-000000030")
    assert checkpoints.latest(folder) == folder / "step-000000002"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"{folder / 'step-000000030'}: damaged: ")
    assert expected in said
    assert said.endswith("taking the one before, step-000000002\n")


def test_an_intact_one_is_taken_without_a_word(folder, capsys):
    _empty(folder / "step-000000001")
    assert checkpoints.latest(folder) == folder / "step-000000030"
    assert capsys.readouterr().err == ""


def test_where_all_are_damaged_that_is_an_error(folder):
    for path in checkpoints.steps_saved(folder):
        _flip_a_bit(path)
    with pytest.raises(UserError, match=r"no checkpoint is intact: .*step-000000030.*step-000000001.*--fresh"):
        checkpoints.latest(folder)


def test_none_at_all_is_no_error(tmp_path):
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-000000009").write_text("a file")
    assert checkpoints.latest(tmp_path) is None
    assert checkpoints.latest(tmp_path / "missing") is None


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [2, 30]), (3, [1, 2, 30]), (100, [1, 2, 30])])
def test_only_the_newest_are_kept(folder, keep, left):
    (folder / "step-notes.txt").write_text("mine")
    checkpoints.prune(folder, folder / "step-000000030", keep)
    assert [int(path.name[5:]) for path in checkpoints.steps_saved(folder)] == left
    assert (folder / "step-notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [2, 5])])
def test_what_was_passed_over_as_damaged_takes_no_place_among_those_kept(folder, keep, left):
    _flip_a_bit(folder / "step-000000030")
    checkpoints.prune(folder, _save(folder, 5), keep)
    assert [int(path.name[5:]) for path in checkpoints.steps_saved(folder)] == left
