"""File formats of rows: each with its reader, and the endings that tell it. Needs no TensorFlow, as `init` reads files before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.json_rows import read_jsonl
from mtdnn_tf.data.rows import Table, read_csv, read_quoted_tsv, read_tsv

# A file format is added here, and its ending below.
FILE_FORMATS: dict[str, Callable[[SourceConfig], Table]] = {
    "tsv": read_tsv,
    "quoted_tsv": read_quoted_tsv,
    "csv": read_csv,
    "jsonl": read_jsonl,
}
ENDINGS = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


def file_ending(path: str) -> str:
    """Return the ending of a file's name, in lower case and without `.gz`."""
    return PurePath(path.lower().removesuffix(".gz")).suffix
