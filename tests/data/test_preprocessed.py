"""Token ids made by the original program train as the texts they were made from; what does not fit is told."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.batches import TrainingBatches, tokenize_task
from mtdnn_tf.data.inspection import inspect_examples
from mtdnn_tf.data.overlaps import Fingerprints, repeated_rows, seen_rows
from mtdnn_tf.data.preprocessed import preprocessed_uids, write_preprocessed
from mtdnn_tf.data.sources import read_examples, read_source
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.encoders import CHARACTER_VOCABULARY
from mtdnn_tf.tasks import TaskSpec

TOKENIZER = Tokenizer(CHARACTER_VOCABULARY)
CLS, SEP, A = TOKENIZER.cls_id, TOKENIZER.sep_id, TOKENIZER.vocab.index("a")
MOOD = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
PAIRS = TaskSpec("follows", "classification", ("premise", "hypothesis"), ("no", "yes"))
CLOSE = TaskSpec("close", "regression", ("a", "b"), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")
TASKS = {task.name: task for task in (MOOD, PAIRS, CLOSE, PICK)}
LINES = {
    "mood": ["positive\ta good day", "negative\t", "positive\t" + "x" * 60],
    "follows": ["yes\ta dog\tan animal", "no\t\tb", "no\t" + "a " * 40 + "\tbb", "yes\tbb\t" + "c " * 40],
    "close": ["4.5\ta dog\ta hound", "0.25\ta\t"],
    "pick": ["1,0\twho?\tthe baker\tat noon", "0,0.5,2\twho?\ta\tb\t" + "c " * 50],
}


def _text_source(folder, name):
    rows = "".join(f"{100 + number}\t{line}\n" for number, line in enumerate(LINES[name]))
    (folder / f"{name}.tsv").write_text(rows, encoding="utf-8")
    return SourceConfig(str(folder / f"{name}.tsv"), format="canonical")


def _tokenized(task, source, max_length):
    return tokenize_task(read_source(task, source, labelled=True), task, TOKENIZER, max_length)


def _batches(tokenized):
    batches = TrainingBatches(tokenized, 2, (16, 32, 64), seed=1)
    return [{name: value.numpy().tolist() for name, value in batch.items()} for batch in batches(0)]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("max_length", [11, 12, 24, 128])
def test_token_ids_train_as_their_texts_do(tmp_path, name, max_length):
    task, path = TASKS[name], tmp_path / "rows.json"
    texts = _text_source(tmp_path, name)
    write_preprocessed(path, _tokenized(task, texts, 512))  # not cut
    made = _tokenized(task, SourceConfig(str(path), format="preprocessed"), max_length)
    expected = _batches(_tokenized(task, texts, max_length))
    assert _batches(made) == expected
    assert len(expected) >= 1
    assert made.lengths.max() <= max_length


@pytest.mark.parametrize("name", TASKS)
def test_what_is_written_again_is_the_same(tmp_path, name):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_preprocessed(first, _tokenized(TASKS[name], _text_source(tmp_path, name), 64), uids=["7", "8", "9", "10"])
    source = SourceConfig(str(first), format="preprocessed")
    uids = preprocessed_uids(TASKS[name], source)
    assert list(uids.values())[:2] == ["7", "8"]
    write_preprocessed(second, _tokenized(TASKS[name], source, 64), uids=list(uids.values()))
    assert first.read_text() == second.read_text()


def test_the_keys_are_those_of_the_format(tmp_path):
    path = tmp_path / "rows.json"
    write_preprocessed(path, _tokenized(PAIRS, _text_source(tmp_path, "follows"), 64))
    first, second = [json.loads(line) for line in path.read_text().splitlines()][:2]
    assert second == {
        "uid": "1",
        "label": 0,
        "token_id": [CLS, SEP, TOKENIZER.vocab.index("b"), SEP],
        "type_id": [0, 0, 1, 1],
        "attention_mask": [1, 1, 1, 1],
    }
    assert first["label"] == 1
    write_preprocessed(path, _tokenized(PICK, _text_source(tmp_path, "pick"), 64))
    ranked = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["label"], row["olabel"]) for row in ranked] == [(0, [1, 0]), (2, [0, 0.5, 2])]
    assert [len(row["token_id"]) for row in ranked] == [len(row["type_id"]) for row in ranked] == [2, 3]


def _read(folder, rows, task=MOOD, max_length=16, labelled=True, **options):
    path = folder / "x.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = SourceConfig(str(path), format="preprocessed", **options)
    return tokenize_task(read_source(task, source, labelled=labelled), task, TOKENIZER, max_length)


def test_segments_and_masks_may_be_absent(tmp_path):
    made = _read(tmp_path, [{"uid": 1, "label": 1, "token_id": [CLS, A, SEP, A, SEP]}], PAIRS)
    assert made.first_lengths.tolist() == [5]
    assert made.labels.tolist() == [1]


def test_labels_may_be_absent_where_nobody_demands_them(tmp_path):
    row = {"uid": 1, "token_id": [CLS, A, SEP]}
    assert _read(tmp_path, [row], labelled=None).labels is None
    with pytest.raises(UserError, match=r"x\.json:1: label: unknown label ''"):
        _read(tmp_path, [row])


def test_a_part_of_the_rows_takes_their_tokens(tmp_path):
    rows = [{"uid": n, "label": n % 2, "token_id": [CLS, *[A] * n, SEP]} for n in range(10)]
    (tmp_path / "x.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(str(tmp_path / "x.json"), format="preprocessed")
    task = TaskSpec("mood", "classification", ("text",), MOOD.labels, max_examples=4, sources={"train": source})
    examples = read_examples(task, "train")
    made = tokenize_task(examples, task, TOKENIZER, 32)
    numbers = examples.lines - 1
    assert len(numbers) == 4
    assert made.lengths.tolist() == (numbers + 2).tolist()
    assert np.array_equal(made.labels, numbers % 2)


GOOD = {"uid": 0, "label": 1, "token_id": [CLS, A, SEP], "type_id": [0, 0, 0]}
RANKED = {"uid": 0, "label": 0, "olabel": [1, 0], "token_id": [[CLS, SEP, SEP]] * 2, "type_id": [[0, 0, 1]] * 2}
BAD = {
    "not in the vocabulary": (MOOD, {"token_id": [CLS, 30000, SEP]}, r"token id 30000 is not in the encoder's vocabulary"),
    "other special tokens": (MOOD, {"token_id": [A, A, A]}, rf"must begin with {CLS} \(\[CLS\]\)"),
    "no end": (MOOD, {"token_id": [CLS, A, A]}, r"end each text with"),
    "first text without end": (MOOD, {"token_id": [CLS, A, SEP], "type_id": [0, 0, 1]}, r"end each text with"),
    "texts for ids": (MOOD, {"token_id": ["a"]}, r"token_id must be a list of whole numbers.*'a'"),
    "negative": (MOOD, {"token_id": [CLS, -1, SEP]}, r"token_id must be a list of whole numbers from 0 on"),
    "lengths": (MOOD, {"type_id": [0, 0]}, r"type_id must be a list as long as there are token ids, 3; received 2"),
    "segments": (MOOD, {"type_id": [0, 1, 0]}, r"type_id must be zeros, then ones"),
    "third segment": (MOOD, {"type_id": [0, 0, 2]}, r"type_id must be zeros, then ones"),
    "padding": (MOOD, {"attention_mask": [1, 1, 0]}, r"attention_mask must be 1 everywhere"),
    "label": (MOOD, {"label": 2}, r"label: unknown label '2'"),
    "a list for ranking": (PICK, GOOD, r"token_id must be a list of lists"),
    "candidates": (PICK, RANKED | {"olabel": [1, 0, 0]}, r"olabel must be a list as long as there are candidates, 2"),
    "no ids": (MOOD, {"token_id": None}, r"token_id must be a list of whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_told_with_its_line(tmp_path, case):
    task, change, expected = BAD[case]
    good = RANKED if task is PICK else GOOD
    with pytest.raises(UserError, match=r"x\.json:2: .*" + expected) as raised:
        _read(tmp_path, [good, good | change], task)
    assert "\n" not in str(raised.value)


def test_a_row_without_ids_is_told(tmp_path):
    with pytest.raises(UserError, match=r"x\.json:1: the key 'token_id' is missing; this row has uid, text"):
        _read(tmp_path, [{"uid": 0, "text": "a"}])


def test_token_ids_are_inspected_as_what_they_are(tmp_path):
    path = tmp_path / "x.json"
    rows = [[CLS, A + number % 3, *[A] * 20, SEP] for number in range(6)]
    path.write_text(
        "".join(json.dumps({"uid": 0, "label": 1, "token_id": ids, "type_id": [0] * 23}) + "\n" for ids in rows)
    )
    examples = read_source(MOOD, SourceConfig(str(path), format="preprocessed"), labelled=True)
    found = inspect_examples(examples, MOOD, "train", TOKENIZER, 16)
    assert (found.lengths.tolist(), found.rows_cut, len(found.empty_rows)) == ([23] * 6, 1.0, 0)
    assert repeated_rows(found.fingerprints).count == 3
    only_first = Fingerprints(*(values[:1] for values in dataclasses.astuple(found.fingerprints)))
    assert seen_rows(found.fingerprints, [only_first]).tolist() == [True, False, False] * 2
