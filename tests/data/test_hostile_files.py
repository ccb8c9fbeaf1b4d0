"""Broken and odd files: each is read correctly or told in one line with its place; none crashes, hangs or passes unnoticed."""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import replace

import pytest

from mtdnn_tf.config import SourceConfig, load_config
from mtdnn_tf.data.sources import read_examples, read_source
from mtdnn_tf.errors import UserError
from tests.hostile import GOOD, MOOD, PICK, Told
from tests.hostile_bytes import BYTES
from tests.hostile_rows import ROWS, lines_of

CASES = {**BYTES, **ROWS}


def _read(path, task=MOOD, **options):
    return read_source(task, SourceConfig(path=str(path), **options), labelled=True)


def _assert_told(path, parts, task=MOOD, **options) -> str:
    with pytest.raises(UserError) as raised:
        _read(path, task, **options)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) <= 600 + len(str(path))
    assert all(part in message for part in parts), message
    return message


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_read_or_told(tmp_path, name):
    case = CASES[name]
    path = tmp_path / case.name
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    start = time.perf_counter()
    if isinstance(case, Told):
        message = _assert_told(path, case.parts, case.task, **case.options)
        assert message.startswith(str(path))
    else:
        examples = _read(path, case.task, **case.options)
        assert examples.texts[0] == case.texts
        assert case.labels is None or examples.labels.tolist() == case.labels
    assert time.perf_counter() - start < 8


def test_labels_that_only_later_rows_have_are_not_lost(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(lines_of('{"text": "a"}', '{"text": "b", "label": "positive"}'))
    with pytest.raises(UserError, match=r"x\.jsonl:1: the key 'label' is missing"):
        read_source(MOOD, SourceConfig(str(path)), labelled=None)


@pytest.mark.parametrize("known", ["positive", "1"])
def test_a_json_label_in_every_notation(tmp_path, known):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "a", "label": known}) + "\n")
    assert _read(path, labels={"1": "positive"}).labels.tolist() == [1]


SKIPPED = {
    "x.tsv": (
        b"text\tlabel\na\tpositive\nb\nc\tbad\ncaf\xe9\tpositive\n\nd\0\tpositive\ne\tnegative\n",
        ["a", "e"],
        [3, 4, 5, 6, 7],
    ),
    "x.csv": (
        b'text,label\na,positive\n"b"x,negative\n"c\nd",bad\n"caf\xe9\nf",positive\ng,h,positive\n\n"e\n",negative\n',
        ["a", "e\n"],
        [3, 4, 6, 8, 9],
    ),
    "x.jsonl": (
        lines_of('{"text": "b", "label"', '{"text": "a", "label": "positive"}', '{"label": "positive"}', "[1]", "")
        + lines_of('{"text": 5, "label": "positive"}', '{"text": "\\ud800", "label": "positive"}')
        + lines_of('{"text": "c", "label": []}', '{"text": "d", "label": "bad"}', '{"text": "e", "label": "negative"}'),
        ["a", "e"],
        [1, 3, 4, 5, 6, 7, 8, 9],
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped_rows_are_listed_in_order(tmp_path, name):
    content, texts, lines = SKIPPED[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    examples = _read(path, on_error="skip")
    assert examples.texts == (texts,)
    assert examples.labels.tolist() == [1, 0]
    assert [int(message.removeprefix(f"{path}:").split(":")[0]) for message in examples.skipped] == lines
    _assert_told(path, (examples.skipped[0],))


def test_nothing_is_skipped_where_nothing_is_wrong(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("text\tlabel\na\tpositive\nb\t-\n")
    examples = _read(path, on_error="skip", ignore_labels=("-",))
    assert (len(examples), examples.skipped) == (1, ())


WHOLE = {
    "every row is wrong": (
        "text\tlabel\na\tbad\nb\n",
        (": no row is left; 2 left out", "in line 2:", "unknown label 'bad'"),
        {},
    ),
    "header": (b"t\xe9xt\tlabel\na\tpositive\n", (":1:", "byte offset 1"), {}),
    "missing column": ("txt\tlabel\na\tpositive\n", (":1:", "no column 'text'"), {}),
    "empty": ("", (": the file is empty",), {}),
    "stray quote over lines": (
        'text,label\n"a,positive\nb,negative\n',
        (":2:", "faulty CSV", "line 3"),
        {"format": "csv"},
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_wrong_with_the_whole_file_is_not_skipped(tmp_path, name):
    content, parts, options = WHOLE[name]
    path = tmp_path / "x.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    _assert_told(path, parts, on_error="skip", **options)


def test_a_skipped_candidate_is_missing_from_its_query(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("question\tanswer\tlabel\nq\ta\tmany\nq\tb\t0\nr\tc\t1\nr\td\n")
    examples = _read(path, PICK, on_error="skip")
    assert examples.texts == (["q", "r"], ["b", "c"])
    assert examples.groups.tolist() == [0, 1]
    assert len(examples.skipped) == 2


def test_a_file_without_header_has_the_width_of_most_rows(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("x\ty\tz\na\tpositive\nb\tnegative\n")
    examples = _read(path, on_error="skip", header=False)
    assert examples.texts == (["a", "b"],)
    assert examples.skipped[0].startswith(f"{path}:1: 3 columns, expected 2 as in line 2")


def test_a_cut_off_file_is_not_skipped(tmp_path):
    path = tmp_path / "x.tsv.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:-4])
    _assert_told(path, (":4:", "cut off"), on_error="skip")


def test_a_part_of_the_training_rows_keeps_the_list(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("text\tlabel\n" + "a\tpositive\n" * 9 + "b\tbad\n")
    task = replace(MOOD, max_examples=3, sources={"train": SourceConfig(str(path), on_error="skip")})
    examples = read_examples(task, "train")
    assert (len(examples), len(examples.skipped)) == (3, 1)


def test_on_error_is_raise_or_skip(experiment):
    key = "tasks.mood.train.on_error"
    assert load_config(experiment, [f"{key}=skip"]).tasks["mood"].train == SourceConfig(
        str(experiment.parent / "mood.tsv"), on_error="skip"
    )
    with pytest.raises(UserError, match=rf"{key}: must be one of raise, skip, received 'skp'; did you mean 'skip'\?"):
        load_config(experiment, [f"{key}=skp"])
