"""Raw labels to numbers: class ids by name, scores and relevance by value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

# What float() takes beyond this (underscores, digits of other scripts, nan, inf) is a slip in a label.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def raw_label(where: str, value: Any) -> str:
    """Return a label, or the key of a group, as it is compared: a string without surrounding spaces, "" for null.

    Raises:
        UserError: the value is a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | float | np.number):
        return str(value)
    raise UserError(f"{where}: must be a string or a number, received {quoted(value)}")


def parse_labels(
    task: TaskSpec, mapping: Mapping[str, str], raw: Sequence[str], where: Callable[[int], str]
) -> np.ndarray:
    """Return the labels of a task's rows: `[rows] int32` class ids, or `[rows] float32` scores or relevance.

    Args:
        task: its type decides how a label is read.
        mapping: from what stands in the source to the label's name (or, for numbers, to the number).
        raw: labels as `raw_label` returns them.
        where: from the index of a row to its place, for messages.

    Raises:
        UserError: an unknown name, something that is not a finite number, or a number outside the task's range.
    """
    parse, dtype = LABEL_TYPES[task.type]
    return np.array([parse(task, mapping, label, where(row)) for row, label in enumerate(raw)], dtype)


def _class_id(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: str) -> int:
    name = mapping.get(raw, raw)
    if name in task.labels:
        return task.labels.index(name)
    if raw in mapping:
        where = f"{where}: {quoted(raw)} is mapped to a name that task {task.name} has not"
    raise UserError(unknown_name(where, "label", shortened(name), {*task.labels, *mapping}))


def _score(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: str) -> float:
    value = _finite(mapping.get(raw, raw), where)
    low, high = task.range or (-math.inf, math.inf)
    if not low <= value <= high:
        raise UserError(f"{where}: {quoted(raw)} is outside the range of task {task.name}, {low:g} to {high:g}")
    return value


def _relevance(task: TaskSpec, mapping: Mapping[str, str], raw: str, where: str) -> float:
    value = _finite(mapping.get(raw, raw), where)
    if value < 0:
        raise UserError(f"{where}: relevance must be 0 or more, received {quoted(raw)}")
    return value


def _finite(text: str, where: str) -> float:
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) <= np.finfo(np.float32).max:
            return value
        raise UserError(f"{where}: {quoted(text)} is too large; expected a finite number (float32)")
    if _DECIMAL_COMMA.fullmatch(text):
        raise UserError(f"{where}: {quoted(text)} has a decimal comma; write {quoted(text.replace(',', '.'))}")
    kind = "not finite" if _NOT_FINITE.fullmatch(text) else "not a number"
    raise UserError(f"{where}: {quoted(text)} is {kind}; expected a finite number such as 2.5")


# By task type: how one label is read, and the dtype of all. A task type is added here.
LABEL_TYPES: dict[str, tuple[Callable[[TaskSpec, Mapping[str, str], str, str], float], type]] = {
    "classification": (_class_id, np.int32),
    "regression": (_score, np.float32),
    "ranking": (_relevance, np.float32),
}
