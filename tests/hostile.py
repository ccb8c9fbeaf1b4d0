"""What a hostile file is to become, for tests: the rows that are read, or what the one line must tell."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mtdnn_tf.tasks import TaskSpec

MOOD = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
PAIRS = TaskSpec("follows", "classification", ("premise", "hypothesis"), ("no", "yes"))
CLOSE = TaskSpec("close", "regression", ("a", "b"), range=(0.0, 5.0), loss="mean_squared_error")
PICK = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")

GOOD = "text\tlabel\na\tpositive\nb\tnegative\n"
CLOSE_HEAD = "a\tb\tlabel\n"
PICK_HEAD = "question\tanswer\tlabel\n"
MEGABYTE = 1_000_000
NONE: Mapping[str, Any] = MappingProxyType({})


class Read(NamedTuple):
    """A file that is read: the first text column and, where it matters, the labels."""

    name: str
    content: str | bytes
    texts: list[str]
    labels: list[float] | None = None
    task: TaskSpec = MOOD
    options: Mapping[str, Any] = NONE


class Told(NamedTuple):
    """A file that is refused: what the message must hold after the path."""

    name: str
    content: str | bytes
    parts: tuple[str, ...]
    task: TaskSpec = MOOD
    options: Mapping[str, Any] = NONE
