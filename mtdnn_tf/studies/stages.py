"""Stages as they are written: each a configuration of its own that starts from nothing or from an earlier stage.

config: ../glue_minilm.yaml        # of stages that name none
stages:
  multi_task: {}
  fine_tuned:
    init_from: multi_task
    heads: kept
    each_task: true                # a run for each task alone
    set:                           # keys of the configuration
      training: {epochs: 3}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated

from mtdnn_tf.config import Name, Names, Seed
from mtdnn_tf.config_build import at, build, one_of
from mtdnn_tf.config_tree import Branch, Leaf, Node, expand_environment, file_layers, merge
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.run_files import BASELINE_FILE, CARD_FILE


@dataclass(frozen=True)
class StageKind:
    """What trains a stage, and how a later one takes its weights over."""

    module: str  # `python -m <module> --config=FILE --model_dir=DIR` leaves a run directory, or goes on in it
    last_file: str = CARD_FILE  # that it writes
    is_source: bool = False  # later stages of other kinds name it in `encoder.source`, not in `training.init_from`


# A kind is added here.
STAGE_KINDS: dict[str, StageKind] = {
    "train": StageKind("mtdnn_tf.train"),
    "pretrain": StageKind("mtdnn_tf.pretrain", last_file=BASELINE_FILE, is_source=True),
}


@dataclass(frozen=True)
class StageOptions:
    """What a stage says beside `set`."""

    kind: Annotated[str, one_of(*STAGE_KINDS)] = "train"
    config: Name | None = None  # file; None: that of the recipe or study
    init_from: Name | None = None  # an earlier stage, whose encoder it takes over
    heads: Annotated[str, one_of("kept", "stripped")] | None = None  # of that stage; has to be said
    tasks: Names | None = None  # of the configuration; None: all
    each_task: bool = False  # a run for each task alone
    # Of studies:
    title: str = ""
    scored: bool = True  # false: only other arms start from it
    seed: Seed | None = None  # one run for all seeds; remove it later, and the run stays that of its seed
    task_attention: bool = False  # a heat map of it (model.sharing: layerwise_explicit)


@dataclass(frozen=True)
class Stage:
    """One stage, with the files and changes that make its configuration."""

    name: str
    options: StageOptions
    config: Path
    changes: tuple[Branch, ...]  # over the file, in rising precedence
    where: str  # file, line and key, for messages

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.options.title or self.name


_NAME = re.compile(r"[a-z][a-z0-9_]*")


def read_body(path: str | Path) -> Branch:
    """Read a recipe or study with the files that it includes, as one tree.

    Raises:
        UserError: a file can't be read, or is no mapping.
    """
    layers: list[Node] = [*file_layers(path)]
    body = reduce(merge, layers)
    assert isinstance(body, Branch)
    return body


def refuse_unknown_keys(body: Branch, known: Sequence[str]) -> None:
    """Refuse a file that says what nobody reads.

    Raises:
        UserError: the key by file and line.
    """
    for key, node in body.children.items():
        if key not in known:
            raise UserError(unknown_name(at(node, key), "key", key, list(known)))


def read_stages(body: Branch, key: str) -> tuple[Stage, ...]:
    """Return the stages under `key`, in the order in which they stand there.

    Args:
        body: of a file; its `config` and `set` are for all stages.
        key: `stages` or `arms`.

    Raises:
        UserError: there are none; a name, key or value that cannot be; a stage that starts from none before it; `heads` not said.
    """
    written = body.children.get(key)
    if not isinstance(written, Branch) or not written.children:
        raise UserError(f"{at(written or body, key)}: must be a mapping of one or more stages by name")
    stages: dict[str, Stage] = {}
    for name, node in written.children.items():
        stages[name] = _stage(name, node, f"{key}.{name}", body.children, stages)
    return tuple(stages.values())


def _stage(name: str, node: Node, path: str, common: Mapping[str, Node], before: Mapping[str, Stage]) -> Stage:
    where = at(node, path)
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: a name must be lower-case letters, digits and _, a letter first (as in fine_tuned)")
    if isinstance(node, Leaf) and node.value is None:
        node = Branch({}, node.origin)
    children = node.children if isinstance(node, Branch) else {}
    own = {key: child for key, child in children.items() if key != "set"}
    options: StageOptions = build(StageOptions, Branch(own, node.origin) if isinstance(node, Branch) else node, path)
    _check_start(options, where, before)
    file = own.get("config") or common.get("config")
    if file is None:
        raise UserError(f"{where}.config: is missing; name the configuration's file here, or for all stages at the top")
    sets = [(common.get("set"), "set"), (children.get("set"), f"{path}.set")]
    changes = tuple(changes_of(tree, key) for tree, key in sets if tree is not None)
    return Stage(name, options, _file(file, f"{path}.config"), changes, where)


def changes_of(node: Node, path: str) -> Branch:
    """Return what a `set` says as a tree of keys of the configuration.

    Raises:
        UserError: it is no mapping.
    """
    if not isinstance(node, Branch):
        raise UserError(
            f"{at(node, path)}: must be a mapping of a configuration's keys, as in {{training: {{epochs: 3}}}}"
        )
    return node


def _file(node: Node, path: str) -> Path:
    leaf = expand_environment(node, path)
    if not isinstance(leaf, Leaf) or not isinstance(leaf.value, str) or not leaf.value:
        raise UserError(f"{at(node, path)}: must be the name of a configuration's file")
    return leaf.origin.folder / os.path.expanduser(leaf.value)


def _check_start(options: StageOptions, where: str, before: Mapping[str, Stage]) -> None:
    if options.init_from is None:
        if options.heads is not None:
            raise UserError(f"{where}.heads: belongs to init_from; name the stage that the heads are of, or remove it")
        return
    if options.init_from not in before:
        raise UserError(unknown_name(f"{where}.init_from", "earlier stage", options.init_from, before))
    start = before[options.init_from].options
    if options.heads is None:
        raise UserError(f"{where}.heads: is missing; say kept or stripped of the heads of {options.init_from}")
    if start.each_task and not options.each_task:
        raise UserError(
            f"{where}.init_from: {options.init_from} has a run for each task; say each_task: true, or start from a stage of one run"
        )
    if STAGE_KINDS[start.kind].is_source and start.kind != options.kind and options.heads == "kept":
        raise UserError(f"{where}.heads: of {options.init_from} only the encoder can be taken over; say stripped")
