"""Commands that messages advise: whole words for a shell, and flags changed whichever way they were written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mtdnn_tf.commands import changed, command_line, free_directory, setting
from mtdnn_tf.config_tree import parse_override


@pytest.mark.parametrize("path", ["my run", "it's $HOME", "a;b", 'say "no"', "plain/run"])
def test_a_shell_gives_the_program_what_was_meant(path):
    assert shlex.split(command_line("export", f"--model_dir={path}"))[3:] == [f"--model_dir={path}"]


@pytest.mark.parametrize("value", ["runs/a", "runs/my run", "2024", "true", "a: b", "x #1", "[a", "'q'", 5e-5, 1.0, 3])
def test_a_setting_is_read_as_the_value_it_was(value):
    text = setting("training.init_from", value).removeprefix("--set=")
    assert parse_override(text).children["training"].children["init_from"].value == value


START = ["python", "-m", "mtdnn_tf.train"]
CHANGES = {
    "a new flag": (["--config=x.yaml"], ["--fresh"], [], ["--config=x.yaml", "--fresh"]),
    "written with =": (["--model_dir=a b", "--seed=1"], ["--model_dir=c"], [], ["--seed=1", "--model_dir=c"]),
    "written apart": (["--model_dir", "a b", "--seed", "1"], ["--model_dir=c"], [], ["--seed", "1", "--model_dir=c"]),
    "one dash": (["-model_dir", "a"], ["--model_dir=c"], [], ["--model_dir=c"]),
    "no value": (["--fresh", "--seed=1"], [], ["fresh"], ["--seed=1"]),
    "one setting of several": (
        ["--set=a.b=1", "--set", "a.bc=2", "--set=c=3"],
        ["--set=a.b=4"],
        [],
        ["--set", "a.bc=2", "--set=c=3", "--set=a.b=4"],
    ),
    "a setting written apart": (["--set", "a.b=1"], ["--set=a.b=4"], [], ["--set=a.b=4"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_flags_are_replaced_and_removed(case):
    given, arguments, without, expected = CHANGES[case]
    assert shlex.split(changed(shlex.join([*START, *given]), *arguments, without=without)) == [*START, *expected]


def test_a_new_run_directory_is_beside_the_old_one(tmp_path):
    (tmp_path / "run_2").mkdir()
    assert free_directory(tmp_path / "run") == tmp_path / "run_3"
    assert free_directory(Path("runs") / "new name") == Path("runs/new name_2")
