"""Frozen dataclasses from a tree, driven by their type hints, and back to plain data."""

from __future__ import annotations

import difflib
import itertools
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mtdnn_tf.config_tree import Branch, Leaf, Node
from mtdnn_tf.errors import UserError, unknown_name


@dataclass(frozen=True)
class Rule:
    """What a value must fulfil beyond its type; stands in the type hint: `Annotated[int, at_least(1)]`."""

    text: str  # after "must be"
    holds: Callable[[Any], bool]
    names: tuple[str, ...] = ()  # for a closed list of names: to suggest the closest


def at_least(low: float) -> Rule:
    """Return the rule low <= value."""
    return Rule(f"at least {low}", lambda value: value >= low)


def more_than(low: float) -> Rule:
    """Return the rule low < value."""
    return Rule(f"more than {low}", lambda value: value > low)


def between(low: float, high: float) -> Rule:
    """Return the rule low <= value <= high."""
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high)


def share() -> Rule:
    """Return the rule 0 <= value < 1."""
    return Rule("at least 0 and less than 1", lambda value: 0 <= value < 1)


def positive_share() -> Rule:
    """Return the rule 0 < value <= 1."""
    return Rule("more than 0 and at most 1", lambda value: 0 < value <= 1)


def one_of(*names: str) -> Rule:
    """Return the rule that the value is one of these names."""
    return Rule(f"one of {', '.join(names)}", lambda value: value in names, names)


def not_empty() -> Rule:
    """Return the rule that there is something in it."""
    return Rule("not empty", lambda value: len(value) > 0)


def ascending() -> Rule:
    """Return the rule that each number of a list is more than the one before it."""
    return Rule("in ascending order", lambda value: all(low < high for low, high in itertools.pairwise(value)))


def build(hint: Any, node: Node, path: str) -> Any:
    """Return what the tree says as a value of the type `hint`.

    Args:
        hint: a dataclass, `Mapping[str, T]`, `tuple[T, ...]`, `tuple[A, B]`, str, int, float, bool, unions of these and None,
            or any of them `Annotated` with rules.
        node: the tree.
        path: dotted, for messages; "" is the top.

    Raises:
        UserError: an unknown or missing key, a wrong type, or a rule that does not hold: file, line and path, the rule, what came.
    """
    kind = get_origin(hint) or hint
    if kind is Annotated:
        return _build_annotated(hint, node, path)
    if is_dataclass(hint):
        return _build_dataclass(hint, node, path)
    return _BUILDERS[kind](hint, node, path)


def at(node: Node, path: str) -> str:
    """Return the beginning of a message: file, line and path."""
    return f"{node.origin}: {path}" if path else str(node.origin)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _build_annotated(hint: Any, node: Node, path: str) -> Any:
    inner, *rules = get_args(hint)
    value = build(inner, node, path)
    for rule in rules:
        if not rule.holds(value):
            closest = difflib.get_close_matches(value, rule.names, n=1) if rule.names else []
            remedy = f"; did you mean {closest[0]!r}?" if closest else ""
            raise UserError(f"{at(node, path)}: must be {rule.text}, received {show(value)}{remedy}")
    return value


def _build_dataclass(cls: Any, node: Node, path: str) -> Any:
    if not isinstance(node, Branch):
        raise _wrong_type(cls, node, path)
    hints = get_type_hints(cls, include_extras=True)
    known = {field.name: field for field in fields(cls)}
    for key, child in node.children.items():
        if key not in known:
            raise UserError(unknown_name(at(child, _join(path, key)), "key", key, known))
    for name, field in known.items():
        if name not in node.children and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{at(node, _join(path, name))}: is missing; it has no default")
    return cls(**{key: build(hints[key], child, _join(path, key)) for key, child in node.children.items()})


def _build_mapping(hint: Any, node: Node, path: str) -> dict[str, Any]:
    if not isinstance(node, Branch):
        raise _wrong_type(hint, node, path)
    value_hint = get_args(hint)[1]
    return {key: build(value_hint, child, _join(path, key)) for key, child in node.children.items()}


def _build_tuple(hint: Any, node: Node, path: str) -> tuple[Any, ...]:
    if not (isinstance(node, Leaf) and isinstance(node.value, tuple)):
        raise _wrong_type(hint, node, path)
    hints = get_args(hint)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(node.value)
    if len(hints) != len(node.value):
        raise _wrong_type(hint, node, path)
    return tuple(build(*pair, path) for pair in zip(hints, node.value, strict=True))


def _build_union(hint: Any, node: Node, path: str) -> Any:
    if isinstance(node, Leaf) and node.value is None and types.NoneType in get_args(hint):
        return None
    members = [member for member in get_args(hint) if member is not types.NoneType]
    fitting = [member for member in members if _fits(member, node)] if len(members) > 1 else members
    if not fitting:
        raise _wrong_type(hint, node, path)
    return build(fitting[0], node, path)


def _fits(hint: Any, node: Node) -> bool:
    """Return whether a member of a union is what a node is written as: a mapping, or a scalar of exactly that type."""
    if get_origin(hint) is Annotated:
        return _fits(get_args(hint)[0], node)
    if isinstance(node, Branch):
        return get_origin(hint) is Mapping
    return type(node.value) is hint


def _build_scalar(hint: Any, node: Node, path: str) -> Any:
    value: Any = node.value if isinstance(node, Leaf) else node
    if hint is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise UserError(f"{at(node, path)}: must be a number that fits 64 bits, received one far larger") from None
    if type(value) is not hint:
        raise _wrong_type(hint, node, path)
    if hint is float and not math.isfinite(value):
        raise UserError(f"{at(node, path)}: must be a finite number, received {value}")
    return value


_BUILDERS: dict[Any, Callable[[Any, Node, str], Any]] = {
    Mapping: _build_mapping,
    tuple: _build_tuple,
    types.UnionType: _build_union,
    Union: _build_union,
    str: _build_scalar,
    int: _build_scalar,
    float: _build_scalar,
    bool: _build_scalar,
}

_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}


def _wrong_type(hint: Any, node: Node, path: str) -> UserError:
    remedy = ""
    if isinstance(node, Leaf) and isinstance(node.value, (bool, int, float)) and hint is str:
        remedy = f'; in quotes it would be one: "{show(node.value)}"'
    return UserError(f"{at(node, path)}: must be {_describe(hint)}, received {show(node)}{remedy}")


def _describe(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind is Annotated:
        return _describe(get_args(hint)[0])
    if kind in (types.UnionType, Union):
        return " or ".join(_describe(member) for member in get_args(hint))
    if kind is tuple:
        return _describe_tuple(get_args(hint))
    return _KINDS.get(kind, "a mapping")


def _describe_tuple(hints: tuple[Any, ...]) -> str:
    item = _describe(hints[0]).removeprefix("a ")
    return f"a list, each item a {item}" if hints[-1] is Ellipsis else f"a list of {len(hints)}, each item a {item}"


def show(value: Any) -> str:
    """Return a value as a message shows it, the way YAML writes it."""
    if isinstance(value, Leaf):
        return show(value.value)
    if isinstance(value, (Branch, Mapping)):
        keys = value.children if isinstance(value, Branch) else value
        return f"a mapping with {', '.join(keys)}" if keys else "an empty mapping"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(show(item) for item in value)}]"
    words = {None: "nothing", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def to_plain(value: Any) -> Any:
    """Return dataclasses, mappings and tuples as dicts and lists; fields that are unset by default and still are, are left out."""
    if is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name), field) for field in fields(value))
        return {name: to_plain(item) for name, item, field in pairs if not _unset(item, field)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value


def _unset(value: Any, field: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return value == default and (value is None or value in ((), {}))


def flatten(plain: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) for everything in a plain mapping."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from flatten(value, _join(path, key))
    else:
        yield path, plain
