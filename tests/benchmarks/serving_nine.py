"""Nine tasks of one pair of texts: one call of the shared model beside its dearest single head and nine single-task models."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtdnn_tf.tasks import TaskSpec
from tests.benchmarks.measuring import interleaved_for, latencies, machine, table
from tests.benchmarks.serving_models import (
    Exports,
    Request,
    Served,
    differences,
    kind_of,
    make_request,
    nine_tasks,
    own_values,
    pair_task,
    values_of,
)
from tests.benchmarks.serving_peers import Answer, Peers

Variant = tuple[str, str]  # kind and weights of an export
Calls = dict[str, Callable[[], Any]]


def measure_nine(exports: Exports, peers: Peers, arguments: Any) -> dict[str, Any]:
    """Time all points and print them."""
    tasks = nine_tasks(arguments.san)
    variants = [(kind, weights) for kind in arguments.kinds for weights in arguments.weights]
    shared = {variant: Served(exports.folder(tasks, *variant), variant[0]) for variant in variants}
    ours = {weights: own_singles(exports, tasks, weights) for weights in arguments.weights}
    theirs = peers.answers(arguments.peers, exports.heads(tasks))
    measure = peers.reference(theirs, exports.heads(tasks))
    figures = []
    for batch in arguments.batches:
        for length in arguments.lengths:
            request = make_request(exports.encoder.tokenizer, 2, batch, length)
            expected = [values_of(task, answer(request.ids)) for task, answer in zip(tasks, measure, strict=True)]
            calls = all_calls(tasks, shared, ours, theirs, request)
            compared = all_differences(tasks, calls, expected)
            calls |= alone_calls(tasks, shared, request)
            times = interleaved_for(calls, arguments.seconds)
            found = {"batch": batch, "length": length, "differences": compared}
            figures.append(found | {"times": {name: latencies(seconds) for name, seconds in times.items()}})
            print_point(figures[-1])
    summary = [ratios(point, variant, arguments.peers) for variant in variants for point in figures]
    print_summary(summary)
    return {"san_heads": arguments.san, "points": figures, "ratios": summary}


def own_singles(exports: Exports, tasks: Sequence[TaskSpec], weights: str) -> list[tuple[Served, str]]:
    """Return a SavedModel of a single task and its signature for each task: one export for each kind, loaded for each task."""
    kinds = [kind_of(task) for task in tasks]
    folders = {kind: exports.folder([pair_task(kind, kind)], "ids", weights) for kind in dict.fromkeys(kinds)}
    return [(Served(folders[kind], "ids"), kind) for kind in kinds]


def all_calls(
    tasks: Sequence[TaskSpec],
    shared: Mapping[Variant, Served],
    ours: Mapping[str, Sequence[tuple[Served, str]]],
    theirs: Mapping[str, Sequence[Answer]],
    request: Request,
) -> Calls:
    """Return the calls that answer all nine tasks."""
    calls: Calls = {}
    for variant, served in shared.items():
        calls[shared_name(variant)] = lambda served=served: served.ask("all_pairs", request)
    for weights, singles in ours.items():
        calls[f"nine SavedModels, ids, {weights}"] = lambda singles=singles: [
            served.ask(signature, request) for served, signature in singles
        ]
    for name, answers in theirs.items():
        calls[f"nine of {name}"] = lambda answers=answers: [answer(request.ids) for answer in answers]
    return calls


def alone_calls(tasks: Sequence[TaskSpec], shared: Mapping[Variant, Served], request: Request) -> Calls:
    """Return, of each shared model, the signature of one task for each kind of head."""
    return {
        alone_name(head, variant): lambda served=served, name=name: served.ask(name, request)
        for variant, served in shared.items()
        for head, name in {task.head: task.name for task in tasks}.items()
    }


def shared_name(variant: Variant) -> str:
    """Return how the call of all nine heads is called in tables."""
    return f"nine heads, {', '.join(variant)}"


def alone_name(head: str, variant: Variant) -> str:
    """Return how a call of one head is called in tables."""
    return f"{head} head alone, {', '.join(variant)}"


def all_differences(tasks: Sequence[TaskSpec], calls: Calls, expected: Sequence[np.ndarray]) -> dict[str, float]:
    """Call everything once; return the largest differences from PyTorch's answers."""
    found = {}
    for name, call in calls.items():
        answers = call()
        if name.startswith("nine heads"):
            found[name] = [own_values(task, answers, f"{task.name}.") for task in tasks]
        elif name.startswith("nine SavedModels"):
            found[name] = [own_values(task, outputs) for task, outputs in zip(tasks, answers, strict=True)]
        else:
            found[name] = [values_of(task, logits) for task, logits in zip(tasks, answers, strict=True)]
    return differences(found, expected)


def print_point(point: Mapping[str, Any]) -> None:
    """Print one batch size and length."""
    rows = [
        (name, times["calls"], times["p50_ms"], times["p99_ms"], f"{point['differences'].get(name, 0.0):.1e}")
        for name, times in point["times"].items()
    ]
    place = f"batch {point['batch']}, length {point['length']}"
    print(f"\nNine tasks of one pair of texts, {place}; load average {machine()['load_average']}")
    print(table(("call", "calls", "p50 ms", "p99 ms", "difference"), rows))


def ratios(point: Mapping[str, Any], variant: Variant, peers: Sequence[str]) -> dict[str, Any]:
    """Return what the shared model costs beside its dearest head, and how often it fits into nine single-task models."""
    medians = {name: times["p50_ms"] for name, times in point["times"].items()}
    nine = medians[shared_name(variant)]
    alone = [value for name, value in medians.items() if name.endswith(f"head alone, {', '.join(variant)}")]
    best = min(peers, key=lambda name: medians[f"nine of {name}"])
    return {
        "batch": point["batch"],
        "length": point["length"],
        "model": ", ".join(variant),
        "to_dearest_head": nine / max(alone),
        "best_peer": best,
        "best_peer_to_nine_heads": medians[f"nine of {best}"] / nine,
        "own_singles_to_nine_heads": medians[f"nine SavedModels, ids, {variant[1]}"] / nine,
    }


def print_summary(summary: Sequence[Mapping[str, Any]]) -> None:
    """Print the ratios of all points, and by model the worst and the median."""
    keys = ("to_dearest_head", "best_peer_to_nine_heads", "own_singles_to_nine_heads")
    rows = [
        (f"b{row['batch']} L{row['length']}, {row['model']}", *(row[key] for key in keys), row["best_peer"])
        for row in summary
    ]
    for model in dict.fromkeys(row["model"] for row in summary):
        found = {key: [row[key] for row in summary if row["model"] == model] for key in keys}
        rows.append((f"median, {model}", *(statistics.median(values) for values in found.values()), ""))
        rows.append((f"worst, {model}", max(found[keys[0]]), *(min(found[key]) for key in keys[1:]), ""))
    head = (
        "p50",
        "nine heads / dearest alone",
        "nine of best peer / nine heads",
        "nine SavedModels / nine heads",
        "peer",
    )
    print(f"\nNine tasks: ratios\n{table(head, rows)}")
