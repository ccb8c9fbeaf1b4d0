"""What people call the columns of their files."""

from __future__ import annotations

import re

# The earlier name wins where a file has several.
LABEL_NAMES = (
    "label", "labels", "gold_label", "gold", "class", "target", "category", "sentiment", "polarity", "intent", "emotion",
    "topic", "stance", "relevance", "similarity", "relatedness", "score", "stars", "rating", "quality", "output",
)  # fmt: skip
SCORE_NAMES = ("score", "similarity", "relatedness")  # with three or more numbers: how much, not which
TEXT_NAMES = (
    "text", "sentence", "review", "comment", "tweet", "content", "body", "message", "utterance", "question", "query",
    "answer", "premise", "hypothesis", "document", "passage", "context", "response", "headline", "title", "description",
    "summary", "claim", "evidence", "string", "input",
)  # fmt: skip
QUERY_NAMES = ("question", "query", "q")
ID_NAMES = ("id", "idx", "index", "uid", "guid", "uuid", "key", "no", "nr", "number", "line", "row")
PAIRS = (
    ("premise", "hypothesis"), ("question", "answer"), ("question", "sentence"), ("question", "passage"),
    ("query", "answer"), ("query", "document"), ("query", "passage"), ("context", "response"), ("claim", "evidence"),
)  # fmt: skip
_FIRST = re.compile(r"1|(?<=_)a$|left")  # of sentence1, #1 String, text_a, left_text
_SECOND = {"1": "2", "a": "b", "left": "right"}
_ID = re.compile(
    r"(.*[_ -])?(id|idx|ids|index)[0-9]*"
    r"|(q|p|s|u|g|uu|doc|pair|user|tweet|sent|text|row|item|post|page|query|passage|example)id[0-9]*"
    r"|\W*[0-9]* ?id|unnamed: [0-9]+|"
)
_LABEL = re.compile(r"(is|has)_.+|.+[_ ]label|label_.+")


def plain_name(title: object) -> str:
    """Return a column's name as the tables here have it: lower case, no spaces around it."""
    return str(title).strip().lower()


def is_label_name(title: object) -> bool:
    """Return whether a column is called as labels are."""
    name = plain_name(title)
    return name in LABEL_NAMES or _LABEL.fullmatch(name) is not None


def is_id_name(title: object) -> bool:
    """Return whether a column is called as row numbers and keys are; "" is how some programs call them."""
    name = plain_name(title)
    return name in ID_NAMES or _ID.fullmatch(name) is not None


def is_text_name(title: object) -> bool:
    """Return whether a column is called as texts are, with or without a number behind (sentence2)."""
    return plain_name(title).rstrip("12ab_ ") in TEXT_NAMES or plain_name(title) in TEXT_NAMES


def is_known_name(title: object) -> bool:
    """Return whether a cell looks like the name of a column."""
    return plain_name(title) != "" and (is_label_name(title) or is_id_name(title) or is_text_name(title))


def second_of_pair(title: object) -> tuple[str, ...]:
    """Return the names that the second text may have where `title` is the first: sentence1 -> sentence2."""
    name = plain_name(title)
    seconds = [second for first, second in PAIRS if first == name]
    numbered = _FIRST.sub(lambda match: _SECOND[match[0]], name, count=1)
    return tuple(seconds if numbered == name else [*seconds, numbered])


def as_identifier(name: str) -> str | None:
    """Return a name in lower-case letters, digits and _, a letter first; None where too little is left of it."""
    found = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return found if re.fullmatch(r"[a-z][a-z0-9_]*", found) else None
