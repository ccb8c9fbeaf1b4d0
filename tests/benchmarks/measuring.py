"""What the benchmarks share: interleaved repeats, medians, tables, and the machine they ran on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from export.load_test import percentile


def interleaved_seconds(candidates: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time each candidate `repeats` times, in turns, after one unmeasured call: slow minutes of the machine hit all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    for _ in range(repeats):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def interleaved_for(
    candidates: Mapping[str, Callable[[], Any]], seconds: float, turns: int = 5
) -> dict[str, list[float]]:
    """Time each candidate for about `seconds`, in turns: within one it is called again and again, as a server would call it.

    The first call of a turn finds threads asleep, or another library's still spinning, and its weights out of the caches: it
    is left out unless it used up the turn.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():  # what compiles may do so
        call()
    for _ in range(turns):
        for name, call in candidates.items():
            found[name] += _turn(call, seconds / turns)
    return found


def _turn(call: Callable[[], Any], seconds: float) -> list[float]:
    times: list[float] = []
    while not times or sum(times) < seconds:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times[1:] or times


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return the number of calls, and p50 and p99 in milliseconds; of fewer than 100 calls p99 is the slowest."""
    percentiles = {f"p{share}_ms": 1000 * percentile(seconds, share / 100) for share in (50, 99)}
    return {"calls": len(seconds), **percentiles}


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each candidate."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine; the load says whether it was quiet."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "").partition(": ")[2]
    load = os.getloadavg()[0]
    return {"cpu": model or platform.processor(), "cores": os.cpu_count(), "load_average": round(load, 2)}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows under a head, in columns; numbers to the right."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", type=Path, help="also write the figures to this file")
    result.add_argument("--repeats", type=int, default=5, help="of each measurement")
    result.add_argument(
        "--data", type=Path, default=os.environ.get("MTDNN_DATA") or None, help="public data; by default MTDNN_DATA"
    )
    return result


def public_data(options: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """Return the folder of the public data; where none is named, end with a line that says so."""
    if not arguments.data:
        options.error("no public data: set MTDNN_DATA to their folder, or name it by --data")
    return Path(arguments.data)


def report(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures as JSON where a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {path}")
