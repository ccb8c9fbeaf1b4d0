"""Asks a served model over gRPC: `python export/grpc_client.py MODEL SIGNATURE column=text ... [--host=localhost:8500] [--label=stable]`.

Needs `pip install tensorflow-serving-api`. A column may be repeated: its texts make the rows of one request. Prints each output
with its name.
"""

from __future__ import annotations

import argparse
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def check_rows(columns: dict[str, list[str]]) -> None:
    """Refuse a request without rows, which a server that batches never answers, and columns of unequal length.

    Raises:
        ValueError: with the reason.
    """
    sizes = {name: len(texts) for name, texts in columns.items()}
    if not sizes or 0 in sizes.values():
        raise ValueError(f"a request must hold at least one text for each column; received {sizes}")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"every column must hold the same number of texts; received {sizes}")


def build_request(
    model: str, signature: str, columns: dict[str, list[str]], label: str = ""
) -> predict_pb2.PredictRequest:
    """Return the request for rows of texts to one signature.

    Raises:
        ValueError: the request would have no rows, or columns of unequal length.
    """
    check_rows(columns)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if label:
        request.model_spec.version_label = label
    for name, texts in columns.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(texts))
    return request


def read_columns(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, list[str]]:
    """Return the texts by column."""
    columns: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            parser.error(f"{word!r}: each input must be column=text")
        columns.setdefault(name, []).append(text)
    try:
        check_rows(columns)
    except ValueError as error:
        parser.error(str(error))
    return columns


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--host", default="localhost:8500")
    parser.add_argument("--label", default="", help="stable or canary; default: the newest version that is loaded")
    parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for the answer")
    arguments = parser.parse_args()
    columns = read_columns(parser, arguments.columns)
    request = build_request(arguments.model, arguments.signature, columns, arguments.label)
    with grpc.insecure_channel(arguments.host) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(request, timeout=arguments.timeout)
        except grpc.RpcError as error:
            sys.exit(f"error: {error.code().name}: {error.details()}")
    for name in sorted(response.outputs):
        values = tf.make_ndarray(response.outputs[name])
        print(name, [text.decode() for text in values.ravel()] if values.dtype == object else values.tolist())


if __name__ == "__main__":
    main()
