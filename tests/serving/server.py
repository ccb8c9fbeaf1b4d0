"""A small server that answers as TensorFlow Serving does: its protobufs and REST paths, the graph in a session.

What TensorFlow Serving checks before it runs a request is checked here too, with the rules of its predict_util.cc, classifier.cc,
regressor.cc and multi_inference.cc, so that a request or a model that it would refuse is refused in tests.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (TensorFlow Serving links these ops)
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class RefusedError(ValueError):
    """A request that TensorFlow Serving refuses."""

    def __init__(self, message, code=grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code


class LoadedModel:
    """One version in a session."""

    def __init__(self, folder, name="quickstart", labels=("stable", "canary")):
        self.name, self.version, self.labels = name, int(folder.name), labels
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self.definitions = dict(meta_graph.signature_def)

    def close(self):
        self._session.close()

    def find(self, spec):
        if spec.name != self.name:
            raise RefusedError(f"Servable not found for request: Latest({spec.name})", grpc.StatusCode.NOT_FOUND)
        if spec.WhichOneof("version_choice") == "version_label" and spec.version_label not in self.labels:
            raise RefusedError(f"Unrecognized servable version label: {spec.version_label}")
        if spec.HasField("version") and spec.version.value != self.version:
            raise RefusedError(
                f"Servable not found for request: Specific({spec.name}, {spec.version.value})",
                grpc.StatusCode.NOT_FOUND,
            )

    def predict(self, request):
        definition = self._definition(request.model_spec.signature_name)
        if set(request.inputs) != set(definition.inputs):
            raise RefusedError(f"input keys {sorted(request.inputs)} are not those of the signature")
        fed = {}
        for key, value in request.inputs.items():
            if value.dtype != definition.inputs[key].dtype:
                raise RefusedError(f"input {key}: wrong type")
            fed[definition.inputs[key].name] = tf.make_ndarray(value)
        response = predict_pb2.PredictResponse()
        self._name(response.model_spec, request.model_spec)
        for key, value in self._run({key: tensor.name for key, tensor in definition.outputs.items()}, fed).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def classify(self, request):
        definition, fed, rows = self._example_call(request.model_spec.signature_name, request.input, CLASSIFY)
        response = classification_pb2.ClassificationResponse()
        self._name(response.model_spec, request.model_spec)
        outputs = self._run({key: tensor.name for key, tensor in definition.outputs.items()}, fed)
        _fill_classes(response.result, outputs, rows)
        return response

    def regress(self, request):
        definition, fed, rows = self._example_call(request.model_spec.signature_name, request.input, REGRESS)
        response = regression_pb2.RegressionResponse()
        self._name(response.model_spec, request.model_spec)
        _fill_values(response.result, self._run({"outputs": definition.outputs["outputs"].name}, fed), rows)
        return response

    def multi_inference(self, request):
        """Run all tasks of a request at once: one model, no signature twice, and the same input tensor for all."""
        names = [task.model_spec.signature_name for task in request.tasks]
        if not all(task.model_spec.name for task in request.tasks):
            raise RefusedError("Found ModelSpec with an empty model name.")
        if len(set(names)) < len(names):
            raise RefusedError("Duplicate evaluation of signature")
        calls = [
            self._example_call(name, request.input, task.method_name)
            for name, task in zip(names, request.tasks, strict=True)
        ]
        if len({tuple(fed) for _, fed, _ in calls}) > 1:
            raise RefusedError("Input tensor must be the same for all Signatures.")
        fetched = [{key: tensor.name for key, tensor in definition.outputs.items()} for definition, _, _ in calls]
        response = inference_pb2.MultiInferenceResponse()
        for task, outputs in zip(request.tasks, self._run(fetched, calls[0][1]), strict=True):
            result = response.results.add()
            self._name(result.model_spec, task.model_spec)
            if task.method_name == CLASSIFY:
                _fill_classes(result.classification_result, outputs, calls[0][2])
            else:
                _fill_values(result.regression_result, outputs, calls[0][2])
        return response

    def metadata(self):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in self.definitions.items():
            found.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(found)
        return response

    def status(self):
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(
            version=self.version, state=get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
        )
        return response

    def _definition(self, name):
        if (name or "serving_default") not in self.definitions:
            raise RefusedError(f'Serving signature name: "{name}" not found in signature def')
        return self.definitions[name or "serving_default"]

    def _example_call(self, name, given, method):
        definition = self._definition(name)
        if definition.method_name != method:
            raise RefusedError(f"Expected signature method_name {method}; got {definition.method_name}")
        examples = [example.SerializeToString() for example in given.example_list.examples]
        if not examples:
            raise RefusedError("Input is empty.")
        return definition, {definition.inputs["inputs"].name: np.array(examples, dtype=object)}, len(examples)

    def _run(self, fetches, fed):
        try:
            return self._session.run(fetches, fed)
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError(str(error).splitlines()[0]) from None

    def _name(self, target, source):
        target.name, target.signature_name = self.name, source.signature_name
        target.version.value = self.version


def _fill_classes(result, outputs, rows):
    classes, scores = outputs["classes"], outputs["scores"]
    if classes.dtype != object or scores.dtype != np.float32 or classes.shape != scores.shape or len(classes) != rows:
        raise RefusedError("Expected classes and scores as [batch, classes] of string and float")
    for row_classes, row_scores in zip(classes, scores, strict=True):
        row = result.classifications.add()
        for label, score in zip(row_classes, row_scores, strict=True):
            row.classes.add(label=label.decode(), score=score)


def _fill_values(result, outputs, rows):
    values = outputs["outputs"]
    if values.dtype != np.float32 or values.shape not in ((rows,), (rows, 1)):
        raise RefusedError("Expected output as [batch] or [batch, 1] of float")
    for value in values.reshape(-1):
        result.regressions.add(value=value)


def replay(model, log):
    """Answer a warm-up request as TensorFlow Serving does when it loads a version."""
    which = log.WhichOneof("log_type")
    answer = {
        "predict_log": model.predict,
        "classify_log": model.classify,
        "regress_log": model.regress,
        "multi_inference_log": model.multi_inference,
    }[which]
    return answer(getattr(log, which).request)


@contextlib.contextmanager
def grpc_server(model):
    """Yield the address of a gRPC server."""

    def guarded(answer):
        def method(self, request, context):
            try:
                spec = request.tasks[0].model_spec if hasattr(request, "tasks") else request.model_spec
                model.find(spec)
                return answer(request)
            except RefusedError as error:
                return context.abort(error.code, str(error))

        return method

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        Predict = guarded(model.predict)
        Classify = guarded(model.classify)
        Regress = guarded(model.regress)
        MultiInference = guarded(model.multi_inference)
        GetModelMetadata = guarded(lambda request: model.metadata())

    class Status(model_service_pb2_grpc.ModelServiceServicer):
        GetModelStatus = guarded(lambda request: model.status())

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?(?::(\w+))?")


@contextlib.contextmanager
def rest_server(model):
    """Yield the address of an HTTP server."""

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
            try:
                code, content = 200, rest_answer(model, self.path, body)
            except RefusedError as error:
                code = 404 if error.code == grpc.StatusCode.NOT_FOUND else 400
                content = {"error": str(error)}
            encoded = json.dumps(content, indent=4).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rest_answer(model, path, body):
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
    model.find(request.model_spec)
    if verb is None:
        return json_format.MessageToDict(
            model.metadata() if metadata else model.status(), preserving_proto_field_name=True
        )
    asked = json.loads(body)
    request.model_spec.signature_name = asked.get("signature_name", "")
    return {"predict": _rest_predict, "classify": _rest_examples, "regress": _rest_examples}[verb](
        model, request, asked, verb
    )


def _rest_predict(model, request, asked, verb):
    definition = model.definitions.get(request.model_spec.signature_name or "serving_default")
    if definition is None:
        raise RefusedError(f'Serving signature name: "{request.model_spec.signature_name}" not found in signature def')
    columns = asked.get("inputs")
    if columns is None:
        columns = {key: [row[key] for row in asked["instances"]] for key in asked["instances"][0]}
    for key, value in columns.items():
        if key not in definition.inputs:
            raise RefusedError(f"JSON object: does not have named input: {key}")
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
