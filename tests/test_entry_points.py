"""The five commands as a user types them, in processes of their own: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.small import write_experiment


def run(module, *flags, stdin=None, cwd=None):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-m", f"mtdnn_tf.{module}", *flags],
        capture_output=True, text=True, input=stdin, cwd=cwd, env=environment, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    write_experiment(folder)
    done = run("train", "--config=small.yaml", "--set=training.epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_prints_scores_places_and_the_next_command(trained):
    folder, done = trained
    assert "average" in done.stdout
    assert "python -m mtdnn_tf.export --model_dir=runs/small" in done.stdout
    assert (folder / "runs" / "small" / "scores.json").is_file()
    assert re.search(r"step 2/11  loss: .* examples/s  \d+m\d\ds left", done.stdout)


def test_evaluate_writes_what_it_prints(trained):
    folder, _ = trained
    predictions = (folder / "runs" / "small" / "predictions" / "close_dev.tsv").read_text()
    done = run("evaluate", "--model_dir=runs/small", "--split=dev", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs" / "small" / "predictions" / "close_dev.tsv").read_text() == predictions
    scores = json.loads((folder / "runs" / "small" / "scores_dev.json").read_text())
    assert scores["average"] == pytest.approx(json.loads((folder / "runs/small/scores.json").read_text())["average"])


def test_a_split_that_a_run_lacks_is_given_in_its_own_configuration(trained):
    folder, _ = trained
    done = run("evaluate", "--model_dir=runs/small", "--split=test", cwd=folder)
    assert done.returncode == 1
    assert "no task has a labelled 'test' split" in done.stderr
    assert "(the sources of this run are in runs/small/config.yaml: change them there)" in done.stderr


def test_a_run_is_scored_in_the_precision_that_it_was_trained_in(trained):
    folder, _ = trained
    shutil.copytree(folder / "runs" / "small", folder / "runs" / "rounded")
    config = folder / "runs" / "rounded" / "config.yaml"
    assert "  precision: float32\n" in config.read_text()
    config.write_text(config.read_text().replace("  precision: float32\n", "  precision: mixed_bfloat16\n"))
    done = run("evaluate", "--model_dir=runs/rounded", "--split=dev", cwd=folder)
    assert done.returncode == 0, done.stderr
    first, rounded = (
        [float(line.split("\t")[2]) for line in path.read_text().splitlines()[1:]]
        for path in (folder / "runs" / name / "predictions" / "close_dev.tsv" for name in ("small", "rounded"))
    )
    assert first != rounded
    assert rounded == pytest.approx(first, rel=0.05, abs=0.05)


def test_predict_answers_lines_of_standard_input(trained):
    folder, _ = trained
    done = run(
        "predict", "--model_dir=runs/small", "--task=follows", stdin="\nthe dog runs\tan animal runs\n", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    head, blank, row = done.stdout.splitlines()
    assert head.split("\t")[0] == "label"
    assert blank == "\t\t"
    assert row.split("\t")[0] in ("yes", "no")
    assert "standard input: 1 blank line is not answered (the first is line 1)" in done.stderr


def test_export_and_the_exported_model_answers_as_the_run_does(trained):
    folder, _ = trained
    done = run("export", "--model_dir=runs/small", "--output_dir=served/small", "--check", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "every signature answers as the Keras model does" in done.stdout
    assert "no warm-up requests" not in done.stdout
    fingerprint = json.loads((folder / "served/small/1/assets.extra/fingerprint.json").read_text())["fingerprint"]
    assert f"fingerprint: {fingerprint} " in done.stdout
    card = (folder / "served/small/1/assets.extra/MODEL_CARD.md").read_text()
    assert card.startswith((folder / "runs/small/MODEL_CARD.md").read_text().rstrip())
    configuration = (folder / "runs/small/config.yaml").read_text().splitlines()[0].split()[-1]
    for line in (
        f"| fingerprint | {fingerprint} |",
        f"| configuration | {configuration} |",
        "| kind | text |",
        "seed 2018",
    ):
        assert line in card
    asked = ["--task=close", f"--input={folder / 'close.tsv'}", "--format=jsonl"]
    from_run = run("predict", "--model_dir=runs/small", *asked, cwd=folder)
    from_saved = run("predict", "--saved_model=served/small", *asked, cwd=folder)
    assert from_saved.returncode == 0, from_saved.stderr
    mine = [json.loads(line)["score"] for line in from_run.stdout.splitlines()]
    theirs = [json.loads(line)["score"] for line in from_saved.stdout.splitlines()]
    assert theirs == pytest.approx(mine, abs=1e-5)
    assert len(mine) == 9
    assert from_saved.stderr.splitlines()[-1] == from_run.stderr.splitlines()[-1]
    assert "pearson" in from_run.stderr


def test_an_exported_model_is_scored_by_its_own_answers(trained):
    folder, _ = trained
    asked = ["--model_dir=runs/small", "--output_dir=served/small_int8", "--weights=int8"]
    assert run("export", *asked, cwd=folder).returncode == 0
    before = sorted(folder.rglob("*"))
    done = run("evaluate", "--config=small.yaml", "--saved_model=served/small_int8", "--output=int8.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(folder.rglob("*")) == sorted([*before, folder / "int8.json"])
    assert re.search(r"answered by served/small_int8/1 \(int8 weights\)", done.stdout)
    found = json.loads((folder / "int8.json").read_text())
    expected = json.loads((folder / "runs" / "small" / "scores.json").read_text())
    assert {task: set(scores) for task, scores in found["tasks"].items()} == {
        task: set(scores) for task, scores in expected["tasks"].items()
    }
    assert found["average"] == pytest.approx(expected["average"], abs=0.1)
    other = run("evaluate", "--model_dir=runs/small", "--tasks=mood", "--saved_model=served/small_int8", cwd=folder)
    assert "mood" in other.stdout
    assert "close" not in other.stdout


def test_plan_counts_what_is_trained(trained):
    folder, _ = trained
    done = run("plan", "--config=small.yaml", "--json=plan.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["tasks"]["mood"]["examples"] == 12
    assert plan["total_steps"] == 2 * sum(task["steps_per_epoch"] for task in plan["tasks"].values())
    assert sum(task["probability"] for task in plan["tasks"].values()) == pytest.approx(1, abs=1e-3)
    low, high = plan["minutes_range"]
    assert 0 <= low <= plan["minutes"] <= high
    assert "tasks.mood.dev: 12 of 12 rows are in tasks.mood.train too" in " ".join(done.stdout.split())
    assert set(plan["parameters"]) >= {"encoder"}


BAD = [
    (["train"], "--config is missing"),
    (["train", "--config=none.yaml"], "none.yaml"),
    (["train", "--config=small.yaml", "--set=training.epoch=1"], "epochs"),
    (["train", "--config=small.yaml", "--tasks=moot"], "Did you mean 'mood'"),
    (["train", "--config=small.yaml", "stray"], "unexpected argument 'stray'"),
    (["train", "--config=small.yaml", "--set=tasks.mood.head=sann", "--model_dir=runs/x"], "'san'"),
    (
        ["train", "--config=small.yaml", "--set=encoder.source=package://no_such_module/x", "--model_dir=runs/x"],
        "no_such_module",
    ),
    (["predict", "--task=mood"], "--model_dir"),
    (["evaluate", "--model_dir=nowhere"], "not a run directory"),
    (["evaluate", "--config=small.yaml", "--saved_model=nowhere"], "holds no SavedModel"),
    (
        ["evaluate", "--config=small.yaml", "--saved_model=nowhere", "--without_train_rows"],
        "--without_train_rows: for runs only, not for --saved_model",
    ),
    (["evaluate", "--model_dir=nowhere", "--tasks=mood"], "--tasks: a run is scored as it was trained"),
    (["evaluate", "--model_dir=nowhere", "--saved_model=nowhere", "--seed=1"], "--seed: a run keeps its configuration"),
    (
        ["export", "--model_dir=nowhere", "--precision=mixed_bfloat16"],
        "--precision: a run is exported as it was trained",
    ),
    (["predict", "--model_dir=nowhere", "--task=mood", "--set=data.max_length=16"], "--set: a model answers as it was"),
    (["predict", "--saved_model=nowhere", "--task=mood", "--config=small.yaml"], "--config: a model answers as it was"),
    (["export", "--model_dir=nowhere", "--config=small.yaml"], "--config: a run is exported as it was trained"),
    (["evaluate", "--model_dir=nowhere", "--task_file=x:y"], "--task_file: a run is scored as it was trained"),
    (["compare", "--config=small.yaml", "--model_dir=nowhere"], "--output_dir names their folder"),
    (["init", "--train=mood.tsv", "--config=small.yaml"], "--config: there is no configuration yet"),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_a_bad_command_is_one_line_and_a_failure(tmp_path, words, expected):
    write_experiment(tmp_path)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(tmp_path):
    done = run("train", "--config=none.yaml", "--debug", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
