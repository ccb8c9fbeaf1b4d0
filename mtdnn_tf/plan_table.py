"""A plan as text for the terminal: tables of data, of steps and of buckets, totals, warnings; at most 120 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 120
_NAME_WIDTH = 24  # longer task names are shortened

Cells = tuple[str, ...]


def plan_table(plan: Mapping[str, Any]) -> str:
    """Return what `make_plan` returned as text."""
    sections = [_data(plan), _steps(plan), _buckets(plan), _totals(plan), _warnings(plan)]
    return "\n\n".join("\n".join(lines) for lines in sections)


def _data(plan: Mapping[str, Any]) -> list[str]:
    head = ("task", "split", "examples", "median", "95 %", "99 %", "max", "rows cut", "tokens", "labels")
    rows = [
        _split_cells(task, name, split, facts)
        for name, task in plan["tasks"].items()
        for split, facts in task["splits"].items()
    ]
    note = f"median to max: tokens of a row; rows cut, tokens: the share that data.max_length {plan['max_length']} cuts off"
    return [*_aligned([head, *rows], last_is_text=True), note]


def _split_cells(task: Mapping[str, Any], name: str, split: str, facts: Mapping[str, Any]) -> Cells:
    length = (str(value) for value in facts["length"].values())
    cut = (_percent(facts["rows_cut"]), _percent(facts["tokens_cut"]))
    return (_short(name), split, f"{facts['examples']:,}", *length, *cut, _labels(task["type"], facts))


def _labels(task_type: str, facts: Mapping[str, Any]) -> str:
    labels = facts["labels"]
    if labels is None:
        return "none"
    if task_type == "regression":
        return f"{labels['min']:g} to {labels['max']:g}, median {labels['median']:g}, mean {labels['mean']:.2f}"
    if task_type == "ranking":
        none = labels.get("queries_without_positive")
        without = "" if none is None else f", {none:,} without a positive"
        return f"{labels['candidates_min']} to {labels['candidates_max']} candidates{without}"
    return ", ".join(f"{label} {100 * count / facts['rows']:.0f} %" for label, count in labels.items())


def _steps(plan: Mapping[str, Any]) -> list[str]:
    head = ("task", "type", "head", "examples", "batch", "steps/epoch", "probability", "steps", "passes")
    rows = [
        (
            _short(name),
            task["type"],
            _short(task["head"]),
            f"{task['examples']:,}",
            str(task["batch_size"]),
            _between(task["steps_per_epoch_min"], task["steps_per_epoch_max"]),
            _percent(task["probability"]),
            f"{task['steps']:,}",
            f"{task['passes']:g}",
        )
        for name, task in plan["tasks"].items()
    ]
    return _aligned([head, *rows], texts=3)


def _between(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _buckets(plan: Mapping[str, Any]) -> list[str]:
    used = {name: task["buckets"] for name, task in plan["tasks"].items() if "buckets" in task}
    lengths = sorted({int(length) for buckets in used.values() for length in buckets["batches"]})
    shown = lengths[:10]  # as many as fit; the JSON has all
    head = ("batches padded to", *map(str, shown), "padding", "unsorted")
    rows = [
        (
            _short(name),
            *(str(buckets["batches"].get(str(length), "-")) for length in shown),
            _percent(buckets["padding"]),
            _percent(buckets["padding_unsorted"]),
        )
        for name, buckets in used.items()
    ]
    note = (
        "padding: share of all positions in an epoch's batches; unsorted: if shuffled rows were padded to their longest"
    )
    left_out = [f"longer ones: {', '.join(map(str, lengths[10:]))}"] if lengths[10:] else []
    return [*_aligned([head, *rows], texts=1), *left_out, note]


def _totals(plan: Mapping[str, Any]) -> list[str]:
    epochs = "1 epoch" if plan["epochs"] == 1 else f"{plan['epochs']} epochs"
    updates = f", {plan['updates']:,} updates" if plan["updates"] != plan["total_steps"] else ""
    lines = [
        f"steps: {plan['total_steps']:,} in {epochs} ({plan['steps_per_epoch']:,} in the first){updates}, "
        f"mixing {plan['mixing']}",
        "parameters: " + ", ".join(f"{_short(part)} {count:,}" for part, count in plan["parameters"].items()),
        *(
            f"class weights of {_short(name)}: "
            + ", ".join(f"{label} {weight:g}" for label, weight in task["class_weights"].items())
            for name, task in plan["tasks"].items()
            if "class_weights" in task
        ),
        *(
            "scores of {}: {:g} to {:g}, learnt as -1 to 1".format(_short(name), *task["scaled_range"])
            for name, task in plan["tasks"].items()
            if "scaled_range" in task
        ),
        f"padding: {_percent(plan['padding'])} of all positions",
        f"memory, estimated: {plan['memory_gb']} GB (the process's peak, on a CPU)",
    ]
    if plan["average"] is not None:
        decay, updates = plan["average"]["decay"], plan["average"]["horizon"]
        lines.append(
            f"average of the weights (training.ema {decay:g}): looks back over about {updates:,} updates at the end of the run"
        )
    if plan["minutes"] is not None:
        low, high = plan["minutes_range"]
        lines.append(
            f"training time, estimated from {plan['timed_steps']} steps: {plan['minutes']:g} minutes ({low:g} to {high:g}); "
            "scoring not included"
        )
    return [line for text in lines for line in _wrapped(text)]


def _warnings(plan: Mapping[str, Any]) -> list[str]:
    if not plan["warnings"]:
        return ["warnings: none"]
    lines = [line for warning in plan["warnings"] for line in _wrapped(f"- {warning['message']}")]
    return [f"warnings: {len(plan['warnings'])}", *lines]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _aligned(rows: Sequence[Cells], texts: int = 2, *, last_is_text: bool = False) -> list[str]:
    """Return rows in columns: the first `texts` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < texts else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        if last_is_text:
            cells[-1] = row[-1]
        line = "  ".join(cells).rstrip()
        lines.append(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")
    return lines


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 3] + "..."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
