"""Answering requests: exported models beside PyTorch (transformers' BertModel) and onnxruntime, on MiniLM's real weights.

Command: python -m tests.benchmarks.serving [--sections latency,nine,clients,load] [--weights float32] [--kinds text,ids]
    [--batches 1,8,32] [--lengths 16,64,128] [--seconds 2] [--json FILE]

Sections: `latency`, one linear head; `nine`, nine tasks of one pair of texts, by one call or by nine models; `clients`, requests
a second of several clients; `load`, loading and size. Before anything is timed, all answers are compared with PyTorch's; a float32
model that differs by more than 1e-3 (log probabilities, scores) ends the run. Candidates take turns of a fifth of `--seconds` each.

What is the same: weights, token ids (NumPy arrays in and out, copies included), all cores for every library, no padding. What differs:
- SavedModels are called in Python by their signatures, without a server's network and batching; they check requests and return
  labels and probabilities. Kind `text` also makes the tokens, which the peers are given.
- TensorFlow, PyTorch and onnxruntime keep thread pools of their own in this one process; only one computes at a time, and the
  first call of a turn, while others' threads may still spin, is left out where a turn has more. With several clients, PyTorch and
  onnxruntime are also tried with one thread for each client; TensorFlow's pool is the process's, and stays at all cores.
- bfloat16 and int8 are the weights' precision; frozen ones are constants of the graph. PyTorch's bfloat16 networks compute in it
  throughout, heads too. No peer is quantised: int8 stands beside the best of the others.
- Compiled PyTorch networks have a compiled encoder and an eager head; compilation, anew for each shape, is not timed (with several
  clients, one compilation for all lengths). TORCHINDUCTOR_FREEZING=1 in the environment lets it pack weights, each network by itself.
- Heads are drawn at random. Nine single-task models hold nine encoders in memory, and are asked one after another.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mtdnn_tf.config import EXPORT_KINDS, EXPORT_WEIGHTS
from tests.benchmarks.measuring import interleaved_for, latencies, machine, parser, report, table
from tests.benchmarks.serving_clients import measure_clients
from tests.benchmarks.serving_load import measure_load
from tests.benchmarks.serving_models import (
    LINEAR,
    Exports,
    Served,
    differences,
    make_request,
    nine_tasks,
    own_values,
    values_of,
)
from tests.benchmarks.serving_nine import measure_nine
from tests.benchmarks.serving_peers import PEERS, Peers

WEIGHTS = (*EXPORT_WEIGHTS, *(f"{weights}-frozen" for weights in EXPORT_WEIGHTS))


def measure_latency(exports: Exports, peers: Peers, arguments: Any) -> list[dict[str, Any]]:
    """Time one linear head at all points and print it."""
    served = {
        f"SavedModel {kind}, {weights}": Served(exports.folder([LINEAR], kind, weights), kind)
        for kind in arguments.kinds
        for weights in arguments.weights
    }
    answers = peers.answers(arguments.peers, exports.heads([LINEAR]))
    [measure] = peers.reference(answers, exports.heads([LINEAR]))
    figures = []
    for batch in arguments.batches:
        for length in arguments.lengths:
            request = make_request(exports.encoder.tokenizer, 1, batch, length)
            own: dict[str, Callable[[], Any]] = {
                name: (lambda model=model, request=request: model.ask(LINEAR.name, request))
                for name, model in served.items()
            }
            others: dict[str, Callable[[], Any]] = {
                name: (lambda answer=answer, request=request: answer(request.ids)) for name, [answer] in answers.items()
            }
            found = {name: [own_values(LINEAR, call())] for name, call in own.items()}
            found |= {name: [values_of(LINEAR, call())] for name, call in others.items()}
            compared = differences(found, [values_of(LINEAR, measure(request.ids))])
            times = interleaved_for(own | others, arguments.seconds)
            point = {"batch": batch, "length": length, "differences": compared}
            figures.append(point | {"times": {name: latencies(seconds) for name, seconds in times.items()}})
            print_point(figures[-1], arguments.peers)
    print_ratios(figures, list(served), arguments.peers)
    return figures


def print_point(point: Mapping[str, Any], peers: Sequence[str]) -> None:
    """Print one batch size and length."""
    best = min(point["times"][name]["p50_ms"] for name in peers)
    rows = [
        (name, *times.values(), times["p50_ms"] / best, f"{point['differences'][name]:.1e}")
        for name, times in point["times"].items()
    ]
    place = f"batch {point['batch']}, length {point['length']}"
    print(f"\nOne linear head, {place}; load average {machine()['load_average']}")
    print(table(("model", "calls", "p50 ms", "p99 ms", "p50 / best peer's", "difference"), rows))


def print_ratios(figures: Sequence[Mapping[str, Any]], own: Sequence[str], peers: Sequence[str]) -> None:
    """Print each exported model beside the best peer of each point."""
    rows = []
    for point in figures:
        medians = {name: times["p50_ms"] for name, times in point["times"].items()}
        best = min(peers, key=medians.__getitem__)
        place = f"b{point['batch']} L{point['length']}"
        rows.append((place, *(medians[name] / medians[best] for name in own), best))
    print(f"\nOne linear head: p50 / best peer's\n{table(('', *own, 'best peer'), rows)}")


def folders_of_nine(exports: Exports, arguments: Any) -> dict[str, Path]:
    """Return the exports of nine heads by name."""
    tasks = nine_tasks(arguments.san)
    return {
        f"SavedModel {kind}, {weights}": exports.folder(tasks, kind, weights)
        for kind in arguments.kinds
        for weights in arguments.weights
    }


SECTIONS: dict[str, Callable[[Exports, Peers, Any], Any]] = {
    "latency": measure_latency,
    "nine": measure_nine,
    "clients": measure_clients,
    "load": lambda exports, _, arguments: measure_load(folders_of_nine(exports, arguments)),
}


def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a reader of a list of known names, separated by commas."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise ArgumentTypeError(f"must be of {', '.join(known)}; received {', '.join(sorted(unknown))}")
        return names

    return read


def numbers(text: str) -> list[int]:
    """Read numbers that are separated by commas."""
    return [int(word) for word in text.split(",")]


def options() -> ArgumentParser:
    """Return the parser of the command line."""
    result = parser(__doc__ or "")
    for name, known in {"sections": tuple(SECTIONS), "kinds": EXPORT_KINDS, "peers": PEERS}.items():
        result.add_argument(f"--{name}", type=chosen(known), default=list(known), help=f"of {', '.join(known)}")
    result.add_argument("--weights", type=chosen(WEIGHTS), default=["float32"], help=f"of {', '.join(WEIGHTS)}")
    result.add_argument("--batches", type=numbers, default=[1, 8, 32])
    result.add_argument("--lengths", type=numbers, default=[16, 64, 128], help="tokens, special ones included")
    result.add_argument("--seconds", type=float, default=2.0, help="for each candidate at each point")
    result.add_argument("--san", type=int, default=2, choices=range(1, 10), help="SAN heads among the nine")
    result.add_argument("--clients", type=int, default=8)
    return result


def main() -> None:
    """Measure and print."""
    arguments = options().parse_args()
    torch.set_num_threads(machine()["cores"])
    print(machine())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(Path(folder) / "served", max(128, *arguments.lengths))
        peers = Peers(Path(folder))
        for section in arguments.sections:
            figures[section] = SECTIONS[section](exports, peers, arguments)
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
