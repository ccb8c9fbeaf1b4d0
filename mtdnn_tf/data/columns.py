"""Where the columns of a task stand in a table: by header name, by position, or by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.data.lines import quoted, shortened
from mtdnn_tf.data.rows import Table
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

Key = int | str  # what a row's values are taken with


@dataclass(frozen=True)
class Columns:
    """Keys of a task's columns; None: not there, or not asked for."""

    text: tuple[Key, ...]
    label: Key | None
    group: Key | None


def find_columns(task: TaskSpec, source: SourceConfig, table: Table, labelled: bool | None) -> Columns:
    """Look up text columns, label (unless `labelled` is False) and group (where the source maps one).

    Raises:
        UserError: a column that is demanded is not there, or `columns` maps a name that the task has not.
    """
    roles = [*task.text, "label", "group"]
    for role in source.columns:
        if role not in roles:
            raise UserError(unknown_name(f"{source.path}: columns", "column of the task", role, roles))
    keys = _lookup(source, table, [*task.text, "label"]) | _lookup(source, table, {"group"} & set(source.columns))
    label = None if labelled is False else keys["label"]
    demanded = [*task.text, *(["label"] if labelled else []), *(["group"] if "group" in source.columns else [])]
    for role in demanded:
        if keys[role] is None:
            raise UserError(_missing(source, table, role))
    if table.names is None and not source.columns:
        _check_width(task, table, labelled)
    return Columns(tuple(key for key in map(keys.get, task.text) if key is not None), label, keys.get("group"))


def column_title(table: Table, key: Key) -> str:
    """Return how messages call a column: by its name, or by its position in a file without a header."""
    if isinstance(key, int):
        return f"at position {key}" if table.names is None else quoted(table.names[key])
    return quoted(key)
