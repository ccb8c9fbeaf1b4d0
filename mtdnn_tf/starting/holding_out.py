"""A development set held out of the training rows: by label, by question for ranking, no text on both sides."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from mtdnn_tf.data.labels import label_key
from mtdnn_tf.errors import UserError
from mtdnn_tf.starting.guessing import Guess
from mtdnn_tf.starting.tables import Column, FileTable, as_number, written

_BANDS = 5  # of scores, each held out in the same share
_FEW = 20  # rows that may be held out of a small file, however small the share of them is
_LARGEST_CLUSTER = 0.05  # of the rows that hang together by their texts


def hold_out(table: FileTable, guess: Guess, share: float) -> tuple[list[int], list[int], int | None]:
    """Return the rows to train on and those to score on, in the order of the file, the same for every call.

    Rows without a label are in neither. The third value is the place of the text that may stand on both sides: one that too
    many rows share, and in ranking, where candidates are shared, the second. None: no text does.

    Raises:
        UserError: there are too few rows.
    """
    rows = [row for row, value in enumerate(guess.label.stripped) if value not in guess.kind.missing]
    columns = guess.text_columns
    free = 1 if guess.kind.type == "ranking" else None
    clusters = _clusters(rows, columns[:1] if free else columns)
    if len(columns) == 2 and not free and _largest(clusters) > max(2, _LARGEST_CLUSTER * len(rows)):
        first, second = (_clusters(rows, [column]) for column in columns)
        fits = _largest(first) <= max(share * len(rows), _largest(second))  # a larger one could not be held out
        free, clusters = (1, first) if fits else (0, second)
    strata = _strata(guess, rows)
    held = _drawn(clusters, strata, share, zlib.crc32(guess.label.title.encode()))
    trained = [row for row in rows if row not in held]
    if not held or not trained:
        raise UserError(f"{table.path}: too few rows to hold any out for scoring; name a file with --dev")
    return trained, sorted(held), free


def _largest(clusters: Sequence[list[int]]) -> int:
    return max(map(len, clusters), default=0)


def _clusters(rows: Sequence[int], columns: Sequence[Column]) -> list[list[int]]:
    """Return rows that have a text in common, directly or by others, together."""
    parent = {row: row for row in rows}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    seen: dict[str, int] = {}
    for row in rows:
        for column in columns:
            text = " ".join(column.values[row].lower().split())
            parent[root(row)] = root(seen.setdefault(text, row))
    clusters: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        clusters[root(row)].append(row)
    return list(clusters.values())


def _strata(guess: Guess, rows: Sequence[int]) -> dict[int, str]:
    """Return what each row is to be balanced by: its label, or the band of its score; for ranking, nothing."""
    if guess.kind.type == "ranking":
        return dict.fromkeys(rows, "")
    if guess.kind.type == "regression":
        ordered = sorted(rows, key=lambda row: as_number(guess.label.stripped[row]) or 0.0)
        return {row: str(place * _BANDS // len(rows)) for place, row in enumerate(ordered)}
    return {row: str(label_key(guess.label.stripped[row])) for row in rows}


def _drawn(clusters: Sequence[list[int]], strata: dict[int, str], share: float, seed: int) -> set[int]:
    """Return rows of whole clusters, `share` of every stratum; where that gives too few, of all rows.

    At least one row of a stratum that has two clusters or more, unless that came to more than twice the share of all rows.
    """
    by_stratum: dict[str, list[list[int]]] = defaultdict(list)
    for cluster in clusters:
        by_stratum[strata[cluster[0]]].append(cluster)
    sizes = Counter(strata.values())
    total = max(1, round(share * len(strata)))
    wanted = {stratum: round(share * size) for stratum, size in sizes.items()}
    one_each = {stratum: max(1, count) for stratum, count in wanted.items()}
    wanted = one_each if sum(one_each.values()) <= max(2 * total, _FEW) else wanted
    random = np.random.default_rng(seed)
    held: set[int] = set()
    for stratum, members in sorted(by_stratum.items()):
        held.update(_up_to([members[place] for place in random.permutation(len(members))], wanted[stratum]))
    if 2 * len(held) < total:
        held.update(
            _of_any_stratum([clusters[place] for place in random.permutation(len(clusters))], strata, held, total)
        )
    return held


def _of_any_stratum(clusters: Sequence[list[int]], strata: dict[int, str], held: set[int], total: int) -> set[int]:
    """Return rows of clusters until `total` are held out; a row of every stratum stays."""
    left = Counter(stratum for row, stratum in strata.items() if row not in held)
    taken: set[int] = set()
    for cluster in clusters:
        lost = Counter(strata[row] for row in cluster)
        fits = len(held) + len(taken) + len(cluster) <= max(total, len(cluster))
        if held.isdisjoint(cluster) and fits and all(left[stratum] > count for stratum, count in lost.items()):
            taken.update(cluster)
            left -= lost
    return taken


def _up_to(clusters: Sequence[list[int]], wanted: int) -> list[int]:
    """Return rows of the clusters in turn until there are `wanted`; the last cluster always stays."""
    taken: list[int] = []
    for cluster in clusters[:-1]:
        if len(taken) >= wanted:
            break
        if not taken or len(taken) + len(cluster) <= wanted:
            taken += cluster
    return taken


def as_text(table: FileTable, rows: Sequence[int]) -> str:
    """Return some rows of a file as the text of a file of the same format, with its header."""
    records = [table.records[row][1] for row in rows]
    if table.format == "jsonl":
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if table.header:
        records = [table.titles, *records]
    if table.format == "quoted_tsv":
        return "".join(written(record, table.quoting) + "\n" for record in records)
    if table.format == "tsv":
        return "".join("\t".join(record) + "\n" for record in records)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(records)
    return stream.getvalue()
