"""A study goes on elsewhere: finished runs travel in one file, and are what they were; others are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from mtdnn_tf.config import dump_config
from mtdnn_tf.errors import UserError
from mtdnn_tf.provenance import header
from mtdnn_tf.studies.archive import Archive
from mtdnn_tf.studies.progress import CUT_OFF, FINISHED, TO_DO, Ledger, states_of
from mtdnn_tf.studies.running import run_all
from mtdnn_tf.studies.study import read_study
from mtdnn_tf.studies.writing import write_study
from mtdnn_tf.training.manifest import write_manifest
from tests.small import write_experiment
from tests.studies.in_process import run_here

STUDY = """
title: Here and there
budget: one epoch
config: small.yaml
set: {training: {epochs: 1, log_every: 1}}
seeds: [1, 2]
tasks: {mood: {}}
bootstrap: 50
keep: results
arms:
  together: {tasks: [mood, close]}
  tuned: {init_from: together, heads: kept, each_task: true}
"""
FIRST = ["together/seed-1", "tuned/mood/seed-1"]


def _study(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_experiment(folder)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    study = read_study(folder / "study.yaml")
    return study, study.plan(folder / "output")


def _archive(path, folder):
    return Archive(path, folder / "output", folder / "study.yaml")


def _open(folder, path, **changes):
    """Put an archive's runs into the study of another folder; return the study, its runs and their states."""
    study, runs = _study(folder)
    for name, text in changes.items():
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    root = folder / "output" / "runs"
    _archive(path, folder).restore(runs, Ledger(root))
    return study, runs, states_of(runs, Ledger(root))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One seed of the study, trained by its command, and the archive that it wrote."""
    folder = tmp_path_factory.mktemp("here")
    study, runs = _study(folder)
    path = folder / "finished.zip"
    run_here([
        "mtdnn_tf.compare", f"--config={folder / 'study.yaml'}", f"--output_dir={folder / 'output'}", "--seeds=1",
        f"--finished={path}",
    ])  # fmt: skip
    return study, runs, folder, path


def test_runs_are_finished_elsewhere_and_make_the_same_tables(done, tmp_path):
    _, _, folder, path = done
    there, runs_there, states = _open(tmp_path, path)
    assert [name for name, state in states.items() if state == FINISHED] == FIRST
    assert {state for name, state in states.items() if name not in FIRST} == {TO_DO}
    tables = write_study(there, runs_there, states, tmp_path / "output", "command")
    assert tables == (folder / "output" / "table.md").read_text()
    results = [json.loads((each / "output" / "results.json").read_text()) for each in (folder, tmp_path)]
    assert results[0]["comparisons"] == results[1]["comparisons"]
    assert [row["score"] for row in results[0]["runs"]] == [row["score"] for row in results[1]["runs"]]
    first, second = (Ledger(each / "output" / "runs")[FIRST[1]] for each in (folder, tmp_path))
    assert (first.seconds, first.started_from) == (second.seconds, second.started_from)
    assert first.started_from
    assert second.data == {str(tmp_path / Path(path).name): digest for path, digest in first.data.items()}
    assert str(tmp_path / "mood.tsv") in second.data


def test_it_holds_no_weights_and_no_folder_of_the_machine(done):
    _, _, folder, path = done
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        assert not [name for name in names if "weights" in name or "checkpoints" in name]
        assert f"{FIRST[1]}/predictions/mood_dev.tsv" in names
        assert not [name for name in names if str(folder) in file.read(name).decode()]


def test_what_was_finished_elsewhere_is_kept_and_the_same_runs_make_the_same_file(done, tmp_path):
    _, _, _, path = done
    _, runs, states = _open(tmp_path, path)
    copy = tmp_path / "copy.zip"
    shutil.copy(path, copy)
    archive = _archive(copy, tmp_path)
    assert archive.write([], {}, Ledger(tmp_path / "output" / "runs"), "dev") == 2
    assert copy.read_bytes() == path.read_bytes()
    assert archive.write(runs, states, Ledger(tmp_path / "output" / "runs"), "dev") == 2
    assert copy.read_bytes() == path.read_bytes()


def test_a_run_that_is_there_is_left_alone(done, tmp_path):
    _, _, _, path = done
    own = tmp_path / "output" / "runs" / FIRST[0] / "metrics.jsonl"
    own.parent.mkdir(parents=True)
    own.write_text("")
    _, _, states = _open(tmp_path, path)
    assert own.read_text() == ""
    assert states[FIRST[0]] != FINISHED


def _without(path, target, *left_out):
    """Copy an archive without some of its runs."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        index = json.loads(old.read("archive.json"))
        index["runs"] = {name: entry for name, entry in index["runs"].items() if name not in left_out}
        new.writestr("archive.json", json.dumps(index))
        for name, entry in index["runs"].items():
            for own in entry["files"]:
                new.writestr(f"{name}/{own}", old.read(f"{name}/{own}"))
    return target


def test_a_run_is_left_out_that_one_starts_from_which_is_not_in_it(done, tmp_path):
    """Its weights are needed; what started from it elsewhere is trained again, too."""
    _, _, _, path = done
    part = _without(path, tmp_path / "part.zip", FIRST[1])
    folder = tmp_path / "all"
    _, runs, states = _open(folder, part)
    assert set(states.values()) == {TO_DO}
    one_seed = [run for run in runs if run.seed == 2]
    assert _archive(part, folder).restore(runs, Ledger(folder / "output" / "runs"), one_seed) == FIRST[:1]


@pytest.mark.parametrize("is_retrained", [False, True])
def test_what_started_from_a_run_that_is_trained_again_here_is_trained_again_too(done, tmp_path, is_retrained):
    """However far that is by now: else nothing could end the study, as its weights are others than those of the archive's runs."""
    _, _, folder, path = done
    _, runs = _study(tmp_path)
    root = tmp_path / "output" / "runs"
    parent = runs[0].directory
    shutil.copytree(folder / "output" / "runs" / FIRST[0], parent)
    config = parent / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path)))
    if is_retrained:
        with next((parent / "best").glob("weights.data*")).open("ab") as file:
            file.write(b"other")
        write_manifest(parent / "best")
    else:
        (parent / "scores.json").unlink()
    assert _archive(path, tmp_path).restore(runs, Ledger(root)) == []
    states = states_of(runs, Ledger(root))
    assert states[FIRST[1]] == TO_DO
    assert states[FIRST[0]] == (FINISHED if is_retrained else CUT_OFF)


def test_what_started_from_the_run_that_is_here_is_put_in_place(done, tmp_path):
    _, _, folder, path = done
    _, runs = _study(tmp_path)
    parent = runs[0].directory
    shutil.copytree(folder / "output" / "runs" / FIRST[0], parent)
    config = parent / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path)))
    assert _archive(path, tmp_path).restore(runs, Ledger(tmp_path / "output" / "runs")) == FIRST[1:]


def test_study_configuration_and_runs_may_lie_in_folders_of_their_own(done, tmp_path, monkeypatch):
    """Named by ways that go up: configurations hold paths without them."""
    _, _, folder, _ = done
    path = tmp_path / "finished.zip"

    def plan(place):
        (place / "studies").mkdir(parents=True)
        write_experiment(place)
        shutil.move(place / "mood.tsv", place / "studies" / "mood.tsv")
        own = "{training: {epochs: 1, log_every: 1}, tasks: {mood: {train: mood.tsv, dev: mood.tsv}}}"
        text = STUDY.replace("small.yaml", "../small.yaml").replace("{training: {epochs: 1, log_every: 1}}", own)
        (place / "studies" / "study.yaml").write_text(text, encoding="utf-8")
        monkeypatch.chdir(place / "studies")
        file, output = Path("study.yaml"), Path("../output")
        return read_study(file).plan(output)[:2], Archive(path, output, file), Ledger(output / "runs")

    runs, archive, ledger = plan(tmp_path / "one")
    _copy_runs(folder, runs)
    archive.write(runs, dict.fromkeys(FIRST, FINISHED), ledger, "dev")
    runs, archive, ledger = plan(tmp_path / "other" / "place")
    assert archive.restore(runs, ledger) == FIRST
    with zipfile.ZipFile(path) as file:
        assert not [name for name in file.namelist() if str(tmp_path) in file.read(name).decode()]


def _copy_runs(folder, runs):
    """Put files of finished runs in place, under the configurations of these."""
    for run in runs:
        shutil.copytree(folder / "output" / "runs" / run.name, run.directory)
        (run.directory / "config.yaml").write_text(header(run.config) + dump_config(run.config), encoding="utf-8")


def test_a_finished_run_without_weights_stays_finished_and_nothing_starts_from_it(done, tmp_path):
    _, _, _, path = done
    _, runs, _ = _open(tmp_path, path)
    shutil.rmtree(runs[1].directory)
    root = tmp_path / "output" / "runs"
    assert states_of(runs, Ledger(root))[FIRST[0]] == FINISHED
    with pytest.raises(
        UserError, match=r"arms\.tuned: tuned/mood/seed-1 starts from .*whose weights are gone.* remove that"
    ):
        run_all(runs, root, keep="results", runner=lambda words: pytest.fail(str(words)))
    assert (runs[0].directory / "scores.json").is_file()
    run_all(runs, root, keep="results", wanted=runs[:1], runner=lambda words: pytest.fail(str(words)))
    with pytest.raises(UserError, match="this one is trained"):
        run_all(runs, root, wanted=[run for run in runs if run.seed == 2], runner=_refuse)


def _refuse(words):
    raise UserError("this one is trained")


def test_what_others_have_written_meanwhile_is_kept(done, tmp_path):
    _, _, _, path = done
    _, runs, states = _open(tmp_path, path)
    ledger, target = Ledger(tmp_path / "output" / "runs"), tmp_path / "target.zip"
    one, other = (_archive(target, tmp_path) for _ in range(2))
    assert one.write(runs[:1], states, ledger, "dev") == 1
    assert other.write(runs[1:2], states, ledger, "dev") == 2
    assert target.read_bytes() == path.read_bytes()


def test_other_data_and_other_configurations_are_refused(done, tmp_path):
    _, _, folder, path = done
    changed = (folder / "mood.tsv").read_text() + "more\tpositive\n"
    with pytest.raises(
        UserError, match=r"finished\.zip: together/seed-1 was trained and scored on other data: .*mood\.tsv"
    ):
        _open(tmp_path / "data", path, mood=changed)
    folder = tmp_path / "configuration"
    _study(folder)
    runs = read_study(folder / "study.yaml").plan(folder / "output", ["optimizer.learning_rate=1.0e-5"])
    with pytest.raises(UserError, match=r"another configuration: optimizer\.learning_rate"):
        _archive(path, folder).restore(runs, Ledger(folder / "output" / "runs"))
    for each in ("data", "configuration"):
        assert not list((tmp_path / each / "output").rglob("metrics.jsonl"))


def _with(path, target, name, text):
    """Copy an archive with one of its files changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, text if entry == name else old.read(entry))
    return target


@pytest.mark.parametrize(
    "index",
    [
        "no JSON",
        "[]",
        '{"format": 2, "runs": {}}',
        '{"format": 1, "runs": {"a": {"record": {}, "data": {}, "files": ["../../escaped"]}}}',
        '{"format": 1, "runs": {"a": {"record": {}, "data": {}, "files": ["missing.txt"]}}}',
        '{"format": 1, "runs": {"together/seed-1": {"record": {"other": 1}, "data": {}, "files": []}}}',
    ],
)
def test_damaged_archives_are_told(done, tmp_path, index):
    _, _, _, path = done
    damaged = _with(path, tmp_path / "damaged.zip", "archive.json", index)
    with pytest.raises(UserError, match=r"damaged\.zip: damaged, or no archive of finished runs"):
        _archive(damaged, tmp_path)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(UserError, match=r"text\.zip: damaged"):
        _archive(tmp_path / "text.zip", tmp_path)


def test_no_flipped_bit_ends_in_more_than_a_message(done, tmp_path):
    _, _, _, path = done
    content = path.read_bytes()
    damaged = tmp_path / "damaged.zip"
    told = 0
    for place in range(0, len(content), len(content) // 200):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            _archive(damaged, tmp_path)
        except UserError:
            told += 1
    assert told > 100
