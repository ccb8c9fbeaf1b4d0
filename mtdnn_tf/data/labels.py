"""Raw labels to numbers: class ids by name, scores and relevance by value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtdnn_tf.data.faults import RowError
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.errors import unknown_name
from mtdnn_tf.tasks import TaskSpec

Where = Callable[[], str]  # a place is put into words for a message only: files have millions of rows
# What float() takes beyond this (underscores, digits of other scripts, nan, inf) is a slip in a label.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def raw_label(where: Where, value: Any) -> str:
    """Return a label, or the key of a group, as it is compared: a string without surrounding spaces, "" for null.

    Raises:
        RowError: the value is a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | float | np.number):
        return str(value)
    raise RowError(f"{where()}: must be a string or a number, received {quoted(value)}")


def parse_label(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: Where) -> float:
    """Return the label of one row: a class id, a score or a relevance.

    Args:
        task: its type decides how a label is read.
        mapping: from what stands in the source to the label's name (or, for numbers, to the number).
        raw: the label as `raw_label` returns it.
        where: returns its place, for messages.

    Raises:
        RowError: an unknown name, something that is not a finite number, or a number outside the task's range.
    """
    return LABEL_TYPES[task.type][0](task, mapping, raw, where)


def label_array(task: TaskSpec, labels: Sequence[float]) -> np.ndarray:
    """Return parsed labels as `[rows] int32` class ids, or `[rows] float32` scores or relevance."""
    return np.array(labels, LABEL_TYPES[task.type][1])


def _class_id(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: Where) -> int:
    name = mapping.get(raw, raw)
    if name in task.labels:
        return task.labels.index(name)
    place = where()
    if raw in mapping:
        place = f"{place}: {quoted(raw)} is mapped to a name that task {task.name} has not"
    raise RowError(unknown_name(place, "label", shortened(name), {*task.labels, *mapping}))


def _score(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: Where) -> float:
    value = _finite(mapping.get(raw, raw), where)
    low, high = task.range or (-math.inf, math.inf)
    if not low <= value <= high:
        raise RowError(f"{where()}: {quoted(raw)} is outside the range of task {task.name}, {low:g} to {high:g}")
    return value


def _relevance(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: Where) -> float:
    value = _finite(mapping.get(raw, raw), where)
    if value < 0:
        raise RowError(f"{where()}: relevance must be 0 or more, received {quoted(raw)}")
    return value


def _finite(text: str, where: Where) -> float:
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) <= np.finfo(np.float32).max:
            return value
        raise RowError(f"{where()}: {quoted(text)} is too large; expected a finite number (float32)")
    if _DECIMAL_COMMA.fullmatch(text):
        thousands = f", or {quoted(text.replace(',', ''))} for thousands" if _THOUSANDS.fullmatch(text) else ""
        point = quoted(text.replace(",", "."))
        raise RowError(f"{where()}: {quoted(text)} has a decimal comma; write {point}{thousands}")
    kind = "not finite" if _NOT_FINITE.fullmatch(text) else "not a number"
    raise RowError(f"{where()}: {quoted(text)} is {kind}; expected a finite number such as 2.5")


# By task type: how one label is read, and the dtype of all. A task type is added here.
LABEL_TYPES: dict[str, tuple[Callable[[TaskSpec, Mapping[str, str], str, Where], float], type]] = {
    "classification": (_class_id, np.int32),
    "regression": (_score, np.float32),
    "ranking": (_relevance, np.float32),
}
