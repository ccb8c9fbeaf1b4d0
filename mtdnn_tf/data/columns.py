"""Where the columns of a task stand in a table: by header name, by position, or by key."""

from __future__ import annotations

from dataclasses import dataclass

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.faults import column_option, option
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.data.rows import Table, layout_advice
from mtdnn_tf.errors import UserError, closest_name, unknown_name
from mtdnn_tf.tasks import TaskSpec

Key = int | str  # what a row's values are taken with


class MissingColumnError(UserError):
    """A column that is demanded is not in the source."""


@dataclass(frozen=True)
class Columns:
    """Keys of a task's columns; None: not there, or not asked for."""

    text: tuple[Key, ...]
    label: Key | None
    group: Key | None


def find_columns(task: TaskSpec, source: SourceConfig, table: Table, labelled: bool | None) -> Columns:
    """Look up text columns, label (unless `labelled` is False) and group (where the source maps one).

    Raises:
        MissingColumnError: a column that is demanded is not there.
        UserError: `columns` maps a name that the task has not, or a file without header has too many columns.
    """
    roles = [*task.text, "label", "group"]
    for role in source.columns:
        if role not in roles:
            raise UserError(unknown_name(f"{source.path}: columns", "column of the task", role, roles))
    if table.names is None and not source.columns:
        return _by_order(task, source, table, labelled)
    text = tuple(_demanded(source, table, name) for name in task.text)
    label = None
    if labelled is not False:
        label = _demanded(source, table, "label") if labelled else _key(source, table, "label")
    group = _demanded(source, table, "group") if "group" in source.columns else None
    _check_apart(source, table, dict(zip([*task.text, "label"], [*text, label], strict=True)))
    return Columns(text, label, group)


def _check_apart(source: SourceConfig, table: Table, keys: dict[str, Key | None]) -> None:
    """Refuse texts and label from one column; a query id may well be the query itself."""
    roles: dict[Key | None, str] = {}
    for role, key in keys.items():
        if key is not None and key in roles:
            raise UserError(
                f"{source.path}: columns: {roles[key]!r} and {role!r} both stand for column {column_title(table, key)}; "
                "map each to a column of its own"
            )
        roles[key] = role


def _by_order(task: TaskSpec, source: SourceConfig, table: Table, labelled: bool | None) -> Columns:
    """Take a file without header or mapping: the text columns first, then the label."""
    texts = len(task.text)
    if table.width not in ((texts + 1,) if labelled else (texts, texts + 1)):
        expected = ", ".join([*task.text, "label"])
        advice = layout_advice(table.first) or f"name them with {column_option('<name>', '<position from 0>')}"
        raise UserError(
            f"{source.path}:1: {_count(table.width)}, expected {texts + 1} ({expected}) in a file without a header; {advice}"
        )
    label = texts if labelled is not False and table.width > texts else None
    return Columns(tuple(range(texts)), label, None)


def _demanded(source: SourceConfig, table: Table, role: str) -> Key:
    key = _key(source, table, role)
    if key is None:
        raise MissingColumnError(_missing(source, table, role))
    return key


def _key(source: SourceConfig, table: Table, role: str) -> Key | None:
    """Return what a row's value of this role is taken with, or None where the table has no such column."""
    wanted = source.columns.get(role, role)
    if isinstance(wanted, int):
        return None if table.by_name or not 0 <= wanted < table.width else wanted
    if table.names is None or wanted not in table.names:
        return None
    return wanted if table.by_name else table.names.index(wanted)


def _missing(source: SourceConfig, table: Table, role: str) -> str:
    wanted = source.columns.get(role, role)
    asked = f"column {quoted(wanted)}" if wanted == role else f"column {quoted(wanted)} (mapped to {role!r})"
    where = f"{table.origin}:1: no {asked}"
    if isinstance(wanted, int):
        if table.by_name:
            names = shortened(", ".join(table.names or ()), 200)
            return f"{where}: its columns have names, not positions: {names}"
        advice = layout_advice(table.first)
        return f"{where}: {_count(table.width)}, positions count from 0" + (f"; {advice}" if advice else "")
    if table.names is None:
        return (
            f"{where}: the file has no header; map {role!r} to a position, {column_option(role, '<position from 0>')}"
        )
    known = shortened(", ".join(table.names), 200) or "none"
    if wanted in table.unreadable:
        return f"{table.origin}: column {quoted(wanted)} holds lists or arrays; columns of one text or number: {known}"
    closest = closest_name(wanted, table.names)
    return (
        f"{where} among {known}.{f' Did you mean {quoted(closest)}?' if closest else ''} "
        f"Map it with {column_option(role, '<name>')}{_header_advice(table)}"
    )


def _header_advice(table: Table) -> str:
    if table.by_name:
        return ""
    advice = layout_advice(table.first)
    return f"; {advice}" if advice else f", or say {option('header', 'false')} where the first line is data"


def _count(width: int) -> str:
    return "1 column" if width == 1 else f"{width} columns"


def column_title(table: Table, key: Key) -> str:
    """Return how messages call a column: by its name, or by its position in a file without a header."""
    if isinstance(key, int):
        return f"at position {key}" if table.names is None else quoted(table.names[key])
    return quoted(key)
