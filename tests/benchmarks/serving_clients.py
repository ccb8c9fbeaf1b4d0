"""Several clients at once, each asking again as soon as it is answered: single texts of mixed lengths, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch

from export.load_test import Tally, run
from tests.benchmarks.measuring import latencies, machine, table
from tests.benchmarks.serving_models import (
    LINEAR,
    Exports,
    Request,
    Served,
    differences,
    make_request,
    own_values,
    values_of,
)
from tests.benchmarks.serving_peers import Answer, Peers

LENGTHS = (16, 24, 32, 40, 48, 56, 64)
TURNS = 3
Ask = Callable[[Request], Any]


def measure_clients(exports: Exports, peers: Peers, arguments: Any) -> dict[str, Any]:
    """Time everything in turns and print it."""
    asks, threads = candidates(exports, peers, arguments)
    tokenizer = exports.encoder.tokenizer
    requests = [make_request(tokenizer, 1, 1, length, seed) for seed, length in enumerate(LENGTHS)]
    compare(exports, peers, asks, requests)
    counts = {}
    for name, ask in asks.items():
        with torch_threads(threads[name]):
            counts[name] = requests_each(ask, requests, arguments)
    tallies: dict[str, list[tuple[list[Tally], float]]] = {name: [] for name in asks}
    for _ in range(TURNS):
        for name, ask in asks.items():
            with torch_threads(threads[name]):
                askers = [asker(ask, requests, client) for client in range(arguments.clients)]
                tallies[name].append(run(askers, counts[name], warmup=1))
    found = {name: figures(turns) for name, turns in tallies.items()}
    print_clients(found, arguments.clients)
    return found


def candidates(exports: Exports, peers: Peers, arguments: Any) -> tuple[dict[str, Ask], dict[str, int]]:
    """Return what is asked, and PyTorch's threads for each: peers also with one thread for each client."""
    asks: dict[str, Ask] = {}
    threads: dict[str, int] = {}
    for kind in arguments.kinds:
        for weights in arguments.weights:
            served = Served(exports.folder([LINEAR], kind, weights), kind)
            asks[f"SavedModel {kind}, {weights}"] = lambda request, served=served: served.ask(LINEAR.name, request)
    for count in dict.fromkeys((machine()["cores"], 1)):
        suffix = "" if count > 1 else ", a thread each"
        answers = peers.answers(arguments.peers, exports.heads([LINEAR]), dynamic=True, threads=count)
        for name, [answer] in answers.items():
            asks[name + suffix] = peer_ask(answer)
            threads[name + suffix] = count
    return asks, {name: threads.get(name, machine()["cores"]) for name in asks}


def peer_ask(answer: Answer) -> Ask:
    """Return the same, of a request."""
    return lambda request: answer(request.ids)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads for each call."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(exports: Exports, peers: Peers, asks: Mapping[str, Ask], requests: list[Request]) -> None:
    """Ask each request of all once, one after another, and refuse unequal answers."""
    [measure] = peers.reference({}, exports.heads([LINEAR]))
    expected = [values_of(LINEAR, measure(request.ids)) for request in requests]
    found = {}
    for name, ask in asks.items():
        answers = [ask(request) for request in requests]
        own = name.startswith("SavedModel")
        found[name] = [(own_values if own else values_of)(LINEAR, answer) for answer in answers]
    differences(found, expected)


def requests_each(ask: Ask, requests: list[Request], arguments: Any) -> int:
    """Return how many requests a client sends in a turn, at most what one thread alone would answer in that time."""
    asked = asker(ask, requests, 0)
    for _ in requests:
        asked()
    [tally], elapsed = run([asked], len(requests), warmup=0)
    return max(2, int(arguments.seconds / TURNS * len(tally.seconds) / elapsed / arguments.clients))


def asker(ask: Ask, requests: list[Request], first: int) -> Callable[[], None]:
    """Return a client that sends the requests in turns, from another one on than its neighbours."""
    turns = cycle(requests[first % len(requests) :] + requests[: first % len(requests)])

    def send() -> None:
        ask(next(turns))

    return send


def figures(turns: list[tuple[list[Tally], float]]) -> dict[str, float]:
    """Return the requests a second over all turns, and percentiles in milliseconds."""
    seconds = [second for tallies, _ in turns for tally in tallies for second in tally.seconds]
    return {"requests_per_second": len(seconds) / sum(elapsed for _, elapsed in turns), **latencies(seconds)}


def print_clients(found: Mapping[str, Mapping[str, float]], clients: int) -> None:
    """Print the rates, each beside the best peer's."""
    rates = [values["requests_per_second"] for name, values in found.items() if not name.startswith("SavedModel")]
    rows = [(name, *values.values(), values["requests_per_second"] / max(rates)) for name, values in found.items()]
    print(
        f"\n{clients} clients at once, single texts of {LENGTHS[0]} to {LENGTHS[-1]} tokens; load {machine()['load_average']}"
    )
    print(table(("model", "requests/s", "requests", "p50 ms", "p99 ms", "rate / best peer's"), rows))
