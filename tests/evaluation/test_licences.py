"""Licences are told as the files beside weights and data tell them, and not guessed."""

from __future__ import annotations

import dataclasses

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.evaluation.licences import data_licences, weights_licence

STATED = {
    "front matter": ({"README.md": "---\nlicense: apache-2.0\n---\n"}, "apache-2.0 (README.md)"),
    "a sentence": ({"README.txt": "Made by hand. Licence: CC | BY\nmore"}, "CC / BY (README.txt)"),
    "a licence file": ({"LICENSE": "\n  MIT License\n\nPermission ..."}, "MIT License (LICENSE)"),
    "a silent readme": ({"README.md": "nothing", "LICENCE.txt": "BSD"}, "BSD (LICENCE.txt)"),
    "nothing": ({}, "not found beside it"),
}


@pytest.mark.parametrize("case", STATED)
def test_weights_of_a_folder(tmp_path, case):
    files, expected = STATED[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert weights_licence(str(tmp_path)) == expected


def test_other_weights(tiny):
    assert weights_licence(tiny) == "none needed: random numbers"
    assert weights_licence("package://no_such_package/model") == "not found beside it"
    assert weights_licence("bert_tiny_en_uncased") == "not found beside it"


def test_data_of_a_folder_or_the_one_above(experiment):
    tasks = mtdnn.load_tasks(mtdnn.load_config(experiment))
    assert set(data_licences(tasks).values()) == {"not found beside it"}
    (experiment.parent.parent / "README.md").write_text("Licence: CC0")
    assert data_licences(tasks) == dict.fromkeys(("mood", "follows", "close", "pick"), "CC0 (README.md)")
    (experiment.parent.parent / "pyproject.toml").write_text("")  # the licence of somebody's code, then
    assert set(data_licences(tasks).values()) == {"not found beside it"}
    bare = dataclasses.replace(tasks[0], sources={})
    assert data_licences([bare]) == {}
