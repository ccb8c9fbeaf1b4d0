"""A file as numbered, decoded lines; whatever is wrong with its bytes is told by file, line and byte."""

from __future__ import annotations

import codecs
import difflib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mtdnn_tf.errors import UserError

# First bytes of files that are often taken for text.
_SIGNATURES = {
    b"\x1f\x8b": "this is gzip: give the file the ending .gz",
    b"\xff\xfe": "this is UTF-16: convert it to UTF-8",
    b"\xfe\xff": "this is UTF-16: convert it to UTF-8",
    b"PK\x03\x04": "this is a zip archive or a spreadsheet: unpack it, or save it as CSV",
}


def shortened(text: str, limit: int = 80) -> str:
    """Return the text cut to `limit` characters, for messages."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def quoted(value: object) -> str:
    """Return a received value as one short line for messages: in quotes, control characters escaped."""
    return shortened(repr(value))


def read_lines(path: str, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Yield (1-based number, line with its line end) of a file, unpacked where its name ends in .gz.

    Only \n ends a line: a lone \r and Unicode's other line separators are part of the text.

    Raises:
        UserError: the file is missing, unreadable or damaged, or a line is not valid in this encoding or holds NUL.
    """
    codec = _checked_codec(path, encoding)
    for number, raw in _raw_lines(path):
        line = _decoded(f"{path}:{number}", raw, codec)
        if number == 1 and codec == "utf-8":
            line = line.removeprefix("\ufeff")
        yield number, line


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
    if line_end != b"\n":
        raise UserError(f"{path}: encoding {quoted(encoding)} cannot be read line by line; convert the file to utf-8")
    return name


def _raw_lines(path: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with _opened(path) as stream:
        while True:
            number += 1
            try:
                raw = stream.readline()
            except EOFError:
                raise UserError(f"{path}:{number}: the gzip file is cut off here; copy or pack it again") from None
            except (OSError, zlib.error) as error:
                raise UserError(f"{path}:{number}: the file cannot be read any further ({error})") from None
            if not raw:
                return
            yield number, raw


def _opened(path: str) -> BinaryIO:
    if os.path.isdir(path):
        raise UserError(f"{path}: this is a directory; name a file in it")
    try:
        return cast(BinaryIO, gzip.open(path)) if path.lower().endswith(".gz") else open(path, "rb")
    except FileNotFoundError:
        raise UserError(_missing_file(Path(path))) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: the file cannot be opened ({reason})") from None


def _missing_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: no such file, nor is there a folder {path.parent}"
    closest = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"{path}: no such file" + (f"; did you mean {closest[0]!r}, in the same folder?" if closest else "")


def _decoded(where: str, raw: bytes, codec: str) -> str:
    try:
        line = raw.decode(codec)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise UserError(
            f"{where}: not valid {codec} at byte offset {start} of the line ({quoted(raw[start : start + 1])}); "
            + _encoding_advice(raw)
        ) from None
    if "\0" in line:
        raise UserError(
            f"{where}: a NUL character at position {line.index(chr(0))} of the line; text must hold none "
            "(UTF-16 files are full of them: convert to UTF-8)"
        )
    return line


def _encoding_advice(raw: bytes) -> str:
    known = [advice for signature, advice in _SIGNATURES.items() if raw.startswith(signature)]
    return known[0] if known else "convert the file to UTF-8 or name its encoding, such as `encoding: latin-1`"
