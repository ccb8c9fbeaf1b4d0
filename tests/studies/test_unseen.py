"""A study scored on a test split: rows that were trained on are left out of a second table; task attention is a heat map."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mtdnn_tf.errors import UserError
from mtdnn_tf.studies.progress import CUT_OFF, FINISHED, Ledger, states_of
from mtdnn_tf.studies.results import collect
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.study import read_study
from mtdnn_tf.studies.study_report import markdown
from mtdnn_tf.studies.unseen import Unseen, without_train_rows
from mtdnn_tf.studies.writing import write_study
from tests.small import write_experiment
from tests.studies.in_process import run_here

STUDY = """
title: Rows seen before
budget: one epoch
config: small.yaml
set:
  model: {sharing: layerwise_explicit}
  training: {epochs: 1}
  tasks: {mood: {test: mood_test.tsv}, pick: {test: pick_test.tsv}}
split: test
without_train_rows: true
tasks: {mood: {}, pick: {}}
keep: results
arms:
  together: {tasks: [mood, pick], task_attention: true}
published: {source: nowhere, scores: {paper: {mood: [80.0], pick: [70.5]}}}
"""
MOOD = "text\tlabel\nA  good day\tpositive\nnew words\tnegative\nwhat now\tpositive\nmore words\tnegative\n"  # the first is trained on
PICK = "question\tanswer\tlabel\nwho?\tthe baker\t1\nwho?\tnobody\t0\nwhere?\tthere\t0\nwhere?\there\t1\n"  # the first candidate, too


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unseen")
    write_experiment(folder)
    (folder / "mood_test.tsv").write_text(MOOD, encoding="utf-8")
    (folder / "pick_test.tsv").write_text(PICK, encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    study = read_study(folder / "study.yaml")
    runs = study.plan(folder / "output")
    commands = []
    run_all(
        runs, folder / "output" / "runs", split="test", keep="results",
        runner=lambda words: commands.append(words) or run_here(words),
    )  # fmt: skip
    states = states_of(runs, Ledger(folder / "output" / "runs"), "test")
    return study, runs, states, folder / "output", commands


def _answers(run, task):
    head, *rows = (
        line.split("\t") for line in (run.directory / "predictions" / f"{task}_test.tsv").read_text().splitlines()
    )
    return {name: [row[place] for row in rows] for place, name in enumerate(head)}


def test_the_split_and_the_attention_are_asked_for_in_one_go(done):
    _, _, states, _, commands = done
    assert [words[0] for words in commands] == ["mtdnn_tf.train", "mtdnn_tf.evaluate"]
    assert commands[1][2:] == ["--split=test", "--task_attention"]
    assert states == {"together/seed-2018": FINISHED}


def test_seen_rows_are_left_out_and_queries_go_as_a_whole(done):
    study, [run], states, _, _ = done
    results = collect(study, [run], states)
    unseen = without_train_rows(study, results)
    found = unseen.results
    assert unseen.left_out == {"mood": 1, "pick": 2}
    scores = {result.task: result.score for result in found}
    mood = _answers(run, "mood")
    right = [said == gold for said, gold in zip(mood["label"], mood["gold"], strict=True)]
    assert scores["mood"] == pytest.approx(np.mean(right[1:]))
    relevance = [float(value) for value in _answers(run, "pick")["relevance"]]
    assert scores["pick"] == pytest.approx(1.0 if relevance[3] > relevance[2] else 0.5)
    assert [result.task for result in results] == [result.task for result in found]


def test_the_report_has_both_tables_and_the_heat_map(done):
    study, runs, states, folder, _ = done
    tables = write_study(study, runs, states, folder, "command")
    second = tables.split("without the rows")[1]
    assert "| rows left out | 1 | 2 | 3 | - |" in second
    assert "published: paper" in tables.split("without the rows")[0]
    assert "published: paper" not in second
    page = (folder / "report.html").read_text()
    assert "Task attention, together, test texts" in page
    attention = json.loads((runs[0].directory / "task_attention_test.json").read_text())
    assert f"{100 * attention['attention'][0][1]:.1f}" in page
    written = json.loads((folder / "results.json").read_text())["without_train_rows"]
    assert written["left_out"] == {"mood": 1, "pick": 2}
    assert [row["task"] for row in written["summary"]] == ["mood", "pick"]


def test_the_heat_map_of_several_seeds_is_their_mean(done, tmp_path):
    """The second seed's run is a copy of the first's whose tokens attend the other way."""
    _, [run], _, folder, _ = done
    (folder.parent / "two_seeds.yaml").write_text(STUDY + "seeds: [2018, 2019]\n", encoding="utf-8")
    of_two = read_study(folder.parent / "two_seeds.yaml")
    first, second = of_two.plan(tmp_path)
    for copy in (first, second):
        shutil.copytree(run.directory, copy.directory)
    attention = json.loads((run.directory / "task_attention_test.json").read_text())
    there = np.asarray(attention["attention"])
    turned = attention | {"attention": there[::-1].tolist()}
    (second.directory / "task_attention_test.json").write_text(json.dumps(turned), encoding="utf-8")
    write_study(of_two, [first, second], {first.name: FINISHED, second.name: FINISHED}, tmp_path, "command")
    page = (tmp_path / "report.html").read_text()
    assert "Task attention, together, test texts, mean of 2 seeds" in page
    assert not np.allclose(there, there[::-1], atol=1e-3)
    assert f"{50 * (there[0][1] + there[1][1]):.1f}" in page


def test_rows_that_runs_before_have_trained_on_are_seen(done):
    study, [run], states, _, _ = done
    first = next(result for result in collect(study, [run], states) if result.task == "mood")
    own = tuple(spec for spec in run.specs if spec.name == "mood")
    other = replace(run.specs[0], name="other", sources={"train": own[0].sources["test"]})
    before = replace(run, name="before", specs=(other,))
    alone = replace(first, run=replace(run, specs=own, parent=before))
    assert without_train_rows(study, [replace(first, run=replace(run, specs=own))]).left_out == {"mood": 1}
    assert without_train_rows(study, [alone]).left_out == {"mood": 4}
    assert without_train_rows(study, [alone]).results == ()


def test_of_ranking_a_query_with_an_answer_must_be_left(done):
    """The mean over no query is no score, and 0 would lower the mean of the tasks."""
    study, [run], states, _, _ = done
    path = run.directory / "predictions" / "pick_test.tsv"
    whole = path.read_text()
    head, *lines = (line.split("\t") for line in whole.splitlines())
    for line in lines[2:]:  # of the query that is left
        line[head.index("gold")] = "0"
    try:
        path.write_text("\n".join("\t".join(line) for line in [head, *lines]) + "\n")
        left = without_train_rows(study, collect(study, [run], states))
    finally:
        path.write_text(whole)
    assert [result.task for result in left.results] == ["mood"]
    assert left.left_out == {"mood": 1, "pick": 2}


def test_a_table_without_a_task_that_has_no_row_left_is_whole(done):
    study, runs, states, _, _ = done
    results = collect(study, runs, states)
    unseen = without_train_rows(study, results)
    left = Unseen(tuple(result for result in unseen.results if result.task == "pick"), {"mood": 4, "pick": 2})
    tables = markdown(study, results, left, [], [])
    assert "no row is left of mood" in tables
    block = tables.split("no row is left of mood")[1].split("\n\n")[1]
    assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| rows left out | 2 | 2 | - |" in block


def test_scores_of_an_earlier_model_do_not_stand_for_a_later_one(done, tmp_path):
    _, [run], _, _, _ = done
    cut = replace(run, directory=tmp_path / "cut", name="cut")
    shutil.copytree(run.directory, cut.directory)
    for name in ("MODEL_CARD.md", "scores.json", "metrics.jsonl"):  # not trained to its end
        (cut.directory / name).unlink()
    commands = []

    def runner(words):
        commands.append(words[0])
        if words[0] == "mtdnn_tf.train":
            assert not (cut.directory / "scores_test.json").exists()
            assert not (cut.directory / "task_attention_test.json").exists()
        run_here(words)

    run_all([cut], tmp_path, split="test", keep="all", runner=runner)
    assert commands == ["mtdnn_tf.train", "mtdnn_tf.evaluate"]


def test_other_rows_than_were_answered_are_refused(done):
    study, [run], states, _, _ = done
    path = run.directory / "predictions" / "mood_test.tsv"
    whole = path.read_text()
    try:
        path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
        with pytest.raises(UserError, match="holds 3 answers for mood, whose file now has 4 rows"):
            without_train_rows(study, collect(study, [run], states))
    finally:
        path.write_text(whole)


def test_a_run_without_its_attention_is_not_finished(done):
    _, runs, _, folder, _ = done
    path = runs[0].directory / "task_attention_test.json"
    content = path.read_text()
    try:
        path.unlink()
        assert states_of(runs, Ledger(folder / "runs"), "test") == {"together/seed-2018": CUT_OFF}
    finally:
        path.write_text(content)
