"""Which values of a configuration are paths, and where relative ones start from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mtdnn_tf.config_tree import Branch, Leaf, Node

SPLITS = ("train", "dev", "test")
TFDS = "tfds:"  # a source that starts so is a name of tensorflow-datasets
_WITH_SETTINGS = ("random", "words")  # encoders whose source is settings, of which some name files


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
    return os.path.normpath(start / os.path.expanduser(value))


def _make_absolute(children: dict[str, Node], key: str, start: Path | None = None) -> None:
    leaf = _text(children, key)
    if leaf and not leaf.value.startswith(TFDS):
        children[key] = replace(leaf, value=_joined(start or leaf.origin.folder, leaf.value))


def _make_encoder_absolute(children: dict[str, Node]) -> None:
    leaf = _text(children, "source")
    if leaf:
        scheme, separator, rest = leaf.value.partition("://")
        if scheme in _WITH_SETTINGS and separator:
            settings = ",".join(_setting(leaf.origin.folder, *item.partition("=")) for item in rest.split(","))
            children["source"] = replace(leaf, value=f"{scheme}://{settings}")
        elif not separator:
            # A folder that is named like a preset would otherwise be taken for the preset, and downloaded.
            children["source"] = replace(
                leaf, value=_found(os.path.isdir, leaf.origin.folder, leaf.value) or leaf.value
            )


def _setting(folder: Path, key: str, equals: str, value: str) -> str:
    """Return a setting of an encoder's source; a file in it absolute, but where its folder's name would end the setting."""
    if value and key in ("vocab", "vectors") and "://" not in value:
        # Vectors may also be a preset's.
        path = _found(os.path.exists, folder, value) or (_joined(folder, value) if key == "vocab" else value)
        value = path if "," not in path else value
    return f"{key}{equals}{value}"


def _found(is_there: Callable[[str], bool], folder: Path, value: str) -> str | None:
    """Return the path of this name that is there: in the folder of the file that names it, else in the current directory."""
    candidates = (_joined(start, value) for start in (folder, Path.cwd()))
    return next((path for path in candidates if is_there(path)), None)
