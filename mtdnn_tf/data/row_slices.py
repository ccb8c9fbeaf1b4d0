"""Part of a source's rows, by place: a development set cut from the end of a training file, say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.errors import UserError

Row = TypeVar("Row")
_FORM = re.compile(r"\[(-?\d+)?:(-?\d+)?\]")


def sliced(rows: Iterator[Row], source: SourceConfig) -> Iterator[Row]:
    """Yield the rows that `source.rows` names, counted as they stand in the file: those at fault, too, but no header.

    Raises:
        UserError: it is no slice.
    """
    if source.rows is None:
        return rows
    return iter(list(rows)[parse_slice(source)])


def parse_slice(source: SourceConfig) -> slice:
    """Return `source.rows` as a slice; None stands for all rows.

    Raises:
        UserError: it is no slice.
    """
    match = _FORM.fullmatch(source.rows or "[:]")
    if match is None:
        raise UserError(
            f'{source.path}: rows must be a slice as in "[:-200]" (all but the last 200) or "[-200:]" (these); '
            f"received {source.rows!r}"
        )
    start, stop = (int(number) if number else None for number in match.groups())
    return slice(start, stop)
