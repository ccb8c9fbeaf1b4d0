"""Running means that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RunningMeans:
    """Means of values by name, from sums and counts: going on from a saved state gives the same floats."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: float) -> None:
        """Take one more value."""
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the means so far, by name in alphabetical order."""
        return {name: total / self._counts[name] for name, total in sorted(self._sums.items())}

    def reset(self) -> None:
        """Start anew."""
        self._sums, self._counts = {}, {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; an empty mapping stands for no values."""
        self._sums, self._counts = dict(state.get("sums", {})), dict(state.get("counts", {}))
