"""`task_files` of a configuration: each data set of a task-definition file becomes an entry under `tasks`.

    task_files:
      - {path: glue_task_def.yml, data: canonical_data, datasets: [mnli, rte, scitail_001]}

A data set is `<task>` or `<task>_<suffix>`; its files are `<data set>_<split>.tsv` (canonical) or `.json` (preprocessed).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from absl import logging

from mtdnn_tf.config_build import build, not_empty, one_of
from mtdnn_tf.config_paths import SPLITS
from mtdnn_tf.config_tree import Branch, Node, Origin, expand_environment, merge, tree_of
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.task_definitions import Definition, as_task, build_definition, label_names, read_definitions
from mtdnn_tf.task_types import OF_BORROWER

_ENDINGS = {"canonical": ".tsv", "preprocessed": ".json"}


@dataclass(frozen=True)
class TaskFile:
    """One item of `task_files`; paths start from the folder of the file they are written in."""

    path: Annotated[str, not_empty()]
    data: Annotated[str, not_empty()]  # folder
    format: Annotated[str, one_of("auto", *_ENDINGS)] = "auto"  # auto: whichever file is there, canonical first
    datasets: Annotated[tuple[str, ...], not_empty()] | None = None  # None: all that the file defines


@dataclass(frozen=True)
class DataSet:
    """The files of one definition that make one task."""

    name: str  # as in the names of the files
    stems: Mapping[str, str]  # split -> name of its file without ending
    head_of: str | None = None


def expand_task_files(layer: Branch) -> Branch:
    """Return the layer with entries under `tasks` in place of `task_files`; what it says under `tasks` itself comes on top.

    Raises:
        UserError: see `build_definition` and `as_task`; an unknown data set, one without files, two that make the same task.
    """
    if "task_files" not in layer.children:
        return layer
    written = Branch({key: node for key, node in layer.children.items() if key != "task_files"}, layer.origin)
    listed = expand_environment(layer.children["task_files"], "task_files")
    entries: tuple[TaskFile, ...] = build(tuple[TaskFile, ...], listed, "task_files")
    nodes: Sequence[Node] = () if isinstance(listed, Branch) else listed.value
    tasks: dict[str, Node] = {}
    for entry, node in zip(entries, nodes, strict=True):
        for name, task in _tasks_of(entry, node).items():
            if name in tasks:
                raise UserError(
                    f"{node.origin}: task_files: {entry.path} defines the task {name}, which {tasks[name].origin} has already; "
                    "leave one out with `datasets: [...]`"
                )
            tasks[name] = task
    return _as_layer(tasks, written)


def _as_layer(tasks: dict[str, Node], written: Branch) -> Branch:
    merged = merge(Branch({"tasks": Branch(tasks, written.origin)}, written.origin), written)
    assert isinstance(merged, Branch)
    return merged


def layer_of_flags(values: Sequence[str]) -> Branch:
    """Return the layer that `--task_file=<path>:<data folder>[:<data set>,...]` flags describe.

    Paths start from the current directory.

    Raises:
        UserError: a value is not of this form.
    """
    items = []
    for value in values:
        path, *rest = value.split(":")
        if not (1 <= len(rest) <= 2 and path and all(rest)):
            raise UserError(
                f"--task_file={value}: must be a file and its data folder, as in glue_task_def.yml:canonical_data, and data sets "
                "if not all are wanted: glue_task_def.yml:canonical_data:mnli,rte"
            )
        datasets = {"datasets": rest[1].split(",")} if len(rest) == 2 else {}
        items.append({"path": path, "data": rest[0], **datasets})
    layer = tree_of({"task_files": items}, Origin("--task_file", Path.cwd()))
    assert isinstance(layer, Branch)
    return layer


def _tasks_of(entry: TaskFile, node: Node) -> dict[str, Node]:
    path, folder = (_beside(node, key) for key in ("path", "data"))
    definitions = read_definitions(path, f"{node.origin}: task_files: ")
    if not folder.is_dir():
        raise UserError(f"{node.origin}: task_files: {folder}: there is no such folder")
    tasks: dict[str, Node] = {}
    notes: dict[str, list[str]] = {}  # what has no effect -> in which tasks
    for wanted in entry.datasets or definitions:
        base = _definition_of(wanted, definitions, f"{node.origin}: task_files: {path}")
        definition = build_definition(base, definitions[base])
        plain, ignored = as_task(base, definition, definitions[base])
        for note in ignored:
            notes.setdefault(note, []).append(wanted)
        for data_set in _data_sets(wanted, base, definition, definitions[base]):
            sources = _sources(entry, folder, data_set, definition)
            if not sources and data_set.head_of is None:
                raise UserError(_without_files(definitions[base], data_set, folder, entry))
            name = task_name(data_set.name)
            if name in tasks:
                raise UserError(
                    f"{definitions[base].origin}: {data_set.name} makes a second task of the name {name}; "
                    "leave one out with `datasets: [...]`"
                )
            if sources:
                own = plain
                if data_set.head_of is not None:
                    own = {key: value for key, value in plain.items() if key in OF_BORROWER}
                    own["head_of"] = task_name(data_set.head_of)
                tasks[name] = tree_of(own | sources, definitions[base].origin)
    if notes:
        parts = "; ".join(f"{note} ({', '.join(names)})" for note, names in notes.items())
        logging.warning("%s: without effect here: %s", path, parts)
    return tasks


def task_name(data_set: str) -> str:
    """Return the name that a data set's task has here: lower case, `_` for `-`."""
    return data_set.lower().replace("-", "_")


def _beside(node: Node, key: str) -> Path:
    assert isinstance(node, Branch)
    leaf = node.children[key]
    assert not isinstance(leaf, Branch)
    return leaf.origin.folder / os.path.expanduser(leaf.value)


def _definition_of(data_set: str, definitions: Iterable[str], where: str) -> str:
    names = list(definitions)
    base = data_set if data_set in names else data_set.partition("_")[0]
    if base not in names:
        raise UserError(unknown_name(where, "task", data_set, names))
    return base


def _data_sets(wanted: str, base: str, definition: Definition, node: Node) -> list[DataSet]:
    """Deal the splits of a definition out to tasks.

    Of several splits of a kind (matched_dev, mismatched_dev) the first is the task's own; the others are tasks that are scored
    through its head. Where there are several training splits (r1_train, r2_train) each makes a task.
    """
    parts = _parts(base, definition, node)
    if wanted != base:
        suffix = wanted[len(base) + 1 :]
        named = parts.get(suffix) or {split: f"{suffix}_{split}" for split in SPLITS}
        return [DataSet(wanted, {split: f"{base}_{name}" for split, name in named.items()})]
    stems = {part: {split: f"{base}_{name}" for split, name in named.items()} for part, named in parts.items()}
    trained = [part for part, named in stems.items() if "train" in named]
    if len(trained) > 1:
        return [DataSet(f"{base}_{part}".rstrip("_"), named) for part, named in stems.items()]
    own: dict[str, str] = dict(stems.get("", {}))
    borrowed: list[DataSet] = []
    for part, named in stems.items():
        rest = {split: stem for split, stem in named.items() if own.setdefault(split, stem) != stem}
        if rest and part:
            borrowed.append(DataSet(f"{base}_{part}", rest, head_of=base))
    return [DataSet(base, own), *borrowed]


def _parts(base: str, definition: Definition, node: Node) -> dict[str, dict[str, str]]:
    """Return split names by part and kind: {"": {"train": "train"}, "matched": {"dev": "matched_dev"}}."""
    parts: dict[str, dict[str, str]] = {}
    for name in definition.split_names:
        words = name.split("_")
        place = next((place for place in (-1, 0) if words[place] in SPLITS), None)
        if place is None:
            raise UserError(
                f"{node.origin}: {base}.split_names: a name must be train, dev or test, or end or begin so "
                f"(matched_dev, dev_matched), received {name!r}"
            )
        split = words.pop(place)
        parts.setdefault("_".join(words), {})[split] = name
    return parts


def _sources(entry: TaskFile, folder: Path, data_set: DataSet, definition: Definition) -> dict[str, Any]:
    sources: dict[str, Any] = {}
    for split in SPLITS:
        for format_name, ending in _chosen_endings(entry).items():
            path = folder / f"{data_set.stems.get(split)}{ending}"
            if split in data_set.stems and split not in sources and path.is_file():
                sources[split] = {"path": str(path), "format": format_name}
    if definition.task_type == "Ranking" and definition.labels:
        # The relevance of a named label is its id.
        ids = {label: str(number) for number, label in enumerate(label_names(definition))}
        sources = {split: {**source, "labels": ids} for split, source in sources.items()}
    return sources


def _chosen_endings(entry: TaskFile) -> dict[str, str]:
    return _ENDINGS if entry.format == "auto" else {entry.format: _ENDINGS[entry.format]}


def _without_files(node: Node, data_set: DataSet, folder: Path, entry: TaskFile) -> str:
    endings = " or ".join(_chosen_endings(entry).values())
    return (
        f"{node.origin}: {data_set.name}: {folder} holds none of {', '.join(data_set.stems.values())} ({endings}); "
        "name the right folder, or list the tasks whose files are there with `datasets: [...]`"
    )
