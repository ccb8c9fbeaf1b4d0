"""A task file from a user's files: what is guessed, what is written, that it trains, what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.guessing import Wishes
from mtdnn_tf.starting.kinds import KINDS
from mtdnn_tf.starting.preparing import Files, prepare_all
from mtdnn_tf.starting.splits import companion
from mtdnn_tf.starting.task_file import new_files, task_file
from mtdnn_tf.task_types import TASK_TYPES
from tests.small import TINY

WORDS = ["bread", "milk", "tea", "soup", "salt", "rice", "fish", "corn", "plum", "kale"]
TEXTS = [f"the {word} was on the table for {number} days" for number in range(4) for word in WORDS]  # 40
OTHERS = [f"somebody ate the {word} after {number} days" for number in range(4) for word in WORDS]


def tsv(*columns, header=None):
    rows = [*([header] if header else []), *zip(*columns, strict=True)]
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def as_csv(*columns, header):
    stream = io.StringIO()
    csv.writer(stream).writerows([header, *zip(*columns, strict=True)])
    return stream.getvalue()


def jsonl(**columns):
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def cycle(*values):
    return [values[place % len(values)] for place in range(len(TEXTS))]


SCORES = [f"{(place * 7) % 51 / 10:.1f}" for place in range(len(TEXTS))]  # 0.0 to 5.0
QUERIES = [f"who ate the {word} ?" for word in WORDS for _ in range(4)]
RELEVANT = cycle(0, 1, 0, 0)
IDS = list(range(100, 140))
NLI = ("contradiction", "entailment", "neutral")

# name: (file name, its text, type, text columns of the task, labels or range, columns mapped)
FILES = {
    "sentiment": ("a.tsv", tsv(TEXTS, cycle("positive", "negative"), header=("text", "label")),
                  "classification", ("text",), ("negative", "positive"), {}),
    "as_cola": ("a.tsv", tsv(cycle("gj04", "ks08", "cj99"), cycle(1, 0), cycle("", "*"), TEXTS),
                "classification", ("text",), ("0", "1"), {"text": 3, "label": 1}),
    "label_first_no_header": ("a.txt", tsv(cycle(0, 1), TEXTS),
                              "classification", ("text",), ("0", "1"), {"text": 1, "label": 0}),
    "quotes_and_commas": ("a.csv", as_csv([f'{text}, "so they say",\nand more' for text in TEXTS], cycle("good", "bad"),
                                          header=("Review Text", "Sentiment")),
                          "classification", ("text",), ("bad", "good"), {"text": "Review Text", "label": "Sentiment"}),
    "row_numbers_of_a_spreadsheet": ("a.csv", as_csv(IDS, TEXTS, cycle("x", "y"), header=("", "comment", "category")),
                                     "classification", ("comment",), ("x", "y"), {"label": "category"}),
    "json_lines": ("a.jsonl", jsonl(id=IDS, headline=TEXTS, topic=cycle("sport", "politics", "art")),
                   "classification", ("headline",), ("art", "politics", "sport"), {"label": "topic"}),
    "json_booleans": ("a.jsonl", jsonl(body=TEXTS, label=cycle(True, False), tags=[["a"]] * 40),
                      "classification", ("body",), ("false", "true"), {}),
    "scores": ("a.tsv", tsv(IDS, cycle("news", "forum"), TEXTS, OTHERS, SCORES,
                            header=("index", "genre", "sentence1", "sentence2", "score")),
               "regression", ("sentence1", "sentence2"), (0, 5), {"label": "score"}),
    "scores_without_header": ("a.tsv", tsv(TEXTS, OTHERS, SCORES),
                              "regression", ("text1", "text2"), (0, 5), {"text1": 0, "text2": 1, "label": 2}),
    "whole_similarity": ("a.tsv", tsv(TEXTS, OTHERS, cycle(0, 1, 2, 3, 4, 5), header=("text_a", "text_b", "similarity")),
                         "regression", ("text_a", "text_b"), (0, 5), {"label": "similarity"}),
    "entailment": ("a.tsv", tsv(IDS, OTHERS, TEXTS, cycle(*NLI), header=("pairID", "hypothesis", "premise", "gold_label")),
                   "classification", ("premise", "hypothesis"), NLI, {"label": "gold_label"}),
    "entailment_with_premises_thrice": (
        "a.tsv", tsv([TEXTS[place // 3] for place in range(40)], OTHERS, cycle(1, 0), header=("premise", "hypothesis", "label")),
        "classification", ("premise", "hypothesis"), ("0", "1"), {}),
    "ranking": ("a.tsv", tsv(QUERIES, OTHERS, RELEVANT, header=("question", "answer", "label")),
                "ranking", ("question", "answer"), (), {}),
    "ranking_without_header": ("a.tsv", tsv(QUERIES, OTHERS, RELEVANT),
                               "ranking", ("text1", "text2"), (), {"text1": 0, "text2": 1, "label": 2}),
    "stars": ("a.csv", as_csv(TEXTS, cycle(5, 4, 3, 2, 1), header=("review", "stars")),
              "classification", ("review",), ("1", "2", "3", "4", "5"), {"label": "stars"}),
    "identifiers": ("a.tsv", tsv([f"u{place}" for place in IDS], IDS, TEXTS, cycle("a", "b"),
                                 header=("user_id", "qid1", "tweet", "class")),
                    "classification", ("tweet",), ("a", "b"), {"label": "class"}),
    "yes_no": ("a.tsv", tsv(TEXTS, cycle("yes", "no", "null"), header=("text", "label")),
               "classification", ("text",), ("no", "null", "yes"), {}),
    "floats_as_classes": ("a.tsv", tsv(TEXTS, cycle("1.0", "0.0"), header=("text", "label")),
                          "classification", ("text",), ("0.0", "1.0"), {}),
    "gaps": ("a.tsv", tsv(TEXTS, cycle("a", "b", "", "-"), header=("text", "label")),
             "classification", ("text",), ("a", "b"), {}),
    "wrong_ending": ("a.csv", tsv(TEXTS, cycle("a", "b"), header=("text", "label")),
                     "classification", ("text",), ("a", "b"), {}),
    "labels_that_yaml_would_take_for_more": (
        "a.tsv", tsv(TEXTS, cycle("a: b # c", "- x", '"q', "[", "1e3", "☺"), header=("text", "label")),
        "classification", ("text",), ('"q', "- x", "1e3", "[", "a: b # c", "☺"), {}),
    "many_labels": ("a.tsv", tsv(TEXTS, cycle(*[f"a long name, number {at}" for at in range(10, 28)]), header=("text", "intent")),
                    "classification", ("text",), tuple(f"a long name, number {at}" for at in range(10, 28)), {"label": "intent"}),
    "short_texts": ("a.tsv", tsv([f"{word}ful {number}x" for number in range(4) for word in WORDS], cycle("a", "b")),
                    "classification", ("text",), ("a", "b"), {"text": 0, "label": 1}),
    "label_and_its_words": ("a.jsonl", jsonl(text=TEXTS, label=cycle(0, 1, 2), label_text=cycle("so so", "bad", "good")),
                            "classification", ("text",), ("0", "1", "2"), {}),
    "a_spreadsheets_empty_columns": (
        "a.csv", as_csv(cycle("ham", "spam"), TEXTS, cycle(""), cycle(""), header=("v1", "v2", "", "")),
        "classification", ("v2",), ("ham", "spam"), {"label": "v1"}),
    "a_label_that_ends_as_keys_do": ("a.csv", as_csv(TEXTS, cycle(0, 1), header=("comment", "valid")),
                                     "classification", ("comment",), ("0", "1"), {"label": "valid"}),
    "no_spaces_between_words": ("a.tsv", tsv([f"今天天气{chr(0x4E00 + at)}" for at in range(40)], cycle("好", "坏"), header=("text", "label")),
                                "classification", ("text",), ("坏", "好"), {}),
}  # fmt: skip


def started(folder, *files, names=(), share=None, **wishes):
    """Do as the command does, in this process; return the task file."""
    tasks = prepare_all(names, files, Wishes(**wishes), share)
    output = folder / "mine.yaml"
    for path, text in new_files(output, tasks).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    output.write_text(task_file(output, tasks), encoding="utf-8")
    return output


def loaded(path):
    return {task.name: task for task in mtdnn.load_tasks(mtdnn.load_config(path))}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("case", FILES)
def test_a_file_becomes_a_task_that_reads_it(tmp_path, case):
    name, content, kind, text, outputs, columns = FILES[case]
    task = loaded(started(tmp_path, Files(write(tmp_path, name, content)), names=["mine"]))["mine"]
    assert (task.type, task.text) == (kind, text)
    assert (task.labels or task.range or ()) == outputs
    assert task.sources["train"].columns == columns
    splits = [read_examples(task, split) for split in ("train", "dev")]
    unlabelled = 20 if case == "gaps" else 0
    assert sum(map(len, splits)) == len(TEXTS) - unlabelled
    assert not {row[0].lower() for row in zip(*splits[0].texts, strict=True)} & set(splits[1].texts[0])


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_every_type_can_be_asked_for(tmp_path, kind):
    assert list(KINDS) == list(TASK_TYPES)
    path = write(tmp_path, "a.tsv", FILES["ranking"][1])
    task = loaded(started(tmp_path, Files(path), type=kind))["a"]
    assert task.type == kind
    assert len(read_examples(task, "dev"))


def test_columns_can_be_asked_for(tmp_path):
    path = write(
        tmp_path, "a.tsv", tsv(TEXTS, OTHERS, cycle("a", "b"), cycle("c", "d"), header=("s1", "s2", "label", "odd"))
    )
    task = loaded(started(tmp_path, Files(path), text=("s2",), label="odd"))["a"]
    assert (task.text, task.labels) == (("s2",), ("c", "d"))
    assert read_examples(task, "train").texts[0][0] in OTHERS


def test_what_is_unsure_is_said_in_the_file(tmp_path):
    path = started(tmp_path, Files(write(tmp_path, "a.csv", FILES["stars"][1])))
    assert "Unsure: 5 whole numbers, 1 to 5: taken as classes; for a score: --type=regression" in path.read_text()


def test_keys_of_few_values_are_named_as_what_the_label_might_be(tmp_path):
    content = tsv(TEXTS, cycle(0, 1), cycle(1, 2, 3), IDS, header=("text", "is_retweet", "emotion_id", "tweet_id"))
    path = started(tmp_path, Files(write(tmp_path, "a.tsv", content)))
    assert "the label might also be emotion_id: --label=<column> chooses" in path.read_text()


def test_files_beside_the_training_file_are_found(tmp_path):
    for split, rows in (("train", slice(0, 20)), ("valid", slice(20, 30)), ("test", slice(30, 40))):
        write(tmp_path, f"mood_{split}.tsv", tsv(TEXTS[rows], cycle("a", "b")[rows], header=("text", "label")))
    path = started(tmp_path, Files(str(tmp_path / "mood_train.tsv")))
    task = loaded(path)["mood"]
    assert {split: Path(source.path).name for split, source in task.sources.items()} == {
        "train": "mood_train.tsv", "dev": "mood_valid.tsv", "test": "mood_test.tsv",
    }  # fmt: skip
    assert not (tmp_path / "mine_data").exists()


@pytest.mark.parametrize(
    ("train", "other"),
    [("x_train.tsv", "x_dev.tsv"), ("train.csv", "val.csv"), ("x.tsv", "x.dev.tsv"), ("x-Train.jsonl.gz", "x-validation.jsonl.gz")],
)  # fmt: skip
def test_companion(tmp_path, train, other):
    assert companion(str(tmp_path / train), "dev") is None
    (tmp_path / other).touch()
    assert companion(str(tmp_path / train), "dev") == str(tmp_path / other)


def test_a_test_file_may_be_unlabelled_and_laid_out_in_another_way(tmp_path):
    train = write(tmp_path, "a_train.tsv", FILES["as_cola"][1])
    write(tmp_path, "a_test.tsv", tsv(IDS, TEXTS, header=("index", "sentence")))
    task = loaded(started(tmp_path, Files(train)))["a"]
    examples = read_examples(task, "test")
    assert examples.labels is None
    assert examples.texts[0] == TEXTS


def test_a_development_file_may_have_new_labels_and_gaps(tmp_path):
    train = write(tmp_path, "a.tsv", FILES["sentiment"][1])
    dev = write(tmp_path, "b.tsv", tsv(["one", "two", "three"], ["positive", "mixed", "-"], header=("text", "label")))
    task = loaded(started(tmp_path, Files(train, dev)))["a"]
    assert task.labels == ("mixed", "negative", "positive")
    assert read_examples(task, "dev").texts[0] == ["one", "two"]


def test_a_beside_lying_file_that_does_not_suit_is_left_and_said(tmp_path):
    train = write(tmp_path, "a_train.tsv", FILES["sentiment"][1])
    write(tmp_path, "a_dev.tsv", "no\n")
    path = started(tmp_path, Files(train))
    assert "not used as dev" in path.read_text()
    assert Path(loaded(path)["a"].sources["dev"].path).parent.name == "mine_data"


def test_several_files_make_several_tasks(tmp_path):
    files = [Files(write(tmp_path, f"{case}.{FILES[case][0].split('.')[1]}", FILES[case][1])) for case in FILES]
    tasks = loaded(started(tmp_path, *files))
    assert list(tasks) == list(FILES)
    assert [task.type for task in tasks.values()] == [kind for _, _, kind, *_ in FILES.values()]


def test_a_packed_file_in_another_encoding(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(tsv([f"café {text}" for text in TEXTS], cycle("é", "à")).encode("latin-1")))
    task = loaded(started(tmp_path, Files(str(path), encoding="latin-1")))["a"]
    assert task.labels == ("à", "é")
    assert read_examples(task, "dev").texts[0][0].startswith("café")


# --- what writers write


def quoted_tsv(texts, labels, quoting, header=("text", "label"), line_end="\n"):
    stream = io.StringIO()
    rows = [*([header] if header else []), *zip(texts, labels, strict=True)]
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=line_end).writerows(rows)
    return stream.getvalue()


def objects(texts, labels):
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


SPOKEN = [f'"Is {text}?" he said' if place % 3 else text for place, text in enumerate(TEXTS)]
COMMAS = [f"{text}, I think" if place % 3 else text for place, text in enumerate(TEXTS)]
MOODS = cycle("neg", "pos")
IN_ORDER = objects(TEXTS, MOODS)

# name: (file name, its text, the texts in it, the format that the task file names)
WRITTEN = {
    "every field quoted": ("a.tsv", quoted_tsv(SPOKEN, MOODS, csv.QUOTE_ALL), SPOKEN, "quoted_tsv"),
    "every field quoted, no header": ("a.txt", quoted_tsv(TEXTS, MOODS, csv.QUOTE_ALL, None, "\r\n"), TEXTS, "quoted_tsv"),
    "numbers not quoted": ("a.tsv", quoted_tsv(TEXTS, cycle(0, 1), csv.QUOTE_NONNUMERIC), TEXTS, "quoted_tsv"),
    "quoted where needed": ("a.tsv", quoted_tsv(SPOKEN, MOODS, csv.QUOTE_MINIMAL), SPOKEN, "quoted_tsv"),
    "quoted for commas": (
        "a.txt", tsv([f'"{text}"' if "," in text else text for text in COMMAS], MOODS, header=("text", "label")), COMMAS, "quoted_tsv"),
    "line breaks in texts": (
        "a.tsv", quoted_tsv([text.replace(" on", "\n\ton") for text in TEXTS], MOODS, csv.QUOTE_MINIMAL),
        [text.replace(" on", "\n\ton") for text in TEXTS], "quoted_tsv"),
    "no quotes": ("a.tsv", quoted_tsv(TEXTS, MOODS, csv.QUOTE_MINIMAL), TEXTS, "auto"),
    "plain, speech": ("a.tsv", tsv(SPOKEN, MOODS, header=("text", "label")), SPOKEN, "auto"),
    "plain, all texts in quotes": ("a.tsv", tsv([f'"{text}"' for text in TEXTS], MOODS, header=("text", "label")),
                                   [f'"{text}"' for text in TEXTS], "auto"),
    "plain, quotes beside doubled ones": ("a.tsv", tsv(['"a ""b"" c"', *SPOKEN[1:]], MOODS, header=("text", "label")),
                                          ['"a ""b"" c"', *SPOKEN[1:]], "auto"),
    "array": ("a.json", json.dumps(IN_ORDER), TEXTS, "auto"),
    "array over several lines": ("a.json", json.dumps(IN_ORDER, indent=1), TEXTS, "auto"),
    "array, an object a line": ("a.json", "[" + ",\n".join(map(json.dumps, IN_ORDER)) + "]", TEXTS, "auto"),
    "array under a key": ("a.json", json.dumps({"about": {"by": ["us"]}, "rows": IN_ORDER, "count": 40}), TEXTS, "auto"),
    "array under a key, over several lines": ("a.json", json.dumps({"rows": IN_ORDER, "count": 40}, indent=2), TEXTS, "auto"),
    "objects over several lines": ("a.json", "\n".join(json.dumps(row, indent=2) for row in IN_ORDER), TEXTS, "auto"),
    "array, called lines": ("a.jsonl", json.dumps(IN_ORDER, indent=1), TEXTS, "auto"),
    "lines, called JSON": ("a.json", jsonl(text=TEXTS, label=MOODS), TEXTS, "auto"),
    "lines, called text": ("a.txt", jsonl(text=TEXTS, label=MOODS), TEXTS, "jsonl"),
    "lines, called CSV": ("a.csv", jsonl(text=TEXTS, label=MOODS), TEXTS, "jsonl"),
    "array, called CSV": ("a.csv", json.dumps(IN_ORDER, indent=1), TEXTS, "jsonl"),
    "CSV, called JSON": ("a.json", as_csv(COMMAS, MOODS, header=("text", "label")), COMMAS, "csv"),
    "CSV, called TSV": ("a.tsv", as_csv(COMMAS, MOODS, header=("text", "label")), COMMAS, "csv"),
    "TSV with commas, called CSV": ("a.csv", tsv(COMMAS, MOODS, header=("text", "label")), COMMAS, "tsv"),
    "separator named": ("a.csv", "sep=,\n" + as_csv(COMMAS, MOODS, header=("text", "label")), COMMAS, "auto"),
    "tab named, called CSV": ("a.csv", "sep=\t\n" + tsv(COMMAS, MOODS, header=("text", "label")), COMMAS, "tsv"),
    "packed": ("a.ndjson", jsonl(text=TEXTS, label=MOODS), TEXTS, "auto"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITTEN)
def test_training_reads_what_the_writer_meant(tmp_path, case):
    name, content, texts, form = WRITTEN[case]
    path = write(tmp_path, name, content)
    dev = write(tmp_path, f"b{Path(name).suffix}", content)
    task = loaded(started(tmp_path, Files(path, dev)))["a"]
    assert task.sources["train"].format == form
    read = read_examples(task, "train")
    assert read.texts[0] == texts
    assert [task.labels[label] for label in read.labels] == (
        [*map(str, cycle(0, 1))] if case == "numbers not quoted" else MOODS
    )
    (tmp_path / "mine.yaml").unlink()
    task = loaded(started(tmp_path, Files(path)))["a"]
    assert sorted(read_examples(task, "train").texts[0] + read_examples(task, "dev").texts[0]) == sorted(texts)


@pytest.mark.parametrize(
    ("case", "expected"),
    [("quoted where needed", "quotes around fields with a quote, a tab or a line break are taken for the writer's"),
     ("plain, all texts in quotes", "40 rows have a field in quotes (line 2, 3, 4, ...)"),
     ("plain, quotes beside doubled ones", "1 rows have a field in quotes (line 2)"),
     ("CSV, called JSON", "the ending says jsonl, but the file is csv")],
)  # fmt: skip
def test_what_is_taken_for_quotes_is_said(tmp_path, case, expected):
    name, content, _, _ = WRITTEN[case]
    task_file = started(tmp_path, Files(write(tmp_path, name, content))).read_text().replace("\n    # ", " ")
    assert expected in task_file


def test_new_files_are_quoted_as_the_file_was(tmp_path):
    name, content, _, _ = WRITTEN["every field quoted"]
    started(tmp_path, Files(write(tmp_path, name, content)))
    for split in ("train", "dev"):
        assert set((tmp_path / "mine_data" / f"a_{split}.tsv").read_text().splitlines()) <= set(content.splitlines())


# --- holding out


def held(tmp_path, content, name="a.tsv", share=0.2):
    task = loaded(started(tmp_path, Files(write(tmp_path, name, content)), share=share))["a"]
    return task, read_examples(task, "train"), read_examples(task, "dev")


def test_a_development_file_names_the_row_that_spoils_it(tmp_path):
    train = write(tmp_path, "a.jsonl", jsonl(text=TEXTS, label=MOODS))
    for rows, expected in (
        ('{"text": "a"}\n', "b.jsonl:41: the key 'label'"),
        ('{"label": "pos"}\n', "b.jsonl:41: the key 'text'"),
    ):
        dev = write(tmp_path, "b.jsonl", jsonl(text=TEXTS, label=MOODS) + rows)
        with pytest.raises(UserError, match=expected):
            started(tmp_path, Files(train, dev))


def test_labels_are_held_out_in_the_same_share(tmp_path):
    task, train, dev = held(tmp_path, tsv(TEXTS, ["rare"] * 10 + ["often"] * 30, header=("text", "label")))
    assert Counter(task.labels[label] for label in dev.labels) == {"rare": 2, "often": 6}
    assert len(train) == 32


def test_bands_of_scores_are_held_out_in_the_same_share(tmp_path):
    _, _, dev = held(tmp_path, FILES["scores"][1], share=0.25)
    assert len(dev) == 10
    assert dev.labels.min() < 1.5
    assert dev.labels.max() > 3.5


def test_questions_are_held_out_whole(tmp_path):
    _, train, dev = held(tmp_path, FILES["ranking"][1])
    assert (len(train), len(dev)) == (32, 8)
    assert not set(train.texts[0]) & set(dev.texts[0])


def test_texts_that_hang_together_stay_together(tmp_path):
    chain = [(f"Text number {place // 2}", f"other number {(place + 1) // 2}") for place in range(2)] * 3
    rest = list(zip(TEXTS, OTHERS, strict=True))
    first, second = zip(*chain[:2], *rest, *rest, strict=True)
    labels = ["a" if place % 3 else "b" for place in range(len(first))]
    _, train, dev = held(tmp_path, tsv(first, second, labels, header=("text1", "text2", "label")))
    for side in range(2):
        assert not set(train.texts[side]) & set(dev.texts[side])


@pytest.mark.parametrize("repeated", [0, 1])
def test_a_text_that_many_rows_share_does_not_hang_them_together(tmp_path, repeated):
    texts = [f"A text of several words, number {place}" for place in range(200)]
    shared = [f"what is said of target number {place % 2}" for place in range(200)]
    columns = (shared, texts) if repeated == 0 else (texts, shared)
    labels = [("yes", "no", "perhaps")[place % 3] for place in range(200)]
    content = tsv(*columns, labels, header=("text1", "text2", "label"))
    _, train, dev = held(tmp_path, content, share=0.1)
    assert (len(train), len(dev)) == (pytest.approx(180, abs=2), pytest.approx(20, abs=2))
    assert (
        f"held out by text{2 - repeated}: too many rows share a text{repeated + 1}"
        in (tmp_path / "mine.yaml").read_text()
    )


def test_words_of_the_language_name_no_text(tmp_path):
    task = loaded(
        started(tmp_path, Files(write(tmp_path, "a.tsv", tsv(TEXTS, cycle("a", "b"), header=("from", "label")))))
    )["a"]
    assert task.text == ("text",)


def test_holding_out_is_the_same_each_time(tmp_path):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        held(folder, FILES["sentiment"][1])
        contents.append((folder / "mine_data" / "a_dev.tsv").read_bytes())
    assert contents[0] == contents[1]


def test_many_small_classes_are_not_held_out_by_half(tmp_path):
    texts = [f"text number {place} of many others" for place in range(2200)]
    content = tsv(texts, [f"i{place % 1100}" for place in range(2200)], header=("text", "label"))
    task = loaded(started(tmp_path, Files(write(tmp_path, "a.tsv", content)), type="classification"))["a"]
    assert len(task.labels) == 1100
    assert len(read_examples(task, "dev")) == pytest.approx(220, abs=22)
    assert set(read_examples(task, "train").labels.tolist()) == set(range(1100))


def test_classes_that_share_all_texts_are_held_out_all_the_same(tmp_path):
    texts = [f"text number {place % 50} of many others" for place in range(2200)]
    content = tsv(texts, [f"i{place // 2}" for place in range(2200)], header=("text", "label"))
    task = loaded(started(tmp_path, Files(write(tmp_path, "a.tsv", content)), type="classification"))["a"]
    train, dev = (read_examples(task, split) for split in ("train", "dev"))
    assert len(dev) == pytest.approx(220, abs=50)
    assert not set(train.texts[0]) & set(dev.texts[0])


# --- labels

ONE_CLASS = {
    "numbers": (cycle("0", "1.0", "0.0", "1"), ("0", "1"), "spellings of one class: '0' = '0.0', '1' = '1.0'; to keep them apart"),
    "signed": (cycle("+1", "-1", "1"), ("-1", "1"), "'+1' = '1'"),
    "booleans": (cycle("True", "false", "True", "False", "true", "false"), ("True", "false"), "'True' = 'true'"),
    "unicode": (cycle("caf\u00e9", "bar", "cafe\u0301"), ("bar", "caf\u00e9"), "'caf\u00e9' in two Unicode forms"),
    "blanks": (cycle("a\u00a0", "b", "a"), ("a", "b"), None),
    "case": (cycle("Yes", "no", "yes"), ("Yes", "no", "yes"), "classes that differ in upper and lower case only: 'Yes' and 'yes'"),
    "several labels": (cycle("a;b", "a", "b;c", "c"), ("a", "a;b", "b;c", "c"), "'a;b', 'b;c' look like several labels of one text"),
    "lists": (cycle("['a', 'b']", "['b', 'c']", "['a', 'c']"), ("['a', 'b']", "['a', 'c']", "['b', 'c']"), "several labels"),
    "places": (cycle("Washington, D.C.", "Boston, MA"), ("Boston, MA", "Washington, D.C."), None),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_CLASS)
def test_what_is_one_class_and_what_looks_so(tmp_path, case):
    values, labels, note = ONE_CLASS[case]
    path = started(tmp_path, Files(write(tmp_path, "a.tsv", tsv(TEXTS, values, header=("text", "label")))))
    task = loaded(path)["a"]
    assert task.labels == labels
    assert sum(len(read_examples(task, split)) for split in ("train", "dev")) == len(TEXTS)
    said = " ".join(path.read_text().replace("\n", " ").split()).replace("# ", "")
    assert note in said if note else "Unsure" not in said


MISSING = {
    "snli": (cycle(*NLI, *NLI, "-"), None, NLI, 5, "--no_label="),
    "snli_kept": (cycle(*NLI, *NLI, "-"), (), ("-", *NLI), 0, None),
    "plus_minus": (cycle("+", "-"), None, ("+", "-"), 0, None),
    "plus_minus_without": (cycle("+", "-", "0"), ("-",), ("+", "0"), 13, "13 rows without a label ('-': 13)"),
    "words": (cycle("pos", "neg", "nan", "N/A", "None"), None, ("neg", "pos"), 24, "--no_label="),
    "words_kept": (cycle("pos", "neg", "nan"), (), ("nan", "neg", "pos"), 0, None),
    "minus_one": (cycle(0, 1, 2, -1), None, ("-1", "0", "1", "2"), 0, "--no_label=-1"),
    "minus_one_left_out": (cycle(0, 1, 2, -1), ("-1.0",), ("0", "1", "2"), 10, "10 rows without a label ('-1': 10)"),
    "scores": (cycle("1.5", "NA", "2.5", "?"), None, (1, 5), 20, "20 rows without a label"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("held_out", [True, False], ids=["held_out", "files"])
def test_what_stands_for_no_label_is_said_and_trained_so(tmp_path, case, held_out):
    values, wished, outputs, missing, note = MISSING[case]
    content = tsv(TEXTS, values, header=("text", "label"))
    files = Files(write(tmp_path, "a.tsv", content), None if held_out else write(tmp_path, "b.tsv", content))
    path = started(tmp_path, files, no_label=wished)
    task = loaded(path)["a"]
    assert (task.labels or task.range) == outputs
    rows = [len(read_examples(task, split)) for split in ("train", "dev")]
    assert (sum(rows) if held_out else rows[1]) == len(TEXTS) - missing
    said = " ".join(path.read_text().replace("\n", " ").split()).replace("# ", "")
    assert note in said if note else "no_label" not in said


def labelled_files(folder, train, **others):
    files = {split: write(folder, f"x_{split}.tsv", tsv(TEXTS[:len(labels)], labels, header=("text", "label")))
             for split, labels in {"train": train, **others}.items()}  # fmt: skip
    return Files(files["train"])


@pytest.mark.parametrize(
    ("train", "dev", "labels"),
    [
        (cycle("0.0", "1.0"), ["0", "1", "0"], ("0.0", "1.0")),
        (cycle("True", "False"), ["true", "false"], ("False", "True")),
        (cycle("caf\u00e9", "bar"), ["cafe\u0301", "bar"], ("bar", "caf\u00e9")),
        (cycle("a", "b"), ["a", "None", "nan", "c"], ("a", "b", "c")),
        (cycle("0", "1"), ["1", "-1"], ("0", "1")),
    ],
)
def test_the_labels_of_a_development_file_are_those_of_training(tmp_path, train, dev, labels):
    task = loaded(started(tmp_path, labelled_files(tmp_path, train, dev=dev)))["x"]
    assert task.labels == labels
    kept = [value for value in dev if value not in ("None", "nan", "-1")]
    assert len(read_examples(task, "dev")) == len(kept)
    assert len(set(read_examples(task, "dev").labels.tolist())) == len(set(kept))


@pytest.mark.parametrize("placeholder", ["-1", "-", "nan", ""])
def test_a_test_file_without_labels_may_say_so_in_each_row(tmp_path, placeholder):
    files = labelled_files(tmp_path, cycle("0", "1"), dev=["0", "1"], test=[placeholder] * 3)
    examples = read_examples(loaded(started(tmp_path, files))["x"], "test")
    assert (len(examples), examples.labels) == (3, None)


@pytest.mark.parametrize(
    ("train", "dev", "expected"),
    [
        (cycle("0", "1"), ["neg", "pos"], "x_dev.tsv: column 'label': none of its labels ('neg', 'pos') is one of training ('0', '1')"),
        (cycle("pos", "neg"), ["Pos", "Neg"], "none of its labels ('Neg', 'Pos') is one of training ('neg', 'pos')"),
        (cycle("1.5", "2"), ["2", "x"], "x_dev.tsv:3: column 'label': 'x' is not a number"),
        (cycle("1.5", "2"), ["2", "1,5"], "x_dev.tsv:3: column 'label': '1,5' has a decimal comma"),
        (cycle("1.5", "2"), ["2", "4e38"], "x_dev.tsv:3: column 'label': '4e38' is too large"),
    ],
)  # fmt: skip
def test_a_development_file_of_other_labels_is_refused(tmp_path, train, dev, expected):
    files = labelled_files(tmp_path, train, dev=dev)
    with pytest.raises(UserError) as caught:
        started(tmp_path, files)
    assert expected in str(caught.value)
    assert loaded(started(tmp_path, files, share=0.1))["x"].sources["dev"].path.endswith("x_dev.tsv")


def test_a_test_file_of_other_labels_is_left_and_said(tmp_path):
    path = started(tmp_path, labelled_files(tmp_path, cycle("a", "b"), dev=["a", "b"], test=["c", "d"]))
    assert set(loaded(path)["x"].sources) == {"train", "dev"}
    assert "not used as test" in path.read_text()


def test_questions_that_teach_nothing_are_counted(tmp_path):
    content = tsv(QUERIES, OTHERS, [*RELEVANT[:20], *[0] * 20], header=("question", "answer", "label"))
    path = started(tmp_path, Files(write(tmp_path, "a.tsv", content)))
    assert "5 of 10 questions teach nothing" in path.read_text()


# --- refusals

GOOD = tsv(TEXTS, cycle("a", "b"), header=("review", "label"))
BAD = {
    "a variable": ("a.tsv", tsv(TEXTS, cycle("a", "${HOME}"), header=("text", "label")), {}, "cannot stand in a task file"),
    "empty file": ("a.tsv", "", {}, "the file is empty"),
    "header only": ("a.tsv", "text\tlabel\n", {}, "holds a header and no row"),
    "one column": ("a.tsv", "\n".join(TEXTS), {}, "one column; expected texts and a label, separated by tabs"),
    "JSON with a fault, called CSV": ("a.csv", '{"text": "a b", "label": 1}\n' * 9 + '{"text": "a b", "label" 1}\n', {}, "a.csv:10: not JSON"),
    "CSV with a fault, called JSON": ("a.json", "text,label\na,b,c\nd,e\n", {}, "separated by commas: set the ending .csv"),
    "array of arrays": ("a.json", json.dumps([["a b c", 0], ["d e f", 1]] * 9), {}, "a.json:1: each row must be one JSON object"),
    "bars": ("a.csv", "text|score\n" + "a, b|0.5\nc|0.7\n" * 9, {}, "a.csv:1: the columns are separated by '|'"),
    "semicolons and commas": ("a.csv", "text;label\n" + "well, a b;c\nd e;f\n" * 9, {}, "a.csv:1: the columns are separated by ';'"),
    "semicolons and decimal commas": ("a.csv", "text;score\n" + "a b;1,5\nd e;2,5\n" * 9, {}, "a.csv:1: the columns are separated by ';'"),
    "column twice": (
        "a.tsv", tsv(TEXTS, cycle("a", "b"), OTHERS, header=("text", "label", "text")), {},
        "a.tsv:1: column 'text' appears twice in the header (positions 0 and 2); rename one (a file without a header: `--noheader`)",
    ),
    "label twice": (
        "a.csv", as_csv(cycle(0, 1), TEXTS, cycle(1, 0), header=("label", "x", "label")), {}, "a.csv:1: column 'label' appears twice",
    ),
    "id twice": ("a.tsv", tsv(IDS, TEXTS, IDS, cycle(1, 0), header=("id", "t", "id", "y")), {}, "a.tsv:1: column 'id' appears twice"),
    "other encoding": ("a.tsv", GOOD.encode() + b"it\x92s\ta\n", {}, "a.tsv:42: not valid utf-8 at byte offset 2 of the line (b'\\x92')"),
    "flag for the encoding": ("a.tsv", GOOD.encode() + b"it\x92s\ta\n", {}, "such as `--encoding=cp1252`"),
    "bare carriage returns": ("a.tsv", GOOD.replace("\n", "\r"), {}, "a.tsv:1: lines end in bare carriage returns"),
    "words with tags": ("a.txt", "He O\nLeeds I-LOC\n\n" * 20, {}, "a.txt:3: an empty line; only the end of the file may have any; if lines"),
    "words with parts of speech": ("a.tsv", "He\tPRP\nsat\tVBD\n\n" * 20, {}, "tagging tasks are not trained here"),
    "lists of words and tags": (
        "a.json", '[{"tokens": ["He", "sat"], "ner_tags": [0, 0]}, {}]', {}, "a.json:1: a list of words with a list of tags",
    ),
    "spans": ("a.json", '{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": []}]}]}', {}, "answers are spans of a context (SQuAD"),
    "spans, flat": (
        "a.jsonl", jsonl(context=TEXTS, question=OTHERS, answers=[{"text": ["a"], "answer_start": [0]}] * 40), {}, "a.jsonl:1: answers are spans",
    ),
    "by column": ("a.json", json.dumps({"text": TEXTS, "label": cycle(0, 1)}), {}, "a.json:1: one object with a column"),
    "null text": (
        "a.jsonl", jsonl(text=[*TEXTS[:5], None, *TEXTS[6:]], label=cycle(0, 1)), {},
        "a.jsonl:6: the key 'text' must hold a text in every row, received null",
    ),
    "null text, named": ("a.jsonl", jsonl(x=[*TEXTS[:5], None, *TEXTS[6:]], label=cycle(0, 1)), {"text": ("x",)}, "a.jsonl:6: the key 'x'"),
    "number for a text": (
        "a.jsonl", jsonl(text=[*TEXTS[:-1], 5], label=cycle(0, 1)), {},
        "a.jsonl:40: the key 'text' must hold a text in every row, received 5",
    ),
    "text missing": (
        "a.json", json.dumps([*objects(TEXTS, MOODS), {"label": "pos"}], indent=1), {},
        "a.json:162: the key 'text' is missing; this row has label",
    ),
    "label missing": ("a.jsonl", jsonl(text=TEXTS, label=cycle(0, 1)) + '{"text": "a b c"}\n', {}, "a.jsonl:41: the key 'label' is missing"),
    "label missing beside another": (
        "a.jsonl", jsonl(text=TEXTS, label=cycle(0, 1), size=cycle("a", "b", "c")) + '{"text": "a b c", "size": "a"}\n', {},
        "a.jsonl:41: the key 'label' is missing; this row has text, size; for another column: --label=<column>",
    ),
    "label is a list": ("a.jsonl", jsonl(text=TEXTS, labels=[["a"]] * 40), {}, "a.jsonl:1: the key 'labels' holds a list, ['a']; several labels"),
    "semicolons": ("a.csv", "text;label\na b;c\n", {}, "separated by ';'"),
    "ragged": ("a.tsv", GOOD + "x\n", {}, "a.tsv:42: 1 column, expected 2"),
    "unknown ending": ("a.dat", GOOD, {}, "known endings: .tsv"),
    "no label": ("a.tsv", tsv(TEXTS, OTHERS, header=("text1", "text2")), {}, "no column looks like a label"),
    "empty labels": ("a.tsv", tsv(TEXTS, cycle(""), header=("text", "label")), {}, "'label' is empty in every row"),
    "one class": ("a.tsv", tsv(TEXTS, cycle("a"), header=("text", "label")), {}, "one class only, 'a'"),
    "all different": ("a.tsv", tsv(TEXTS, [f"x{i}" for i in IDS], header=("text", "label")), {}, "too many for classes"),
    "no text": ("a.tsv", tsv(IDS, cycle(0, 1), header=("id", "label")), {}, "no column looks like a text"),
    "unknown text": ("a.tsv", GOOD, {"text": ("revue",)}, "--text: unknown column 'revue'. Did you mean 'review'?"),
    "unknown label": ("a.tsv", GOOD, {"label": "labell"}, "--label: unknown column 'labell'. Did you mean 'label'?"),
    "words as scores": ("a.tsv", GOOD, {"type": "regression"}, "a.tsv:2: column 'label': 'a' is not a number"),
    "ranking of one text": ("a.tsv", FILES["stars"][1].replace(",", "\t"), {"type": "ranking"}, "ranking takes two texts"),
    "scattered questions": (
        "a.tsv", tsv(QUERIES[::4] * 4, OTHERS, RELEVANT, header=("question", "answer", "label")), {"type": "ranking"},
        "must stand together: sort the file",
    ),
    "scores with commas": (
        "a.tsv", tsv(TEXTS, [f"{score},5" for score in range(40)], header=("text", "score")), {},
        "a.tsv:2: column 'score': '0,5' has a decimal comma; write '0.5'; if these are classes: --type=classification",
    ),
    "scores with a few commas": ("a.tsv", tsv(TEXTS, cycle("2", ",5"), header=("text", "score")), {}, "a.tsv:3: column 'score': ',5' has"),
    "scores with commas, wished": (
        "a.tsv", tsv(TEXTS, cycle("1", "2,5"), header=("text", "score")), {"type": "regression"}, "a.tsv:3: column 'score': '2,5' has a dec",
    ),
    "score beyond float32": ("a.tsv", tsv(TEXTS, [f"{place}e37" for place in range(40)], header=("text", "score")), {},
                             "a.tsv:37: column 'score': '35e37' is too large; expected a finite number (float32)"),
    "score that is none, wished so": ("a.tsv", tsv(TEXTS, cycle("1.5", "nan", "2"), header=("text", "score")),
                                      {"type": "regression", "no_label": ()}, "a.tsv:3: column 'score': 'nan' is not finite"),
    "nothing relevant": ("a.tsv", tsv(QUERIES, OTHERS, cycle(0), header=("question", "answer", "label")), {}, "'label' ranks nothing"),
    "all relevant": ("a.tsv", tsv(QUERIES, OTHERS, cycle(1), header=("question", "answer", "label")), {}, "'label' ranks nothing"),
    "one candidate each": ("a.tsv", tsv(TEXTS, OTHERS, cycle(0, 1), header=("question", "answer", "label")), {"type": "ranking"},
                           "or --type=classification to judge each pair alone"),
    "relevance below 0": ("a.tsv", tsv(QUERIES, OTHERS, cycle(1, 0, 0, -1), header=("question", "answer", "label")), {"type": "ranking"},
                          "relevance must be 0 or more (where -1 stands for no label: --no_label=-1)"),
    "empty texts": ("a.tsv", tsv(cycle(""), cycle("a", "b"), header=("text", "label")), {}, "column 'text' is empty in every row"),
    "empty texts, wished": ("a.tsv", tsv(cycle(" "), cycle("a", "b"), header=("text", "label")), {"text": ("text",)},
                            "column 'text' is empty in every row"),
    "empty second text": ("a.tsv", tsv(TEXTS, cycle(""), cycle("a", "b"), header=("text1", "text2", "label")),
                          {"text": ("text1", "text2")}, "column 'text2' is empty in every row"),
    "one text for all": ("a.tsv", tsv(cycle("one text"), cycle("a", "b"), header=("text", "label")), {"text": ("text",)},
                         "column 'text' holds 'one text' in every row"),
    "one class and nan": ("a.tsv", tsv(TEXTS, cycle("a", "nan"), header=("text", "label")), {},
                          "one class only, 'a' beside 'nan', taken for no label (--no_label= keeps it)"),
    "missing values only": ("a.tsv", tsv(TEXTS, cycle("N/A", "nan"), header=("text", "label")), {}, "holds no label, only 'N/A', 'nan'"),
    "many classes": ("a.tsv", tsv(TEXTS, [f"x{i // 2}" for i in range(0, 80, 2)], header=("text", "label")), {}, "say --type=classification"),
    "too few rows": ("a.tsv", "text\tlabel\na good day\tx\na bad day\ty\n", {}, "too few rows to hold any out"),
    "half an emoji": ("a.jsonl", jsonl(text=[*TEXTS[1:], "\ud83d"], label=cycle(0, 1)), {}, "a.jsonl:40: the key 'text' holds half"),
    "list in JSON": ("a.jsonl", '{"text": "a b c", "tags": ["x"]}\n', {}, "1 keys with a text or a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_task_is_refused_in_one_line(tmp_path, case):
    name, content, wishes, expected = BAD[case]
    with pytest.raises(UserError) as caught:
        started(tmp_path, Files(write(tmp_path, name, content)), **wishes)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


# --- the command


def run(module, *flags, cwd, **options):
    command = [sys.executable, "-m", f"mtdnn_tf.{module}", *flags]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=cwd, text=True, check=False, **options)


def test_the_command_shows_its_guess_and_what_it_wrote_trains(tmp_path):
    write(tmp_path, "stars.csv", FILES["stars"][1])
    write(tmp_path, "answers.tsv", FILES["ranking_without_header"][1])
    write(tmp_path, "close.tsv", FILES["scores"][1])
    trained = ["--train=stars.csv", "--train=answers.tsv", "--train=close.tsv"]
    done = run("init", *trained, "--output=new/mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for shown in (
        "type    classification",
        "1: 8, 2: 8",
        TEXTS[0][:20],
        "python -m mtdnn_tf.plan --config=new/mine.yaml",
    ):
        assert shown in done.stdout
    settings = [f"--set=encoder.source={TINY}", "--set=training.epochs=1", "--set=data.max_length=32"]
    read, printed = os.pipe()
    os.close(read)  # as `| head -1` does: training needs no reader
    done = run("train", "--config=new/mine.yaml", "--model_dir=run", *settings, cwd=tmp_path, stdout=printed)
    os.close(printed)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert set(json.loads((tmp_path / "run" / "scores.json").read_text())["tasks"]) == {"stars", "answers", "close"}


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path, "a.tsv", GOOD)
    assert run("init", "--train=a.tsv", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 4
    assert (tmp_path / "a.tsv").read_text() == GOOD
    done = run("init", "--train=a.tsv", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "error: a.yaml: is there already, and is not overwritten; name another file with --output"
    )
    (tmp_path / "a.yaml").unlink()
    assert "a_data: is there already" in run("init", "--train=a.tsv", cwd=tmp_path).stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {
        path: content for path, content in before.items() if path.name != "a.yaml"
    }


def test_it_writes_everything_though_nobody_reads_what_it_prints(tmp_path):
    write(tmp_path, "a.tsv", GOOD)
    read, printed = os.pipe()
    os.close(read)
    done = run("init", "--train=a.tsv", cwd=tmp_path, stdout=printed)
    os.close(printed)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.rglob("*")} == {"a.tsv", "a.yaml", "a_data", "a_train.tsv", "a_dev.tsv"}


def test_labels_that_the_terminal_lacks_are_shown_as_escapes_and_written_as_they_are(tmp_path):
    write(tmp_path, "a b.tsv", tsv(TEXTS, cycle("café", "thé"), header=("text", "label")))
    done = run("init", "--train=a b.tsv", cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"caf\xe9" in done.stdout
    assert "café" in (tmp_path / "a_b.yaml").read_text(encoding="utf-8")


BAD_FLAGS = [
    ([], "--train is missing"),
    (["--train=b.tsv"], "did you mean 'a.tsv'"),
    (["--train=binary.tsv"], "binary.tsv:1: "),
    (["--train=a.tsv", "--split_dev=1.5"], "--split_dev: must be more than 0 and less than 1, received 1.5"),
    (["--train=a.tsv", "--split_dev=0.2", "--dev=a.tsv"], "give either --dev"),
    (["--train=a.tsv", "--name=My Task"], "--name: must be lower-case letters"),
    (["--train=a.tsv", "--train=a.tsv"], "two tasks would be called 'a'"),
    (["--train=a.tsv", "--train=a.tsv", "--dev=a.tsv"], "--dev: give one for each --train; received 1 for 2 files"),
    (["--train=a.tsv", "--text=a,b,c"], "--text: name one column or two, received 3"),
    (["--train=a.tsv", f"--output=x.{'y' * 249}"], "cannot write x.yyy"),
]


@pytest.mark.parametrize(("words", "expected"), BAD_FLAGS, ids=[" ".join(words) for words, _ in BAD_FLAGS])
def test_a_bad_command_is_one_line_and_writes_nothing(tmp_path, words, expected):
    write(tmp_path, "a.tsv", GOOD)
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)))
    done = run("init", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "binary.tsv"]


# --- real files

ENTAILMENT = ("entailment", "not_entailment")
SENTENCES = ("sentence1", "sentence2")
REAL = {
    "glue/RTE": ("classification", SENTENCES, ENTAILMENT),
    "glue/SST-2": ("classification", ("sentence",), ("0", "1")),
    "glue/STS-B": ("regression", SENTENCES, (0, 5)),
    "glue/CoLA": ("classification", ("text",), ("0", "1")),
    "glue/MRPC": ("classification", ("text1", "text2"), ("0", "1")),
    "glue/QNLI": ("classification", ("question", "sentence"), ENTAILMENT),
    "glue/QQP": ("classification", ("question1", "question2"), ("0", "1")),
    "glue/WNLI": ("classification", SENTENCES, ("0", "1")),
    "snli": ("classification", SENTENCES, NLI),
    "wikiqa": ("ranking", ("text1", "text2"), ()),
    "fdu-mtl/books": ("classification", ("text",), ("0", "1")),
}


@pytest.mark.real_data
@pytest.mark.parametrize("folder", REAL)
def test_published_files_are_taken_for_what_they_are(data_root, tmp_path, folder):
    kind, text, outputs = REAL[folder]
    path = started(tmp_path, Files(str(data_root / folder / "train.tsv")), names=["mine"])
    task = loaded(path)["mine"]
    assert (task.type, task.text, task.labels or task.range or ()) == (kind, text, outputs)
    for split in ("train", "dev", "test"):
        if split in task.sources:
            assert len(read_examples(task, split))
