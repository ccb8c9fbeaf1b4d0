"""A file as numbered, decoded lines; whatever is wrong with its bytes is told by file, line and byte."""

from __future__ import annotations

import codecs
import functools
import gzip
import itertools
import os
import re
import reprlib
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from mtdnn_tf.data.faults import LineError, option
from mtdnn_tf.errors import UserError, closest_name

_LONGEST_LINE = 2**27  # bytes: a line is held in memory, and a packed file of a few kilobytes can hold one without end
# Codecs of Python's that end a line as text does, but are for names and literals.
_NO_FILE_ENCODINGS = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
# Of each ISO 8859 part, the encoding of Windows that has letters and punctuation where the part has control characters.
_OF_WINDOWS = {
    "iso8859-1": "cp1252",
    "iso8859-2": "cp1250",
    "iso8859-5": "cp1251",
    "iso8859-7": "cp1253",
    "iso8859-9": "cp1254",
    "iso8859-15": "cp1252",
}
_CONTROLS = re.compile("[\x80-\x9f]")
_BARE_RETURN = re.compile(rb"\r(?!\n|\Z)|\r\Z")
_COMPRESSED = "this is {}: unpack it, or pack it with gzip (ending .gz)"
# First bytes of files that are often taken for text; a longer start stands before a shorter one.
_SIGNATURES = {
    b"\x1f\x8b": "this is gzip: give the file the ending .gz",
    b"\xff\xfe\0\0": "this is UTF-32: convert it to UTF-8",
    b"\0\0\xfe\xff": "this is UTF-32: convert it to UTF-8",
    b"\xff\xfe": "this is UTF-16: convert it to UTF-8",
    b"\xfe\xff": "this is UTF-16: convert it to UTF-8",
    b"PK\x03\x04": "this is a zip archive or a spreadsheet: unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "this is an old spreadsheet or document: save it as CSV",
    b"BZh": _COMPRESSED.format("bzip2"),
    b"\xfd7zXZ\0": _COMPRESSED.format("xz"),
    b"\x28\xb5\x2f\xfd": _COMPRESSED.format("zstandard"),
    b"PAR1": "this is Parquet: write it as CSV or JSON lines",
    b"ARROW1\0": "this is Arrow: write it as CSV or JSON lines",
    b"SQLite format 3\0": "this is an SQLite database: write the table as CSV",
    b"\x93NUMPY": "this is a NumPy array: write it as CSV",
    b"version https://git-lfs": "this is a Git LFS pointer, not the file itself: run `git lfs pull`",
}


def shortened(text: str, limit: int = 80) -> str:
    """Return the text cut to `limit` characters, for messages."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def quoted(value: object, limit: int = 80) -> str:
    """Return a received value as one short line for messages: in quotes, control characters escaped."""
    if isinstance(value, str | bytes):
        return shortened(repr(value[: limit + 1]), limit)  # no more than is shown: the value may be megabytes
    value = value.item() if isinstance(value, np.generic) else value
    return shortened(reprlib.repr(value), limit)  # also where it is nested too deep for repr()


def text_fault(value: object) -> str | None:
    """Return what is wrong with a value that is to be a text, as the end of a message; None: nothing."""
    if not isinstance(value, str):
        rule = "must be valid utf-8" if isinstance(value, bytes) else "must be a text (in quotes)"
        return f"{rule}, received {quoted(value)}"
    if "\0" in value:
        return f"holds a NUL character at position {value.index(chr(0))}; text must hold none"
    if value.isascii():
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can name half of a pair: "\ud83d"
        return f"holds half a surrogate pair, {quoted(value[error.start])}, at position {error.start}"
    return None


def read_lines(path: str, encoding: str = "utf-8") -> Iterator[tuple[int, str | LineError]]:
    r"""Yield (1-based number, line with its line end) of a file, unpacked where its name ends in .gz.

    Only \n ends a line: a lone \r and Unicode's other line separators are part of the text. A line that is not valid in
    this encoding or holds NUL comes as a `LineError`. Control characters that ISO 8859 has where Windows has letters are
    reported on stderr, once for each file.

    Raises:
        UserError: the file is missing, unreadable, damaged or no text, all its lines end in a bare \r, or a line is longer than
            128 MiB.
    """
    codec = _checked_codec(path, encoding)
    windows = _OF_WINDOWS.get(codec)
    for number, raw in _checked_lines(path, codec):
        try:
            line = _decoded(f"{path}:{number}", raw, codec)
        except LineError as error:
            yield number, error
            continue
        if windows and (control := _CONTROLS.search(line)):
            _report_control(path, number, control[0], encoding, option("encoding", windows))
            windows = None
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def without_line_end(line: str) -> str:
    r"""Return the line without its \n or \r\n."""
    return line[:-1].removesuffix("\r") if line.endswith("\n") else line


def _checked_codec(path: str, encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")
        line_end = "\n".encode(name)
    except (LookupError, ValueError):
        raise UserError(
            f"{path}: unknown encoding {quoted(encoding)}; name one that Python knows, such as utf-8, latin-1 or cp1252"
        ) from None
    if line_end != b"\n" or name in _NO_FILE_ENCODINGS:
        raise UserError(f"{path}: encoding {quoted(encoding)} cannot be read line by line; convert the file to utf-8")
    return name


def _checked_lines(path: str, codec: str) -> Iterator[tuple[int, bytes]]:
    lines = _raw_lines(path)
    ahead = list(itertools.islice(lines, 1))
    for _, raw in ahead:
        _check_start(path, raw, codec)
        if _BARE_RETURN.search(raw):
            ahead += itertools.islice(lines, 1)
            _check_line_ends(path, ahead)
            break
    return itertools.chain(ahead, lines)


def _check_line_ends(path: str, ahead: list[tuple[int, bytes]]) -> None:
    r"""Refuse a file of one line that holds bare carriage returns; of several lines they may be part of a text."""
    if len(ahead) == 1:
        raise UserError(
            rf"{path}:1: lines end in bare carriage returns (\r); they must end in \n or \r\n: convert the file, as in "
            rf"`tr '\r' '\n' < old > new`"
        )


@functools.cache  # a file is read several times: by each split, and by the warnings of a plan
def _report_control(path: str, number: int, control: str, encoding: str, advice: str) -> None:
    print(
        f"warning: {path}:{number}: byte 0x{ord(control):02x} is a control character in {encoding}, and control characters are "
        f"left out of texts; if the file comes from Windows, set {advice}",
        file=sys.stderr,
    )


def _check_start(path: str, raw: bytes, codec: str) -> None:
    """Refuse what is no text file at all, however its first line may be decoded."""
    advice = next((advice for start, advice in _SIGNATURES.items() if raw.startswith(start)), None)
    if advice is None and codec != "utf-8" and raw.startswith(codecs.BOM_UTF8):
        advice = f"this starts with the byte-order mark of UTF-8: set {option('encoding', 'utf-8')} rather than {codec}"
    if advice is not None:
        raise UserError(f"{path}:1: no {codec} text, it starts with {quoted(raw[:4])}; {advice}")


def _raw_lines(path: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with _opened(path) as stream:
        while True:
            number += 1
            try:
                raw = stream.readline(_LONGEST_LINE + 1)
            except EOFError:
                raise UserError(
                    f"{path}:{number}: the gzip file is cut off here or soon after; copy or pack it again"
                ) from None
            except (OSError, zlib.error) as error:
                raise UserError(f"{path}:{number}: the file cannot be read any further ({error})") from None
            if not raw:
                return
            if len(raw) > _LONGEST_LINE:
                raise UserError(
                    rf"{path}:{number}: a line of more than {_LONGEST_LINE >> 20} MiB; lines must end in \n"
                )
            yield number, raw


def _opened(path: str) -> BinaryIO:
    try:
        kind = os.stat(path).st_mode  # before opening: a pipe would wait for its other end
        if stat.S_ISDIR(kind):
            raise UserError(f"{path}: this is a directory; name a file in it")
        if not stat.S_ISREG(kind):
            raise UserError(f"{path}: this is a pipe, socket or device; only regular files are read: write it to one")
        return cast(BinaryIO, gzip.open(path)) if path.lower().endswith(".gz") else open(path, "rb")
    except FileNotFoundError:
        raise UserError(_missing_file(Path(path))) from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: the file cannot be opened ({reason})") from None


def _missing_file(path: Path) -> str:
    if path.is_symlink():
        return f"{path}: a symbolic link to {os.readlink(path)}, where there is no file"
    if not path.parent.is_dir():
        return f"{path}: no such file, nor is there a folder {path.parent}"
    closest = closest_name(path.name, os.listdir(path.parent))
    return f"{path}: no such file" + (f"; did you mean {closest!r}, in the same folder?" if closest else "")


def _decoded(where: str, raw: bytes, codec: str) -> str:
    try:
        line = raw.decode(codec)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise LineError(
            f"{where}: not valid {codec} at byte offset {start} of the line ({quoted(raw[start : start + 1])}); {_encoding_advice(raw, codec)}",
            raw.decode(codec, errors="replace"),
        ) from None
    if "\0" in line:
        raise LineError(
            f"{where}: a NUL character at position {line.index(chr(0))} of the line; text must hold none "
            "(UTF-16 files are full of them: convert to UTF-8)",
            line,
        )
    return line


def _encoding_advice(raw: bytes, codec: str) -> str:
    if not raw.decode(codec, errors="ignore").isascii():
        return f"other characters of the line are valid {codec}: repair this one, or convert the file to UTF-8"
    try:
        raw.decode("cp1252")  # also what latin-1 has, and the punctuation that it has not
    except UnicodeError:
        return "convert the file to UTF-8 or name its encoding"
    return f"convert the file to UTF-8 or name its encoding, such as {option('encoding', 'cp1252')}"
