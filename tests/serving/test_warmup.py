"""Warm-up requests: one for every signature, bucket length and batch size, each of them one that the server takes."""

from __future__ import annotations

import functools
import itertools
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.data.text import encode_texts
from mtdnn_tf.data.words import WordTokenizer, build_vocabulary
from mtdnn_tf.serving.warmup import (
    BATCH_SIZES,
    MAX_REQUESTS,
    WARMUP_FILE,
    Warmup,
    missing_warmup,
    warmup_shapes,
)
from tests.serving.server import CLASSIFY, REGRESS, LoadedModel, RefusedError, replay

LENGTHS = (16, 32, 48)  # the buckets up to the 48 tokens of the exported model


@pytest.fixture(scope="module", params=EXPORT_KINDS)
def warmed(request, exported):
    """The kind, the model as a server loads it, and its warm-up requests."""
    path = exported[3][request.param]
    records = tf.data.TFRecordDataset(str(path / WARMUP_FILE))
    model = LoadedModel(path)
    yield request.param, model, [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    model.close()


def _request(log):
    return getattr(log, log.WhichOneof("log_type")).request


def _signatures(log):
    request = _request(log)
    return [task.model_spec.signature_name for task in getattr(request, "tasks", [])] or [
        request.model_spec.signature_name
    ]


def _is_single(log):
    """Return whether a request needs no more than one shape."""
    return bool(getattr(_request(log), "output_filter", ())) or _signatures(log) == ["metadata"]


def _shape(log, kind, tokenizer):
    """Return (length in tokens, rows) of a request; its rows are all alike."""
    request = _request(log)
    if hasattr(request, "inputs"):
        values = {name: tf.make_ndarray(value) for name, value in sorted(request.inputs.items())}
        if kind == "ids":
            return values["token_ids"].shape[::-1]
        rows = [tuple(row) for row in zip(*values.values(), strict=True)]
    else:
        features = [each.features.feature for each in request.input.example_list.examples]
        if kind == "ids":
            return len(features[0]["token_ids"].int64_list.value), len(features)
        # Where examples are for several tasks, those of one of them.
        columns = sorted(features[0]) if len(features[0]) < 3 else ["hypothesis", "premise"]
        rows = [tuple(each[name].bytes_list.value[0] for name in columns) for each in features]
    assert len(set(rows)) == 1
    return _tokens(rows[0], tokenizer), len(rows)


@functools.cache
def _tokens(texts, tokenizer):
    return encode_texts([tf.constant([text]) for text in texts], tokenizer, 1000)["token_ids"].shape[1]


def test_every_signature_is_asked_at_every_length_and_batch_size(warmed, exported):
    kind, model, logs = warmed
    whole = [log for log in logs if not _is_single(log)]
    asked = [(*_shape(log, kind, exported[2].tokenizer), tuple(_signatures(log))) for log in whole]
    predictions = [(name,) for name in model.definitions if name != "metadata" and not name.startswith("__")]
    together = tuple(
        name for name in sorted(model.definitions) if model.definitions[name].method_name in (CLASSIFY, REGRESS)
    )
    assert len(together) == 4
    expected = itertools.product(LENGTHS, BATCH_SIZES, [*predictions, together])
    assert sorted(asked) == sorted((length, size, names) for length, size, names in expected)


def _predict(model, kind, signature, outputs):
    """Ask for some outputs of a row, as a caller with an `output_filter` does."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.signature_name = signature
    for name, tensor in model.definitions[signature].inputs.items():
        value = ["fine"] if tensor.dtype == tf.string else np.ones([1, 20], np.int32)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return model.predict(request)


def test_the_outputs_that_callers_ask_for_alone_are_warmed_up(warmed):
    """TensorFlow prepares a graph at the first run of each set of outputs."""
    kind, model, logs = warmed
    model.graphs.clear()
    for log in filter(_is_single, logs):
        replay(model, log)
    ready = set(model.graphs)
    for signature in ("mood", "follows"):
        for output in ("label", "probabilities"):
            assert list(_predict(model, kind, signature, [output]).outputs) == [output]
    _predict(model, kind, "encode", ["pooled"])
    _predict(model, kind, "metadata", [])
    assert model.graphs == ready
    _predict(model, kind, "mood", ["logits", "label"])
    assert len(model.graphs - ready) == 1
    with pytest.raises(RefusedError, match="alias not found in signature: score"):
        _predict(model, kind, "mood", ["score"])


def test_a_frozen_model_is_not_warmed_up_by_output(exported, tmp_path):
    """Each set of outputs holds the constants of a frozen encoder again."""
    _, tasks, encoder, paths = exported
    signatures = tf.saved_model.load(str(paths["text"])).signatures
    counts = {
        filters: Warmup(signatures, {}, tasks, encoder.tokenizer, 48, "text", filters).write(tmp_path, [48])
        for filters in (True, False)
    }
    assert counts[True] - counts[False] == 2 + 2 + 1  # of two classifications and `encode`


def test_each_request_is_of_the_kind_that_its_signature_answers(warmed):
    _, model, logs = warmed
    kinds = {"predict_log": "tensorflow/serving/predict", "classify_log": CLASSIFY, "regress_log": REGRESS}
    for log in logs:
        which = log.WhichOneof("log_type")
        if which == "multi_inference_log":
            for task in _request(log).tasks:
                assert model.definitions[task.model_spec.signature_name].method_name == task.method_name
        else:
            assert model.definitions[_signatures(log)[0]].method_name == kinds[which]


def test_the_server_takes_each_request_and_answers_each_row(warmed, exported):
    kind, model, logs = warmed
    for log in logs:
        answer = replay(model, log)
        rows = 1 if _is_single(log) else _shape(log, kind, exported[2].tokenizer)[1]
        if log.WhichOneof("log_type") == "predict_log":
            assert {tf.make_ndarray(value).shape[0] for value in answer.outputs.values()} == {rows}
        elif log.WhichOneof("log_type") == "multi_inference_log":
            for result in answer.results:
                listed = result.classification_result.classifications or result.regression_result.regressions
                assert len(listed) == rows
        else:
            result = answer.result
            assert len(result.classifications if hasattr(result, "classifications") else result.regressions) == rows


def test_requests_to_several_tasks_at_once_answer_as_each_alone(warmed):
    _, model, logs = warmed
    log = next(log for log in logs if log.WhichOneof("log_type") == "multi_inference_log")
    request = _request(log)
    together = model.multi_inference(request)
    for task, result in zip(request.tasks, together.results, strict=True):
        alone = prediction_log_pb2.PredictionLog()
        which = task.method_name.rsplit("/", 1)[-1]
        single = getattr(alone, f"{which}_log").request
        single.model_spec.CopyFrom(task.model_spec)
        single.input.CopyFrom(request.input)
        if which == "classify":
            found, expected = result.classification_result, model.classify(single).result
            scores = [[each.score for each in row.classes] for row in found.classifications]
            assert scores == [
                pytest.approx([each.score for each in row.classes], abs=1e-6) for row in expected.classifications
            ]
        else:
            values = [row.value for row in result.regression_result.regressions]
            assert values == pytest.approx([row.value for row in model.regress(single).result.regressions], abs=1e-6)


def test_what_a_server_refuses_is_refused_here(warmed):
    _, model, logs = warmed
    request = _request(next(log for log in logs if log.WhichOneof("log_type") == "multi_inference_log"))
    request.tasks.add().CopyFrom(request.tasks[0])
    with pytest.raises(RefusedError, match="Duplicate"):
        model.multi_inference(request)
    wrong = _request(next(log for log in logs if log.WhichOneof("log_type") == "classify_log"))
    wrong.model_spec.signature_name = "mood"
    with pytest.raises(RefusedError, match="method_name"):
        model.classify(wrong)


def test_what_was_exported_without_them_says_so(exported, tmp_path, monkeypatch):
    _, tasks, encoder, paths = exported
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    assert Warmup({}, {}, tasks, encoder.tokenizer, 48, "text").write(tmp_path, LENGTHS) == 0
    assert "tensorflow-serving-api is missing" in missing_warmup(tmp_path)
    assert [missing_warmup(path) for path in paths.values()] == ["", ""]


@pytest.mark.parametrize("signatures", [1, 13, 50, 83, 160, 249, 900])
def test_there_are_never_more_requests_than_a_server_takes(signatures):
    buckets = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    shapes = warmup_shapes(signatures, buckets, 512)
    assert 0 < signatures * len(shapes) <= MAX_REQUESTS
    assert max(length for length, _ in shapes) == 512
    if signatures <= 16:
        assert len(shapes) == 60
    if signatures <= 249:
        assert {16, 512} <= {length for length, _ in shapes}
        assert {1, 32} <= {size for _, size in shapes}


@pytest.mark.parametrize(("texts", "word"), [(["это это фильм"], "это"), (["да да film"], "film"), (["123 45"], "a")])
def test_a_word_is_found_in_any_vocabulary(texts, word):
    tokenizer = WordTokenizer(build_vocabulary([texts]))
    assert Warmup({}, {}, (), tokenizer, 16, "text")._word == word
    assert tokenizer(tf.constant([word])).row_lengths()[0] == 1
