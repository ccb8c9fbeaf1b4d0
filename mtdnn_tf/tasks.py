"""What a task is: its columns, labels, head, loss and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtdnn_tf.config import ExperimentConfig, SourceConfig, TaskConfig
from mtdnn_tf.config_build import build, to_plain
from mtdnn_tf.config_paths import SPLITS
from mtdnn_tf.config_tree import Branch, Origin, dump_yaml, parse_yaml, tree_of
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.ready_made import READY_MADE, ReadyMade, complete_source, with_defaults
from mtdnn_tf.task_types import KNOWN_HEADS, KNOWN_LOSSES, KNOWN_METRICS, RESERVED_NAMES, TASK_TYPES, TaskType

__all__ = [
    "KNOWN_HEADS",
    "KNOWN_LOSSES",
    "KNOWN_METRICS",
    "READY_MADE",
    "RESERVED_NAMES",
    "TASK_TYPES",
    "TaskSpec",
    "dump_tasks",
    "load_tasks",
    "read_tasks",
    "task_from_dict",
    "task_to_dict",
]


@dataclass(frozen=True)
class TaskSpec:
    """One task, complete: nothing else decides how it is read, modelled, trained or scored.

    `name` is layer, output, signature, metric prefix and checkpoint key alike. Labels are mapped by name;
    `labels` lists them in id order. A task with `head_of` has no head of its own: it is scored and predicted
    through that other task's (MNLI mismatched, AX).
    """

    name: str
    type: str  # classification, regression, ranking
    text: tuple[str, ...]  # one or two column names; the exported signature's input names
    labels: tuple[str, ...] = ()  # classification only
    range: tuple[float, float] | None = None  # regression only
    head: str = "linear"
    head_of: str | None = None
    dropout: float | None = None  # None: model.dropout
    loss: str = "cross_entropy"
    loss_weight: float = 1.0
    metrics: tuple[str, ...] = ("accuracy",)
    main_metric: str = "accuracy"
    pair_order: str = "premise_first"  # or hypothesis_first (the first release)
    batch_size: int | None = None  # None: data.batch_size
    max_examples: int | None = None
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)  # by split: train, dev, test
