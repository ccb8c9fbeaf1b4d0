"""Files that a task is asked with: laid out as its own data, or plainly; with labels they are scored."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.answering import ExportedModel, score_exported, score_input
from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import options_as
from mtdnn_tf.evaluation.predictions import as_jsonl, as_tsv
from mtdnn_tf.prediction_input import InputLayout, options_as_flags
from mtdnn_tf.prediction_input import read_input as read_whole_input
from mtdnn_tf.serving.metadata import describe_task, described_task


@pytest.fixture
def close(experiment):
    return next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "close")


def read_input(task, path, layout=None):
    """Read the examples only."""
    return read_whole_input(task, path, layout).examples


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
    path = _write(tmp_path / "x.tsv", "sentence1\tsentence2\tscore\na\n")
    with pytest.raises(mtdnn.UserError, match=r"x\.tsv:2: 1 column, expected 3"):
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
    assert (examples.texts[0], examples.labels[:2].tolist()) == (["a", "c", "e"], [1, 2])
    assert examples.unknown_labels == {2: "-"}


def test_answers_stand_as_the_rows_do_though_queries_are_gathered(experiment, tmp_path):
    task = next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "pick")
    received = read_whole_input(task, _write(tmp_path / "x.tsv", "question\tanswer\nq\ta\np\tb\nq\tc\n"))
    assert received.examples.texts[1] == ["a", "c", "b"]
    answers = [{"relevance": answer} for answer in received.examples.texts[1]]
    assert [row["relevance"] for row in received.in_order_of_lines(task, answers)] == ["a", "b", "c"]


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


@pytest.fixture
def mood(experiment):
    return next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "mood")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("17\ta dog\ta hound\n", r"standard input:1: 3 columns, expected 2: sentence1, sentence2"),
        ("\na dog\n", r"standard input:2: 1 column, expected 2: sentence1, sentence2"),
        ("a\tb\n\nc\n", r"standard input:3: 1 column, expected 2"),
        ("", "standard input: holds no text; expected sentence1, sentence2 in each line"),
        ("\n \t\n", "standard input: holds no text"),
        ("a\tb\rc\td\r", r"standard input:1: .*carriage return"),
        ("a\tb\nc\td\re\tf\n", r"standard input:2: a bare carriage return within the line; .* as in tr '\\r' '\\n'"),
    ],
)
def test_lines_of_standard_input_hold_the_texts_and_nothing_else(close, monkeypatch, content, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(content))
    with pytest.raises(mtdnn.UserError, match=message):
        read_input(close, "-")


@pytest.mark.parametrize(
    ("content", "texts", "blank"),
    [
        ("good film\n\nbad film\n", ["good film", "bad film"], (2,)),
        ("\n\ngood film\r\n \t \r\nbad film", ["good film", "bad film"], (1, 2, 4)),
        ("good film\n\n\n", ["good film"], (2, 3)),
        ("good film\nbad film", ["good film", "bad film"], ()),
    ],
)
def test_a_blank_line_of_standard_input_has_an_empty_row(mood, monkeypatch, content, texts, blank):
    monkeypatch.setattr("sys.stdin", io.StringIO(content, newline=""))
    received = read_whole_input(mood, "-")
    assert received.examples.texts == (texts,)
    assert received.blank == blank
    answers = [{"label": text, "probabilities": dict.fromkeys(mood.labels, 0.5)} for text in texts]
    lines = as_tsv(mood, received.in_order_of_lines(mood, answers)).splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [line.strip() for line in content.splitlines()]
    assert {line.count("\t") for line in lines} == {2}
    objects = [json.loads(line) for line in as_jsonl(mood, received.in_order_of_lines(mood, answers)).splitlines()]
    assert [place for place, value in enumerate(objects, 1) if value["label"] is None] == list(blank)
    if blank:
        [note] = received.notes(mood)
        assert f"{len(blank)} blank line{'' if len(blank) == 1 else 's'}" in note
        assert f"the first is line {blank[0]}" in note


def test_blank_lines_between_the_candidates_of_queries(experiment, monkeypatch):
    task = next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == "pick")
    monkeypatch.setattr("sys.stdin", io.StringIO("q\ta\n\np\tb\n\nq\tc\n"))
    received = read_whole_input(task, "-")
    assert received.examples.groups.tolist() == [0, 0, 1]
    monkeypatch.setattr("sys.stdin", io.StringIO("q\ta\n\np\tb\n\nq\tc\n"))
    assert read_whole_input(task, "/dev/stdin").blank == received.blank
    rows = [{"relevance": text} for text in received.examples.texts[1]]
    assert [row["relevance"] for row in received.in_order_of_lines(task, rows)] == ["a", None, "b", None, "c"]


def test_standard_input_that_cannot_be_read_is_one_line(mood, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(mtdnn.UserError, match="standard input is closed; pipe the texts to this command"):
        read_input(mood, "-")
    folder = os.open(tmp_path, os.O_RDONLY)
    with open(os.devnull) as stream:
        os.dup2(folder, stream.fileno())  # as `< folder`; Python itself opens none
        os.close(folder)
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(mtdnn.UserError, match=r"standard input: cannot be read \(Is a directory\)"):
            read_input(mood, "-")


# What a user has, what predict says of it, and the flags that it advises (None: none is needed).
GOOD, BAD = "a good day", "a bad day"
OTHER_LAYOUTS = {
    "other header": ("x.tsv", f"review\tlabel\n{GOOD}\tpositive\n{BAD}\tnegative\n", "--text=<name>", {"text": ("review",)}),
    "no header": ("x.tsv", f"{GOOD}\n{BAD}\n", "--noheader", {"header": False}),
    "no header, label first": (
        "x.tsv", f"positive\t{GOOD}\tx\nnegative\t{BAD}\ty\n", "--noheader",
        {"header": False, "text": ("1",), "label": "0"},
    ),
    "other keys": ("x.jsonl", f'{{"t": "{GOOD}"}}\n{{"t": "{BAD}"}}\n', "--text=<name>", {"text": ("t",)}),
    "unknown ending": ("x.data", f"text\n{GOOD}\n{BAD}\n", "--input_format=tsv", {"format": "tsv"}),
    "commas in a .tsv": (
        "x.tsv", f"text,label\n{GOOD},positive\n{BAD},negative\n", "--input_format=csv", {"format": "csv"},
    ),
    "twice in the header": (
        "x.tsv", f"{GOOD}\t{GOOD}\n{BAD}\t{BAD}\n", "--noheader", {"header": False, "text": ("0",)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_LAYOUTS)
def test_what_predict_advises_can_be_done_with_predict(mood, tmp_path, case):
    name, content, advice, flags = OTHER_LAYOUTS[case]
    path = _write(tmp_path / name, content)
    with pytest.raises(mtdnn.UserError) as refusal, options_as(**options_as_flags(mood.text)):
        read_input(mood, path)
    message = str(refusal.value)
    assert f"`{advice}" in message
    assert not re.search(r"`(columns|header|encoding|format):", message)
    examples = read_input(mood, path, InputLayout(**flags))
    assert examples.texts == ([GOOD, BAD],)
    assert examples.labels is None or examples.labels.tolist() == [1, 0]


def test_advice_names_a_column_for_each_text(close, tmp_path):
    path = _write(tmp_path / "x.tsv", "a\tb\n1\t2\n")
    with pytest.raises(mtdnn.UserError, match="`--text=<name>,<name>`"), options_as(**options_as_flags(close.text)):
        read_input(close, path)


def test_the_encoding_of_a_file_can_be_named(mood, tmp_path):
    (tmp_path / "x.tsv").write_bytes("text\nl’été\n".encode("cp1252"))
    with pytest.raises(mtdnn.UserError, match="`--encoding="), options_as(**options_as_flags(mood.text)):
        read_input(mood, str(tmp_path / "x.tsv"))
    assert read_input(mood, str(tmp_path / "x.tsv"), InputLayout(encoding="cp1252")).texts == (["l’été"],)


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (f"id,review\n1,{GOOD}\n2,{BAD}\n", InputLayout(text=("review",), format="csv")),
        (f"id\ttext\n1\t{GOOD}\n2\t{BAD}\n", InputLayout(header=True)),
        (f"1\t{GOOD}\n2\t{BAD}\n", InputLayout(text=("1",))),
        (f'{{"text": "{GOOD}"}}\n{{"text": "{BAD}"}}\n', InputLayout(format="jsonl")),
    ],
)
def test_standard_input_may_be_laid_out_as_a_file(mood, monkeypatch, content, layout):
    monkeypatch.setattr("sys.stdin", io.StringIO(content))
    assert read_input(mood, "-", layout).texts == ([GOOD, BAD],)


def test_warnings_name_standard_input_and_flags_of_predict(mood, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO('a\n"He said ""no"""\n'))
    with options_as(**options_as_flags(mood.text)):
        assert len(read_input(mood, "-")) == 2
    warning = capsys.readouterr().err
    assert warning.startswith("warning: standard input:2: ")
    assert "`--input_format=quoted_tsv`" in warning


def test_columns_that_are_named_wrongly_are_refused(mood, close, tmp_path):
    path = _write(tmp_path / "x.tsv", "text\tstars\na\tpositive\n")
    for task, layout, message in (
        (mood, InputLayout(label="star"), r"no column 'star' \(mapped to 'label'\).* Did you mean 'stars'\?"),
        (mood, InputLayout(text=("text", "stars")), r"--text: task mood reads 1 column \(text\), received 2"),
        (
            close,
            InputLayout(text=("text",)),
            r"--text: task close reads 2 columns \(sentence1, sentence2\), received 1",
        ),
        (mood, InputLayout(text=("text",), header=False), r"--text: .* by its position from 0; received 'text'"),
    ):
        with pytest.raises(mtdnn.UserError, match=message):
            read_input(task, path, layout)


def test_lines_of_standard_input_are_not_laid_out_as_the_tasks_files(close, monkeypatch):
    """These have the second text first."""
    columns = {"sentence1": 1, "sentence2": 0}
    task = dataclasses.replace(close, sources={"dev": SourceConfig("dev.tsv", header=False, columns=columns)})
    monkeypatch.setattr("sys.stdin", io.StringIO("a\tb\n"))
    assert read_input(task, "-").texts == (["a"], ["b"])


def test_a_file_with_the_ending_of_the_tasks_own_has_their_format(mood, tmp_path):
    task = dataclasses.replace(mood, sources={"dev": SourceConfig("dev.txt", format="csv")})
    path = _write(tmp_path / "x.txt", f'text,label\n"{GOOD}",positive\n{BAD},negative\n')
    exported = described_task("mood", json.loads(json.dumps(describe_task(task))))
    for asked in (task, exported):
        assert read_input(asked, path).texts == ([GOOD, BAD],)
        tabs = _write(tmp_path / "x.tsv", f"text\n{GOOD}\n")
        assert read_input(asked, tabs).texts == ([GOOD],)


UNKNOWN = {
    "another class": ("mood", "text\tlabel\na\tpositive\nb\tneutral\nc\tneutral\n", {1: "neutral", 2: "neutral"},
                      "2 of 3 rows .* 'neutral' \\(2 rows, the first in line 3\\); expected negative, positive"),
    "no label": ("mood", "text\tlabel\na\tpositive\nb\t\n", {1: ""}, "1 of 2 rows .* '' \\(1 row, the first in line 3"),
    "all of them": ("mood", "text\tlabel\na\t0\nb\t1\n", {0: "0", 1: "1"}, "2 of 2 rows .* '0' .*, '1' "),
    "no key": ("mood", '{"text": "a", "label": "positive"}\n{"text": "b"}\n', {1: ""}, "line 2"),
    "a list": ("mood", '{"text": "a", "label": "positive"}\n{"text": "b", "label": ["x"]}\n', {1: "['x']"}, "line 2"),
    "above the range": ("close", "sentence1\tsentence2\tscore\na\tb\t1\nc\td\t50\n", {1: "50"}, "a number from 0 to 5"),
    "no number": ("close", "sentence1\tsentence2\tscore\na\tb\tn/a\nc\td\t1\n", {0: "n/a"}, "'n/a' \\(1 row"),
    "of a query": ("pick", "question\tanswer\tlabel\nq\ta\t1\nq\tb\t?\np\tc\t0\np\td\t1\n", {1: "?"},
                   "nor are the other candidates of their queries.*a number of 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_row_whose_label_is_unknown_is_answered_and_not_scored(experiment, tmp_path, case):
    name, content, unknown, note = UNKNOWN[case]
    task = next(task for task in mtdnn.load_tasks(mtdnn.load_config(experiment)) if task.name == name)
    received = read_whole_input(task, _write(tmp_path / f"x.{'jsonl' if content[0] == '{' else 'tsv'}", content))
    examples = received.examples
    assert len(examples) == len(content.splitlines()) - (content[0] != "{")
    assert examples.unknown_labels == unknown
    [told] = received.notes(task)
    assert re.search(note, told)
    known = [row for row in range(len(examples)) if row not in unknown]
    right = np.eye(2)[np.where(np.isin(range(len(examples)), known), examples.labels, 0).astype(int)]
    if name == "mood":
        rows = [{"probabilities": dict(zip(task.labels, row, strict=True))} for row in right]
        assert score_input(task, rows, examples) == ({"accuracy": 1} if known else {})
    if name == "pick":  # the first query would be right
        rows = [{"relevance": value} for value in (0.9, 0.1, 0.9, 0.1)]
        assert score_input(task, rows, examples)["accuracy_at_1"] == 0


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
    assert read_input(task, str(tmp_path / "y.csv")).unknown_labels == {0: "?"}


def test_a_model_of_another_program_is_told(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(
        mtdnn.UserError, match=r"1: assets/metadata\.json can't be read .* as mtdnn_tf\.export writes it"
    ):
        ExportedModel(tmp_path)
