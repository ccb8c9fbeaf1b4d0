"""Files whose bytes are broken or odd: encodings, line ends, lengths, compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import zlib

from tests.hostile import GOOD, MEGABYTE, MOOD, Read, Told


def _damaged_gzip() -> bytes:
    packed = bytearray(gzip.compress(GOOD.encode() * 200, mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


def _endless_line() -> bytes:
    """Zeros: 140 MB in 140 kB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(140)) + packer.flush()


ENCODINGS = {
    "UTF-16 with mark": Told("x.tsv", GOOD.encode("utf-16"), (":1:", "UTF-16", "convert it to UTF-8")),
    "UTF-16 big-endian with mark": Told("x.tsv", b"\xfe\xff" + GOOD.encode("utf-16-be"), (":1:", "UTF-16")),
    "UTF-16 without mark": Told("x.tsv", GOOD.encode("utf-16-le"), (":1:", "NUL", "UTF-16")),
    "UTF-16 called UTF-16": Told("x.tsv", GOOD.encode("utf-16"), ("line by line",), MOOD, {"encoding": "utf-16"}),
    "UTF-16 called Latin-1": Told("x.tsv", GOOD.encode("utf-16"), (":1:", "UTF-16"), MOOD, {"encoding": "latin-1"}),
    "UTF-32 with mark": Told("x.tsv", GOOD.encode("utf-32"), (":1:", "UTF-32")),
    "UTF-32 without mark": Told("x.tsv", GOOD.encode("utf-32-be"), (":1:", "NUL")),
    "UTF-8 mark before the header": Read("x.tsv", b"\xef\xbb\xbf" + GOOD.encode(), ["a", "b"], [1, 0]),
    "UTF-8 mark, CSV, quoted header": Read("x.csv", '\ufeff"text",label\na,positive\n', ["a"]),
    "UTF-8 mark, JSON": Read("x.jsonl", '\ufeff{"text": "a", "label": "positive"}\n', ["a"]),
    "UTF-8 mark twice": Told("x.tsv", "\ufeff\ufeff" + GOOD, (":1:", "no column 'text'", "\\ufefftext")),
    "UTF-8 mark, called Latin-1": Told("x.tsv", "\ufeff" + GOOD, (":1:", "utf-8"), MOOD, {"encoding": "latin-1"}),
    "UTF-8 mark, called utf-8-sig": Read("x.tsv", "\ufeff" + GOOD, ["a", "b"], None, MOOD, {"encoding": "utf-8-sig"}),
    "mark in the middle": Told("x.tsv", GOOD + "\ufeff" + GOOD, (":4:", "unknown label 'label'")),
    "Latin-1": Told(
        "x.tsv", GOOD.encode() + b"caf\xe9\tpositive\n", (":4:", "byte offset 3", r"b'\xe9'", "`encoding: cp1252`")
    ),
    "apostrophe of Windows": Told(
        "x.tsv", GOOD.encode() + b"it\x92s\tpositive\n", (":4:", "offset 2", "`encoding: cp1252`")
    ),
    "no encoding of Windows either": Told("x.tsv", b"text\tlabel\na\x8d\tpositive\n", (":2:", "or name its encoding")),
    "one damaged character": Told(
        "x.tsv", "text\tlabel\ncafé ".encode() + b"\xe9\tpositive\n", (":2:", "repair this one")
    ),
    "Latin-1 called so": Read(
        "x.tsv", b"text\tlabel\ncaf\xe9\tpositive\n", ["café"], [1], MOOD, {"encoding": "latin-1"}
    ),
    "overlong UTF-8": Told("x.tsv", b"text\tlabel\na\xc0\xafb\tpositive\n", (":2:", "byte offset 1")),
    "surrogate in UTF-8": Told("x.tsv", b"text\tlabel\n\xed\xa0\x80\tpositive\n", (":2:", "byte offset 0")),
    "past the last code point": Told("x.tsv", b"text\tlabel\n\xf4\x90\x80\x80\tpositive\n", (":2:", "byte offset 0")),
    "character cut at the end": Told("x.tsv", b"text\tlabel\na\tpositive\n\xe4\xb8", (":3:", "byte offset 0")),
    "no such encoding": Told("x.tsv", GOOD, ("unknown encoding 'utf9'",), MOOD, {"encoding": "utf9"}),
    "codec for literals": Told(
        "x.tsv", GOOD, ("'unicode_escape' cannot be read",), MOOD, {"encoding": "unicode_escape"}
    ),
    "codec for host names": Told("x.tsv", GOOD, ("'idna' cannot be read",), MOOD, {"encoding": "idna"}),
    "codec that is no text": Told("x.tsv", GOOD, ("unknown encoding 'hex'",), MOOD, {"encoding": "hex"}),
    "NUL": Told("x.tsv", "text\tlabel\na\0b\tpositive\n", (":2:", "NUL", "position 1")),
    "NUL in the header": Told("x.tsv", "text\0\tlabel\na\tpositive\n", (":1:", "NUL")),
    "right to left and zero width": Read(
        "x.tsv", "text\tlabel\n\u202eab\u200b\u200d\tpositive\n", ["\u202eab\u200b\u200d"]
    ),
    "invisible characters in a label": Told("x.tsv", "text\tlabel\na\tposi\u200btive\n", (":2:", r"posi\u200btive")),
    "control characters": Read("x.tsv", "text\tlabel\n\x07\x1b[2J\x1a\tpositive\n", ["\x07\x1b[2J\x1a"]),
}
LINES = {
    "CR LF": Read("x.tsv", GOOD.replace("\n", "\r\n"), ["a", "b"], [1, 0]),
    "CR LF and LF": Read("x.tsv", "text\tlabel\r\na\tpositive\nb\tnegative\r\n", ["a", "b"], [1, 0]),
    "CR only": Told("x.tsv", GOOD.replace("\n", "\r"), (":1:", "bare carriage returns", "convert")),
    "CR only, no header": Told("x.tsv", "a\tyes\rb\tno\r", (":1:", "bare carriage returns"), MOOD, {"header": False}),
    "CR only, CSV": Told("x.csv", "text,label\ra,positive\r", (":1:", "bare carriage returns")),
    "CR only, JSON": Told("x.jsonl", '{"text": "a"}\r{"text": "b"}\r', (":1:", "bare carriage returns")),
    "CR only but for the last line end": Told(
        "x.tsv", "a\rb\rc\n", (":1:", "bare carriage returns"), MOOD, {"header": False, "columns": {"text": 0}}
    ),
    "CR only after the header": Told(
        "x.tsv", "text\tlabel\na\tpositive\rb\tnegative\r", (":2:", "3 columns", "carriage return")
    ),
    "one line ends in CR": Told(
        "x.tsv", "text\tlabel\na\tpositive\rb\tnegative\n", (":2:", "3 columns, expected 2", "carriage return")
    ),
    "CR in a text": Read("x.tsv", "text\tlabel\na\rb\tpositive\n", ["a\rb"]),
    "U+2028, U+0085, VT, FF in a text": Read(
        "x.tsv", "text\tlabel\na\u2028b\x85c\vd\fe\tpositive\n", ["a\u2028b\x85c\vd\fe"]
    ),
    "U+2028 in CSV": Read("x.csv", "text,label\na\u2028b,positive\n", ["a\u2028b"]),
    "U+2028 in JSON": Read("x.jsonl", '{"text": "a\u2028b", "label": "positive"}\n', ["a\u2028b"]),
    "no line end at the end": Read("x.tsv", GOOD[:-1], ["a", "b"], [1, 0]),
    "empty": Told("x.tsv", "", (": the file is empty",)),
    "empty CSV": Told("x.csv", "", (": the file is empty",)),
    "empty JSON": Told("x.jsonl", "", (": the file is empty",)),
    "only a mark": Told("x.tsv", b"\xef\xbb\xbf", (": the file is empty",)),
    "only the header": Told("x.tsv", "text\tlabel\n", (": holds no row",)),
    "only the header, CSV": Told("x.csv", "text,label", (": holds no row",)),
    "only empty lines": Told("x.tsv", "\n\r\n\n", (": the file is empty",)),
    "only empty lines, JSON": Told("x.jsonl", "\n  \n", (": the file is empty",)),
    "empty lines before the header": Told("x.tsv", "\n" + GOOD, (":1:", "an empty line")),
    "empty line between rows": Told("x.tsv", GOOD + "\nc\tpositive\n", (":4:", "an empty line")),
    "empty line between rows, CSV": Told("x.csv", "text,label\na,positive\n\nb,negative\n", (":3:", "an empty line")),
    "empty line between rows, JSON": Told(
        "x.jsonl", '{"text": "a", "label": "positive"}\n\n{}\n', (":2:", "an empty line")
    ),
    "empty lines at the end": Read("x.tsv", GOOD + "\n\r\n\n", ["a", "b"]),
    "line of spaces": Told("x.tsv", GOOD + "   \n", (":4:", "1 column, expected 2")),
    "tab at the end of a row": Told("x.tsv", GOOD + "c\tpositive\t\n", (":4:", "3 columns, expected 2", "stray tab")),
    "tab at the end of every line": Read("x.tsv", GOOD.replace("\n", "\t\n"), ["a", "b"], [1, 0]),
    "row too short": Told("x.tsv", GOOD + "positive\n", (":4:", "1 column, expected 2", "missing tab")),
    "spaces for tabs": Told("x.tsv", GOOD.replace("\t", "    "), (":1:", "no column 'text'")),
    "first row of another width": Told(
        "x.tsv",
        "a\tb\tc\na\tpositive\nb\tnegative\n",
        (":1:", "3 columns, expected 2 as in line 2"),
        MOOD,
        {"header": False},
    ),
    "line of 50 MB": Read("x.tsv", "text\tlabel\n" + "ab " * 17_000_000 + "\tpositive\n", ["ab " * 17_000_000]),
    "line of 50 MB, one column": Told("x.tsv", "text\tlabel\n" + "ab " * 17_000_000, (":2:", "1 column")),
    "line without end": Told("x.tsv.gz", _endless_line(), (":1:", "128 MiB")),
    "a million columns": Told("x.tsv", "text\tlabel\n" + "\t" * MEGABYTE, (":2:", "1000001 columns, expected 2")),
    "a million names": Told("x.tsv", "\t".join(map(str, range(MEGABYTE))) + "\n", (":1:", "no column 'text'")),
    "text of 5 MB": Read("x.tsv", "text\tlabel\n" + "é" * 5 * MEGABYTE + "\tpositive\n", ["é" * 5 * MEGABYTE]),
    "text of spaces": Read("x.tsv", "text\tlabel\n  \tpositive\n\tnegative\n", ["  ", ""], [1, 0]),
}
PACKED = {
    "cut-off gzip": Told(
        "x.tsv.gz", gzip.compress(random.Random(0).randbytes(9999).hex().encode())[:5000], (":1:", "cut off")
    ),
    "gzip without its end": Told("x.tsv.gz", gzip.compress(GOOD.encode())[:-4], (":4:", "cut off")),
    "only the start of gzip": Told("x.tsv.gz", b"\x1f\x8b\x08", (":1:", "cut off")),
    "rubbish after gzip": Told("x.tsv.gz", gzip.compress(GOOD.encode()) + b"rubbish", ("cannot be read any further",)),
    "zeros after gzip": Read("x.tsv.gz", gzip.compress(GOOD.encode()) + bytes(512), ["a", "b"]),
    "two gzips in a row": Read(
        "x.tsv.gz", gzip.compress(GOOD.encode()) + gzip.compress(b"c\tpositive\n"), ["a", "b", "c"]
    ),
    "damaged gzip": Told("x.tsv.gz", _damaged_gzip(), (":", "cannot be read any further")),
    "plain text called gzip": Told("x.tsv.gz", GOOD, (":1:", "Not a gzipped file")),
    "gzip called plain": Told("x.tsv", gzip.compress(GOOD.encode()), (":1:", "gzip", ".gz")),
    "gzip in gzip": Told("x.tsv.gz", gzip.compress(gzip.compress(GOOD.encode())), (":1:", "this is gzip")),
    "empty gzip": Told("x.tsv.gz", gzip.compress(b""), (": the file is empty",)),
    "no byte called gzip": Told("x.tsv.gz", b"", (": the file is empty",)),
    "bzip2 called plain": Told("x.tsv", bz2.compress(GOOD.encode()), (":1:", "bzip2")),
    "xz called plain": Told("x.tsv", lzma.compress(GOOD.encode()), (":1:", "xz")),
}
BYTES = {**ENCODINGS, **LINES, **PACKED}
