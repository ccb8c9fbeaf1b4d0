"""What a task is: its columns, labels, head, loss and metrics."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mtdnn_tf.config import ClassWeights, ExperimentConfig, PretrainingConfig, SourceConfig, TaskConfig
from mtdnn_tf.config_build import build, to_plain
from mtdnn_tf.config_paths import SPLITS
from mtdnn_tf.config_tree import Branch, Origin, dump_yaml, parse_yaml, tree_of
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.ready_made import READY_MADE, ReadyMade, complete_source, with_defaults
from mtdnn_tf.task_types import (
    BINARY_METRICS,
    DOCUMENT_TYPES,
    KNOWN_HEADS,
    KNOWN_LOSSES,
    KNOWN_METRICS,
    LOWER_IS_BETTER,
    OF_BORROWER,
    PAIR_HEADS,
    RESERVED_NAMES,
    SHARING_HEADS,
    TASK_TYPES,
    TaskType,
)

__all__ = [
    "KNOWN_HEADS",
    "KNOWN_LOSSES",
    "KNOWN_METRICS",
    "READY_MADE",
    "RESERVED_NAMES",
    "TASK_TYPES",
    "ScoreMap",
    "TaskSpec",
    "dump_tasks",
    "is_near_unit_scale",
    "load_tasks",
    "read_tasks",
    "task_from_dict",
    "task_to_dict",
]


_NEAR = 10.0  # largest score, in absolute value, that is learnt as it is
_NARROW = 0.1  # a range of less than this is not
_LARGEST_SCORE, _SMALLEST_SPAN = 1e25, 1e-25  # within these, float32 holds losses and gradients in either units
_FEWEST_SCORES = 100  # different float32 numbers that a range must hold


class ScoreMap(NamedTuple):
    """From a regression head's own units, about -1 to 1, to the scores of the task: centre + half_width * z."""

    centre: float
    half_width: float


def is_near_unit_scale(low: float, high: float) -> bool:
    """Return whether scores from `low` to `high` are learnt as they are: none beyond -10 or 10, and 0.1 or more between the ends.

    The paper's raw targets hold for these (STS-B's 0 to 5, 1 to 5, 0 to 10, -1 to 1).
    """
    return max(abs(low), abs(high)) <= _NEAR and high - low >= _NARROW


@dataclass(frozen=True)
class TaskSpec:
    """One task, complete: nothing else decides how it is read, modelled, trained or scored.

    `name` is layer, output, signature, metric prefix and checkpoint key alike. Labels are mapped by name;
    `labels` lists them in id order. A task with `head_of` has no head of its own: it is scored and predicted
    through that other task's (MNLI mismatched, AX), and has everything but its texts' names, metrics and sources from it.
    """

    name: str
    type: str  # classification, regression, ranking, pretraining
    text: tuple[str, ...]  # one or two column names; the exported signature's input names; pretraining: none
    labels: tuple[str, ...] = ()  # classification only
    range: tuple[float, float] | None = None  # regression only
    head: str = "linear"
    head_of: str | None = None
    dropout: float | None = None  # None: model.dropout
    loss: str = "cross_entropy"
    loss_weight: float = 1.0
    class_weights: ClassWeights | None = None  # classification only; see `training.losses.weighted_by_class`
    metrics: tuple[str, ...] = ("accuracy",)
    main_metric: str = "accuracy"
    pair_order: str = "premise_first"  # or hypothesis_first (the first release)
    batch_size: int | None = None  # None: data.batch_size
    max_examples: int | None = None
    sample_seed: int | None = None  # which examples these are; None: the same ones in every run
    pretraining: PretrainingConfig | None = None  # of the type pretraining
    sources: Mapping[str, SourceConfig] = field(default_factory=dict)  # by split: train, dev, test

    @property
    def score_map(self) -> ScoreMap | None:
        """How the outputs of a regression head become scores; None: they are the scores (no range, or one near unit scale)."""
        if self.range is None or is_near_unit_scale(*self.range):
            return None
        low, high = self.range
        return ScoreMap(low / 2 + high / 2, high / 2 - low / 2)

    @property
    def layout(self) -> SourceConfig:
        """How the task's files are laid out: its source of dev, else of test, else of train."""
        return next(
            (self.sources[split] for split in ("dev", "test", "train") if split in self.sources), SourceConfig("-")
        )


Item = TypeVar("Item")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def load_tasks(config: ExperimentConfig) -> tuple[TaskSpec, ...]:
    """Complete every task of a configuration from its ready-made specification and its type, and check it.

    Raises:
        UserError: `tasks.<name>.<key>`, the rule, and what came: an unknown type, head, loss or metric, one that does not suit
            the task, a name that cannot be used, texts, labels or a range that are missing or out of place.
    """
    default_head = SHARING_HEADS.get(config.model.sharing)
    lenders = {name: head_of for name, task in config.tasks.items() if (head_of := _head_of(name, task)) is not None}
    own = {name: _complete(name, task, default_head) for name, task in config.tasks.items() if name not in lenders}
    borrowed = {
        name: _complete(name, _inherited(config.tasks[name], _lender(name, head_of, own, lenders), name), default_head)
        for name, head_of in lenders.items()
    }
    tasks = own | borrowed
    return tuple(tasks[name] for name in config.tasks)


def _head_of(name: str, written: TaskConfig) -> str | None:
    ready = _ready_made(f"tasks.{name}", written)
    return written.head_of or (ready.task.head_of if ready else None)


def _lender(name: str, head_of: str, own: Mapping[str, TaskSpec], lenders: Mapping[str, str]) -> TaskSpec:
    where = f"tasks.{name}.head_of"
    if head_of in lenders:
        if head_of == name:
            raise UserError(f"{where}: {name} has no head of its own; name a task that has one")
        raise UserError(f"{where}: {head_of} has no head of its own; name {lenders[head_of]}")
    return _known(where, "task", head_of, own)


def _inherited(written: TaskConfig, lender: TaskSpec, name: str) -> TaskConfig:
    """Return a task with `head_of` with what the owner of the head decides: everything but `OF_BORROWER`.

    Raises:
        UserError: the task sets something else, has another number of texts or a training split, or is ready-made for other labels.
    """
    where = f"tasks.{name}"
    if written.train is not None:
        raise UserError(f"{where}.train: a task with head_of is scored, not trained; remove it, or head_of")
    ready = _ready_made(where, written)
    if ready and (ready.task.type != lender.type or {*(ready.task.labels or ())} != {*lender.labels}):
        raise UserError(
            f"{where}.use: {written.use} has the labels {_shown(ready.task.labels)}, and tasks.{lender.name}, whose head this task "
            f"uses, {_shown(lender.labels)}; name a task with the same labels in head_of"
        )
    inherited = (item.name for item in fields(TaskSpec) if item.name not in OF_BORROWER)
    taken: dict[str, Any] = {key: None if getattr(lender, key) == () else getattr(lender, key) for key in inherited}
    for key, value in taken.items():
        received = getattr(written, key)
        if received is not None and received != value:
            raise UserError(
                f"{where}.{key}: must be that of tasks.{lender.name}, whose head this task uses: {_shown(value)}; received "
                f"{_shown(received)}; remove the key, and set it in tasks.{lender.name} where both should have it"
            )
    text = written.text or (ready.task.text if ready else None) or lender.text
    if len(text) != len(lender.text):
        raise UserError(
            f"{where}.text: must have as many columns as tasks.{lender.name}, whose head this task uses: {_shown(lender.text)}; "
            f"received {_shown(text)}"
        )
    return replace(written, text=text or None, **taken)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _complete(name: str, written: TaskConfig, default_head: str | None) -> TaskSpec:
    where = f"tasks.{name}"
    _check_name(where, name)
    ready = _ready_made(where, written)
    task = with_defaults(written, ready) if ready else written
    types = {**TASK_TYPES, **DOCUMENT_TYPES}
    kind = _known(f"{where}.type", "task type", _demanded(task.type, f"{where}.type", types), types)
    of_documents = task.type in DOCUMENT_TYPES
    _check_options_of_documents(where, task, of_documents)
    task = _with_label_column(where, task)
    text = () if of_documents else _checked_text(where, task, kind)
    if ready and len(text) != len(ready.task.text or ()):
        names = ", ".join(ready.task.text or ())
        raise UserError(f"{where}.text: {task.use} has the text columns {names}; received {', '.join(text)}")
    _check_outputs(where, task, kind)
    of_type = kind.pair_head if kind.pair_head and len(text) == 2 else kind.heads[0]
    head = task.head or (default_head if default_head in kind.heads else of_type)
    _check_suits(f"{where}.head", "head", head, KNOWN_HEADS, kind.heads, task.type)
    if head in PAIR_HEADS and len(text) != 2:
        raise UserError(f"{where}.head: {head!r} reads two texts against each other; text has {len(text)} column")
    loss = task.loss or kind.losses[0]
    _check_suits(f"{where}.loss", "loss", loss, KNOWN_LOSSES, kind.losses, task.type)
    metrics, main_metric = _metrics(where, task, kind)
    return TaskSpec(
        name=name,
        type=str(task.type),
        text=text,
        labels=task.labels or (),
        range=task.range,
        head=head,
        head_of=task.head_of,
        dropout=task.dropout,
        loss=loss,
        loss_weight=1.0 if task.loss_weight is None else task.loss_weight,
        class_weights=task.class_weights,
        metrics=metrics,
        main_metric=main_metric,
        pair_order=task.pair_order or "premise_first",
        batch_size=task.batch_size,
        max_examples=task.max_examples,
        sample_seed=task.sample_seed,
        pretraining=task.pretraining or (PretrainingConfig() if of_documents else None),
        sources=_sources(where, task, text, ready),
    )


def _check_name(where: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: a task's name must be lower-case letters, digits and _, a letter first (as in my_task_2)"
        )
    if name in RESERVED_NAMES:
        raise UserError(f"{where}: this name is taken by a part of the model; choose another, such as {name}_task")


def _ready_made(where: str, task: TaskConfig) -> ReadyMade | None:
    return None if task.use is None else _known(f"{where}.use", "ready-made task", task.use, READY_MADE)


def _demanded(value: str | None, where: str, known: Iterable[str]) -> str:
    if value is None:
        raise UserError(
            f"{where}: is missing; it must be one of {', '.join(sorted(known))} (or use: a ready-made task)"
        )
    return value


def _known(where: str, kind: str, name: str, table: Mapping[str, Item]) -> Item:
    if name not in table:
        raise UserError(unknown_name(where, kind, name, table))
    return table[name]


def _check_suits(
    where: str, kind: str, name: str, known: Sequence[str], suitable: Sequence[str], task_type: str | None
) -> None:
    if name not in known:
        raise UserError(unknown_name(where, kind, name, known))
    if name not in suitable:
        raise UserError(f"{where}: {name!r} does not suit {task_type}; it takes {', '.join(suitable)}")


def _checked_text(where: str, task: TaskConfig, kind: TaskType) -> tuple[str, ...]:
    if task.text is None:
        raise UserError(f"{where}.text: is missing; list the text columns, as in [premise, hypothesis]")
    if len(task.text) not in kind.arities:
        expected = " or ".join(str(count) for count in kind.arities)
        raise UserError(f"{where}.text: {task.type} takes {expected} text columns, received {len(task.text)}")
    if len(set(task.text)) < len(task.text) or {"label", "group"} & set(task.text):
        raise UserError(
            f"{where}.text: columns must have different names, none of them label or group; received {', '.join(task.text)}"
        )
    for name in task.text:
        if not is_input_name(name):
            raise UserError(
                f"{where}.text: {name!r} can't be the name of an exported model's input; take letters, digits and _, and say which "
                "column that is: `columns: {review_text: Review Text}`"
            )
    return task.text


def is_input_name(name: str) -> bool:
    """Return whether an input of an exported model may have this name: it is a parameter of a Python function there."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name != "self"


def _check_options_of_documents(where: str, task: TaskConfig, of_documents: bool) -> None:
    """Refuse what has no effect on this type: what tells of rows and labels on running text, and the other way round."""
    names = ("text", "label", "head_of", "pair_order", "max_examples", "dropout") if of_documents else ("pretraining",)
    for name in names:
        if getattr(task, name) is not None:
            raise _no_effect(f"{where}.{name}", task)
    if of_documents:
        for split, source in _written_sources(task).items():
            _check_source_of_documents(f"{where}.{split}", task, source)


def _check_source_of_documents(where: str, task: TaskConfig, source: SourceConfig) -> None:
    untouched = SourceConfig(source.path)
    for name in ("rows", "split", "data_dir", "header", "labels", "ignore_labels", "gather"):
        if getattr(source, name) != getattr(untouched, name):
            raise _no_effect(f"{where}.{name}", task)
    for column in source.columns:
        if column != "text" or source.format not in ("auto", "jsonl"):
            raise UserError(
                f"{where}.columns.{column}: is not read; of a task of the type {task.type} only JSON lines have a column, text"
            )


def _no_effect(where: str, task: TaskConfig) -> UserError:
    return UserError(f"{where}: has no effect on a task of the type {task.type}; remove it")


def _check_outputs(where: str, task: TaskConfig, kind: TaskType) -> None:
    labels = task.labels or ()
    if kind.has_labels and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise UserError(
            f"{where}.labels: {task.type} needs two or more different names, received [{', '.join(labels)}]"
        )
    if labels and not kind.has_labels:
        raise UserError(f"{where}.labels: {task.type} has no label names; remove them, or set type: classification")
    if task.range and task.type != "regression":
        raise UserError(f"{where}.range: only regression has a range; remove it, or set type: regression")
    if task.range:
        _check_range(f"{where}.range", *task.range)
    if task.class_weights is not None:
        _check_class_weights(f"{where}.class_weights", task, labels)


def _check_range(where: str, low: float, high: float) -> None:
    """Refuse a range whose scores float32 does not hold apart, or whose losses it does not hold."""
    received = f"received [{low:.12g}, {high:.12g}]"
    if max(abs(low), abs(high)) > _LARGEST_SCORE or high - low < _SMALLEST_SPAN:
        raise UserError(
            f"{where}: must lie between -{_LARGEST_SCORE:g} and {_LARGEST_SCORE:g} and span {_SMALLEST_SPAN:g} or more; {received}. "
            "Write the scores in other units"
        )
    if high - low < _FEWEST_SCORES * np.spacing(np.float32(max(abs(low), abs(high)))):
        raise UserError(
            f"{where}: holds fewer than {_FEWEST_SCORES} different float32 numbers; {received}. Subtract {low:.12g} from every score"
        )


def _check_class_weights(where: str, task: TaskConfig, labels: Sequence[str]) -> None:
    if not labels:
        raise _no_effect(where, task)
    for label in task.class_weights if isinstance(task.class_weights, Mapping) else ():
        if label not in labels:
            raise UserError(unknown_name(f"{where}.{label}", "label", label, labels))


def _metrics(where: str, task: TaskConfig, kind: TaskType) -> tuple[tuple[str, ...], str]:
    metrics = task.metrics or kind.metrics
    for name in metrics:
        _check_suits(f"{where}.metrics", "metric", name, KNOWN_METRICS, kind.known_metrics, task.type)
        if name in BINARY_METRICS and len(task.labels or ()) != 2:
            raise UserError(f"{where}.metrics: {name!r} needs exactly two labels, the second one counted as positive")
    main_metric = task.main_metric or (kind.main_metric if kind.main_metric in metrics else metrics[0])
    if main_metric not in metrics:
        raise UserError(unknown_name(f"{where}.main_metric", "metric of this task", main_metric, metrics))
    if main_metric in LOWER_IS_BETTER:
        raise UserError(
            f"{where}.main_metric: {main_metric!r} is better when it is lower, and the highest decides; name another"
        )
    return metrics, main_metric


def _sources(where: str, task: TaskConfig, text: tuple[str, ...], ready: ReadyMade | None) -> dict[str, SourceConfig]:
    for split, source in _written_sources(task).items():
        key = "split" if source.split else "data_dir" if source.data_dir else None
        if key is not None and not source.is_dataset:
            raise UserError(
                f"{where}.{split}.{key}: is for datasets of tensorflow-datasets; received it for the file {source.path}: for a part "
                'of it say rows, as in rows: "[-200:]"'
            )
    return {split: complete_source(source, split, text, ready) for split, source in _written_sources(task).items()}


def _with_label_column(where: str, task: TaskConfig) -> TaskConfig:
    """Return the task with `label: <column>` as the entry of `columns` that it is short for."""
    if task.label is None:
        return task
    if task.columns.get("label", task.label) != task.label:
        raise UserError(
            f"{where}.label: {task.label!r} and columns.label {task.columns['label']!r} name two columns for the label; keep one"
        )
    return replace(task, label=None, columns={**task.columns, "label": task.label})


def _written_sources(task: TaskConfig) -> dict[str, SourceConfig]:
    """Return the sources by split, with the columns that the task names for all of them."""
    written = {split: getattr(task, split) for split in SPLITS if getattr(task, split) is not None}
    return {split: replace(source, columns={**task.columns, **source.columns}) for split, source in written.items()}


def task_to_dict(task: TaskSpec) -> dict[str, Any]:
    """Return the task as plain dicts, lists and scalars; `task_from_dict` reads it back."""
    plain: dict[str, Any] = to_plain(task)
    return plain


def task_from_dict(plain: Mapping[str, Any]) -> TaskSpec:
    """Return the task that `task_to_dict` wrote.

    Raises:
        UserError: a key is unknown or missing, or a value of another type.
    """
    task: TaskSpec = build(TaskSpec, tree_of(plain, Origin("task", Path.cwd())), "")
    return task


def dump_tasks(tasks: Iterable[TaskSpec]) -> str:
    """Return tasks as YAML, a mapping by name; `read_tasks` reads it back."""
    return dump_yaml({task.name: task_to_dict(task) for task in tasks})


def read_tasks(path: str | Path) -> tuple[TaskSpec, ...]:
    """Read what `dump_tasks` wrote.

    Raises:
        UserError: the file can't be read, or is no mapping of tasks.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as UTF-8 text: {error}") from None
    tree = parse_yaml(text, str(path), Path(path).absolute().parent)
    if not isinstance(tree, Branch):
        raise UserError(f"{path}: must be a mapping of tasks by name")
    return tuple(build(TaskSpec, node, name) for name, node in tree.children.items())
