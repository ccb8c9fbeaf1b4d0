"""Which values of a configuration are paths, and where relative ones start from."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mtdnn_tf.config_tree import Branch, Leaf, Node

SPLITS = ("train", "dev", "test")
TFDS = "tfds:"  # a source that starts so is a name of tensorflow-datasets


def children_of(node: Node | None, key: str) -> dict[str, Node]:
    """Return the children of `node`'s child `key`; none where the tree is otherwise (building the config says so later)."""
    child = node.children.get(key) if isinstance(node, Branch) else None
    return child.children if isinstance(child, Branch) else {}


def spell_out_sources(layer: Branch) -> Branch:
    """Turn, in place, every source that is written as a path alone into {path: ...}, and return the layer."""
    for task in children_of(layer, "tasks").values():
        for split in SPLITS:
            node = task.children.get(split) if isinstance(task, Branch) else None
            if isinstance(task, Branch) and isinstance(node, Leaf) and isinstance(node.value, str):
                task.children[split] = Branch({"path": node}, node.origin)
    return layer


def make_paths_absolute(tree: Node) -> None:
    """Make, in place, every relative path absolute.

    Sources start from `data.root` where that is set; all else from the folder of the file it is written in.
    """
    data = children_of(tree, "data")
    _make_absolute(data, "root")
    _make_absolute(data, "cache_dir")
    _make_absolute(children_of(tree, "training"), "init_from")
    _make_absolute(children_of(tree, "export"), "output_dir")
    _make_encoder_absolute(children_of(tree, "encoder"))
    root = _text(data, "root")
    for task in children_of(tree, "tasks").values():
        for split in SPLITS:
            for key in ("path", "data_dir"):
                _make_absolute(children_of(task, split), key, Path(root.value) if root else None)


def _text(children: dict[str, Node], key: str) -> Leaf | None:
    leaf = children.get(key)
    return leaf if isinstance(leaf, Leaf) and isinstance(leaf.value, str) and leaf.value else None


def _joined(start: Path, value: str) -> str:
    return os.path.normpath(start / Path(value).expanduser())


def _make_absolute(children: dict[str, Node], key: str, start: Path | None = None) -> None:
    leaf = _text(children, key)
    if leaf and not leaf.value.startswith(TFDS):
        children[key] = replace(leaf, value=_joined(start or leaf.origin.folder, leaf.value))


def _make_encoder_absolute(children: dict[str, Node]) -> None:
    # A folder that is named like a preset would otherwise be taken for the preset, and downloaded.
    leaf = _text(children, "source")
    if leaf and "://" not in leaf.value:
        candidates = [_joined(start, leaf.value) for start in (leaf.origin.folder, Path.cwd())]
        found = [path for path in candidates if os.path.isdir(path)]
        children["source"] = replace(leaf, value=found[0]) if found else leaf
