"""A study from its file to its report: two arms, two seeds, numbers that are those of the runs."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from mtdnn_tf.config import dump_config
from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.provenance import header
from mtdnn_tf.studies.progress import FINISHED, TO_DO, Ledger, states_of, summary
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.study import read_study, restricted
from mtdnn_tf.studies.writing import write_study
from tests.small import write_experiment
from tests.studies.in_process import run_here

STUDY = """
title: Together < alone
budget: one epoch
config: small.yaml
set: {training: {epochs: 1, log_every: 1}, data: {batch_size: 12}}
seeds: [1, 2]
tasks: {mood: {}, pick: {seeds: 1, also: [map, mrr]}}
bootstrap: 50
keep: results
arms:
  together: {tasks: [mood, pick]}
  tuned: {init_from: together, heads: kept, each_task: true, title: "one & one"}
published: {source: nowhere, scores: {paper: {mood: [80.0], pick: [70.5]}}}
"""
NAMES = [
    "together/seed-1", "tuned/mood/seed-1", "tuned/pick/seed-1", "together/seed-2", "tuned/mood/seed-2",
]  # fmt: skip


def _read(folder, text=STUDY):
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return read_study(folder / "study.yaml")


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.targets = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta" and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study trained in two parts: first one seed of one arm, then the rest."""
    folder = tmp_path_factory.mktemp("study")
    write_experiment(folder)
    study = _read(folder)
    output = folder / "output"
    runs = study.plan(output)
    parts = []
    for wanted in (restricted(study, runs, arms=["tuned"], tasks=["mood"], seeds=[1]), None):
        commands = []
        run_all(
            runs, output / "runs", keep="results", wanted=wanted,
            runner=lambda words, commands=commands: commands.append(words) or run_here(words),
        )  # fmt: skip
        tables = write_study(
            study, runs, states_of(runs, Ledger(output / "runs")), output, "python -m <command> & more"
        )
        parts.append((commands, tables, json.loads((output / "results.json").read_text())))
    return study, runs, output, parts


def _runs_of(commands, output):
    return [words[2].removeprefix(f"--model_dir={output / 'runs'}/") for words in commands]


def test_shared_stages_are_trained_once_a_seed(done):
    _, runs, _, _ = done
    assert [run.name for run in runs] == NAMES


def test_a_restricted_run_trains_its_part_and_the_rest_adds_to_it(done):
    _, _, output, parts = done
    assert _runs_of(parts[0][0], output) == ["together/seed-1", "tuned/mood/seed-1"]
    assert _runs_of(parts[1][0], output) == NAMES[2:]
    assert parts[0][2]["remaining"] == NAMES[2:]
    assert parts[1][2]["remaining"] == []
    assert len(parts[0][2]["runs"]) == 3  # both tasks of the one, and one of the other


def test_every_number_is_that_of_its_run(done):
    _, _, output, parts = done
    results = parts[1][2]
    rows = {(row["arm"], row["task"], row["seed"]): row for row in results["runs"]}
    assert len(rows) == len(results["runs"]) == 2 * 3
    for (arm, task, _), row in rows.items():
        scores = json.loads((output / row["run"] / "scores.json").read_text())["tasks"][task]
        assert row["metrics"] == scores
        assert row["score"] == scores[row["main_metric"]]
        assert row["configuration"] == (output / row["run"] / "config.yaml").read_text().split()[2]
        assert any(path.endswith(f"{task}.tsv") for path in row["data"])
        assert row["versions"]["tensorflow"].startswith("2.")
        assert row["started_from"] == (f"runs/together/seed-{row['seed']}" if arm == "tuned" else None)
        assert row["steps_before"] == (3 if arm == "tuned" else 0)
    summaries = {(row["arm"], row["task"]): row for row in results["summary"]}
    mood = [rows["tuned", "mood", seed]["score"] for seed in (1, 2)]
    assert summaries["tuned", "mood"]["mean"] == pytest.approx(np.mean(mood))
    assert summaries["tuned", "mood"]["deviation"] == pytest.approx(abs(mood[0] - mood[1]) / np.sqrt(2))
    assert summaries["tuned", "pick"]["deviation"] is None
    assert summaries["together", "pick"]["seeds"] == [1]
    cell = f"{50 * sum(mood):.2f} ± {100 * abs(mood[0] - mood[1]) / np.sqrt(2):.2f}"
    assert cell in parts[1][1]


def test_differences_are_paired_by_seed(done):
    _, _, _, parts = done
    results = parts[1][2]
    score = {(row["arm"], row["task"], row["seed"]): row["score"] for row in results["runs"]}
    found = {(row["arm"], row["other"], row["task"]): row for row in results["comparisons"]}
    mood = found["tuned", "together", "mood"]
    differences = [score["tuned", "mood", seed] - score["together", "mood", seed] for seed in (1, 2)]
    assert mood["seeds"] == [1, 2]
    assert mood["over_seeds"]["difference"] == pytest.approx(np.mean(differences))
    assert mood["over_seeds"]["deviation"] == pytest.approx(np.std(differences, ddof=1))
    assert set(mood["mcnemar"]) == {"1", "2"}
    assert mood["bootstrap"]["low"] <= mood["over_seeds"]["difference"] <= mood["bootstrap"]["high"]
    assert found["tuned", "together", "pick"]["mcnemar"] is None
    pick = score["tuned", "pick", 1] - score["together", "pick", 1]
    assert found["tuned", "together", "pick"]["over_seeds"]["difference"] == pytest.approx(pick)
    everything = found["tuned", "together", "all tasks, one pair a task and seed"]
    assert everything["over_seeds"]["pairs"] == 3


def test_the_report_is_one_whole_page_that_needs_nothing_else(done):
    _, _, output, _ = done
    source = (output / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(source)
    assert page.open == []
    assert page.targets == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "http" not in source
    assert {"svg", "circle", "table"} <= set(page.tags)
    for expected in ("Together < alone", "one & one", "python -m <command> & more", "published: paper", "70.5"):
        assert expected in page.text


def test_tables_have_as_many_cells_in_every_row(done):
    _, _, output, _ = done
    blocks = [block for block in (output / "table.md").read_text(encoding="utf-8").split("\n\n") if block[0] == "|"]
    assert len(blocks) == 3
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_further_metrics_have_a_table(done):
    _, _, output, parts = done
    [row] = [row for row in parts[1][2]["runs"] if (row["arm"], row["task"]) == ("tuned", "pick")]
    lines = (output / "table.md").read_text(encoding="utf-8").splitlines()
    place = lines.index("| arm | pick, map | pick, mrr |")
    values = " | ".join(f"{100 * row['metrics'][name]:.2f}" for name in ("map", "mrr"))
    assert f"| one & one | {values} |" in lines[place : place + 4]
    assert "Further metrics" in (output / "report.html").read_text(encoding="utf-8")


def test_weights_stay_only_where_an_arm_starts_from_them(done):
    _, _, output, _ = done
    kept = sorted(str(path.parent.relative_to(output / "runs")) for path in output.rglob("best"))
    assert kept == ["together/seed-1", "together/seed-2"]


def test_tables_of_a_part_say_so(done):
    _, _, _, parts = done
    assert "3 runs are still to be trained" in parts[0][1]
    assert "still to be trained" not in parts[1][1]
    row = next(line for line in parts[1][1].splitlines() if line.startswith("| together |"))
    assert row.split(" | ")[2].endswith(" (n = 1)")  # pick: of one seed, mood of two


def test_what_remains_is_told_with_a_time(done):
    _, runs, output, _ = done
    ledger = Ledger(output / "runs")
    states = dict.fromkeys((run.name for run in runs), FINISHED) | {"tuned/mood/seed-2": "to do"}
    told = summary(runs, states, ledger)
    assert told.startswith("1 of 5 runs remain, about ")
    assert "tuned     2 finished, 1 to do" in told


POINTS = """
title: Shares
budget: one epoch
config: small.yaml
set: {training: {epochs: 1}}
seeds: [1, 2]
resample: true
tasks: {mood: {also: [accuracy]}}
bootstrap: 20
points:
  x: percent
  log: true
  values:
    - {x: 0.1, set: {tasks: {mood: {max_examples: 2}}}}
    - {x: 100, set: {tasks: {mood: {max_examples: 12}}}}
arms:
  alone: {each_task: true}
  together: {scored: false, seed: 5}
  tuned: {init_from: together, heads: stripped, each_task: true}
published: {source: nowhere, scores: {paper: {mood: [51.2, 94.3]}}}
"""
POINT_NAMES = [f"mood/{x}/seed-{seed}" for seed in (1, 2) for x in ("0.1", "100")]


def test_points_and_samples_make_runs_of_their_own(tmp_path):
    write_experiment(tmp_path)
    runs = _read(tmp_path, POINTS).plan(tmp_path / "output")
    names = [run.name for run in runs]
    assert names[2] == "together/seed-5"
    assert [name for name in names if name.startswith("tuned/")] == [f"tuned/{name}" for name in POINT_NAMES]
    tuned = [run for run in runs if run.stage.name == "tuned"]
    assert [run.config.tasks["mood"].max_examples for run in tuned] == [2, 12, 2, 12]
    assert [run.config.tasks["mood"].sample_seed for run in tuned] == [1, 1, 2, 2]
    assert [run.config.training.seed for run in tuned] == [1, 1, 2, 2]
    assert {run.config.training.init_from for run in tuned} == {
        str(tmp_path / "output" / "runs" / "together" / "seed-5")
    }


def test_a_point_may_take_fewer_seeds(tmp_path):
    write_experiment(tmp_path)
    runs = _read(tmp_path, POINTS.replace("{x: 100, ", "{x: 100, seeds: {mood: 1}, ")).plan(tmp_path / "output")
    assert [run.name for run in runs if run.stage.name == "tuned"] == [f"tuned/{name}" for name in POINT_NAMES[:3]]


def test_a_point_may_take_more_seeds_than_its_task_and_shows_them(tmp_path):
    write_experiment(tmp_path)
    text = POINTS.replace("{also: [accuracy]}", "{seeds: 1}").replace("{x: 0.1, ", "{x: 0.1, seeds: {mood: 2}, ")
    study = _read(tmp_path, text)
    tuned = [run for run in study.plan(tmp_path / "output") if run.stage.name == "tuned"]
    assert [run.name for run in tuned] == [f"tuned/{POINT_NAMES[place]}" for place in (0, 1, 2)]
    assert all(study.has_result(run, "mood") for run in tuned)


def test_a_run_of_several_tasks_shows_a_point_for_as_many_seeds_as_the_task_takes_there(tmp_path):
    write_experiment(tmp_path)
    text = POINTS.replace("tasks: {mood: {also: [accuracy]}}", "tasks: {mood: {}, pick: {}}").replace(
        "{x: 100, ", "{x: 100, seeds: {pick: 1}, "
    )
    study = _read(tmp_path, text.replace("alone: {each_task: true}", "alone: {}").replace("published:", "#"))
    shown = {run.name: study.has_result(run, "pick") for run in study.plan(tmp_path / "output") if "alone" in run.name}
    assert shown == {
        "alone/0.1/seed-1": True,
        "alone/100/seed-1": True,
        "alone/0.1/seed-2": True,
        "alone/100/seed-2": False,
    }


def test_points_have_a_table_and_a_curve_for_each_task(done, tmp_path):
    """The runs are copies of a finished one, each under the configuration of its place."""
    write_experiment(tmp_path)
    study = _read(tmp_path, POINTS)
    runs = study.plan(tmp_path / "output")
    for run in runs:
        shutil.copytree(done[2] / "runs" / "tuned" / "mood" / "seed-1", run.directory)
        (run.directory / "config.yaml").write_text(header(run.config) + dump_config(run.config), encoding="utf-8")
        shutil.copytree(done[2] / "runs" / "together" / "seed-1" / "best", run.directory / "best")
    states = states_of(runs, Ledger(tmp_path / "output" / "runs"))
    tables = write_study(study, runs, states, tmp_path / "output", "python")
    assert "| arm | percent 0.1 | percent 100 |" in tables
    assert "| arm | percent | mood, accuracy |" in tables
    further = tables[tables.index("Further metrics") :].split("\n\n")[1].splitlines()
    assert [line.split(" | ")[:2] for line in further[2:]] == [
        ["| alone", "0.1"], ["| alone", "100"], ["| tuned", "0.1"], ["| tuned", "100"],
    ]  # fmt: skip
    assert "| published: paper | 51.2 | 94.3 |" in tables
    comparisons = json.loads((tmp_path / "output" / "results.json").read_text())["comparisons"]
    assert [(row["x"], row["seeds"], row["over_seeds"]["difference"]) for row in comparisons] == [
        (0.1, [1, 2], 0.0),
        (100.0, [1, 2], 0.0),
    ]
    page = _Page()
    page.feed((tmp_path / "output" / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "percent 100" in page.text
    assert page.tags.count("circle") >= 4  # two arms at two points


FIXED = """
title: One seed for all
budget: one epoch
config: small.yaml
seeds: [1, 2]
tasks: {mood: {}}
arms:
  base: {}
  tuned: {init_from: base, heads: kept, seed: 2}
  last: {init_from: tuned, heads: kept}
"""


def test_a_run_for_all_seeds_may_start_from_that_of_any_seed(tmp_path):
    write_experiment(tmp_path)
    runs = _read(tmp_path, FIXED).plan(tmp_path / "output")
    assert {run.name: run.parent and run.parent.name for run in runs} == {
        "base/seed-1": None,
        "base/seed-2": None,
        "tuned/seed-2": "base/seed-2",
        "last/seed-1": "tuned/seed-2",
        "last/seed-2": "tuned/seed-2",
    }
    names = [run.name for run in runs]
    assert all(run.parent is None or names.index(run.parent.name) < names.index(run.name) for run in runs)


def test_further_seeds_of_an_arm_leave_its_one_run_what_it_is(tmp_path):
    write_experiment(tmp_path)
    one = {run.name: run.config for run in _read(tmp_path, FIXED).plan(tmp_path / "output")}
    all_seeds = _read(tmp_path, FIXED.replace(", seed: 2", "")).plan(tmp_path / "output")
    known = {run.name: run.config for run in all_seeds}
    assert known.keys() - one.keys() == {"tuned/seed-1"}
    for name in (
        "base/seed-1",
        "base/seed-2",
        "tuned/seed-2",
        "last/seed-2",
    ):  # last/seed-1 has now a start of its own seed
        assert known[name] == one[name]


def test_no_run_is_trained_that_no_table_shows(tmp_path):
    write_experiment(tmp_path)
    text = FIXED.replace("{mood: {}}", "{mood: {seeds: 1}, close: {}}").partition("arms:")[0]
    study = _read(tmp_path, text + "arms: {some: {tasks: [mood]}, all: {tasks: [mood, close]}}\n")
    assert [run.name for run in study.plan(tmp_path / "output")] == ["some/seed-1", "all/seed-1", "all/seed-2"]
    lender = "some: {tasks: [mood]}, from_it: {init_from: some, heads: stripped, tasks: [close]}"
    runs = _read(tmp_path, text + f"arms: {{{lender}}}\n").plan(tmp_path / "output")
    assert [run.name for run in runs] == ["some/seed-1", "from_it/seed-1", "some/seed-2", "from_it/seed-2"]


BAD = {
    "no rows to score": (
        "bootstrap: 50",
        "split: test",
        r"study\.yaml:\d+: arms\.\w+: tasks\.\w+\.test: is missing; the study scores its tasks on it \(split: test\)",
    ),
    "attention that is not there": (
        'title: "one & one"',
        "task_attention: true",
        r"arms\.tuned\.task_attention: only tokens of model\.sharing: layerwise_explicit attend.* received 'stack_cls'",
    ),
    "two arms of one title": ('title: "one & one"', 'title: "together"', r"arms: two arms have the title 'together'"),
    "two points at one place": (
        "bootstrap: 50",
        "points: {x: share, values: [{x: 1, set: {}}, {x: 1, set: {}}]}",
        r"points\.values: x: two points are at 1",
    ),
    "another main metric": (
        'title: "one & one"',
        "set: {tasks: {pick: {main_metric: accuracy_at_1}}}",
        r"arms\.tuned: tasks\.pick\.main_metric: must be one in all arms.* received 'accuracy_at_1', and",
    ),
    "no budget": ("budget: one epoch\n", "", r"budget: is missing"),
    "pair": ("keep: results", "compare: [[tuned, moot]]", r"study\.yaml:\d+: compare: unknown scored arm 'moot'"),
    "pair of one": ("keep: results", "compare: [[tuned, tuned]]", r"compare: must be pairs of two arms, received"),
    "published task": (
        "mood: [80.0]",
        "moot: [80.0]",
        r"study\.yaml:\d+: published\.scores\.paper: unknown task of the study 'moot'\. Did you mean 'mood'",
    ),
    "seed of its own": (
        "log_every: 1}",
        "log_every: 1, seed: 7}",
        r"study\.yaml:\d+: set\.training\.seed: a study has seeds of its own; change `seeds`",
    ),
    "published": (
        "mood: [80.0]",
        "mood: [80.0, 1.0]",
        r"published\.scores\.paper\.mood: needs a number for each point, 1; received 2",
    ),
    "task": (
        "tasks: {mood: {}, ",
        "tasks: {mood: {}, moot: {}, ",
        r"unknown task of the stages 'moot'\. Did you mean 'mood'",
    ),
    "metric": (
        "also: [map, mrr]",
        "also: [map, mar]",
        r"study\.yaml: tasks\.pick\.also: unknown metric of the task 'mar'\..* Known: accuracy_at_1, map, mrr",
    ),
    "seeds of a point": (
        "bootstrap: 50",
        "points: {x: share, values: [{x: 1, seeds: {moot: 1}, set: {}}]}",
        r"points\.values\.seeds: unknown task of the study 'moot'\. Did you mean 'mood'",
    ),
    "key of a point": (
        "bootstrap: 50",
        "points: {x: share, values: [{x: 1, sets: {}}]}",
        r"points\.values: must be \{x: <number>, set: \{...\}\}, and may hold seeds",
    ),
    "key": ("keep: results", "keeps: results", r"keeps: unknown key 'keeps'\. Did you mean 'keep'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_told(tmp_path, case):
    write_experiment(tmp_path)
    old, new, expected = BAD[case]
    with pytest.raises(UserError, match=expected):
        _read(tmp_path, STUDY.replace(old, new)).plan(tmp_path / "output")


def test_what_a_study_has_not_can_not_be_asked_for(done):
    study, runs, _, _ = done
    with pytest.raises(UserError, match=r"--arms: unknown arm 'tune'\. Did you mean 'tuned'"):
        restricted(study, runs, arms=["tune"])
    with pytest.raises(UserError, match=r"--arms, --tasks and --seeds leave no run"):
        restricted(study, runs, arms=["tuned"], tasks=["pick"], seeds=[2])
    with pytest.raises(UserError, match=r"--seeds: 3 is none of the study's: 1, 2"):
        restricted(study, runs, seeds=[3])


def test_tables_are_made_though_a_run_is_gone_that_others_started_from(done, tmp_path):
    study, runs, output, _ = done
    shutil.copytree(output, tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "runs" / "together" / "seed-1")
    moved = [_moved(run, output, tmp_path / "output") for run in runs]
    states = dict.fromkeys(NAMES, FINISHED) | {NAMES[0]: TO_DO}
    assert "1 runs are still to be trained" in write_study(study, moved, states, tmp_path / "output", "python")


def _moved(run, old, new):
    parent = run.parent and _moved(run.parent, old, new)
    return replace(run, directory=new / run.directory.relative_to(old), parent=parent)


def test_before_anything_is_finished_the_report_is_there(tmp_path):
    write_experiment(tmp_path)
    study = _read(tmp_path)
    runs = study.plan(tmp_path / "output")
    states = states_of(runs, Ledger(tmp_path / "output" / "runs"))
    write_study(study, runs, states, tmp_path / "output", "python")
    assert "5 runs are still to be trained" in (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "output" / "results.json").read_text())["runs"] == []


def test_one_process_at_a_time_trains_a_study(tmp_path):
    write_experiment(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    command = ["mtdnn_tf.compare", f"--config={tmp_path / 'study.yaml'}", f"--output_dir={tmp_path / 'output'}"]
    with DirectoryLock(tmp_path / "output") as lock:
        lock.acquire()
        with pytest.raises(UserError, match=r"another process .* trains in this directory; .* another --output_dir"):
            run_here(command)
        run_here([*command, "--dry_run"])


def test_what_stopped_a_study_is_told_though_its_tables_fail(tmp_path, monkeypatch, capsys):
    write_experiment(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")

    def fail(error):
        raise error

    monkeypatch.setattr("mtdnn_tf.compare.run_all", lambda *_, **__: fail(Interrupted(signal.SIGTERM, "stopped")))
    monkeypatch.setattr("mtdnn_tf.compare.write_study", lambda *_: fail(UserError("no space")))
    with pytest.raises(Interrupted, match="stopped"):
        run_here(["mtdnn_tf.compare", f"--config={tmp_path / 'study.yaml'}", f"--output_dir={tmp_path / 'output'}"])
    assert "what is finished could not be told: no space" in capsys.readouterr().err
