"""Weights and training state on disk, saved and read by name: encoder, first_tokens/<task>, heads/<task>, optimizer, position."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.files import atomic_directory, sync
from mtdnn_tf.modeling.model import named_parts
from mtdnn_tf.modeling.sharing import CLS
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.manifest import DamagedCheckpointError, verify, write_manifest

_STATE = "state.json"
_OF_TASKS = ("heads/", "first_tokens/")
_SHARED = ("encoder", f"first_tokens/{CLS}")
_WEIGHTS = "weights"
_SEED = "seed_"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class State:
    """What stands beside the weights: the position in the run, and what the heads mean."""

    epoch: int
    step: int
    global_step: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by task, in id order
    score: float | None = None  # the value that the best model was chosen by
    best_score: float | None = None  # the best so far, in the run's own checkpoints
    loss_weighting: Mapping[str, Any] = field(default_factory=dict)  # what the rule for loss weights has learned
    stale_epochs: int = 0  # epochs in a row without a better score
    best_step: int | None = None  # the global step that the best model is of
    epoch_means: Mapping[str, Any] = field(default_factory=dict)  # `RunningMeans` of the steps done in this epoch
    log_means: Mapping[str, Any] = field(default_factory=dict)  # of the steps since the last line of metrics.jsonl
    metrics_lines: int = 0  # of metrics.jsonl, written until then
    ranges: Mapping[str, Sequence[float]] = field(
        default_factory=dict
    )  # of tasks whose heads have a scale of their own


@dataclass(frozen=True)
class LoadReport:
    """What a load by name did: parts that were read, parts that are new to the file, parts of the file left alone."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        parts = [f"loaded {', '.join(self.loaded)}"]
        if self.new:
            parts.append(f"new, not in the file: {', '.join(self.new)}")
        if self.unused:
            parts.append(f"in the file, not in this model: {', '.join(self.unused)}")
        return "; ".join(parts)


def model_parts(model: keras.Model, tasks: Sequence[TaskSpec]) -> dict[str, dict[str, tf.Variable]]:
    """Return the model's variables, seeds of dropout included, by part and name: `encoder`, `first_tokens/<task>`, `heads/<task>`."""
    layers = named_parts(model)
    names = [name for name in layers if not name.startswith("heads/")]
    names += [f"heads/{task.name}" for task in tasks if task.head_of is None]
    return {name: _layer_variables(layers[name]) for name in names}


def _layer_variables(layer: keras.Layer) -> dict[str, tf.Variable]:
    weights = {id(variable) for variable in layer.weights}
    named: dict[str, tf.Variable] = {}
    seeds = 0
    for variable in layer.variables:
        if id(variable) in weights:
            # The layer's own name leads its paths in some layers and not in others: it is no part of the key.
            key = variable.path.removeprefix(f"{layer.name}/").replace("/", ":")
        else:
            # Seed generators are named by a counter of the process; their order within the layer is stable.
            key, seeds = f"{_SEED}{seeds}", seeds + 1
        if key in named:
            raise RuntimeError(f"layer {layer.name!r} has two variables named {key!r}")
        named[key] = variable.value
    return named


def optimizer_part(optimizer: keras.optimizers.Optimizer) -> dict[str, tf.Variable]:
    """Return the optimizer's variables by name: its slots carry the path of the variable that they belong to."""
    named = {variable.path.split("/", 1)[-1].replace("/", ":"): variable.value for variable in optimizer.variables}
    if len(named) < len(optimizer.variables):
        raise RuntimeError("the optimizer has several variables of one name")
    return named


def save(
    directory: str | Path, parts: Mapping[str, Mapping[str, tf.Variable]], state: State, replace: bool = False
) -> Path:
    """Write parts, state and checksums into a new directory that appears complete or not at all.

    When this returns, the directory is on the disk.

    Raises:
        UserError: the disk is full or the directory can't be written; nothing is left behind.
    """
    directory = Path(directory)
    with atomic_directory(directory, replace=replace) as temporary:
        tf.train.Checkpoint(**_nested(parts)).write(str(temporary / _WEIGHTS))
        (temporary / _STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        write_manifest(temporary)
    sync(directory.parent)
    return directory


def _nested(parts: Mapping[str, Mapping[str, tf.Variable]]) -> dict[str, Any]:
    """Turn {"heads/rte": part} into {"heads": {"rte": part}}, the shape that the file's keys are made from."""
    nested: dict[str, Any] = {}
    for name, part in parts.items():
        *folders, last = name.split("/")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = dict(part)
    return nested


def read_state(directory: str | Path) -> State:
    """Return the state beside the weights of one checkpoint; `load` and `latest` compare checksums, this does not.

    Raises:
        UserError: the directory holds no readable checkpoint.
    """
    path = Path(directory) / _STATE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return State(**content)
    except FileNotFoundError:
        raise UserError(f"{directory}: not a checkpoint: {_STATE} is missing") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None


def load(directory: str | Path, parts: Mapping[str, Mapping[str, tf.Variable]], partial: bool = False) -> LoadReport:
    """Read a checkpoint into variables, each by its own name; nothing is assigned unless everything fits.

    Args:
        directory: what `save` wrote.
        parts: of `model_parts`, with `optimizer` and others as wanted.
        partial: heads and task tokens may be missing in the file (they stay as they are) or unknown to the model (they are
            left alone).

    Raises:
        UserError: a file is damaged (`DamagedCheckpointError`), a part is missing, or a variable's shape differs.
    """
    verify(directory)
    reader = _open(directory)
    stored = _stored_names(reader)
    report = _compare(directory, stored, parts, partial)
    values: list[tuple[tf.Variable, np.ndarray]] = []
    for part in report.loaded:
        if partial and part.startswith("heads/"):
            _check_same_head(directory, part, stored[part], parts[part])
        for name, variable in parts[part].items():
            values.append((variable, _read_value(directory, reader, stored[part], part, name, variable)))
    for variable, value in values:
        variable.assign(value)
    return report


def _open(directory: str | Path) -> Any:
    try:
        return tf.train.load_checkpoint(str(Path(directory) / _WEIGHTS))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{directory}: no readable checkpoint: {reason}") from None


def _stored_names(reader: Any) -> dict[str, dict[str, str]]:
    """Return {part: {variable name: key in the file}}."""
    stored: dict[str, dict[str, str]] = {}
    for key in reader.get_variable_to_shape_map():
        if key.endswith(_SUFFIX) and "/" in key.removesuffix(_SUFFIX):
            part, name = key.removesuffix(_SUFFIX).rsplit("/", 1)
            stored.setdefault(part, {})[name] = key
    return stored


def _compare(directory: str | Path, stored: Mapping[str, Any], parts: Mapping[str, Any], partial: bool) -> LoadReport:
    new = tuple(name for name in parts if name not in stored)
    unused = tuple(name for name in sorted(stored) if name not in parts and name.startswith(_OF_TASKS))
    strict_new = [name for name in new if not (partial and name.startswith(_OF_TASKS))]
    if strict_new or (unused and not partial):
        raise UserError(
            f"{directory}: the checkpoint does not fit the model: missing {', '.join(strict_new) or 'nothing'}; "
            f"not in the model {', '.join(unused) or 'nothing'}"
        )
    return LoadReport(tuple(name for name in parts if name in stored), new, unused)


def _check_same_head(directory: str | Path, part: str, stored: Iterable[str], wanted: Iterable[str]) -> None:
    """Refuse the head of another kind: some of its variables may have the same names, and even shapes."""
    there, here = ({name for name in names if not name.startswith(_SEED)} for names in (stored, wanted))
    if there != here:
        task = part.removeprefix("heads/")
        raise UserError(
            f"{directory}: the checkpoint has another kind of head for the task {task!r} ({', '.join(sorted(there))}; this one has "
            f"{', '.join(sorted(here))}): set tasks.{task}.head as there, call the task otherwise, or strip the heads"
        )


def _read_value(
    directory: str | Path, reader: Any, keys: Mapping[str, str], part: str, name: str, variable: tf.Variable
) -> np.ndarray:
    if name not in keys:
        raise UserError(f"{directory}: the checkpoint does not fit the model: {part} has no variable {name!r}")
    try:
        value = reader.get_tensor(keys[name])
    except (tf.errors.OpError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{directory}: damaged: {part} {name!r}: {str(error).splitlines()[0]}") from None
    if value.shape != tuple(variable.shape):
        raise UserError(
            f"{directory}: the checkpoint does not fit the model: {part} {name!r} has shape {list(value.shape)} "
            f"in the file, {list(variable.shape)} in the model"
        )
    return value


def load_model(
    directory: str | Path, model: keras.Model, tasks: Sequence[TaskSpec], partial: bool = False
) -> LoadReport:
    """Read the encoder and the tasks' heads of a checkpoint into a model, by name (see `load`).

    Where the checkpoint also holds averages of the weights, the model gets these: they are what is scored and exported. With
    `partial` the states of dropout's generators stay as they are: the new run's seed decides its masks.

    Raises:
        UserError: as `load`; also where a task's answers had another meaning: see `check_meaning`.
    """
    check_meaning(directory, read_state(directory), tasks)
    return _load_with_averages(directory, model_parts(model, tasks), partial)


def score_ranges(tasks: Iterable[TaskSpec]) -> dict[str, list[float]]:
    """Return the range of each task whose head has a scale of its own: the meaning of its outputs, as `State.ranges` keeps it."""
    return {task.name: list(task.range or ()) for task in tasks if task.head_of is None and task.score_map is not None}


def check_meaning(directory: str | Path, state: State, tasks: Iterable[TaskSpec]) -> None:
    """Refuse a checkpoint whose heads answer other labels, or scores on another scale.

    Raises:
        UserError: a task has other labels, or the same in another order, or a range that sets another scale, than it was trained with.
    """
    for task in tasks:
        if task.head_of is not None or task.name not in state.labels:
            continue
        labels, ranges = list(state.labels[task.name]), state.ranges.get(task.name)
        if labels != list(task.labels):
            raise UserError(
                f"{directory}: task {task.name!r} was trained with labels {labels} "
                f"and is now given {list(task.labels)}: keep names and order, or give the task another name"
            )
        now = score_ranges([task]).get(task.name)
        if ranges != now:
            before, after = (
                "scores as they are" if each is None else f"scores scaled by the range {each}" for each in (ranges, now)
            )
            raise UserError(
                f"{directory}: task {task.name!r} was trained on {before}, and its range now means {after}: keep "
                f"tasks.{task.name}.range, or give the task another name"
            )


def load_shared(directory: str | Path, model: keras.Model) -> LoadReport:
    """Read what belongs to no single task: the encoder, and the first token that all tasks share, where there is one.

    Averages of the weights are taken as in `load_model`.

    Raises:
        UserError: as `load`.
    """
    parts = {name: part for name, part in model_parts(model, ()).items() if name in _SHARED}
    return _load_with_averages(directory, parts, partial=True)


def _without_seeds(parts: Mapping[str, Mapping[str, tf.Variable]]) -> dict[str, dict[str, tf.Variable]]:
    """Leave the states of dropout's generators out: they are of the run that is gone on with, not of one that starts from it."""
    return {
        part: {name: variable for name, variable in own.items() if not name.startswith(_SEED)}
        for part, own in parts.items()
    }


def _load_with_averages(
    directory: str | Path, parts: Mapping[str, Mapping[str, tf.Variable]], partial: bool
) -> LoadReport:
    if partial:
        parts = _without_seeds(parts)
    return load(directory, {**parts, **_averages(_stored_names(_open(directory)), parts)}, partial)


def _averages(
    stored: Mapping[str, Mapping[str, str]], parts: Mapping[str, Mapping[str, tf.Variable]]
) -> dict[str, dict[str, tf.Variable]]:
    """Return the stored parts `average/<part>` with the variables that they are for."""
    names = {part: stored.get(f"average/{part}", {}) for part in parts}
    return {
        f"average/{part}": {name: variable for name, variable in parts[part].items() if name in names[part]}
        for part in parts
        if names[part]
    }


def steps_saved(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a run's `checkpoints` folder, damaged ones included, the newest last."""
    found = [path for path in Path(folder).glob("step-*") if re.fullmatch(r"step-\d+", path.name) and path.is_dir()]
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def latest(folder: str | Path) -> Path | None:
    """Return the newest intact checkpoint of a run's `checkpoints` folder, or None where there is none at all.

    Damaged ones that are newer are told on standard error, a line each.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    faults = []
    for path in reversed(steps_saved(folder)):
        try:
            verify(path)
        except DamagedCheckpointError as fault:
            faults.append(str(fault))
            continue
        for fault_line in faults:
            print(f"{fault_line}; taking the one before, {path.name}", file=sys.stderr, flush=True)
        return path
    if faults:
        raise UserError(
            f"no checkpoint is intact: {'; '.join(faults)}. Put one of them back from a copy, or train the run again "
            "with --fresh"
        )
    return None


def prune(folder: str | Path, newest: Path, keep: int) -> None:
    """Delete all but `keep` checkpoints, the newest and those before it; what is later than it was damaged and passed over."""
    found = steps_saved(folder)
    later = [path for path in found if _step_of(path) > _step_of(newest)]
    upto = [path for path in found if path not in later]
    for path in [*later, *upto[:-keep]]:
        shutil.rmtree(path, ignore_errors=True)
