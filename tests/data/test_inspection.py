"""Numbers of a split: balance, lengths before truncation, rows that come twice."""

from __future__ import annotations

import numpy as np
import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.inspection import inspect_examples, label_balance, length_summary
from mtdnn_tf.data.overlaps import contradictory_rows, fingerprints, repeated_rows, shared_rows
from mtdnn_tf.data.sources import read_examples, read_source
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.tasks import TASK_TYPES, TaskSpec

TOKENIZER = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])  # every word is one token
MOOD = TaskSpec("mood", "classification", ("text",), ("bad", "fair", "good"))
CLOSE = TaskSpec("close", "regression", ("a", "b"), range=(0.0, 5.0), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")


def _examples(tmp_path, task, rows, name="x.tsv"):
    path = tmp_path / name
    path.write_text("\n".join(["\t".join([*task.text, "label"]), *rows]) + "\n", encoding="utf-8")
    return read_source(task, SourceConfig(str(path)), labelled=None)


def _inspect(tmp_path, task, rows, max_length=8):
    return inspect_examples(_examples(tmp_path, task, rows), task, "train", TOKENIZER, max_length)


BALANCES = {
    "classification": (MOOD, ["a\tgood", "b\tbad", "c\tgood"], {"bad": 1, "fair": 0, "good": 2}),
    "regression": (
        CLOSE,
        [f"a\tb\t{score}" for score in (0, 1, 2, 3, 5)],
        {"min": 0, "quartile_1": 1, "median": 2, "quartile_3": 3, "max": 5, "mean": 2.2},
    ),
    "ranking": (
        PICK,
        ["q\ta\t1", "q\tb\t0", "q\tc\t1", "r\ta\t0", "s\ta\t1"],
        {
            "candidates_min": 1,
            "candidates_median": 1,
            "candidates_max": 3,
            "positives_mean": 1,
            "queries_without_positive": 1,
            "queries_without_choice": 1,
        },
    ),
}


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_balance_of_every_type(tmp_path, kind):
    task, rows, expected = BALANCES[kind]
    assert label_balance(_examples(tmp_path, task, rows), task) == expected


def test_unlabelled_rows_have_no_balance_but_candidates(tmp_path):
    assert label_balance(_examples(tmp_path, MOOD, ["a\t", "b\t"]), MOOD) is None
    expected = {"candidates_min": 1, "candidates_median": 1, "candidates_max": 2}
    assert label_balance(_examples(tmp_path, PICK, ["q\ta\t", "q\tb\t", "r\ta\t"]), PICK) == expected


def test_lengths_are_those_before_truncation(tmp_path):
    # [CLS], n words, [SEP]: 3, 8 and 14 tokens, of which 8 are kept.
    seen = _inspect(tmp_path, MOOD, [f"{'word ' * count}\tgood" for count in (1, 6, 12)])
    assert seen.lengths.tolist() == [3, 8, 14]
    assert seen.rows_cut == pytest.approx(1 / 3)
    assert seen.tokens_cut == pytest.approx(6 / 25)


def test_lengths_of_pairs_count_both_texts(tmp_path):
    assert _inspect(tmp_path, CLOSE, ["one two\tthree\t1"]).lengths.tolist() == [6]


def test_length_summary():
    expected = {"median": 50, "percentile_95": 95, "percentile_99": 99, "max": 100}
    assert length_summary(np.arange(101)) == expected


def test_a_query_is_one_example(tmp_path):
    seen = _inspect(tmp_path, PICK, ["q\ta\t1", "q\tb\t0", "r\ta\t0"])
    assert (seen.rows, seen.items) == (3, 2)


def test_empty_texts_are_found(tmp_path):
    assert _inspect(tmp_path, CLOSE, ["a\tb\t1", " \tb\t1", "a\t\t1"]).empty_rows.tolist() == [1, 2]


def test_shared_rows_ignore_case_space_and_order_of_a_pair(tmp_path):
    train = fingerprints(_examples(tmp_path, CLOSE, ["x\ty\t1", "A  dog\tthe cat\t1", "u\tv\t2"]))
    dev = fingerprints(_examples(tmp_path, CLOSE, ["new\trow\t1", "The Cat\ta dog\t4", "u\tv\t2", "u\tx\t1"]))
    found = shared_rows(dev, train)
    assert (found.count, found.line, found.other_line) == (2, 3, 3)
    assert shared_rows(fingerprints(_examples(tmp_path, CLOSE, ["x\tv\t1"])), train) is None


def test_the_border_between_two_texts_counts(tmp_path):
    train = fingerprints(_examples(tmp_path, CLOSE, ["a b\tc\t1"]))
    assert shared_rows(fingerprints(_examples(tmp_path, CLOSE, ["a\tb c\t1"])), train) is None


def test_repeated_rows_keep_the_order_of_a_pair(tmp_path):
    found = repeated_rows(fingerprints(_examples(tmp_path, CLOSE, ["a\tb\t1", "b\ta\t1", "a\tb\t1", "A\tb\t2"])))
    assert (found.count, found.line, found.other_line) == (2, 4, 2)
    assert repeated_rows(fingerprints(_examples(tmp_path, CLOSE, ["a\tb\t1", "b\ta\t1"]))) is None


@pytest.mark.parametrize(("tolerance", "count"), [(0.0, 2), (0.5, 1), (3.0, 0)])
def test_contradictions_are_labels_further_apart_than_the_tolerance(tmp_path, tolerance, count):
    examples = _examples(tmp_path, CLOSE, ["a\tb\t1", "a\tb\t1.5", "a\tb\t4", "c\td\t5", "a\tb\t1"])
    found = contradictory_rows(fingerprints(examples), examples.labels, tolerance)
    assert (found.count if found else 0) == count


@pytest.mark.real_data
def test_the_known_overlaps_of_two_published_tasks(data_root):
    pair = {"mrpc": "MRPC", "stsb": "STS-B"}
    columns = {"mrpc": ("#1 String", "#2 String", "Quality"), "stsb": ("sentence1", "sentence2", "score")}
    digests = {}
    for name, folder in pair.items():
        mapping = dict(zip(("a", "b", "label"), columns[name], strict=True))
        for split in ("train", "dev", "test"):
            source = SourceConfig(str(data_root / "glue" / folder / f"{split}.tsv"), columns=mapping)
            if split == "test":
                source = SourceConfig(source.path, columns={name: mapping[name] for name in ("a", "b")})
            task = TaskSpec(name, "regression", ("a", "b"), range=(0.0, 5.0), sources={split: source})
            digests[name, split] = fingerprints(read_examples(task, split))
    counts = {
        (held_out, split): shared_rows(digests[held_out, split], digests[train, "train"]).count
        for held_out, train in (("mrpc", "stsb"), ("stsb", "mrpc"))
        for split in ("dev", "test")
    }
    assert counts == {("mrpc", "dev"): 48, ("mrpc", "test"): 498, ("stsb", "dev"): 110, ("stsb", "test"): 119}
