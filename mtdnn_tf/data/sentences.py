"""Paragraphs cut into sentences by punctuation, without a model: for pairs of segments that begin and end where sentences do."""

from __future__ import annotations

import re

# What stands before a full stop that ends no sentence, in lower case; single letters (initials) are told by their length.
ABBREVIATIONS = frozenset(
    (
        *(
            "mr",
            "mrs",
            "ms",
            "dr",
            "prof",
            "st",
            "messrs",
            "rev",
            "hon",
            "gen",
            "col",
            "capt",
            "lt",
            "sgt",
            "sr",
            "jr",
            "mt",
        ),
        *(
            "vs",
            "etc",
            "e.g",
            "i.e",
            "cf",
            "al",
            "c",
            "ca",
            "approx",
            "no",
            "nos",
            "vol",
            "vols",
            "ed",
            "eds",
            "fig",
            "pp",
        ),
        *("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
    )
)
# End of a sentence: its mark, closing quotes and brackets, space, and what may begin the next one.
_END = re.compile(
    r"""(?P<mark>[.!?\u2026]+|[\u3002\uff01\uff1f])(?P<closing>["'\u201d\u2019)\]]*)(?P<space>\s+)(?=["'\u201c\u2018(\[]*[^\sa-z])"""
)
_LAST_WORD = re.compile(r"[^\s\"'(\[\u201c\u2018-]*$")


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph in order, without surrounding space; none of them is empty.

    A mark of . ! ? ends one where a space follows and then no small letter. A full stop does not after an initial ("J.") or one
    of `ABBREVIATIONS`.
    """
    sentences, start = [], 0
    for end in _END.finditer(paragraph):
        if end["mark"] == "." and not end["closing"] and _is_abbreviation(paragraph[start : end.start()]):
            continue
        sentences.append(paragraph[start : end.end()].strip())
        start = end.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(before: str) -> bool:
    found = _LAST_WORD.search(before)
    word = found[0] if found else ""
    return word.casefold() in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "I")
