"""Files that a task is asked with: laid out as its own data, or plainly; with labels they are scored."""

from __future__ import annotations

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.answering import ExportedModel, in_order_of_lines, read_input, score_exported, score_input
from mtdnn_tf.config import SourceConfig
from mtdnn_tf.serving.metadata import describe_task, described_task


@pytest.fixture
def close(experiment):
    return next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "close")


def _write(path, text):
    path.write_text(text)
    return str(path)


def test_a_file_laid_out_as_the_tasks_own_is_read_with_its_labels(close, tmp_path):
    examples = read_input(close, _write(tmp_path / "x.tsv", "sentence1\tsentence2\tscore\na\tb\t2.5\n"))
    assert examples.labels.tolist() == [2.5]


def test_a_file_without_labels_is_read_all_the_same(close, tmp_path):
    assert read_input(close, _write(tmp_path / "x.tsv", "sentence2\tsentence1\nb\ta\n")).labels is None


def test_a_file_with_the_tasks_column_names_is_read_where_its_own_data_have_others(close, tmp_path):
    columns = {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}
    task = dataclasses.replace(close, sources={"dev": SourceConfig("dev.tsv", columns=columns, header=True)})
    own = read_input(task, _write(tmp_path / "own.tsv", "#1 String\t#2 String\tQuality\na\tb\t1\n"))
    plain = read_input(task, _write(tmp_path / "plain.jsonl", '{"sentence1": "a", "sentence2": "b"}\n'))
    assert own.texts == plain.texts == (["a"], ["b"])
    assert own.labels.tolist() == [1]
    assert plain.labels is None


def test_another_fault_is_not_taken_for_another_layout(close, tmp_path):
    path = _write(tmp_path / "x.tsv", "sentence1\tsentence2\tscore\na\tb\thigh\n")
    with pytest.raises(mtdnn.UserError, match=r"x\.tsv:2: column 'score': 'high' is not a number"):
        read_input(close, path)
    with pytest.raises(mtdnn.UserError, match="no column 'sentence1'"):
        read_input(close, _write(tmp_path / "y.tsv", "first\tsecond\na\tb\n"))


def test_every_row_of_a_file_is_answered(close, tmp_path):
    """Whatever part of its own files the task trains on or is scored on."""
    dev = dataclasses.replace(close.sources["dev"], rows="[-1:]", ignore_labels=("-",))
    task = dataclasses.replace(close, sources={"dev": dev})
    rows = ["sentence1\tsentence2\tscore", "a\tb\t1", "c\td\t2"]
    examples = read_input(task, _write(tmp_path / "x.tsv", "\n".join(rows)))
    assert (examples.texts[0], examples.labels.tolist()) == (["a", "c"], [1, 2])
    examples = read_input(task, _write(tmp_path / "y.tsv", "\n".join([*rows, "e\tf\t-"])))
    assert (examples.texts[0], examples.labels) == (["a", "c", "e"], None)


def test_answers_stand_as_the_rows_do_though_queries_are_gathered(experiment, tmp_path):
    task = next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "pick")
    examples = read_input(task, _write(tmp_path / "x.tsv", "question\tanswer\nq\ta\np\tb\nq\tc\n"))
    assert examples.texts[1] == ["a", "c", "b"]
    answers = [{"relevance": answer} for answer in examples.texts[1]]
    assert [row["relevance"] for row in in_order_of_lines(answers, examples)] == ["a", "b", "c"]


def test_no_row_that_is_asked_is_skipped(close, tmp_path):
    dev = dataclasses.replace(close.sources["dev"], on_error="skip")
    task = dataclasses.replace(close, sources={"dev": dev})
    with pytest.raises(mtdnn.UserError, match=r"x\.tsv:2: 1 column, expected 2"):
        read_input(task, _write(tmp_path / "x.tsv", "sentence1\tsentence2\na\nb\tc\n"))


def _without_header(task, **more):
    columns = {name: place for place, name in enumerate((*task.text, "label"))}
    return dataclasses.replace(task, sources={"dev": SourceConfig("dev.tsv", header=False, columns=columns, **more)})


def test_a_header_is_no_row_though_the_tasks_own_files_have_none(close, tmp_path):
    task = _without_header(close)
    named = read_input(task, _write(tmp_path / "x.tsv", "id\tsentence1\tsentence2\n7\ta\tb\n8\tc\td\n"))
    assert (named.texts, named.labels) == ((["a", "c"], ["b", "d"]), None)
    own = read_input(task, _write(tmp_path / "y.tsv", "a\tb\t1\nc\td\t2\n"))
    assert (own.texts, own.labels.tolist()) == ((["a", "c"], ["b", "d"]), [1, 2])


def test_a_file_in_utf_8_is_read_as_such_and_others_as_the_tasks_own(close, tmp_path):
    task = _without_header(close, encoding="latin-1")
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / "x.tsv").write_bytes("café\tà la carte\t1\n".encode(encoding))
        assert read_input(task, str(tmp_path / "x.tsv")).texts == (["café"], ["à la carte"])


def test_a_canonical_file_is_read_where_the_tasks_own_are_canonical(close, tmp_path):
    task = dataclasses.replace(close, sources={"dev": SourceConfig("dev.tsv", format="canonical")})
    own = read_input(task, _write(tmp_path / "x.tsv", "0\t2\ta\tb\n1\t3\tc\td\n"))
    assert (own.texts, own.labels.tolist()) == ((["a", "c"], ["b", "d"]), [2, 3])
    assert read_input(task, _write(tmp_path / "y.tsv", "sentence1\tsentence2\na\tb\n")).texts == (["a"], ["b"])


@pytest.mark.parametrize("line", ["17\ta dog\ta hound", "a dog"])
def test_lines_of_standard_input_hold_the_texts_and_nothing_else(close, monkeypatch, line):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
    with pytest.raises(mtdnn.UserError, match=r"standard input:1: \d columns?, expected 2: sentence1, sentence2"):
        read_input(close, "-")


def test_answers_to_labelled_files_are_scored(close, tmp_path):
    rows = "".join(f"a\tb\t{value}\n" for value in (0, 1, 2, 3))
    examples = read_input(close, _write(tmp_path / "x.tsv", "sentence1\tsentence2\tscore\n" + rows))
    scores = score_input(close, [{"score": float(value)} for value in np.array([0, 1, 2, 3]) * 2.0 + 1], examples)
    assert scores["pearson"] == pytest.approx(1)


def _exported_tasks(tasks):
    """Return what is asked of an exported model before it answers."""
    return SimpleNamespace(path="served/1", tasks=tasks, answers=None)


def test_an_exported_model_of_other_data_is_not_scored(experiment):
    tasks = mtdnn.load_tasks(mtdnn.load_config(experiment))
    mood = next(task for task in tasks if task.name == "mood")
    with pytest.raises(mtdnn.UserError, match=r"tasks\.mood: served/1 does not answer it; it has close"):
        score_exported(_exported_tasks([task for task in tasks if task.name == "close"]), [mood])
    other = dataclasses.replace(mood, labels=("bad", "good"))
    with pytest.raises(mtdnn.UserError, match=r"labels \['bad', 'good'\] and 1 texts; received labels \['negative', "):
        score_exported(_exported_tasks([other]), [mood])
    with pytest.raises(mtdnn.UserError, match="no task has a labelled 'test' split"):
        score_exported(_exported_tasks(tasks), tasks, "test")


def test_an_exported_model_reads_files_laid_out_as_its_tasks_own(tmp_path):
    columns, names = {"text": "review", "label": 0}, {"0": "negative", "1": "positive"}
    source = SourceConfig(
        "dev.csv", header=True, columns=columns, labels=names, ignore_labels=("?",), encoding="latin-1"
    )
    task = mtdnn.TaskSpec("mood", "classification", ("text",), ("negative", "positive"), sources={"dev": source})
    task = described_task("mood", json.loads(json.dumps(describe_task(task))))
    (tmp_path / "x.csv").write_bytes("stars,review\n1,très bon\n0,mauvais\n".encode("latin-1"))
    examples = read_input(task, str(tmp_path / "x.csv"))
    assert (examples.texts, examples.labels.tolist()) == ((["très bon", "mauvais"],), [1, 0])
    (tmp_path / "y.csv").write_bytes("stars,review\n?,passable\n0,mauvais\n".encode("latin-1"))
    assert read_input(task, str(tmp_path / "y.csv")).labels is None


def test_a_model_of_another_program_is_told(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(
        mtdnn.UserError, match=r"1: assets/metadata\.json can't be read .* as mtdnn_tf\.export writes it"
    ):
        ExportedModel(tmp_path)
