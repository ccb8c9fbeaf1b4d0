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
_FULL_WIDTH = "\u3002\uff01\uff1f"  # marks of Chinese and Japanese, which writes no space behind them
_OTHERS = "\u2026\u0964\u0965\u061f\u06d4"  # ellipsis, dandas, Arabic question mark and full stop
_MARKS = rf".!?{_OTHERS}{_FULL_WIDTH}"
# What may end a sentence: its marks, closing quotes and brackets, space. A run of marks is looked at once, from its beginning.
_END = re.compile(
    rf"""(?<![{_MARKS}])(?P<mark>[{_MARKS}]+)(?P<closing>["'\u201d\u2019)\]\u300d\u300f\uff09]*+)(?P<space>\s*+)"""
)
_LAST_WORD = re.compile(r"[^\s\"'(\[\u201c\u2018-]*$")
_LONGEST = 40  # characters before a full stop that are looked at; no abbreviation has as many


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph in order, without surrounding space; none of them is empty.

    A mark such as . ! ? ends one where a space follows and then no small letter, which in a paragraph without capitals tells
    nothing; a full-width mark also without the space. A full stop does not after an initial ("J.") or one of `ABBREVIATIONS`.
    """
    sentences, start, has_capitals = [], 0, paragraph != paragraph.lower()
    for found in _END.finditer(paragraph):
        before = paragraph[max(start, found.start() - _LONGEST) : found.start()]
        if not (has_capitals and paragraph[found.end() : found.end() + 1].islower()) and _is_end(found, before):
            sentences.append(paragraph[start : found.end()].strip())
            start = found.end()
    sentences.append(paragraph[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _is_end(found: re.Match[str], before: str) -> bool:
    """Return whether a sentence ends with a match of `_END`; `before` are the characters before it."""
    if found.end() == len(found.string) or not (found["space"] or set(found["mark"]) & set(_FULL_WIDTH)):
        return False
    return found["mark"] != "." or bool(found["closing"]) or not _is_abbreviation(before)


def _is_abbreviation(before: str) -> bool:
    found = _LAST_WORD.search(before)
    word = found[0] if found else ""
    return word.casefold() in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "I")
