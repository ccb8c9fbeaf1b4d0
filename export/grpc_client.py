"""Asks a served model over gRPC: `python export/grpc_client.py MODEL SIGNATURE column=text ... [--host=localhost:8500]`.

Needs `pip install tensorflow-serving-api`. Prints each output with its name.
"""

from __future__ import annotations

import argparse
import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def build_request(model: str, signature: str, columns: dict[str, str]) -> predict_pb2.PredictRequest:
    """Return the request for one text (or pair) to one signature."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, text in columns.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto([text]))
    return request


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("signature")
    parser.add_argument("columns", nargs="+", metavar="column=text")
    parser.add_argument("--host", default="localhost:8500")
    arguments = parser.parse_args()
    columns = dict(item.split("=", 1) for item in arguments.columns if "=" in item)
    if len(columns) < len(arguments.columns):
        parser.error("each input must be column=text")
    with grpc.insecure_channel(arguments.host) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(build_request(arguments.model, arguments.signature, columns), timeout=30)
        except grpc.RpcError as error:
            sys.exit(f"error: {error.code().name}: {error.details()}")
    for name in sorted(response.outputs):
        print(name, tf.make_ndarray(response.outputs[name]).tolist())


if __name__ == "__main__":
    main()
