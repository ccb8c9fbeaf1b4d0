"""Rows of every format become the same examples; whatever is wrong is told in one line with its place."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.sources import FORMATS, read_examples, read_source
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

PAIRS = TaskSpec("follows", "classification", ("premise", "hypothesis"), ("no", "yes"))
MOOD = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
CLOSE = TaskSpec("close", "regression", ("a", "b"), range=(0.0, 5.0), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")


def _write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def _read(path, task=MOOD, labelled=True, **options):
    return read_source(task, SourceConfig(path=str(path), **options), labelled=labelled)


GOOD = {
    "rows.tsv": 'premise\thypothesis\tlabel\na "dog\tb\tyes\né 中\t\tno\n',
    "rows.csv": 'premise,hypothesis,label\n"a ""dog",b,yes\né 中,,no\n',
    "rows.jsonl": '{"premise": "a \\"dog", "hypothesis": "b", "label": "yes"}\n'
    '{"premise": "é 中", "hypothesis": "", "label": "no"}\n',
    "crlf.tsv": 'premise\thypothesis\tlabel\r\na "dog\tb\tyes\r\né 中\t\tno\r\n',
    "bom.tsv": '\ufeffpremise\thypothesis\tlabel\na "dog\tb\tyes\né 中\t\tno',
    "other_order.tsv": 'label\thypothesis\tid\tpremise\nyes\tb\t1\ta "dog\nno\t\t2\té 中\n',
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_every_format_gives_the_same_examples(tmp_path, name, packed):
    content = GOOD[name].encode()
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    examples = _read(path, PAIRS)
    assert examples.texts == (['a "dog', "é 中"], ["b", ""])
    assert examples.labels.tolist() == [1, 0]
    assert examples.labels.dtype == np.int32
    assert examples.lines.tolist() == ([1, 2] if "json" in name else [2, 3])


def test_the_formats_are_those_of_the_table():
    assert set(FORMATS) == {"tsv", "quoted_tsv", "csv", "jsonl", "tfds"}


def test_a_quoted_line_break_counts_the_lines_of_the_file(tmp_path):
    path = _write(tmp_path / "x.csv", 'text,label\n"two\nlines",positive\nbad,wrong\n')
    with pytest.raises(UserError, match=r"x\.csv:4: column 'label': unknown label 'wrong'"):
        _read(path)


def test_columns_by_position_in_a_file_without_header(tmp_path):
    path = _write(tmp_path / "x.tsv", "id1\t1\t*\ta sentence\nid2\t0\t\tanother\n")
    labels = {"1": "positive", "0": "negative"}
    examples = _read(path, header=False, columns={"text": 3, "label": 1}, labels=labels)
    assert examples.texts == (["a sentence", "another"],)
    assert examples.labels.tolist() == [1, 0]


def test_a_file_without_header_is_read_in_the_order_of_the_task(tmp_path):
    path = _write(tmp_path / "x.tsv", "p\th\tyes\n")
    assert _read(path, PAIRS, header=False).texts == (["p"], ["h"])


def test_ignored_labels_are_left_out(tmp_path):
    path = _write(tmp_path / "x.tsv", "text\tlabel\na\tpositive\nb\t-\nc\tnegative\n")
    examples = _read(path, ignore_labels=("-",))
    assert examples.texts == (["a", "c"],)
    assert examples.lines.tolist() == [2, 4]


def test_labels_are_optional_where_nobody_demands_them(tmp_path):
    bare = _write(tmp_path / "bare.tsv", "text\na\nb\n")
    assert _read(bare, labelled=None).labels is None
    empty = _write(tmp_path / "empty.tsv", "text\tlabel\na\t\nb\t\n")
    assert _read(empty, labelled=None).labels is None
    there = _write(tmp_path / "there.tsv", "text\tlabel\na\tpositive\n")
    assert _read(there, labelled=None).labels.tolist() == [1]
    assert _read(there, labelled=False).labels is None


def test_candidates_are_grouped_by_query_or_by_a_column(tmp_path):
    path = _write(tmp_path / "x.tsv", "question\tanswer\tlabel\tid\nq\ta\t1\t1\nq\tb\t0\t1\nr\tc\t0.5\t2\nr\td\t0\t3\n")
    assert _read(path, PICK).groups.tolist() == [0, 0, 1, 1]
    assert _read(path, PICK, columns={"group": "id"}).groups.tolist() == [0, 0, 1, 2]
    assert _read(path, PICK).labels.tolist() == [1, 0, 0.5, 0]


def test_a_part_of_the_training_rows_is_always_the_same_part(tmp_path):
    path = _write(tmp_path / "x.tsv", "text\tlabel\n" + "".join(f"t{n}\tpositive\n" for n in range(100)))
    sources = {"train": SourceConfig(path), "dev": SourceConfig(path)}
    task = TaskSpec("mood", "classification", ("text",), ("negative", "positive"), max_examples=10, sources=sources)
    first = read_examples(task, "train")
    assert len(first) == 10
    assert first.texts == read_examples(task, "train").texts
    assert first.lines.tolist() == sorted(first.lines.tolist())
    assert first.lines.tolist() != list(range(2, 12))
    assert len(read_examples(task, "dev")) == 100


def test_a_part_of_ranking_counts_queries(tmp_path):
    rows = "".join(f"q{query}\ta{n}\t{int(n == 0)}\n" for query in range(20) for n in range(3))
    path = _write(tmp_path / "x.tsv", "question\tanswer\tlabel\n" + rows)
    task = TaskSpec("pick", "ranking", PICK.text, max_examples=5, sources={"train": SourceConfig(path)})
    examples = read_examples(task, "train")
    assert len(examples) == 15
    assert examples.groups.tolist() == [query for query in range(5) for _ in range(3)]


def test_a_seed_samples_other_rows_and_fewer_are_among_more(tmp_path):
    path = _write(tmp_path / "x.tsv", "text\tlabel\n" + "".join(f"t{n}\tpositive\n" for n in range(100)))

    def lines(count, seed):
        spec = TaskSpec(
            "mood", "classification", ("text",), ("negative", "positive"),
            max_examples=count, sample_seed=seed, sources={"train": SourceConfig(path)},
        )  # fmt: skip
        return set(read_examples(spec, "train").lines.tolist())

    assert lines(10, 1) == lines(10, 1)
    assert len({frozenset(lines(10, seed)) for seed in (None, 0, 1, 2)}) == 4
    assert lines(10, 1) < lines(40, 1)


def test_scattered_candidates_are_gathered_by_query_in_the_order_of_the_file(tmp_path):
    path = _write(tmp_path / "x.tsv", "question\tanswer\tlabel\nq\ta\t1\nr\tb\t0\nq\tc\t0\nr\td\t1\n")
    with pytest.raises(UserError, match=r"x\.tsv:4: query 'q' .* `gather: true`"):
        _read(path, PICK)
    found = _read(path, PICK, gather=True)
    assert found.texts == (["q", "q", "r", "r"], ["a", "c", "b", "d"])
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.lines.tolist() == [2, 4, 3, 5]


@pytest.mark.real_data
@pytest.mark.parametrize("split", ["train", "validation", "train[:10%]"])
def test_tfds_builders_are_read_by_label_name(data_root, split):
    task = TaskSpec("rte", "classification", ("sentence1", "sentence2"), ("not_entailment", "entailment"))
    examples = _read(f"tfds:glue/rte:{split}", task, data_dir=str(data_root / "tfds"))
    assert len(examples) == {"train": 2490, "validation": 277, "train[:10%]": 249}[split]
    assert 0.4 < examples.labels.mean() < 0.6


@pytest.mark.real_data
def test_tfds_and_tsv_agree_on_labels(data_root):
    task = TaskSpec("rte", "classification", ("sentence1", "sentence2"), ("not_entailment", "entailment"))
    built = _read("tfds:glue/rte:validation", task, data_dir=str(data_root / "tfds"))
    written = _read(data_root / "glue" / "RTE" / "dev.tsv", task)
    label_of = dict(zip(zip(*written.texts, strict=True), written.labels, strict=True))
    found = [label_of.get(pair) for pair in zip(*built.texts, strict=True)]
    known = [(mine, theirs) for mine, theirs in zip(built.labels, found, strict=True) if theirs is not None]
    assert len(known) > 200
    assert all(mine == theirs for mine, theirs in known)


@pytest.mark.real_data
def test_a_prepared_folder_is_a_source(data_root):
    folder = next((data_root / "tfds" / "glue" / "rte").iterdir())
    task = TaskSpec("rte", "classification", ("sentence1", "sentence2"), ("not_entailment", "entailment"))
    assert len(_read(f"tfds:{folder}:validation", task)) == 277


BAD = {
    "missing file": ("gone.tsv", None, MOOD, {}, r"gone\.tsv: no such file"),
    "empty": ("x.tsv", "", MOOD, {}, r"x\.tsv: the file is empty"),
    "header only": ("x.tsv", "text\tlabel\n", MOOD, {}, r"x\.tsv: holds no row"),
    "too many columns": ("x.tsv", "text\tlabel\na\tb\tpositive\n", MOOD, {}, r"x\.tsv:2: 3 columns, expected 2"),
    "too few columns": ("x.tsv", "text\tlabel\npositive\n", MOOD, {}, r"x\.tsv:2: 1 column, expected 2"),
    "unknown label": ("x.tsv", "text\tlabel\na\tpositiv\n", MOOD, {}, r"x\.tsv:2: .*'positiv'.*mean 'positive'"),
    "number for a label": ("x.tsv", "text\tlabel\na\t1\n", MOOD, {}, r"x\.tsv:2: .*unknown label '1'"),
    "not utf-8": ("x.tsv", b"text\tlabel\nok\tpositive\ncaf\xe9\tpositive\n", MOOD, {}, r"x\.tsv:3: .*byte offset 3"),
    "utf-16": ("x.tsv", "text\tlabel\n".encode("utf-16"), MOOD, {}, r"x\.tsv:1: .*UTF-16"),
    "NUL": ("x.tsv", "text\tlabel\na\0\tpositive\n", MOOD, {}, r"x\.tsv:2: a NUL"),
    "no such column": ("x.tsv", "txt\tlabel\na\tpositive\n", MOOD, {}, r"x\.tsv:1: no column 'text'.*mean 'txt'"),
    "pair with one column": ("x.tsv", "premise\tlabel\na\tyes\n", PAIRS, {}, r"x\.tsv:1: no column 'hypothesis'"),
    "no label": ("x.tsv", "text\na\n", MOOD, {}, r"x\.tsv:1: no column 'label'"),
    "no header": ("x.tsv", "a\tpositive\n", MOOD, {}, r"no column 'text'.*header: false"),
    "columns twice": ("x.tsv", "text\ttext\na\tb\n", MOOD, {}, r"x\.tsv:1: column 'text' appears twice"),
    "blank line": ("x.tsv", "text\tlabel\na\tpositive\n\nb\tpositive\n", MOOD, {}, r"x\.tsv:3: an empty line"),
    "out of range": (
        "x.tsv",
        "a\tb\tlabel\nx\ty\t5.5\n",
        CLOSE,
        {},
        r"x\.tsv:2: .*'5\.5' is outside the range.*0 to 5",
    ),
    "not a number": ("x.tsv", "a\tb\tlabel\nx\ty\thigh\n", CLOSE, {}, r"x\.tsv:2: .*'high' is not a number"),
    "nan": ("x.tsv", "a\tb\tlabel\nx\ty\tnan\n", CLOSE, {}, r"x\.tsv:2: .*'nan' is not finite"),
    "comma": ("x.tsv", "a\tb\tlabel\nx\ty\t2,5\n", CLOSE, {}, r"x\.tsv:2: .*decimal comma; write '2\.5'"),
    "negative relevance": ("x.tsv", "question\tanswer\tlabel\nq\ta\t-1\n", PICK, {}, r"x\.tsv:2: .*0 or more"),
    "scattered query": (
        "x.tsv",
        "question\tanswer\tlabel\nq\ta\t1\nr\ta\t1\nq\tb\t0\n",
        PICK,
        {},
        r"x\.tsv:4: query 'q' has been there already, from line 2",
    ),
    "number for a text": (
        "x.jsonl",
        '{"text": 5, "label": "positive"}\n',
        MOOD,
        {},
        r"x\.jsonl:1: .*must be a text.*5",
    ),
    "not JSON": ("x.jsonl", '{"text": "a"\n', MOOD, {}, r"x\.jsonl:1: not JSON"),
    "JSON list": ("x.jsonl", "[1]\n", MOOD, {}, r"x\.jsonl:1: .*one JSON object"),
    "key missing": (
        "x.jsonl",
        '{"text": "a", "label": "positive"}\n{"label": "positive"}\n',
        MOOD,
        {},
        r"x\.jsonl:2: the key 'text' is missing",
    ),
    "bad quoting": ("x.csv", 'text,label\n"a"b,positive\n', MOOD, {}, r"x\.csv:2: faulty CSV"),
    "not gzip": ("x.tsv.gz", "text\tlabel\n", MOOD, {}, r"x\.tsv\.gz:1: the file cannot be read"),
    "gzip unnamed": ("x.tsv", gzip.compress(b"text\tlabel\n"), MOOD, {}, r"x\.tsv:1: .*ending \.gz"),
    "unknown ending": ("x.dat", "text\tlabel\n", MOOD, {}, r"x\.dat: the format cannot be told"),
    "unknown format": ("x.tsv", "", MOOD, {"format": "tvs"}, r"unknown format 'tvs'.*mean 'tsv'"),
    "unknown role": ("x.tsv", "text\n", MOOD, {"columns": {"texts": "a"}}, r"columns: .*'texts'.*mean 'text'"),
    "position outside": ("x.tsv", "a\tb\n", MOOD, {"header": False, "columns": {"text": 5}}, r"no column 5"),
    "all ignored": (
        "x.tsv",
        "text\tlabel\na\t-\n",
        MOOD,
        {"ignore_labels": ("-",)},
        r"holds no row that is not ignored",
    ),
    "width without header": ("x.tsv", "a\tb\tc\td\n", PAIRS, {"header": False}, r"x\.tsv:1: 4 columns, expected 3"),
    "unknown dataset": ("tfds:gleu/rte", None, MOOD, {"split": "train"}, r"tfds:gleu/rte: unknown dataset"),
    "unknown encoding": ("x.tsv", "a", MOOD, {"encoding": "utf-9"}, r"unknown encoding 'utf-9'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_its_place(tmp_path, case):
    name, content, task, options, expected = BAD[case]
    path = name if name.startswith("tfds:") else tmp_path / name
    if content is not None:
        _write(path, content)
    with pytest.raises(UserError, match=expected) as raised:
        _read(path, task, **options)
    assert "\n" not in str(raised.value)


def test_a_split_without_source_is_told_by_its_key(tmp_path):
    task = TaskSpec("mood", "classification", ("text",), ("a", "b"), sources={"train": SourceConfig("x.tsv")})
    with pytest.raises(UserError, match=r"tasks\.mood\.dev: this split has no source.*train"):
        read_examples(task, "dev")


def test_json_labels_may_be_numbers_and_truth_values(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": True}]
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))
    examples = _read(path, labels={"1": "positive", "0": "negative", "true": "positive"})
    assert examples.labels.tolist() == [1, 0, 1]


NUMBERS = ("one", "two", "three", "four")
SLICES = {"[:-2]": ["one", "two"], "[-2:]": ["three", "four"], "[1:3]": ["two", "three"], "[:]": list(NUMBERS)}


@pytest.mark.parametrize("rows", SLICES)
def test_rows_are_a_part_of_a_file_by_place(tmp_path, rows):
    path = _write(tmp_path / "x.tsv", "text\tlabel\n" + "".join(f"{word}\tpositive\n" for word in NUMBERS))
    examples = _read(path, rows=rows)
    assert examples.texts[0] == SLICES[rows]
    assert list(examples.lines) == [2 + NUMBERS.index(word) for word in SLICES[rows]]


def test_rows_at_fault_count_in_their_places(tmp_path):
    path = _write(tmp_path / "x.tsv", "text\tlabel\none\tpositive\ntwo\tno such label\nthree\tpositive\n")
    examples = _read(path, rows="[-2:]", on_error="skip")
    assert examples.texts[0] == ["three"]
    assert len(examples.skipped) == 1
    assert _read(path, rows="[:1]").texts[0] == ["one"]


@pytest.mark.parametrize(
    ("rows", "message"), [("-200:", "must be a slice as in"), ("[5:]", r"among those of `rows: \[5:\]`")]
)
def test_rows_that_are_no_slice_or_none_are_told(tmp_path, rows, message):
    path = _write(tmp_path / "x.tsv", "text\tlabel\none\tpositive\n")
    with pytest.raises(UserError, match=message):
        _read(path, rows=rows)


# --- parts of ranking files, and parts that overlap

QUESTIONS = "question\tanswer\tlabel\n" + "".join(
    f"q{n}\ta{n}{c}\t{int(c == 0)}\n" for n in range(10) for c in range(4)
)


@pytest.mark.parametrize("cut", ["-3", "7", "-1", "1"])
def test_a_slice_of_ranking_counts_questions(tmp_path, cut):
    path = _write(tmp_path / "x.tsv", QUESTIONS)
    before, after = (_read(path, PICK, rows=rows) for rows in (f"[:{cut}]", f"[{cut}:]"))
    assert before.texts[0] + after.texts[0] == [f"q{n}" for n in range(10) for _ in range(4)]
    assert not set(before.texts[0]) & set(after.texts[0])
    assert before.groups[-1] + 1 == len(set(before.texts[0])) == (int(cut) % 10)


def test_scattered_candidates_are_cut_by_question(tmp_path):
    rows = "".join(f"q{n}\ta{n}{c}\t{c}\n" for c in range(4) for n in range(10))
    path = _write(tmp_path / "x.tsv", "question\tanswer\tlabel\n" + rows)
    found = _read(path, PICK, rows="[-3:]", gather=True)
    assert found.texts[0] == [f"q{n}" for n in (7, 8, 9) for _ in range(4)]
    with pytest.raises(UserError, match="has been there already"):
        _read(path, PICK, rows="[-3:]")


def test_a_slice_of_ranking_by_ids_and_with_rows_at_fault(tmp_path):
    rows = "".join(f"{n // 2}\tq\ta{n}\t{'bad' if n == 5 else n % 2}\n" for n in range(8)) + "3\tq\n"
    path = _write(tmp_path / "x.tsv", "id\tquestion\tanswer\tlabel\n" + rows)
    found = _read(path, PICK, rows="[-2:]", columns={"group": "id"}, on_error="skip")
    assert found.texts[1] == ["a4", "a6", "a7"]
    assert found.groups.tolist() == [0, 1, 1]
    assert len(found.skipped) == 2
    assert _read(path, PICK, rows="[:2]", columns={"group": "id"}).texts[1] == ["a0", "a1", "a2", "a3"]


OVERLAPS = {
    "rows": (MOOD, "[:-10]", "[-20:]", "share 10 rows of"),
    "one row": (MOOD, "[:21]", "[20:]", "share 1 rows of"),
    "counted from both ends": (MOOD, "[:30]", "[-11:]", "share 1 rows of"),
    "questions": (PICK, "[:-2]", "[-3:]", "share 1 questions of"),
    "a part of what is whole": (MOOD, None, "[-10:]", "train reads the whole of"),
    "the whole of what is a part": (PICK, "[:-3]", None, "dev reads the whole of"),
}


@pytest.mark.parametrize("case", OVERLAPS)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_splits_of_one_file_share_no_rows(tmp_path, case, split):
    task, train, dev, expected = OVERLAPS[case]
    path = _write(tmp_path / "x.tsv", QUESTIONS.replace("question", "text", task is MOOD))
    (tmp_path / "link.tsv").symlink_to(path)
    columns = {} if task is PICK else {"text": "answer"}
    labels = {} if task is PICK else {"0": "negative", "1": "positive"}
    sources = {
        "train": SourceConfig(path, rows=train, columns=columns, labels=labels),
        "dev": SourceConfig(str(tmp_path / "link.tsv"), rows=dev, columns=columns, labels=labels),
    }
    with pytest.raises(UserError, match=expected):
        read_examples(replace(task, sources=sources), split)


@pytest.mark.parametrize(
    ("train", "dev"), [("[:-3]", "[-3:]"), ("[:7]", "[7:]"), ("[2:9]", "[:2]"), (None, None)]
)  # fmt: skip
def test_splits_of_one_file_that_share_nothing_are_read(tmp_path, train, dev):
    path = _write(tmp_path / "x.tsv", QUESTIONS)
    task = replace(PICK, sources={"train": SourceConfig(path, rows=train), "dev": SourceConfig(path, rows=dev)})
    assert len(read_examples(task, "train"))
    assert len(read_examples(task, "dev"))


# --- encodings


@pytest.mark.parametrize(
    ("encoding", "byte", "advice"),
    [("latin-1", b"\x92", "cp1252"), ("iso-8859-15", b"\x85", "cp1252"), ("iso8859_2", b"\x96", "cp1250"), ("latin-1", b"\xe9", None),
     ("cp1252", b"\x92", None)],
)  # fmt: skip
def test_controls_where_windows_has_letters_are_reported_once(tmp_path, capsys, encoding, byte, advice):
    path = _write(
        tmp_path / "x.tsv", b"text\tlabel\na\tpositive\nit" + byte + b"s\tpositive\nb" + byte + b"\tpositive\n"
    )
    for _ in range(2):
        assert len(_read(path, encoding=encoding)) == 3
    found = capsys.readouterr().err.splitlines()
    assert len(found) == (advice is not None)
    for line in found:
        assert line.startswith(f"warning: {path}:3: byte 0x{byte[0]:02x} ")
        assert f"`encoding: {advice}`" in line


@pytest.mark.parametrize(
    ("text", "reported"), [('"the ""scene"" was fine"', True), ('"a"', False), ('He said "no"', False), ('"no," said "he"', False), ('""', False)]
)  # fmt: skip
def test_texts_that_a_csv_writer_quoted_are_reported_once(tmp_path, capsys, text, reported):
    path = _write(tmp_path / "x.tsv", f"text\tlabel\na\tpositive\n{text}\tpositive\n")
    for rows, texts in ((None, ["a", text]), ("[1:]", [text])):
        assert _read(path, rows=rows).texts[0] == texts
    found = capsys.readouterr().err.splitlines()
    assert [line.split(": a text")[0] for line in found] == ([f"warning: {path}:3"] if reported else [])
    assert len(_read(path, format="quoted_tsv") if reported else found) == (2 if reported else 0)
    assert capsys.readouterr().err == ""
