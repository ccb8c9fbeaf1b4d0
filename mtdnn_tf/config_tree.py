"""Strict YAML as a tree that remembers where each value was written.

Several layers (included files, the file, overrides) are merged into one tree; an error in it can still name the file and
line, and a relative path the folder it starts from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mtdnn_tf.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Where a value was written: `label` as messages show it, `folder` (absolute) as its relative paths start from it."""

    label: str
    folder: Path

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Leaf:
    """A scalar, or a tuple of nodes for a list."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class Branch:
    """A mapping. Its keys are texts: `0:` and `no:` stay "0" and "no"."""

    children: dict[str, Node]
    origin: Origin


Node = Leaf | Branch

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}null": lambda text: None,
}


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does: `no` and `on` are texts, `1e-4` is a number (YAML 1.1 has both otherwise)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own attribute)


_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would take for something else than a text."""


_Dumper.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence(f"{_TAG}seq", items, flow_style=True))


def parse_yaml(text: str, name: str, folder: Path, *, numbered: bool = True, last_wins: bool = False) -> Node:
    """Read one YAML document.

    Args:
        text: the document.
        name: what messages call it; the line is added unless `numbered` is false.
        folder: absolute; where relative paths in it start.
        numbered: whether messages have lines.
        last_wins: of a key that is there twice, take the last; otherwise that is an error.

    Raises:
        UserError: it is no valid YAML, holds a key twice, or a tag that is not plain data.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return _Reader(name, folder, numbered, last_wins).node(root) if root else Leaf(None, Origin(name, folder))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and numbered else ""
        raise UserError(f"{name}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        reason = "an alias holds itself" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{name}: not valid YAML: {reason}") from None


@dataclass(frozen=True)
class _Reader:
    name: str
    folder: Path
    numbered: bool
    last_wins: bool

    def node(self, node: yaml.Node) -> Node:
        if node.tag not in (*_SCALARS, f"{_TAG}map", f"{_TAG}seq"):
            raise UserError(f"{self._origin(node)}: a value must be plain data, received the tag {node.tag!r}")
        if isinstance(node, yaml.MappingNode):
            return Branch(self._children(node), self._origin(node))
        if isinstance(node, yaml.SequenceNode):
            return Leaf(tuple(self.node(item) for item in node.value), self._origin(node))
        return Leaf(self._scalar(node), self._origin(node))

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError:
            kind = node.tag.removeprefix(_TAG)
            raise UserError(f"{self._origin(node)}: {node.value!r} is no {kind}") from None

    def _children(self, node: yaml.MappingNode) -> dict[str, Node]:
        children: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{self._origin(key)}: a key must be a text, received a list or a mapping")
            if len(key.value.splitlines()) > 1:
                raise UserError(f"{self._origin(key)}: a key must be in one line, received {key.value!r}")
            if key.value in lines and not self.last_wins:
                first = f"; the first is in line {lines[key.value]}" if self.numbered else ""
                raise UserError(f"{self._origin(key)}: duplicate key {key.value!r}{first}")
            lines[key.value] = key.start_mark.line + 1
            children[key.value] = replace(self.node(value), origin=self._origin(key))
        return children

    def _origin(self, node: yaml.Node) -> Origin:
        line = f":{node.start_mark.line + 1}" if self.numbered else ""
        return Origin(f"{self.name}{line}", self.folder)


def dump_yaml(plain: Any) -> str:
    """Return plain data as YAML that `parse_yaml` reads back as it was."""
    text: str = yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    return text


def tree_of(plain: Any, origin: Origin) -> Node:
    """Return plain data (mappings, lists, scalars) as a tree."""
    if isinstance(plain, Mapping):
        return Branch({str(key): tree_of(value, origin) for key, value in plain.items()}, origin)
    if isinstance(plain, (list, tuple)):
        return Leaf(tuple(tree_of(item, origin) for item in plain), origin)
    return Leaf(plain, origin)


def parse_override(text: str) -> Branch:
    """Read `a.b=value` as a tree; the value is YAML, its relative paths start from the current directory.

    Raises:
        UserError: there is no `=`, or a part of the key is empty.
    """
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UserError(f"override {text!r}: must be a dotted key and a value, as in training.epochs=1")
    node = parse_yaml(value, f"override {' '.join(text.split())}", Path.cwd(), numbered=False)
    for name in reversed(names):
        node = Branch({name: node}, node.origin)
    assert isinstance(node, Branch)
    return node


def file_layers(path: str | Path, including: tuple[Path, ...] = (), said_in: str = "") -> list[Branch]:
    """Read a file and those it includes: the layers in rising precedence, itself last.

    Raises:
        UserError: a file can't be read, is no mapping, or includes itself.
    """
    path = Path(path)
    real = Path(os.path.abspath(path))
    if real in including:
        chain = " -> ".join(file.name for file in (*including[including.index(real) :], real))
        raise UserError(f"{said_in}include: a file must not include itself: {chain}")
    body = parse_yaml(read_text(path, said_in), str(path), real.parent)
    if not isinstance(body, Branch):
        raise UserError(f"{path}: a configuration must be a mapping of sections such as tasks and training")
    children = dict(body.children)
    include = children.pop("include", None)
    layers = []
    for item in _included(include) if include else []:
        layers += file_layers(_shown(path.parent, item), (*including, real), f"{item.origin}: ")
    return [*layers, Branch(children, body.origin)]


def _shown(folder: Path, item: Leaf) -> Path:
    # As the user would write it from where they stand; absolute where the item is.
    return Path(os.path.normpath(folder / os.path.expanduser(item.value)))


def read_text(path: Path, said_in: str = "") -> str:
    """Return a UTF-8 file as text; `said_in` begins the messages.

    Raises:
        UserError: it is not there, can't be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{said_in}{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{said_in}{path}: must be UTF-8 text: byte {error.start} is not") from None
    except OSError as error:
        raise UserError(f"{said_in}{path}: can't be read: {error.strerror}") from None


def _included(include: Node) -> list[Leaf]:
    items = include.value if isinstance(include, Leaf) and isinstance(include.value, tuple) else (include,)
    for item in items:
        if not isinstance(item, Leaf) or not isinstance(item.value, str) or not item.value:
            raise UserError(f"{include.origin}: include: must be a file name or a list of file names")
    return [_expanded(item, "include") for item in items]


def merge(base: Node, over: Node) -> Node:
    """Return `base` with what `over` says instead: mappings key by key, anything else as a whole."""
    if not (isinstance(base, Branch) and isinstance(over, Branch)):
        return over
    children = dict(base.children)
    for key, node in over.children.items():
        children[key] = merge(children[key], node) if key in children else node
    return Branch(children, over.origin)


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand_environment(node: Node, key: str = "") -> Node:
    """Return the tree with `${NAME}` and `${NAME:-default}` replaced in every text.

    A relative path that starts with the value of a variable starts from the current directory: whoever set the variable
    stood there. One that starts with a default belongs to the file.

    Raises:
        UserError: a variable without default is not set, or a `${` is malformed.
    """
    if isinstance(node, Branch):
        children = {
            name: expand_environment(child, f"{key}.{name}".strip(".")) for name, child in node.children.items()
        }
        return Branch(children, node.origin)
    if isinstance(node.value, tuple):
        return Leaf(tuple(expand_environment(item, key) for item in node.value), node.origin)
    return _expanded(node, key) if isinstance(node.value, str) else node


def _expanded(leaf: Leaf, key: str) -> Leaf:
    text: str = leaf.value
    if "${" in _VARIABLE.sub("", text):
        raise UserError(f"{leaf.origin}: {key}: must be ${{NAME}} or ${{NAME:-default}}, received {text!r}")

    def value_of(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name)
        if found is None and default is None:
            raise UserError(
                f"{leaf.origin}: {key}: the environment variable {name} is not set; set it, or give a default"
            )
        return found or default or ""

    first = _VARIABLE.match(text)
    set_outside = first is not None and bool(os.environ.get(first[1]))
    origin = replace(leaf.origin, folder=Path.cwd()) if set_outside else leaf.origin
    return Leaf(_VARIABLE.sub(value_of, text), origin)
