"""The recipes and studies that come with the project: each can be planned, and says what it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mtdnn_tf.studies.planned import plan_runs
from mtdnn_tf.studies.stages import STAGE_KINDS, read_body, read_stages
from mtdnn_tf.studies.study import read_study

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


@pytest.mark.real_data
@pytest.mark.usefixtures("data_root")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_a_run_for_each_of_its_stages(path, tmp_path):
    stages = read_stages(read_body(path), "stages")
    for stage in stages:
        module = STAGE_KINDS[stage.options.kind].module
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not there")
    assert {run.stage.name for run in plan_runs(stages, tmp_path)} == {stage.name for stage in stages}


# Runs of each as its header counts them.
COUNTS = {
    "multi_against_single": 38,
    "heads": 31,
    "heads_bert_base": 56,
    "ranking_loss": 8,
    "domain_adaptation": 73,
    "domain_adaptation_bert_base": 81,
    "sharing": 26,
    "sharing_minilm": 20,
}


@pytest.mark.real_data
@pytest.mark.usefixtures("data_root")
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_has_as_many_runs_as_it_says(path, tmp_path):
    runs = read_study(path).plan(tmp_path)
    assert len(runs) == COUNTS.get(path.stem, COUNTS[path.stem.removesuffix("_bert_base")])
    assert len({run.directory for run in runs}) == len(runs)


BIG = [path for path in (*RECIPES, *STUDIES) if path.stem.endswith("_bert_base")]


@pytest.mark.parametrize("path", BIG, ids=lambda path: path.stem)
def test_what_downloads_its_data_needs_no_folder_of_them(path, monkeypatch, tmp_path):
    monkeypatch.delenv("MTDNN_DATA")
    assert _planned(path, tmp_path)


def _planned(path, folder):
    return (
        plan_runs(read_stages(read_body(path), "stages"), folder) if path in RECIPES else read_study(path).plan(folder)
    )


@pytest.mark.parametrize("path", [*RECIPES, *STUDIES], ids=lambda path: path.stem)
def test_it_says_what_it_is(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for word in ("# Purpose: ", "# Command: ", "# Time: ", "# Score seen: ", "# Keys people change: "):
        assert any(line.startswith(word) for line in lines), word
    assert f"configs/{path.parent.name}/{path.name}" in "\n".join(lines)
