"""What an exported model says of itself, to strangers and to `mtdnn_tf.answering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtdnn_tf.config import SourceConfig
from mtdnn_tf.config_build import to_plain
from mtdnn_tf.data.formats import file_ending
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.provenance import versions
from mtdnn_tf.tasks import TaskSpec

_LAYOUT = ("format", "header", "columns", "labels", "ignore_labels", "encoding")  # of a task's files: `SourceConfig`


def describe(tasks: Sequence[TaskSpec], encoder: Encoder, kind: str, weights: str, max_length: int) -> dict[str, Any]:
    """Return what a stranger to this package needs to know of the model."""
    return {
        "kind": kind,
        "weights": weights,
        "max_length": max_length,
        "encoder": encoder.source,
        "tasks": {task.name: describe_task(task) for task in tasks if task.head_of is None},
        "versions": versions(),
    }


def describe_task(task: TaskSpec) -> dict[str, Any]:
    """Return what can be told of a task in JSON: how to ask it, what it answers, how files of it are laid out."""
    return {
        "type": task.type,
        "text": list(task.text),
        "labels": list(task.labels),
        "range": list(task.range) if task.range else None,
        "pair_order": task.pair_order,
        "metrics": list(task.metrics),
        "main_metric": task.main_metric,
        "layout": {key: value for key, value in to_plain(task.layout).items() if key in _LAYOUT},
        "file_ending": file_ending(task.layout.path),
    }


def described_task(name: str, told: Mapping[str, Any]) -> TaskSpec:
    """Return the task that `describe_task` told of; its one source has the layout of its files, not their place."""
    layout = told.get("layout", {})
    return TaskSpec(
        name=name,
        type=told["type"],
        text=tuple(told["text"]),
        labels=tuple(told["labels"]),
        range=tuple(told["range"]) if told["range"] else None,
        pair_order=told["pair_order"],
        metrics=tuple(told["metrics"]),
        main_metric=told["main_metric"],
        sources={
            "dev": SourceConfig(
                f"-{told.get('file_ending', '')}",
                **layout | {"ignore_labels": tuple(layout.get("ignore_labels", ()))},
            )
        },
    )
