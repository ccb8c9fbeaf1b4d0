"""Running text is read as documents of sentences, and what is wrong with a file is told by line."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.documents import DOCUMENT_FORMATS, read_documents
from mtdnn_tf.data.sentences import split_sentences
from mtdnn_tf.errors import UserError

SENTENCES = {
    "plain": ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
    "quotes go with their sentence": ('He said: "No." Then he left.', ['He said: "No."', "Then he left."]),
    "titles": ("Mr. Fox met Dr. Owl. They ate.", ["Mr. Fox met Dr. Owl.", "They ate."]),
    "initials": ("J. R. Hare slept. So did I. It rained.", ["J. R. Hare slept.", "So did I.", "It rained."]),
    "abbreviations": ("Eggs etc. Were sold, e.g. Big ones.", ["Eggs etc. Were sold, e.g. Big ones."]),
    "numbers": ("It cost 3.50 in May. 1816 was cold.", ["It cost 3.50 in May.", "1816 was cold."]),
    "a small letter goes on": ("At 5 p.m. she left.", ["At 5 p.m. she left."]),
    "other scripts": ("Это дом. Он мал. 天気。 雨。", ["Это дом.", "Он мал.", "天気。", "雨。"]),
    "no space behind a full-width mark": ("今天天气很好。我们去公园。", ["今天天气很好。", "我们去公园。"]),
    "its quotes and other marks go with it": (
        "他说：“好。”什么？！「はい。」真的",
        ["他说：“好。”", "什么？！", "「はい。」", "真的"],
    ),
    "a small letter of any script goes on": (
        "Il habite env. à Paris. Elle y va. Он жил на ул. ленина. Да.",
        ["Il habite env. à Paris.", "Elle y va.", "Он жил на ул. ленина.", "Да."],
    ),
    "without capitals a small letter tells nothing": (
        "he went home . it was late ! so what ? mr. fox slept .",
        ["he went home .", "it was late !", "so what ?", "mr. fox slept ."],
    ),
    "marks of Hindi and Urdu": ("वह गया। फिर आया॥ کیا؟ ہاں۔ ٹھیک", ["वह गया।", "फिर आया॥", "کیا؟", "ہاں۔", "ٹھیک"]),
    "marks without a space": ("See a.b and ...so 3.5!x", ["See a.b and ...so 3.5!x"]),
    "nothing": (" \t ", []),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_sentences_end_where_readers_see_it(case):
    paragraph, expected = SENTENCES[case]
    assert split_sentences(paragraph) == expected


@pytest.mark.parametrize("text", ["." * 50_000, '".' * 50_000, "Mr. " * 50_000, "。" * 50_000, "a." + " " * 50_000])
def test_long_paragraphs_take_no_longer_by_character(text):
    started = time.process_time()
    split_sentences(text)
    assert time.process_time() - started < 3


WIKIPEDIA = '<doc id="1" title="A > B">\nFirst\n\nOne. Two.\nThree.\n</doc>\n\n<doc id="2">\nFour.\n</doc>\n'


def _write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _read(path, **keys):
    documents, skipped = read_documents(SourceConfig(str(path), **keys))
    return [list(document) for document in documents], skipped


def test_plain_text_is_one_document_of_paragraphs(tmp_path):
    path = _write(tmp_path, "a.txt", "A TITLE\n\nOne line\nand more. Two.\r\n\n\nThree.")
    assert _read(path) == ([["A TITLE", "One line and more.", "Two.", "Three."]], ())


def test_wikipedia_files_are_told_by_their_first_line(tmp_path):
    path = _write(tmp_path, "wiki_00", WIKIPEDIA)
    found, _ = _read(path)
    assert found == [["First", "One.", "Two.", "Three."], ["Four."]]


def test_json_lines_hold_a_text_each(tmp_path):
    rows = [{"text": "One. Two.", "id": 1}, {"text": "Three\n\nfour."}]
    path = _write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert _read(path)[0] == [["One.", "Two."], ["Three", "four."]]
    path = _write(tmp_path, "b.json", json.dumps({"body": "One. Two."}))
    assert _read(path, columns={"text": "body"})[0] == [["One.", "Two."]]


def test_json_lines_are_told_by_their_first_line_too(tmp_path):
    """As `wikiextractor --json` names and writes them."""
    rows = [{"id": "1", "url": "x", "title": "A", "text": "One.\nTwo."}, {"id": "2", "title": "B", "text": ""}]
    path = _write(tmp_path, "wiki_00", "".join(json.dumps(row) + "\n" for row in rows))
    assert _read(path)[0] == [["One.", "Two."]]
    for start in ('{"said": one', "{} {}", "[1]", "3", '"One"', "{" * 100_000):
        path = _write(tmp_path, "x", f"{start} Two.\n")
        assert len(_read(path)[0]) == 1
    assert _read(_write(tmp_path, "x", "[1]\n"))[0] == [["[1]"]]


def test_packed_files_are_unpacked(tmp_path):
    path = _write(tmp_path, "wiki.gz", gzip.compress(WIKIPEDIA.encode()))
    assert len(_read(path)[0]) == 2


def test_a_pattern_stands_for_many_files_in_the_order_of_their_names(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        _write(tmp_path, name, f"Of {name}.")
    assert _read(tmp_path / "*.txt")[0] == [["Of a.txt."], ["Of b.txt."]]


def test_every_format_has_a_reader():
    assert set(DOCUMENT_FORMATS) == {"text", "wikipedia", "jsonl"}


BAD = {
    "nested": ("x", "<doc>\nOne.\n<doc>\nTwo.\n</doc>\n", {}, r"x:3: a <doc> inside the one that begins in line 1"),
    "cut off": ("x", "<doc>\nOne.\n", {}, r"x:1: this <doc> has no </doc>"),
    "closed twice": ("x", "<doc>\nOne.\n</doc>\n</doc>\n", {}, r"x:4: </doc> without a <doc>"),
    "text outside": ("x", "<doc>\nOne.\n</doc>\nTwo.\n", {}, r"x:4: text outside <doc> and </doc>, received 'Two.'"),
    "empty": ("x.txt", "", {}, r"x\.txt: holds no text"),
    "blank": ("x.txt", " \n\n", {}, r"x\.txt: holds no text"),
    "empty elements": ("x", "<doc>\n\n</doc>\n", {}, r"x: holds no text"),
    "bytes": ("x.txt", b"One.\nTw\xff.\n", {}, r"x\.txt:2: not valid utf-8 at byte offset 2"),
    "nul": ("x.txt", b"One.\nTw\0o.\n", {}, r"x\.txt:2: a NUL character"),
    "utf-16": ("x.txt", "One.".encode("utf-16"), {}, r"x\.txt:1: .*UTF-16"),
    "packed unnamed": ("x.txt", gzip.compress(b"One."), {}, r"x\.txt:1: .*gzip"),
    "cut-off gzip": ("x.gz", gzip.compress(b"One. Two. " * 999)[:-12], {}, r"x\.gz:\d+: the gzip file is cut off"),
    "no object": ("x.jsonl", '"One."\n', {}, r"x\.jsonl:1: each line must hold one JSON object"),
    "no text": ("x.jsonl", '{"text": "One."}\n{"body": "Two."}\n', {}, r"x\.jsonl:2: the key 'text' is missing.*body"),
    "a number": ("x.jsonl", '{"text": 3}\n', {}, r"x\.jsonl:1: text must be a text .*received 3"),
    "half a pair": (
        "x.jsonl",
        '{"text": "One."}\n{"text": "a \\ud83d"}\n',
        {},
        r"x\.jsonl:2: text holds half a surr.*position 2",
    ),
    "a NUL": ("x.jsonl", '{"text": "a\\u0000"}\n', {}, r"x\.jsonl:1: text holds a NUL character at position 1"),
    "format": ("x.txt", "One.", {"format": "tsv"}, r"unknown format of running text 'tsv'.*wikipedia"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_told_by_line(tmp_path, case):
    name, content, keys, message = BAD[case]
    with pytest.raises(UserError, match=message):
        _read(_write(tmp_path, name, content), **keys)


def test_lines_and_rows_at_fault_can_be_left_out(tmp_path):
    path = _write(tmp_path, "x.txt", b"One.\nTw\xff.\nThree.\n")
    found, skipped = _read(path, on_error="skip")
    assert found == [["One.", "Three."]]
    assert len(skipped) == 1
    assert ":2: not valid utf-8" in skipped[0]
    path = _write(
        tmp_path, "x.jsonl", '{"text": "One."}\n{"text": 3}\nnonsense\n{"text": "\\ud83d"}\n{"text": "Two."}\n'
    )
    found, skipped = _read(path, on_error="skip")
    assert found == [["One."], ["Two."]]
    assert len(skipped) == 3


@pytest.mark.parametrize("format_", ["auto", "wikipedia"])
def test_a_title_that_cannot_be_decoded_keeps_its_article(tmp_path, format_):
    path = _write(tmp_path, "wiki", b'<doc title="Caf\xe9">\nOne.\n</doc>\n<doc>\nTw\xe9.\nThree.\n</doc>\n')
    found, skipped = _read(path, on_error="skip", format=format_)
    assert found == [["One."], ["Three."]]
    assert [message.split(": ")[0] for message in skipped] == [f"{path}:1", f"{path}:5"]
    with pytest.raises(UserError, match=r"wiki:1: not valid utf-8 at byte offset 15"):
        _read(path, format=format_)


def test_a_file_of_a_pattern_may_be_empty(tmp_path):
    for ending, content in (("txt", "One."), ("jsonl", '{"text": "One."}')):
        _write(tmp_path, f"a.{ending}", "")
        _write(tmp_path, f"b.{ending}", content)
        assert _read(tmp_path / f"*.{ending}")[0] == [["One."]]
    with pytest.raises(UserError, match=r"a\.jsonl: holds no text"):
        _read(tmp_path / "a.jsonl")


def test_what_is_left_out_is_told_file_by_file(tmp_path):
    for name, content in (("a.txt", b"One.\nTwo.\n\xff\n"), ("b.txt", b"\xff\nOne.\n\xff\n")):
        _write(tmp_path, name, content)
    _, skipped = _read(tmp_path / "*.txt", on_error="skip")
    assert [message.removeprefix(f"{tmp_path}/").split(": ")[0] for message in skipped] == [
        "a.txt:3",
        "b.txt:1",
        "b.txt:3",
    ]


def test_folders_and_missing_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"this is a directory; name the files in it, as in .*/\*\.txt"):
        _read(tmp_path)
    with pytest.raises(UserError, match=r"\*\.txt: no file has such a name"):
        _read(tmp_path / "*.txt")
    with pytest.raises(UserError, match=r"a\.txt: no such file"):
        _read(tmp_path / "a.txt")
