"""One version of a model as TensorFlow Serving runs it: its protobufs, its checks of requests, its batches, the graph in a session.

What TensorFlow Serving checks before it runs a request is checked here too, with the rules of its predict_util.cc, classifier.cc,
regressor.cc and multi_inference.cc, so that a request or a model that it would refuse is refused in tests. Batches follow its
batching_session.cc; that requests without rows are never answered, and what padding does, was seen with tensorflow_model_server
2.20.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (TensorFlow Serving links these ops)
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class RefusedError(ValueError):
    """A request that TensorFlow Serving refuses."""

    def __init__(self, message, code=grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code


class NeverAnsweredError(Exception):
    """A request that TensorFlow Serving takes and never answers; the thread that took it is lost."""


class ServerDiedError(Exception):
    """Requests at which TensorFlow Serving reads memory that is not its own."""


@dataclass(frozen=True)
class Batching:
    """How runs of several callers become one: the message of --batching_parameters_file."""

    parameters: Any

    def merge(self, runs):
        """Return what the session is fed for these runs together, each a dict of arrays."""
        for run in runs:
            self._check(run)
        total = sum(_rows(run) for run in runs)
        size = next((size for size in self.parameters.allowed_batch_sizes if size >= total), total)
        fed = {}
        for name in runs[0]:
            values = self._alike([run[name] for run in runs])
            # Rows up to the next allowed size are copies of the first.
            fed[name] = np.concatenate([*values, *[values[0][:1]] * (size - total)])
        return fed

    def _check(self, run):
        if not run:
            raise RefusedError("Batching session Run() must have at least one input tensor")
        if any(not value.ndim for value in run.values()):
            raise RefusedError("Batching session Run() input tensors must have at least one dimension")
        if len({len(value) for value in run.values()}) > 1:
            raise RefusedError("Batching session Run() input tensors must have equal 0th-dimension size")
        if not _rows(run):
            raise NeverAnsweredError
        if _rows(run) > self.parameters.max_batch_size.value:
            raise RefusedError("Task size is larger than maximum input batch size")

    def _alike(self, values):
        if len({value.shape[1:] for value in values}) == 1:
            return values
        if not self.parameters.pad_variable_length_inputs:
            reason = "from different tasks have different shapes and padding is turned off"
            raise RefusedError(f"Tensors {reason}", grpc.StatusCode.FAILED_PRECONDITION)
        if len({value.ndim for value in values}) > 1:
            raise ServerDiedError
        longest = np.max([value.shape[1:] for value in values], axis=0)
        return [
            np.pad(
                value,
                [(0, 0), *((0, most - own) for most, own in zip(longest, value.shape[1:], strict=True))],
                constant_values=value.flat[0],
            )
            for value in values
        ]


def _rows(run):
    return len(next(iter(run.values())))


class LoadedModel:
    """One version in a session."""

    def __init__(self, folder, name="quickstart", batching=None):
        self.name, self.version, self.batching = name, int(folder.name), batching
        self.graphs = set()  # feeds and fetches of each run: TensorFlow prepares a graph for each, at its first run
        self.sizes = set()  # rows of each run
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self.definitions = dict(meta_graph.signature_def)

    def close(self):
        self._session.close()

    def predict(self, request):
        return self.predict_together([request])[0]

    def predict_together(self, requests):
        """Answer requests to one signature that come at once: where the server batches, in one run."""
        calls = [self._predict_call(request) for request in requests]
        [fetches] = {tuple(call[0].items()) for call in calls}
        responses = []
        for request, outputs in zip(requests, self._run(dict(fetches), [fed for _, fed in calls]), strict=True):
            response = predict_pb2.PredictResponse()
            self._name(response.model_spec, request.model_spec)
            for key, value in outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            responses.append(response)
        return responses

    def _predict_call(self, request):
        definition = self._definition(request.model_spec.signature_name)
        if set(request.inputs) != set(definition.inputs):
            raise RefusedError(f"input keys {sorted(request.inputs)} are not those of the signature")
        fed = {}
        for key, value in request.inputs.items():
            if value.dtype != definition.inputs[key].dtype:
                raise RefusedError(f"input {key}: wrong type")
            fed[definition.inputs[key].name] = tf.make_ndarray(value)
        if unknown := set(request.output_filter) - set(definition.outputs):
            raise RefusedError(f"output tensor alias not found in signature: {min(unknown)}")
        fetched = request.output_filter or definition.outputs
        return {key: definition.outputs[key].name for key in fetched}, fed

    def classify(self, request):
        definition, fed, rows = self._example_call(request.model_spec.signature_name, request.input, CLASSIFY)
        response = classification_pb2.ClassificationResponse()
        self._name(response.model_spec, request.model_spec)
        [outputs] = self._run({key: tensor.name for key, tensor in definition.outputs.items()}, [fed])
        _fill_classes(response.result, outputs, rows)
        return response

    def regress(self, request):
        definition, fed, rows = self._example_call(request.model_spec.signature_name, request.input, REGRESS)
        response = regression_pb2.RegressionResponse()
        self._name(response.model_spec, request.model_spec)
        [outputs] = self._run({"outputs": definition.outputs["outputs"].name}, [fed])
        _fill_values(response.result, outputs, rows)
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
        [answers] = self._run(fetched, [calls[0][1]])
        for task, outputs in zip(request.tasks, answers, strict=True):
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

    def _run(self, fetches, runs):
        """Return the outputs of each run: of one, or where the server batches, of several in one."""
        fed = self.batching.merge(runs) if self.batching else runs[0]
        self.graphs.add((*sorted(fed), *sorted(tf.nest.flatten(fetches))))
        self.sizes.add(_rows(fed))
        try:
            outputs = self._session.run(fetches, fed)
        except tf.errors.InvalidArgumentError as error:  # of one caller, for all of the batch
            raise RefusedError(str(error).splitlines()[0]) from None
        ends = np.cumsum([_rows(run) for run in runs])
        if not self.batching:
            return [outputs]
        return [
            tf.nest.map_structure(lambda value, start=start, end=end: value[start:end], outputs)
            for start, end in zip([0, *ends], ends, strict=False)
        ]

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
