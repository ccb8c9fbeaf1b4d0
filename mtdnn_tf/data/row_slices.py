"""Part of a source's rows, by place: a development set cut from the end of a training file, say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.errors import UserError

_FORM = re.compile(r"\[(-?\d+)?:(-?\d+)?\]")


def chosen_rows(items: Sequence[int], source: SourceConfig) -> list[int]:
    """Return the indices of the rows whose items `source.rows` names.

    Args:
        items: of each row, the number of the item that it belongs to, `[rows]`, all numbers from 0 on: of ranking its question, else the
            row itself. Rows at fault count, a header does not.
        source: the source.

    Raises:
        UserError: `rows` is no slice.
    """
    chosen = range(count_of(items))[parse_slice(source)]
    return [row for row, item in enumerate(items) if item in chosen]


def count_of(items: Sequence[int]) -> int:
    """Return how many items there are."""
    return max(items, default=-1) + 1


def shared_items(one: SourceConfig, other: SourceConfig, count: int) -> int:
    """Return how many of a source's `count` items two slices of it have in common."""
    return in_common(range(count)[parse_slice(one)], range(count)[parse_slice(other)])


def in_common(one: range, other: range) -> int:
    """Return how many numbers two ranges of step 1 have in common."""
    return max(0, min(one.stop, other.stop) - max(one.start, other.start))


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
