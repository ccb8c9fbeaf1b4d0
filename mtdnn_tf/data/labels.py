"""Labels of a source: class ids by name, scores and relevance by value, and which spellings are one label."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
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
_LARGEST = float(np.finfo(np.float32).max)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_IGNORED = "\0"  # the meaning of a label that stands for none; no name holds this character
# As Python, JSON and spreadsheets write them; any other change of case makes another label.
_BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


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


def label_key(text: str) -> str | Decimal:
    """Return what all spellings of one label have in common.

    Equal numbers are one label (0, 0.0, 0e0), so are texts that differ in surrounding spaces or in their Unicode form (NFC,
    NFD) only, and the booleans of Python, JSON and spreadsheets (True, true, TRUE).
    """
    plain = unicodedata.normalize("NFC", text.strip())
    if _NUMBER.fullmatch(plain):
        try:
            return Decimal(plain)
        except ArithmeticError:  # an exponent of 20 digits
            return plain
    return _BOOLEANS.get(plain, plain)


class LabelNames:
    """What the labels of a source mean: their exact spelling decides, else `label_key` does."""

    def __init__(
        self, names: Iterable[str], mapping: Mapping[str, str] | None = None, ignored: Iterable[str] = ()
    ) -> None:
        """Take the task's names, and what a source says of its labels.

        Args:
            names: label names in id order, which mean themselves; none for scores and relevance.
            mapping: from what stands in the source to the label's name (or, for numbers, to the number).
            ignored: what stands in the source for no label.
        """
        self.ids = {name: number for number, name in enumerate(names)}
        self._exact = {name: name for name in self.ids}
        own = self._by_key()
        for written, meaning in (mapping or {}).items():
            alike = [] if meaning in self.ids else own.get(label_key(meaning), [])
            self._exact[written] = alike[0] if len(alike) == 1 else meaning
        self._exact |= dict.fromkeys(ignored, _IGNORED)
        self._same = self._by_key()

    def _by_key(self) -> dict[str | Decimal, list[str]]:
        found: dict[str | Decimal, list[str]] = {}
        for written, meaning in self._exact.items():
            meanings = found.setdefault(label_key(written), [])
            if meaning not in meanings:
                meanings.append(meaning)
        return found

    @property
    def known(self) -> set[str]:
        """All spellings that are listed."""
        return set(self._exact)

    def is_ignored(self, raw: str) -> bool:
        """Return whether a label stands for none."""
        return self._meanings(raw) == [_IGNORED]

    def find(self, raw: str, where: Where = str) -> str | None:
        """Return the name (the number) that a label stands for; None: it is unknown.

        Raises:
            RowError: it is equal to several labels, and written as none of them.
        """
        meanings = self._meanings(raw)
        if len(meanings) > 1:
            names = " and to ".join("an ignored one" if name == _IGNORED else quoted(name) for name in meanings)
            raise RowError(f"{where()}: label {quoted(raw)} is equal to {names}; write it as one of them is written")
        return meanings[0] if meanings else None

    def _meanings(self, raw: str) -> list[str]:
        if not self._exact:
            return []
        meaning = self._exact.get(raw)
        return [meaning] if meaning is not None else self._same.get(label_key(raw), [])


def parse_label(task: TaskSpec, names: LabelNames, raw: str, where: Where) -> float:
    """Return the label of one row: a class id, a score or a relevance.

    Args:
        task: its type decides how a label is read.
        names: what the labels of the source mean.
        raw: the label as `raw_label` returns it.
        where: returns its place, for messages.

    Raises:
        RowError: an unknown name, something that is not a finite number, or a number outside the task's range.
    """
    return LABEL_TYPES[task.type][0](task, names, raw, where)


def label_array(task: TaskSpec, labels: Sequence[float]) -> np.ndarray:
    """Return parsed labels as `[rows] int32` class ids, or `[rows] float32` scores or relevance."""
    return np.array(labels, LABEL_TYPES[task.type][1])


def _class_id(task: TaskSpec, names: LabelNames, raw: str, where: Where) -> int:
    name = names.find(raw, where)
    if name in names.ids:
        return names.ids[name]
    if name is None:
        remedy = "" if raw else ' To leave out rows without a label, say `ignore_labels: [""]` in the source.'
        raise RowError(unknown_name(where(), "label", shortened(raw), names.known) + remedy)
    place = f"{where()}: {quoted(raw)} is mapped to a name that task {task.name} does not list"
    raise RowError(unknown_name(place, "label", shortened(name), names.ids))


def _score(task: TaskSpec, names: LabelNames, raw: str, where: Where) -> float:
    value = finite_number(names.find(raw, where) or raw, where)
    low, high = task.range or (-math.inf, math.inf)
    if not low <= value <= high:
        raise RowError(f"{where()}: {quoted(raw)} is outside the range of task {task.name}, {low:g} to {high:g}")
    return value


def _relevance(task: TaskSpec, names: LabelNames, raw: str, where: Where) -> float:
    value = finite_number(names.find(raw, where) or raw, where)
    if value < 0:
        raise RowError(f"{where()}: relevance must be 0 or more, received {quoted(raw)}")
    return value


def has_decimal_comma(text: str) -> bool:
    """Return whether this is a number but for a comma in the place of its point."""
    return _DECIMAL_COMMA.fullmatch(text) is not None


def finite_number(text: str, where: Where) -> float:
    """Return the number that a score or a relevance is.

    Raises:
        RowError: it is none, or one that float32 cannot hold.
    """
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) <= _LARGEST:
            return value
        raise RowError(f"{where()}: {quoted(text)} is too large; expected a finite number (float32)")
    if has_decimal_comma(text):
        thousands = f", or {quoted(text.replace(',', ''))} for thousands" if _THOUSANDS.fullmatch(text) else ""
        point = quoted(text.replace(",", "."))
        raise RowError(f"{where()}: {quoted(text)} has a decimal comma; write {point}{thousands}")
    kind = "not finite" if _NOT_FINITE.fullmatch(text) else "not a number"
    raise RowError(f"{where()}: {quoted(text)} is {kind}; expected a finite number such as 2.5")


# By task type: how one label is read, and the dtype of all. A task type is added here.
LABEL_TYPES: dict[str, tuple[Callable[[TaskSpec, LabelNames, str, Where], float], type]] = {
    "classification": (_class_id, np.int32),
    "regression": (_score, np.float32),
    "ranking": (_relevance, np.float32),
}
