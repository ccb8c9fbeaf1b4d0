"""Preprocessed JSON lines of the original MT-DNN program: token ids made already, read past the tokenizer, and written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import RowError, each_row
from mtdnn_tf.data.json_rows import read_jsonl
from mtdnn_tf.data.labels import raw_label
from mtdnn_tf.data.lines import quoted
from mtdnn_tf.data.text import Tokenizer, longest_first
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.tasks import TaskSpec

if TYPE_CHECKING:
    from mtdnn_tf.data.batches import TokenizedTask


@dataclass(frozen=True)
class TokenRow:
    """One row of token ids, special tokens included."""

    line: int
    ids: np.ndarray  # [tokens] int32
    first_length: int  # leading positions with segment id 0
    label: str  # as it stands in the file; "" where there is none


def read_token_rows(task: TaskSpec, source: SourceConfig) -> Iterator[tuple[int, list[TokenRow] | RowError]]:
    """Yield (line, its rows) of a file, of ranking one for each candidate; or what is wrong with the line.

    Raises:
        UserError: the file as a whole is bad: see `read_jsonl`.
    """
    yield from each_row(read_jsonl(source).rows, partial(_rows_of_line, task, source.path))


def _rows_of_line(task: TaskSpec, path: str, line: int, values: Mapping[str, Any]) -> list[TokenRow]:
    where = f"{path}:{line}"
    if "token_id" not in values:
        raise RowError(f"{where}: the key 'token_id' is missing; this row has {', '.join(values) or 'none'}")
    if task.type == "ranking":
        return list(_candidates(where, line, values))
    return [_row(where, line, values, raw_label(lambda: f"{where}: label", values.get("label")))]


def _candidates(where: str, line: int, values: Mapping[str, Any]) -> Iterator[TokenRow]:
    lists = values["token_id"]
    if not isinstance(lists, list) or not lists or not all(isinstance(item, list) for item in lists):
        raise RowError(f"{where}: token_id must be a list of lists, one for each candidate, received {quoted(lists)}")
    labels = values.get("olabel") or [""] * len(lists)
    for key in ("type_id", "attention_mask"):
        _check_length(f"{where}: {key}", values.get(key, lists), len(lists), "candidates")
    _check_length(f"{where}: olabel", labels, len(lists), "candidates")
    for number, label in enumerate(labels):
        own = {key: values[key][number] for key in ("token_id", "type_id", "attention_mask") if key in values}
        yield _row(where, line, own, raw_label(lambda: f"{where}: olabel", label))


def _row(where: str, line: int, values: Mapping[str, Any], label: str) -> TokenRow:
    ids = _integers(f"{where}: token_id", values["token_id"])
    if "attention_mask" in values:
        mask = _integers(f"{where}: attention_mask", values["attention_mask"])
        _check_length(f"{where}: attention_mask", mask, len(ids), "token ids")
        if not mask.all():
            raise RowError(f"{where}: attention_mask must be 1 everywhere: rows are stored without padding")
    types = _integers(f"{where}: type_id", values["type_id"]) if "type_id" in values else np.zeros(len(ids), np.int32)
    _check_length(f"{where}: type_id", types, len(ids), "token ids")
    first_length = int(np.count_nonzero(types == 0))
    if types[:first_length].any() or not np.isin(types[first_length:], 1).all():
        raise RowError(f"{where}: type_id must be zeros, then ones, received {quoted(types.tolist())}")
    return TokenRow(line, ids, first_length, label)


def _integers(where: str, value: Any) -> np.ndarray:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise RowError(f"{where} must be a list of whole numbers from 0 on, received {quoted(value)}")
    return np.array(value, np.int32)


def _check_length(where: str, value: Any, expected: int, of_what: str) -> None:
    if not isinstance(value, (list, np.ndarray)) or len(value) != expected:
        received = f"{len(value)}" if isinstance(value, (list, np.ndarray)) else quoted(value)
        raise RowError(f"{where} must be a list as long as there are {of_what}, {expected}; received {received}")


def class_names(task: TaskSpec) -> dict[str, str]:
    """Return what the ids of classes stand for, as `SourceConfig.labels` maps them: these files hold ids, not names."""
    return {str(number): label for number, label in enumerate(task.labels)}


@dataclass(frozen=True)
class Tokens:
    """Token ids of rows, with special tokens, not cut."""

    ids: Sequence[np.ndarray]  # each [tokens] int32
    first_lengths: np.ndarray  # [rows]: leading positions with segment id 0
    origin: str  # path, for messages
    lines: np.ndarray  # [rows]: for messages

    def only(self, rows: np.ndarray) -> Tokens:
        """Return the rows with these indices."""
        ids = [self.ids[row] for row in rows]
        return Tokens(ids, self.first_lengths[rows], self.origin, self.lines[rows])


def pack_tokens(
    tokens: Tokens, rows: slice, tokenizer: Tokenizer, max_length: int
) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Return rows cut to `max_length` as `pack` cuts the same texts; shapes as of `pack`.

    Raises:
        UserError: an id is not in the vocabulary, or special tokens are not where they belong (another vocabulary?).
    """
    kept: list[np.ndarray] = []
    first_lengths: list[int] = []
    for ids, first, line in zip(tokens.ids[rows], tokens.first_lengths[rows], tokens.lines[rows], strict=True):
        _check_row(f"{tokens.origin}:{line}", ids, int(first), tokenizer)
        row, first_length = _cut(ids, int(first), max_length)
        kept.append(row)
        first_lengths.append(first_length)
    lengths = np.array([len(row) for row in kept], np.int64)
    return tf.RaggedTensor.from_row_lengths(np.concatenate(kept), lengths), tf.constant(first_lengths, tf.int32)


def _cut(ids: np.ndarray, first: int, max_length: int) -> tuple[np.ndarray, int]:
    if len(ids) <= max_length:
        return ids, first
    if first == len(ids):
        return np.append(ids[: max_length - 1], ids[-1:]), max_length
    first_text, second_text = (tf.constant(count, tf.int64) for count in (first - 2, len(ids) - first - 1))
    kept, kept_second = (int(count) for count in longest_first(first_text, second_text, max_length - 3))
    parts = (ids[: kept + 1], ids[-1:], ids[first : first + kept_second], ids[-1:])
    return np.concatenate(parts), kept + 2


def _check_row(where: str, ids: np.ndarray, first: int, tokenizer: Tokenizer) -> None:
    size = len(tokenizer.vocab)
    if len(ids) and ids.max() >= size:
        raise UserError(
            f"{where}: token id {ids.max()} is not in the encoder's vocabulary of {size}; prepare the file with it"
        )
    ends_well = (
        len(ids) >= 2 and first >= 2 and ids[0] == tokenizer.cls_id and ids[first - 1] == ids[-1] == tokenizer.sep_id
    )
    if not ends_well:
        raise UserError(
            f"{where}: token_id must begin with {tokenizer.cls_id} ([CLS]) and end each text with {tokenizer.sep_id} ([SEP]), as the "
            f"encoder's vocabulary numbers them, received {quoted(ids.tolist())}"
        )


def write_preprocessed(path: str | Path, tokenized: TokenizedTask, uids: Sequence[str] | None = None) -> None:
    """Write a tokenised split as JSON lines; `read_token_rows` reads them back.

    Args:
        path: the file.
        tokenized: the split.
        uids: one for each item (row; of ranking, query); None: its number from 0.
    """
    splits = tokenized.item_splits
    lines = []
    for item, (start, end) in enumerate(itertools.pairwise(splits)):
        uid = str(item) if uids is None else uids[item]
        rows = [_arrays(tokenized, row) for row in range(start, end)]
        labels = [] if tokenized.labels is None else tokenized.labels[start:end].tolist()
        line: dict[str, Any] = {"uid": uid}
        if tokenized.groups is None:
            line |= ({"label": labels[0]} if labels else {}) | rows[0]
        else:
            line |= {"label": int(np.argmax(labels)), "olabel": labels} if labels else {}
            line |= {"ruid": [str(row) for row in range(start, end)]}
            line |= {key: [row[key] for row in rows] for key in rows[0]}
        lines.append(json.dumps(line) + "\n")
    write_text_atomically(path, "".join(lines))


def _arrays(tokenized: TokenizedTask, row: int) -> dict[str, list[int]]:
    start, end = tokenized.row_splits[row], tokenized.row_splits[row + 1]
    length, first = int(end - start), int(tokenized.first_lengths[row])
    return {
        "token_id": tokenized.token_ids[start:end].tolist(),
        "type_id": [0] * first + [1] * (length - first),
        "attention_mask": [1] * length,
    }


def preprocessed_uids(task: TaskSpec, source: SourceConfig) -> dict[int, str]:
    """Return the uid of each line that has one."""

    def uid(line: int, row: Mapping[str, Any]) -> str | None:
        return raw_label(lambda: f"{source.path}:{line}: uid", row["uid"]) if "uid" in row else None

    rows = each_row(read_jsonl(source).rows, uid)
    return {line: found for line, found in rows if isinstance(found, str)}
