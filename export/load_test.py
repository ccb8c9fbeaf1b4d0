"""Loads a served model with N clients at once and prints latencies: `python export/load_test.py MODEL SIGNATURE column=text ...`.

`--protocol=rest` needs `pip install requests`, `--protocol=grpc` `pip install tensorflow-serving-api`. Each client asks again as soon
as it is answered, over a connection of its own that stays open. The first requests of each client (`--warmup`) are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Ask = Callable[[], None]  # sends one request, waits for its answer; raises where there is none


@dataclass
class Tally:
    """What one client saw."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def rest_asker(host: str, model: str, signature: str, columns: dict[str, list[str]], label: str, timeout: float) -> Ask:
    """Return a function that asks over HTTP."""
    import requests

    session = requests.Session()
    place = f"{model}/labels/{label}" if label else model
    body = json.dumps({"signature_name": signature, "inputs": columns}).encode()

    def ask() -> None:
        response = session.post(
            f"http://{host}/v1/models/{place}:predict",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=timeout,
        )
        if not response.ok:
            raise OSError(f"{response.status_code}: {' '.join(response.text.split())}")

    return ask


def grpc_asker(host: str, model: str, signature: str, columns: dict[str, list[str]], label: str, timeout: float) -> Ask:
    """Return a function that asks over gRPC."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    # Channels to one address share a connection unless their options differ.
    channel = grpc.insecure_channel(host, [("grpc.use_local_subchannel_pool", 1)])
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if label:  # an empty one is looked for, too
        request.model_spec.version_label = label
    for name, texts in columns.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(texts))

    def ask() -> None:
        try:
            stub.Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise OSError(f"{error.code().name}: {error.details()}") from None

    return ask


ASKERS = {"rest": rest_asker, "grpc": grpc_asker}


def run(askers: Sequence[Ask], requests: int, warmup: int) -> tuple[list[Tally], float]:
    """Let each asker send its requests, all at once.

    Args:
        askers: one for each client.
        requests: counted requests of each client.
        warmup: requests of each client before those.

    Returns:
        What each client saw, and the seconds from the first counted request to the last answer.
    """
    tallies = [Tally() for _ in askers]
    started: list[float] = []
    together = threading.Barrier(len(askers), action=lambda: started.append(time.perf_counter()))

    def client(ask: Ask, tally: Tally) -> None:
        for _ in range(warmup):
            _timed(ask, Tally())
        together.wait()
        for _ in range(requests):
            _timed(ask, tally)

    threads = [threading.Thread(target=client, args=pair) for pair in zip(askers, tallies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tallies, time.perf_counter() - started[0]


def _timed(ask: Ask, tally: Tally) -> None:
    begun = time.perf_counter()
    try:
        ask()
    except OSError as error:  # requests' own errors are OSErrors too
        tally.errors.append(str(error))
    else:
        tally.seconds.append(time.perf_counter() - begun)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-round(share * len(ordered) * 1e9) // 10**9)
    return ordered[max(rank, 1) - 1]


def summary(tallies: Sequence[Tally], elapsed: float, rows: int) -> dict[str, float]:
    """Return counts, latencies in milliseconds, and requests and rows a second."""
    seconds = [second for tally in tallies for second in tally.seconds]
    found: dict[str, float] = {
        "clients": len(tallies),
        "requests": len(seconds),
        "errors": sum(len(tally.errors) for tally in tallies),
        "requests_per_second": len(seconds) / elapsed,
        "rows_per_second": rows * len(seconds) / elapsed,
    }
    if seconds:
        found |= {f"p{share}_ms": 1000 * percentile(seconds, share / 100) for share in (50, 90, 99)}
        found["max_ms"] = 1000 * max(seconds)
    return found


def main() -> None:
    """Read the command line, load the server, print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--protocol", choices=sorted(ASKERS), default="rest")
    parser.add_argument("--host", help="default: localhost:8501 (REST), localhost:8500 (gRPC)")
    parser.add_argument("--label", default="", help="stable or canary; default: the newest version that is loaded")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100, help="counted requests of each client")
    parser.add_argument("--warmup", type=int, default=5, help="requests of each client that are not counted")
    parser.add_argument("--rows", type=int, default=1, help="rows of each request: the texts, repeated")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for each answer")
    parser.add_argument("--json", help="a file for the numbers")
    arguments = parser.parse_args()
    columns = dict(word.partition("=")[::2] for word in arguments.columns if "=" in word)
    if len(columns) < len(arguments.columns):
        parser.error("each input must be column=text, each column once")
    if min(arguments.clients, arguments.requests, arguments.rows) < 1 or arguments.warmup < 0:
        parser.error("--clients, --requests and --rows must be at least 1, --warmup at least 0")
    host = arguments.host or {"rest": "localhost:8501", "grpc": "localhost:8500"}[arguments.protocol]
    rows = {name: [text] * arguments.rows for name, text in columns.items()}
    asked = (host, arguments.model, arguments.signature, rows, arguments.label, arguments.timeout)
    askers = [ASKERS[arguments.protocol](*asked) for _ in range(arguments.clients)]
    tallies, elapsed = run(askers, arguments.requests, arguments.warmup)
    found = summary(tallies, elapsed, arguments.rows)
    print(
        "  ".join(
            f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
        )
    )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"protocol": arguments.protocol, **found}, file, indent=2)
    if found["errors"]:
        sys.exit(f"error: {next(error for tally in tallies for error in tally.errors)}")


if __name__ == "__main__":
    main()
