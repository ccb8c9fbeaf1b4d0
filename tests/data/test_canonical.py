"""Canonical TSV: each layout is written and read back as it was, and becomes a task's examples."""

from __future__ import annotations

import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.canonical import (
    LAYOUTS,
    Candidates,
    Pair,
    Premise,
    TaggedWords,
    canonical_uids,
    read_canonical,
    write_canonical,
)
from mtdnn_tf.data.sources import READERS, read_examples, read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

MOOD = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
PAIRS = TaskSpec("follows", "classification", ("premise", "hypothesis"), ("0", "1"))
CLOSE = TaskSpec("close", "regression", ("a", "b"), range=(0.0, 5.0), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")

ROWS = {
    "PremiseOnly": [Premise("0", "1", 'a "dog'), Premise("x-1", "positive", "")],
    "PremiseAndOneHypothesis": [Pair("0", "entailment", "é 中", "b, c"), Pair("1", "0", "", "'d'")],
    "PremiseAndMultiHypothesis": [
        Candidates("0", ("7", "8"), ("1.5", "0"), "who?", ("the baker", "at noon")),
        Candidates("1", ("1", "2", "3"), ("no", "yes", "no"), "when, and why?", ("one, two", "at noon", "")),
        Candidates("2", (), ("0", "1"), "who?", ("a", "b")),
        Candidates("3", (), ("0", "1", "0"), "who?", ("a", "b", "c")),
    ],
    "Seqence": [TaggedWords("0", ("B-PER", "O"), ("O'Neill", 'said "no"')), TaggedWords("1", ("O",), ("\t",))],
}


def _write(path, content):
    path.write_text(content, encoding="utf-8")
    return str(path)


def _read(path, task, labelled=True, **options):
    return read_source(task, SourceConfig(path=path, format="canonical", **options), labelled=labelled)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_back_as_it_was_written(tmp_path, layout):
    path = tmp_path / "rows.tsv"
    write_canonical(path, ROWS[layout])
    read = list(read_canonical(str(path), layout))
    assert [row for _, row in read] == ROWS[layout]
    assert [line for line, _ in read] == list(range(1, len(read) + 1))
    text = path.read_bytes()
    write_canonical(path, [row for _, row in read])
    assert path.read_bytes() == text


def test_the_bytes_are_those_of_the_format(tmp_path):
    written = {}
    for layout, rows in ROWS.items():
        write_canonical(tmp_path / layout, rows[:1])
        written[layout] = (tmp_path / layout).read_text(encoding="utf-8")
    assert written == {
        "PremiseOnly": '0\t1\ta "dog\n',
        "PremiseAndOneHypothesis": "0\tentailment\té 中\tb, c\n",
        "PremiseAndMultiHypothesis": "0\t7,8\t1.5,0\twho?\tthe baker\tat noon\n",
        "Seqence": "0\t['B-PER', 'O']\t[\"O'Neill\", 'said \"no\"']\n",
    }


def test_rows_become_examples(tmp_path):
    single = _read(_write(tmp_path / "a.tsv", '5\tpositive\ta "dog\n6\tnegative\t\n\n'), MOOD)
    assert (single.texts, single.labels.tolist(), single.lines.tolist()) == ((['a "dog', ""],), [1, 0], [1, 2])
    pairs = _read(_write(tmp_path / "b.tsv", "5\t1\tp\th\r\n"), PAIRS)
    assert (pairs.texts, pairs.labels.tolist()) == ((["p"], ["h"]), [1])
    assert _read(_write(tmp_path / "c.tsv", "5\t4.5\tp\th\n"), CLOSE).labels.tolist() == [4.5]


def test_candidates_of_a_line_are_one_query(tmp_path):
    path = _write(tmp_path / "x.tsv", "0\t7,8\t1.5,0\twho?\tbaker\tnoon\n1\t1,2,3\t0,0,1\twho?\ta\tb\tc\n")
    examples = _read(path, PICK)
    assert examples.texts == (["who?"] * 5, ["baker", "noon", "a", "b", "c"])
    assert examples.labels.tolist() == [1.5, 0, 0, 0, 1]
    assert examples.groups.tolist() == [0, 0, 1, 1, 1]  # though both lines ask the same
    assert examples.lines.tolist() == [1, 1, 2, 2, 2]


def test_candidates_with_named_labels_and_without_row_ids(tmp_path):
    path = _write(tmp_path / "x.tsv", "0\tyes,no\twho?\tbaker\tnoon\n")
    assert _read(path, PICK, labels={"no": "0", "yes": "1"}).labels.tolist() == [1, 0]


def test_a_part_of_the_queries_keeps_their_rows_together(tmp_path):
    path = _write(tmp_path / "x.tsv", "".join(f"{n}\t1,0\twho?\ta{n}\tb{n}\n" for n in range(10)))
    source = SourceConfig(path, format="canonical")
    task = TaskSpec("pick", "ranking", PICK.text, max_examples=3, sources={"train": source})
    examples = read_examples(task, "train")
    assert examples.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert [a[1:] for a in examples.texts[1][::2]] == [b[1:] for b in examples.texts[1][1::2]]
    assert len(canonical_uids(task, source)) == 10


def test_a_part_of_the_lines_keeps_queries_whole(tmp_path):
    path = _write(tmp_path / "x.tsv", "".join(f"{n}\t1,0\twho?\ta{n}\tb{n}\n" for n in range(5)))
    assert _read(path, PICK, rows="[-2:]").texts[1] == ["a3", "b3", "a4", "b4"]
    assert _read(path, PICK, rows="[:-2]").lines.tolist() == [1, 1, 2, 2, 3, 3]


def test_lines_that_are_skipped_have_no_uid(tmp_path):
    path = _write(tmp_path / "x.tsv", "5\tpositive\ta\n6\tshort\n7\tnegative\tb\n")
    source = SourceConfig(path, format="canonical", on_error="skip")
    assert canonical_uids(MOOD, source) == {1: "5", 3: "7"}


def test_the_formats_of_the_original_are_those_of_the_table():
    assert set(READERS) == {"canonical", "preprocessed"}


TAG = "must be a list of strings"
BAD_LINES = {
    "too few": ("PremiseOnly", "0\ta text\n", r"x\.tsv:1: 2 columns, expected 3: uid, label, text"),
    "too many": ("PremiseAndOneHypothesis", "0\t1\ta\tb\tc\n", r"x\.tsv:1: 5 columns, expected 4.*a tab in a text"),
    "one candidate": ("PremiseAndMultiHypothesis", "0\t1\t1\tp\th\n", r"x\.tsv:1: 5 columns, the second of 1 item"),
    "labels": ("PremiseAndMultiHypothesis", "0\t1,2\t1\tp\th\tg\n", r"x\.tsv:1: 1 label\(s\) for 2 hypotheses"),
    "code": ("Seqence", "0\t[str(1)]\t['a']\n", rf"x\.tsv:1: tags: {TAG}.*str"),
    "no list": ("Seqence", "0\t['O']\t'a'\n", rf"x\.tsv:1: words: {TAG}"),
    "numbers": ("Seqence", "0\t[1]\t['a']\n", rf"x\.tsv:1: tags: {TAG}"),
    "half a list": ("Seqence", "0\t['O'\t['a']\n", rf"x\.tsv:1: tags: {TAG}"),
    "lengths": ("Seqence", "0\t['O']\t['a']\n0\t['O', 'O']\t['a']\n", r"x\.tsv:2: 2 tags for 1 words"),
    "blank": ("PremiseOnly", "0\t1\ta\n\n0\t1\ta\n", r"x\.tsv:2: an empty line"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_told_with_its_place(tmp_path, case):
    layout, content, expected = BAD_LINES[case]
    with pytest.raises(UserError, match=expected) as raised:
        list(read_canonical(_write(tmp_path / "x.tsv", content), layout))
    assert "\n" not in str(raised.value)


def test_an_empty_line_can_be_skipped(tmp_path):
    source = SourceConfig(
        _write(tmp_path / "x.tsv", "0\tpositive\ta\n\n0\tnegative\tb\n"), format="canonical", on_error="skip"
    )
    examples = read_source(MOOD, source, labelled=True)
    assert examples.texts == (["a", "b"],)
    assert "x.tsv:2: an empty line" in examples.skipped[0]


BAD_SOURCES = {
    "label": (MOOD, "0\tpositiv\ta\n", r"x\.tsv:1: column 'label': unknown label 'positiv'.*mean 'positive'"),
    "number": (PAIRS, "0\t1\ta\tb\n1\t2\ta\tb\n", r"x\.tsv:2: .*unknown label '2'"),
    "range": (CLOSE, "0\t7\ta\tb\n", r"x\.tsv:1: .*outside the range"),
    "relevance": (PICK, "0\t1,x\twho?\ta\tb\n", r"x\.tsv:1: .*'x' is not a number"),
    "empty": (MOOD, "", r"x\.tsv: the file is empty"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_bad_source_is_told_with_its_place(tmp_path, case):
    task, content, expected = BAD_SOURCES[case]
    with pytest.raises(UserError, match=expected):
        _read(_write(tmp_path / "x.tsv", content), task)


UNWRITABLE = {
    "tab": (Premise("0", "1", "a\tb"), r"x\.tsv:1: a field must hold no tab.*received 'a\\tb'"),
    "line break": (Premise("0", "1", "a\nb"), r"x\.tsv:1: a field must hold no tab, line break"),
    "carriage return": (Pair("0", "1", "a", "b\r"), r"x\.tsv:1: a field must hold no tab, line break"),
    "comma": (Candidates("0", (), ("a,b", "c"), "", ("", "")), r"uid 0: a row id or label .*'a,b'"),
    "one candidate": (Candidates("0", (), ("1",), "p", ("h",)), r"received 1 hypotheses, 1 labels, 0 row ids"),
    "labels": (Candidates("0", (), ("1",), "p", ("h", "g")), r"received 2 hypotheses, 1 labels"),
    "row ids": (Candidates("0", ("1",), ("1", "0"), "p", ("h", "g")), r"2 labels, 1 row ids"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, case):
    row, expected = UNWRITABLE[case]
    with pytest.raises(UserError, match=expected) as raised:
        write_canonical(tmp_path / "x.tsv", [row])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "x.tsv").exists()
