"""Settings inside an encoder's source: `key=value,key=value` behind the scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtdnn_tf.errors import UserError, unknown_name

_KINDS = {int: "a whole number", float: "a number"}


def parse_settings(text: str, source: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults with what the text sets, each value of its default's type.

    Raises:
        UserError: a key is unknown, or a value no number where the default is one.
    """
    values = dict(defaults)
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in values:
            raise UserError(unknown_name(source, "key", key, values))
        kind = type(defaults[key])
        try:
            values[key] = kind(value)
        except ValueError:
            raise UserError(f"{source}: {key} must be {_KINDS[kind]}. Received: {value!r}") from None
    return values
