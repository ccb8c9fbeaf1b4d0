"""Files whose bytes are text, but whose headers, rows, labels or queries are broken or odd."""

from __future__ import annotations

import io
import zipfile

from tests.hostile import CLOSE, CLOSE_HEAD, GOOD, MEGABYTE, MOOD, PAIRS, PICK, PICK_HEAD, Read, Told


def lines_of(*rows: str) -> str:
    return "".join(row + "\n" for row in rows)


def _zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.csv", GOOD)
    return packed.getvalue()


HEADERS = {
    "spaces around names": Read("x.tsv", " text \tlabel  \na\tpositive\n", ["a"]),
    "name in capitals": Told("x.tsv", "TEXT\tlabel\na\tpositive\n", (":1:", "no column 'text'", "mean 'TEXT'")),
    "name nearly right": Told("x.tsv", "text\tlables\na\tpositive\n", (":1:", "no column 'label'", "mean 'lables'")),
    "no header": Told(
        "x.tsv", "a\tpositive\nb\tnegative\n", (":1:", "no column 'text' among a, positive", "header: false")
    ),
    "header though there is none": Told("x.tsv", GOOD, (":1:", "unknown label 'label'"), MOOD, {"header": False}),
    "name twice": Told("x.tsv", "text\tlabel\ttext\na\tpositive\tb\n", (":1:", "'text' appears twice", "0 and 2")),
    "no names": Told("x.tsv", "\t\t\na\tb\tc\n", (":1:", "no column 'text'")),
    "quoted names in TSV": Told(
        "x.tsv", '"text"\t"label"\n"a"\t"positive"\n', (":1:", "no column 'text'", "`format: quoted_tsv`")
    ),
    "column mapped twice": Told(
        "x.tsv",
        GOOD,
        ("'premise' and 'hypothesis' both stand for column 'text'",),
        PAIRS,
        {"columns": {"premise": "text", "hypothesis": "text"}},
    ),
    "text is the label": Told(
        "x.tsv",
        "a\tb\n",
        ("'text' and 'label' both stand for column at position 1",),
        MOOD,
        {"header": False, "columns": {"text": 1, "label": 1}},
    ),
    "position too large": Told(
        "x.tsv", GOOD, (":1:", "no column 2", "2 columns", "from 0"), MOOD, {"columns": {"text": 2}}
    ),
    "position below 0": Told("x.tsv", GOOD, (":1:", "no column -1"), MOOD, {"columns": {"text": -1}}),
    "position in JSON": Told(
        "x.jsonl", '{"text": "a"}\n', (":1:", "names, not positions"), MOOD, {"columns": {"text": 0}}
    ),
    "name without a header": Told(
        "x.tsv", GOOD, (":1:", "has no header"), MOOD, {"header": False, "columns": {"text": "text"}}
    ),
    "mapped name that is not there": Told(
        "x.tsv", GOOD, (":1:", "'sentence' (mapped to 'text')"), MOOD, {"columns": {"text": "sentence"}}
    ),
    "unknown role": Told(
        "x.tsv", GOOD, ("columns: unknown column of the task 'txt'", "mean 'text'"), MOOD, {"columns": {"txt": "text"}}
    ),
    "unknown ending": Told("x.parquet", b"PAR1", ("ending '.parquet'",)),
    "no ending": Told("rows", GOOD, ("ending ''", "format: ")),
    "unknown ending, format named": Read("x.data", GOOD, ["a", "b"], None, MOOD, {"format": "tsv"}),
    "capital ending": Read("X.TSV", GOOD, ["a", "b"]),
    "web page": Told("x.tsv", "<!DOCTYPE html>\n<html>\n", (":1:", "no column 'text' among <!DOCTYPE html>")),
    "path for git": Told(
        "x.tsv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", (":1:", "git lfs pull")
    ),
}
CSV = {
    "separated by semicolons": Told("x.csv", "text;label\na;positive\n", (":1:", "no column 'text'", "semicolons")),
    "separated by tabs": Told("x.csv", GOOD, (":1:", "no column 'text'", "format: tsv")),
    "CSV called TSV": Told("x.tsv", "text,label\na,positive\n", (":1:", "format: csv")),
    "CSV called TSV, no header": Told("x.tsv", "a,positive\n", (":1:", "`format: csv`"), MOOD, {"header": False}),
    "CSV called TSV, by position": Told(
        "x.tsv", "a,positive\n", (":1:", "`format: csv`"), MOOD, {"header": False, "columns": {"text": 0, "label": 1}}
    ),
    "JSON called TSV": Told("x.tsv", '{"text": "a", "label": "positive"}\n', (":1:", "`format: jsonl`")),
    "TSV called CSV, commas in some texts": Told(
        "x.csv",
        "a\tpositive\nb, c\tnegative\nd\tpositive\n",
        (":1:", "tabs", "`format: tsv`"),
        MOOD,
        {"header": False, "columns": {"text": 0, "label": 1}},
    ),
    "line that names the separator": Told("x.csv", "sep=,\ntext,label\na,positive\nb,bad\n", (":4:", "'bad'")),
    "line that names the separator, quoted": Read("x.csv", '"sep=,"\r\ntext,label\r\na,positive\r\n', ["a"]),
    "line that names the tab": Read("x.tsv", "SEP=\t\ntext\tlabel\na\tpositive\n", ["a"]),
    "line that names another separator": Told(
        "x.csv", "sep=;\ntext;label\na;positive\n", (":1:", "';'", "commas or tabs")
    ),
    "quoted fields": Read(
        "x.tsv",
        '"text"\tlabel\n"a ""b""\n\tc"\tpositive\nd "e"\t"negative"\n',
        ['a "b"\n\tc', 'd "e"'],
        [1, 0],
        MOOD,
        {"format": "quoted_tsv"},
    ),
    "quote that is not doubled": Told(
        "x.tsv", 'text\tlabel\n"a" b\tpositive\n', (":2:", "faulty CSV", "tabs"), MOOD, {"format": "quoted_tsv"}
    ),
    "words with tags": Told("x.tsv", "text\tlabel\nHe\tO\nLeeds\tB-LOC\n\nShe\tO\n", (":4:", "an empty line", "CoNLL")),
    "comma in a text": Told("x.csv", "text,label\nwell, yes,positive\n", (":2:", "3 columns, expected 2")),
    "quote that is not closed": Told(
        "x.csv", 'text,label\na,positive\n"b,negative\nc,positive\n', (":3:", "faulty CSV")
    ),
    "quote closed by the next": Told(
        "x.csv", 'text,label\n"b,negative\n"c",positive\n', (":2:", "faulty CSV", "line 3")
    ),
    "text after a quote": Told("x.csv", 'text,label\n"a"b,positive\n', (":2:", "faulty CSV")),
    "quote within a text": Read("x.csv", 'text,label\n5" wide,positive\n', ['5" wide']),
    "backslash for a quote": Told("x.csv", 'text,label\n"say \\"hi\\"",positive\n', (":2:", "faulty CSV")),
    "quoted line ends": Read("x.csv", 'text,label\r\n"a\r\nb\n\nc",positive\r\n', ["a\r\nb\n\nc"]),
    "line after quoted line ends": Told(
        "x.csv", 'text,label\n"a\n\nb",positive\nc,bad\n', (":5:", "unknown label 'bad'")
    ),
    "Latin-1 within quoted lines": Told("x.csv", b'text,label\n"a\ncaf\xe9",positive\n', (":3:", "byte offset 3")),
    "field of 200,000 characters": Read("x.csv", f"text,label\n{'a' * 200_000},positive\n", ["a" * 200_000]),
    "quoted spaces before": Read("x.csv", 'text,label\n "a",positive\n', [' "a"']),
    "everything quoted": Read("x.csv", '"text","label"\n"a","positive"\n', ["a"]),
    "spreadsheet called CSV": Told("x.csv", _zipped(), (":1:", "zip archive or a spreadsheet")),
    "old spreadsheet called CSV": Told(
        "x.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), (":1:", "old spreadsheet")
    ),
    "NUL in CSV": Told("x.csv", "text,label\na\0,positive\n", (":2:", "NUL")),
}
JSON = {
    "array of rows": Read("x.json", '[{"text": "a", "label": "positive"}]\n', ["a"], [1]),
    "array over several lines": Told(
        "x.json",
        '[\n  {"text": "[{,", "label": "positive"},\n  {\n    "text": "b",\n    "label": "bad"\n  }\n]\n',
        (":3:", "'bad'"),
    ),
    "array, two rows on a line": Read(
        "x.jsonl", '[{"text": "a", "label": "positive"}, {"text": "\\"]}",\n"label": "negative"}]', ["a", '"]}'], [1, 0]
    ),
    "array under a key": Read(
        "x.json",
        '{"version": "1", "tags": ["x"], "data": [{"text": "a", "label": "positive", "of": [{"by": 1}]}]}',
        ["a"],
    ),
    "array under a key, over several lines": Told(
        "x.json",
        '{\n "about": {"by": ["me"]},\n "data": [\n  {"text": "a", "label": "positive"},\n  {"text": "b"}\n ],\n "end": 1\n}',
        (":5:", "key 'label' is missing"),
    ),
    "arrays under two keys": Told(
        "x.json",
        '{"train": [{"text": "a", "label": "positive"}],\n"dev": [{"text": "b"}]}',
        (":2:", '"dev" beside "train"'),
    ),
    "array of arrays": Told("x.json", '[\n["a", "positive"]]', (":2:", "must be one JSON object")),
    "array of texts and rows": Told(
        "x.json", '[{"text": "a", "label": "positive"},\n"b"]', (":2:", "must be one JSON object", "b")
    ),
    "array without a comma": Told(
        "x.json",
        '[\n{"text": "a", "label": "positive"}\n{"text": "b", "label": "positive"}]',
        (":3:", "not JSON", "','"),
    ),
    "array that is cut off": Told(
        "x.json", '[\n{"text": "a", "label": "positive"},\n{"text": "b",\n', (":3:", "ends inside", "begins in line 3")
    ),
    "array and more": Told(
        "x.json", '[{"text": "a", "label": "positive"}]\n[{"text": "b"}]', (":2:", "a second value")
    ),
    "array with a fault inside a row": Told(
        "x.json", '[\n{"text": "a", "label": "positive"},\n{\n"text": \'b\'\n}]', (":4:", "not JSON", "Expecting value")
    ),
    "array, key twice": Told("x.json", '[{"text": "a",\n"text": "b"}]', (":1:", "'text' appears twice")),
    "array, not UTF-8": Told(
        "x.json", b'[{"text": "a", "label": "positive"},\n{"text": "caf\xe9"}]', (":2:", "byte offset 13")
    ),
    "array of none": Told("x.json", "[]\n", (": the file is empty",)),
    "by column": Told(
        "x.json", '{"text": {"0": "a", "1": "b"}, "label": {"0": "positive"}}', (":1:", "one object for each row")
    ),
    "by column, lists": Told(
        "x.json", '{\n"text": ["a", "b"],\n"label": ["positive", "negative"]}', (":1:", "one object for each row")
    ),
    "by column, split": Told(
        "x.json", '{"columns": ["text"], "index": [0], "data": [["a"]]}', (":1:", "one object for each row")
    ),
    "by row number": Told("x.jsonl", '{"0": {"text": "a"}, "1": {"text": "b"}}\n', (":1:", "one object for each row")),
    "rows as arrays": Told("x.jsonl", '["a", "positive"]\n', (":1:", "one JSON object")),
    "row is a number": Told("x.jsonl", "5\n", (":1:", "one JSON object", "'5'")),
    "objects over several lines": Told(
        "x.json",
        '{\n  "text": "a",\n  "label": "positive"\n}\n{\n  "text": "b",\n  "label": "bad"\n}\n',
        (":5:", "'bad'"),
    ),
    "CSV called JSON": Told("x.json", "text,label\na,positive\n", (":1:", "not JSON", "`format: csv`")),
    "list of objects in a row": Read(
        "x.jsonl", '{"text": "a", "label": "positive", "spans": [{"start": 0}]}\n', ["a"], [1]
    ),
    "comma at the end": Told("x.jsonl", '{"text": "a", "label": "positive",}\n', (":1:", "not JSON")),
    "single quotes": Told("x.jsonl", "{'text': 'a'}\n", (":1:", "not JSON", "double quotes at character 2")),
    "key twice": Told("x.jsonl", '{"text": "a", "text": "b", "label": "positive"}\n', (":1:", "'text' appears twice")),
    "last of many keys twice": Told(
        "x.jsonl",
        "{" + "".join(f'"{n}": 1, ' for n in range(100_000)) + '"99999": 1}',
        (":1:", "'99999' appears twice"),
    ),
    "object for a text": Told(
        "x.jsonl", '{"text": {"en": "a"}, "label": "positive"}\n', (":1:", "must be a text", "{'en': 'a'}")
    ),
    "null for a text": Told("x.jsonl", '{"text": null, "label": "positive"}\n', (":1:", "must be a text", "None")),
    "number for a text": Told("x.jsonl", '{"text": 5, "label": "positive"}\n', (":1:", "must be a text", "5")),
    "NaN for a text": Told("x.jsonl", '{"text": NaN, "label": "positive"}\n', (":1:", "must be a text", "nan")),
    "key missing in a row": Told(
        "x.jsonl",
        lines_of('{"text": "a", "label": "positive"}', '{"label": "positive"}'),
        (":2:", "key 'text' is missing", "has label"),
    ),
    "key missing in the first row": Told(
        "x.jsonl",
        lines_of('{"label": "positive"}', '{"text": "a", "label": "positive"}'),
        (":1:", "key 'text' is missing"),
    ),
    "key missing everywhere": Told(
        "x.jsonl", '{"Text": "a", "label": "positive"}\n', (":1:", "no column 'text'", "mean 'Text'")
    ),
    "empty object": Told("x.jsonl", "{}\n", (":1:", "no column 'text' among none")),
    "two objects on a line": Told("x.jsonl", '{"text": "a"} {"text": "b"}\n', (":1:", "not JSON", "Extra data")),
    "nested deep": Told("x.jsonl", '{"text": ' + "[" * 200_000 + "\n", (":1:", "not JSON")),
    "nested less deep": Told("x.jsonl", '{"text": ' + "[" * 500 + "]" * 500 + "}\n", (":1:",)),
    "integer of 5000 digits": Told("x.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}\n", (":1:", "not JSON")),
    "integer of 4000 digits": Told(
        "x.jsonl", '{"text": "a", "label": ' + "9" * 4000 + "}\n", (":1:", "unknown label '999")
    ),
    "half a surrogate pair": Told(
        "x.jsonl", '{"text": "a\\ud800", "label": "positive"}\n', (":1:", "surrogate", r"'\ud800'", "position 1")
    ),
    "whole surrogate pair": Read("x.jsonl", '{"text": "\\ud83d\\ude00", "label": "positive"}\n', ["😀"]),
    "escaped NUL": Told("x.jsonl", '{"text": "a\\u0000", "label": "positive"}\n', (":1:", "NUL", "position 1")),
    "escaped line end": Read("x.jsonl", '{"text": "a\\nb\\tc", "label": "positive"}\n', ["a\nb\tc"]),
    "cut off in the last row": Told(
        "x.jsonl", '{"text": "a", "label": "positive"}\n{"text": "b", "la', (":2:", "not JSON")
    ),
    "label 1": Read(
        "x.jsonl",
        lines_of('{"text": "a", "label": 1}', '{"text": "b", "label": "1"}'),
        ["a", "b"],
        [1, 1],
        MOOD,
        {"labels": {"1": "positive"}},
    ),
    "label 1.0 where 1 is known": Read(
        "x.jsonl", '{"text": "a", "label": 1.0}\n', ["a"], [1], MOOD, {"labels": {"1": "positive"}}
    ),
    "label true": Told(
        "x.jsonl",
        '{"text": "a", "label": true}\n',
        (":1:", "unknown label 'true'"),
        MOOD,
        {"labels": {"1": "positive"}},
    ),
    "label null": Told("x.jsonl", '{"text": "a", "label": null}\n', (":1:", "unknown label ''", 'ignore_labels: [""]')),
    "label is a list": Told(
        "x.jsonl", '{"text": "a", "label": ["positive"]}\n', (":1:", "string or a number", "['positive']")
    ),
    "score NaN": Told("x.jsonl", '{"a": "x", "b": "y", "label": NaN}\n', (":1:", "'nan' is not finite"), CLOSE),
    "score 1e400": Told("x.jsonl", '{"a": "x", "b": "y", "label": 1e400}\n', (":1:", "'inf' is not finite"), CLOSE),
    "score as a number": Read("x.jsonl", '{"a": "x", "b": "y", "label": 2.5}\n', ["x"], [2.5], CLOSE),
}


def _score(text: str, *parts: str) -> Told:
    return Told("x.tsv", f"{CLOSE_HEAD}x\ty\t{text}\n", (":2: column 'label'", *parts), CLOSE)


LABELS = {
    "unknown label": Told(
        "x.tsv", GOOD + "c\tneutral\n", (":4:", "unknown label 'neutral'", "Known: negative, positive")
    ),
    "label in capitals": Told("x.tsv", GOOD + "c\tPOSITIVE\n", (":4:", "'POSITIVE'", "mean 'positive'")),
    "label with spaces": Read("x.tsv", GOOD + "c\t positive  \n", ["a", "b", "c"], [1, 0, 1]),
    "label missing": Told("x.tsv", GOOD + "c\t\n", (":4:", "unknown label ''")),
    "label of 1 MB": Told("x.tsv", GOOD + "c\t" + "y" * MEGABYTE, (":4:", "unknown label 'yyy")),
    "label mapped to no label": Told(
        "x.tsv", GOOD, (":2:", "'positive' is mapped", "'good'"), MOOD, {"labels": {"positive": "good"}}
    ),
    "every label ignored": Told(
        "x.tsv", "text\tlabel\na\t-\n", (": holds no row that is not ignored",), MOOD, {"ignore_labels": ("-",)}
    ),
    "decimal comma": _score("2,5", "decimal comma", "'2.5'"),
    "comma for thousands": _score("1,234", "'1.234'", "'1234' for thousands"),
    "points and comma": _score("1.234,5", "not a number"),
    "space for thousands": _score("1 234", "not a number"),
    "Arabic digits": _score("٣", "'٣' is not a number"),
    "fullwidth digits": _score("３", "not a number"),
    "minus sign of typographers": _score("−1", "not a number"),
    "underscore": _score("1_0", "not a number"),
    "hexadecimal": _score("0x3", "not a number"),
    "fraction": _score("1/2", "not a number"),
    "percent": _score("50%", "not a number"),
    "not a number": _score("nan", "not finite"),
    "infinite": _score("-Infinity", "not finite"),
    "too large for a float": _score("1e400", "too large"),
    "a million digits": _score("9" * MEGABYTE, "too large"),
    "no score": _score("", "'' is not a number"),
    "above the range": _score("5.01", "outside the range", "0 to 5"),
    "below the range": _score("-0.1", "outside the range"),
    "odd but right": Read(
        "x.tsv", CLOSE_HEAD + "x\ty\t+2.50e0\nx\ty\t.5\nx\ty\t1e-400\n", ["x"] * 3, [2.5, 0.5, 0], CLOSE
    ),
}
GROUPED = {"columns": {"group": "id"}}
RANKING = {
    "negative relevance": Told("x.tsv", PICK_HEAD + "q\ta\t-1\n", (":2:", "0 or more", "'-1'"), PICK),
    "relevance is a word": Told("x.tsv", PICK_HEAD + "q\ta\tyes\n", (":2:", "not a number"), PICK),
    "query comes again": Told(
        "x.tsv", PICK_HEAD + "q\ta\t1\nr\ta\t1\nq\tb\t0\n", (":4:", "'q' has been there already, from line 2"), PICK
    ),
    "id comes again": Told(
        "x.tsv",
        "id\tquestion\tanswer\tlabel\n1\tq\ta\t1\n2\tr\ta\t1\n1\tq\tb\t0\n",
        (":4:", "'1' has been there already"),
        PICK,
        GROUPED,
    ),
    "two queries of one id": Told(
        "x.tsv",
        "id\tquestion\tanswer\tlabel\n1\tq\ta\t1\n1\tr\tb\t0\n",
        (":3:", "'1' holds two queries: 'r'", "'q' in line 2"),
        PICK,
        GROUPED,
    ),
    "empty id": Told("x.tsv", "id\tquestion\tanswer\tlabel\n\tq\ta\t1\n", (":2:", "'id' is empty"), PICK, GROUPED),
    "id that is not there": Told(
        "x.tsv", PICK_HEAD + "q\ta\t1\n", (":1:", "no column 'id' (mapped to 'group')"), PICK, GROUPED
    ),
    "one candidate": Read("x.tsv", PICK_HEAD + "q\ta\t1\n", ["q"], [1], PICK),
    "nothing relevant": Read("x.tsv", PICK_HEAD + "q\ta\t0\nq\tb\t0\n", ["q", "q"], [0, 0], PICK),
    "candidate twice": Read("x.tsv", PICK_HEAD + "q\ta\t1\nq\ta\t1\n", ["q", "q"], [1, 1], PICK),
}
ROWS = {**HEADERS, **CSV, **JSON, **LABELS, **RANKING}
