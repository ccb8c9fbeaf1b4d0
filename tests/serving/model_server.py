"""Versions and labels of a model, and the gRPC and REST servers that answer for them, as TensorFlow Serving does.

Which edits of models.config are taken follows what tensorflow_model_server 2.20.0 was seen to do, and its server_core.cc.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.server import LoadedModel, NeverAnsweredError, RefusedError

State = get_model_status_pb2.ModelVersionStatus.State


class ModelServer:
    """A model's versions and labels, by its entry in the file of --model_config_file."""

    def __init__(self, config, folder, load=LoadedModel, threads=None):
        """Load what `config` names from below `folder`; no label is in use yet, so each may be given to any version."""
        self.name, self.labels = config.name, dict(config.version_labels)
        self.threads = threads or {"grpc": 8, "rest": 8}
        self.versions = {}  # loaded, by number
        self.loading = []
        self._folder, self._load = folder, load
        self._aspire(config)
        self.finish_loading()

    def reload(self, config):
        """Take an edited file, as the server does at its next poll.

        A label that is in use moves to a version that is loaded, or the whole edit is refused; a version is loaded after its edit
        was taken, which `finish_loading` stands for.
        """
        for label, number in config.version_labels.items():
            if self.labels.get(label, number) != number and number not in self.versions:
                raise RefusedError(
                    f"Request to assign label to {number} of model {self.name}, which is not currently available for inference",
                    grpc.StatusCode.FAILED_PRECONDITION,
                )
        self.labels = dict(config.version_labels)
        self._aspire(config)

    def _aspire(self, config):
        wanted = list(config.model_version_policy.specific.versions)
        self.versions = {number: model for number, model in self.versions.items() if number in wanted}
        self.loading = [number for number in wanted if number not in self.versions]

    def finish_loading(self):
        self.versions |= {number: self._load(self._folder / str(number)) for number in self.loading}
        self.loading = []

    def find(self, spec):
        """Return the version that a request is for."""
        if spec.name != self.name or not self.versions:
            raise RefusedError(f"Servable not found for request: Latest({spec.name})", grpc.StatusCode.NOT_FOUND)
        number = self._number(spec) or max(self.versions)
        if number not in self.versions:
            raise RefusedError(
                f"Servable not found for request: Specific({spec.name}, {number})", grpc.StatusCode.NOT_FOUND
            )
        return self.versions[number]

    def status(self, spec):
        response = get_model_status_pb2.GetModelStatusResponse()
        if spec.name != self.name:
            raise RefusedError(f"Could not find any versions of model {spec.name}", grpc.StatusCode.NOT_FOUND)
        states = dict.fromkeys(self.loading, State.LOADING) | dict.fromkeys(self.versions, State.AVAILABLE)
        number = self._number(spec)
        if number and number not in states:
            raise RefusedError(f"Could not find version {number} of model {spec.name}", grpc.StatusCode.NOT_FOUND)
        for each in [number] if number else sorted(states, reverse=True):
            response.model_version_status.add(version=each, state=states[each])
        return response

    def _number(self, spec):
        """Return the number that a request names by itself or by label; 0 where it names none."""
        if spec.WhichOneof("version_choice") == "version_label":
            if spec.version_label not in self.labels:
                raise RefusedError(f"Unrecognized servable version label: {spec.version_label}")
            return self.labels[spec.version_label]
        return spec.version.value


@contextlib.contextmanager
def grpc_server(model_server):
    """Yield the address of a gRPC server; beyond its threads, it refuses at once."""
    stopped = threading.Event()

    def guarded(answer):
        def method(self, request, context):
            try:
                return answer(request)
            except RefusedError as error:
                return context.abort(error.code, str(error))
            except NeverAnsweredError:
                stopped.wait()
                return context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")

        return method

    def by_version(verb):
        def answer(request):
            spec = request.tasks[0].model_spec if hasattr(request, "tasks") else request.model_spec
            return getattr(model_server.find(spec), verb)(request)

        return guarded(answer)

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict = by_version("predict")
        Classify = by_version("classify")
        Regress = by_version("regress")
        MultiInference = by_version("multi_inference")
        GetModelMetadata = guarded(lambda request: model_server.find(request.model_spec).metadata())

    class Status(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = guarded(lambda request: model_server.status(request.model_spec))

    threads = model_server.threads["grpc"]
    server = grpc.server(futures.ThreadPoolExecutor(threads), maximum_concurrent_rpcs=threads)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        stopped.set()
        server.stop(None).wait()


_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?(?::(\w+))?")


@contextlib.contextmanager
def rest_server(model_server):
    """Yield the address of an HTTP server; beyond its threads, requests wait."""
    stopped, threads = threading.Event(), threading.Semaphore(model_server.threads["rest"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self._answer(b"")

        def do_POST(self):
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body):
            while not threads.acquire(timeout=0.05):
                if stopped.is_set():
                    return
            try:
                code, content = 200, rest_answer(model_server, self.path, body)
            except RefusedError as error:
                code = 404 if error.code == grpc.StatusCode.NOT_FOUND else 400
                content = {"error": str(error)}
            except NeverAnsweredError:
                stopped.wait()
                return
            finally:
                threads.release()
            encoded = json.dumps(content, indent=4).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # callers that connect at once

    server = Server(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


def rest_answer(model_server, path, body):
    """Return the JSON of an answer: the REST API over the same protobufs."""
    match = _PATH.fullmatch(path)
    if not match:
        raise RefusedError("Malformed request", grpc.StatusCode.NOT_FOUND)
    name, version, label, metadata, verb = match.groups()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    if version:
        request.model_spec.version.value = int(version)
    if label:
        request.model_spec.version_label = label
    if verb is None:
        spec = request.model_spec
        message = model_server.find(spec).metadata() if metadata else model_server.status(spec)
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    model = model_server.find(request.model_spec)
    asked = json.loads(body)
    request.model_spec.signature_name = asked.get("signature_name", "")
    return {"predict": _rest_predict, "classify": _rest_examples, "regress": _rest_examples}[verb](
        model, request, asked, verb
    )


def _rest_predict(model, request, asked, verb):
    definition = model.definitions.get(request.model_spec.signature_name or "serving_default")
    if definition is None:
        raise RefusedError(f'Serving signature name: "{request.model_spec.signature_name}" not found in signature def')
    if not definition.inputs:
        raise RefusedError(f"Failed to get input map for signature: {request.model_spec.signature_name}")
    columns = asked["instances"] if "instances" in asked else asked["inputs"]
    if "instances" in asked and isinstance(columns[0], dict):
        columns = {key: [row[key] for row in columns] for key in columns[0]}
    if not isinstance(columns, dict):  # the one input goes without its name
        [name] = definition.inputs
        columns = {name: columns}
    for key, value in columns.items():
        if key not in definition.inputs:
            raise RefusedError(f"JSON object: does not have named input: {key}")
        # A list of no rows, or of lists, is a tensor of that shape.
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value, definition.inputs[key].dtype))
    outputs = {key: _plain(tf.make_ndarray(value)) for key, value in model.predict(request).outputs.items()}
    if "inputs" in asked:
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return {"predictions": rows if len(outputs) > 1 else [next(iter(row.values())) for row in rows]}


def _rest_examples(model, request, asked, verb):
    request_type = classification_pb2.ClassificationRequest if verb == "classify" else regression_pb2.RegressionRequest
    examples = request_type(model_spec=request.model_spec)
    for row in asked["examples"]:
        example = examples.input.example_list.examples.add()
        for key, value in row.items():
            if isinstance(value, str):
                example.features.feature[key].bytes_list.value.append(value.encode())
            else:
                example.features.feature[key].int64_list.value.extend(value)
    if verb == "regress":
        return {"results": [row.value for row in model.regress(examples).result.regressions]}
    rows = model.classify(examples).result.classifications
    return {"results": [[[each.label, each.score] for each in row.classes] for row in rows]}


def _plain(value):
    if value.dtype == object:
        return [text.decode() for text in value.ravel()] if value.ndim == 1 else value.astype(str).tolist()
    return value.tolist()
