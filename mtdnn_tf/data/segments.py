"""Documents cut into pairs of segments for pre-training: where each pair's first segment ends, and how much room it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SPECIAL = 3  # [CLS] and two [SEP]


@dataclass(frozen=True)
class Segments:
    """Pairs of segments of one text after another; positions count the tokens of all documents, special tokens left out."""

    starts: np.ndarray  # [pairs] int64: where the text of a pair begins
    seconds: np.ndarray  # [pairs] int64: where its second segment begins, and the first has ended
    first_counts: np.ndarray  # [pairs] int32: tokens of the first segment, the last ones before `seconds`
    room: np.ndarray  # [pairs] int32: tokens of both segments at most
    documents: np.ndarray  # [pairs] int32, ascending from 0: number among the documents that gave a pair
    ends: np.ndarray  # [documents] int64: where each of these ends


def without_long_sentences(sentences: np.ndarray, max_length: int) -> np.ndarray:
    """Return the tokens of a document's sentences, those that no row has room for cut into parts of half a row.

    Texts whose sentences cannot be told are trained on as a whole all the same, instead of on the beginning of each "sentence".

    Args:
        sentences: `[sentences]`, tokens of each.
        max_length: of a row, special tokens included.
    """
    room = max_length - SPECIAL
    if sentences.max(initial=0) <= room:
        return sentences
    half = room // 2
    parts = np.where(sentences > room, -(-sentences // half), 1)
    lengths = np.where(parts > 1, half, sentences).repeat(parts)
    lengths[np.cumsum(parts) - 1] -= np.where(parts > 1, parts * half - sentences, 0)  # the last part is what is left
    return lengths


def cut_documents(
    lengths: Sequence[np.ndarray], max_length: int, short_share: float, random: np.random.Generator
) -> Segments:
    """Cut documents into pairs, one behind the other (Devlin et al. 2019, A.2).

    Whole sentences are taken until they fill the row, two at least; a random number of them, one at least, are the first
    segment, and what follows is the second. Where both are too long the first one loses tokens at its beginning, until it has
    half the room, so that the two still meet. A last sentence alone is left out.

    Args:
        lengths: of each document, the tokens of its sentences, none of them empty.
        max_length: of a row, special tokens included.
        short_share: of rows that aim at a random length instead.
        random: draws targets and first segments.
    """
    pairs: list[tuple[int, int, int, int, int]] = []
    ends: list[int] = []
    begin = 0
    for sentences in lengths:
        cuts = begin + np.concatenate([[0], np.cumsum(sentences)])
        found = [(*pair, len(ends)) for pair in _pairs(cuts, max_length - SPECIAL, short_share, random)]
        pairs += found
        begin = int(cuts[-1])
        ends += [begin] if found else []
    starts, seconds, *counts = np.array(pairs, np.int64).reshape(-1, 5).T
    first_counts, room, documents = (count.astype(np.int32) for count in counts)
    return Segments(starts, seconds, first_counts, room, documents, np.array(ends, np.int64))


def _pairs(
    cuts: np.ndarray, longest: int, short_share: float, random: np.random.Generator
) -> Iterator[tuple[int, int, int, int]]:
    """Yield start, beginning of the second segment, tokens of the first, room, of the pairs of one document.

    `cuts` are the positions where sentences begin, and the document's end.
    """
    sentence, last = 0, len(cuts) - 1
    while last - sentence >= 2:
        room = longest if random.random() >= short_share else int(random.integers(2, longest + 1))
        end = int(np.searchsorted(cuts, cuts[sentence] + room))
        end = min(max(end, sentence + 2), last)
        middle = int(random.integers(sentence + 1, end))
        first, second = int(cuts[middle] - cuts[sentence]), int(cuts[end] - cuts[middle])
        first = min(first, room - min(second, max(room - first, room // 2)))
        yield int(cuts[sentence]), int(cuts[middle]), first, room
        sentence = end
