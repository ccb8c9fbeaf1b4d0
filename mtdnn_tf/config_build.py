"""Frozen dataclasses from a tree, driven by their type hints, and back to plain data."""

from __future__ import annotations

import difflib
import itertools
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mtdnn_tf.config_tree import Branch, Leaf, Node
from mtdnn_tf.errors import UserError, closest_name, unknown_name


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


class _KeyError(UserError):
    """A key that is unknown where it stands, or that holds no mapping where one belongs."""

    def __init__(self, message: str, node: Node, path: str, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.node = node
        self.path = path  # of the key
        self.known = tuple(known)  # keys at this place, where the key is unknown


def build(hint: Any, node: Node, path: str, also: Sequence[str] = ()) -> Any:
    """Return what the tree says as a value of the type `hint`.

    Args:
        hint: a dataclass, `Mapping[str, T]`, `tuple[T, ...]`, `tuple[A, B]`, str, int, float, bool, unions of these and None,
            or any of them `Annotated` with rules.
        node: the tree.
        path: dotted, for messages; "" is the top.
        also: keys of the top that were read before, for messages.

    Raises:
        UserError: an unknown or missing key, a wrong type, or a rule that does not hold: file, line and path, the rule, what
            was received, and for a key at the wrong level its place.
    """
    try:
        return _build(hint, node, path)
    except _KeyError as error:
        places = dict(_places(hint, tuple(path.split(".")) if path else ()))
        raise UserError(_with_place(error, {**places, **{(key,): Any for key in also}})) from None


def _build(hint: Any, node: Node, path: str) -> Any:
    kind = get_origin(hint) or hint
    if kind is Annotated:
        return _build_annotated(hint, node, path)
    if is_dataclass(hint):
        return _build_dataclass(hint, node, path)
    return _BUILDERS[kind](hint, node, path)


_ANY_NAME = "<name>"  # of a task, in the path of its keys
_LISTED = 3  # places in a message


def _places(hint: Any, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path, as its parts, and the type of every key that dataclasses have in and below a type."""
    kind = get_origin(hint) or hint
    if is_dataclass(hint):
        for name, inner in get_type_hints(hint, include_extras=True).items():
            yield (*parts, name), inner
            yield from _places(inner, (*parts, name))
    elif kind is Mapping:
        yield from _places(get_args(hint)[1], (*parts, _ANY_NAME))
    elif kind in (Annotated, types.UnionType, Union):
        for member in get_args(hint)[: 1 if kind is Annotated else None]:
            yield from _places(member, parts)


def _with_place(error: _KeyError, places: Mapping[tuple[str, ...], Any]) -> str:
    """Return the message of the error with the places where such a key belongs, if any."""
    here = tuple(error.path.split("."))
    key = here[-1]
    found = [place for place in places if place[-1] == key]
    at_its_place = any(_is_at(place, here) for place in found)
    if at_its_place and error.known:  # a key with dots in it, as --set takes
        nested = f"{': {'.join(here)}: ...{'}' * (len(here) - 1)}"
        return f"{at(error.node, error.path)}: a key of a file has no dots; write {nested}"
    if at_its_place:  # its value is wrong: if that is a mapping, it may have another place
        found = [place for place in found if isinstance(error.node, Branch) and get_origin(places[place]) is Mapping]
    elif not found and isinstance(error.node, Branch):
        found = _named_sections(key, error.node.children, places)
    if found:
        shown = " or ".join(_shown_place(place, here) for place in found[:_LISTED])
        more = f" (and {len(found) - _LISTED} other places)" if len(found) > _LISTED else ""
        said = f"{at(error.node, error.path)}: unknown key {key!r}" if error.known else str(error)
        return f"{said}; such a key belongs at {shown}{more}"
    if error.known and closest_name(key, error.known) is None:
        closest = closest_name(key, dict.fromkeys(place[-1] for place in places))
        found = [place for place in places if place[-1] == closest]
        return f"{error} Did you mean {_shown_place(found[0], here)}?" if found else str(error)
    return str(error)


def _is_at(place: tuple[str, ...], here: tuple[str, ...]) -> bool:
    return len(place) == len(here) and all(part in (there, _ANY_NAME) for part, there in zip(place, here, strict=True))


def _named_sections(key: str, children: Iterable[str], places: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return where a mapping with these keys may stand under a name of its own, as a task does under `tasks`."""
    sections = dict.fromkeys(place[:-1] for place in places if place[-2:-1] == (_ANY_NAME,))
    known = {section: {place[-1] for place in places if place[:-1] == section} for section in sections}
    return [(*section[:-1], key) for section in sections if children and known[section].issuperset(children)]


def _shown_place(place: tuple[str, ...], here: tuple[str, ...]) -> str:
    """Return a place dotted, with the names of tasks that it has in common with the path `here`."""
    shared = 0
    while shared < min(len(place), len(here) - 1) and place[shared] in (here[shared], _ANY_NAME):
        shared += 1
    return ".".join((*here[:shared], *place[shared:])) + (" (top level)" if len(place) == 1 else "")


def at(node: Node, path: str) -> str:
    """Return the beginning of a message: file, line and path."""
    return f"{node.origin}: {path}" if path else str(node.origin)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _build_annotated(hint: Any, node: Node, path: str) -> Any:
    inner, *rules = get_args(hint)
    value = _build(inner, node, path)
    for rule in rules:
        if not rule.holds(value):
            closest = difflib.get_close_matches(value, rule.names, n=1) if rule.names else []
            remedy = f"; did you mean {closest[0]!r}?" if closest else ""
            raise UserError(f"{at(node, path)}: must be {rule.text}, received {show(value)}{remedy}")
    return value


def _build_dataclass(cls: Any, node: Node, path: str) -> Any:
    if not isinstance(node, Branch):
        raise _KeyError(str(_wrong_type(cls, node, path)), node, path)
    hints = get_type_hints(cls, include_extras=True)
    known = {field.name: field for field in fields(cls)}
    for key, child in node.children.items():
        if key not in known:
            message = unknown_name(at(child, _join(path, key)), "key", key, known)
            raise _KeyError(message, child, _join(path, key), known)
    for name, field in known.items():
        if name not in node.children and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{at(node, _join(path, name))}: is missing; it has no default")
    return cls(**{key: _build(hints[key], child, _join(path, key)) for key, child in node.children.items()})


def _build_mapping(hint: Any, node: Node, path: str) -> dict[str, Any]:
    if not isinstance(node, Branch):
        raise _wrong_type(hint, node, path)
    value_hint = get_args(hint)[1]
    return {key: _build(value_hint, child, _join(path, key)) for key, child in node.children.items()}


def _build_tuple(hint: Any, node: Node, path: str) -> tuple[Any, ...]:
    if not (isinstance(node, Leaf) and isinstance(node.value, tuple)):
        raise _KeyError(str(_wrong_type(hint, node, path)), node, path)
    hints = get_args(hint)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(node.value)
    if len(hints) != len(node.value):
        raise _wrong_type(hint, node, path)
    return tuple(_build(*pair, path) for pair in zip(hints, node.value, strict=True))


def _build_union(hint: Any, node: Node, path: str) -> Any:
    if isinstance(node, Leaf) and node.value is None and types.NoneType in get_args(hint):
        return None
    members = [member for member in get_args(hint) if member is not types.NoneType]
    fitting = [member for member in members if _fits(member, node)] if len(members) > 1 else members
    if not fitting:
        raise _wrong_type(hint, node, path)
    return _build(fitting[0], node, path)


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
