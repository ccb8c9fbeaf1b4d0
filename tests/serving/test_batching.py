"""Requests of several callers in one batch, with the settings of export/batching_parameters.txt and with others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.serving.warmup import BATCH_SIZES
from tests.serving import kit
from tests.serving.server import Batching, LoadedModel, NeverAnsweredError, RefusedError, ServerDiedError


def _batching(pad=None):
    """Return the settings of the file, or with padding switched."""
    parameters = kit.batching_parameters()
    if pad is not None:
        parameters.pad_variable_length_inputs = pad
    return Batching(parameters)


@pytest.fixture(scope="module")
def loaded(exported):
    models = {kind: LoadedModel(path) for kind, path in exported[3].items()}
    yield models
    for model in models.values():
        model.close()


@pytest.fixture
def models(loaded):
    """The models of both kinds, batching as the file says."""
    for model in loaded.values():
        model.batching = _batching()
    return loaded


def _request(signature, **columns):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, values in columns.items():
        value = values if isinstance(values, np.ndarray) else tf.constant(values, tf.string)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def _ids_request(tokens, length=None):
    """Return a request of one row of ids, filled up with zeros as a caller has to do it."""
    row = np.array([tokens + [0] * ((length or len(tokens)) - len(tokens))], np.int32)
    mask = np.arange(row.shape[1])[None] < len(tokens)
    values = (row, np.zeros_like(row), mask.astype(np.int32))
    return _request("encode", **dict(zip(INPUTS, values, strict=True)))


def _pooled(response):
    """Return the vectors of the texts, `[rows, d]`: of random weights they differ more than probabilities."""
    return tf.make_ndarray(response.outputs["pooled"])


def _alone(model, request):
    model.batching = None
    return _pooled(model.predict(request))


def test_callers_in_one_batch_get_the_answers_that_each_gets_alone(models):
    model = models["text"]
    requests = [
        _request("encode", text=texts) for texts in (["fine"], ["a bad day", ""], ["the milk " * 30], ["tea"] * 9)
    ]
    together = [_pooled(response) for response in model.predict_together(requests)]
    for request, found in zip(requests, together, strict=True):
        np.testing.assert_allclose(found, _alone(model, request), atol=1e-5)


@pytest.mark.parametrize("rows", [[1], [1, 2], [2, 3, 4], [16, 1], [32]])
def test_batches_run_in_sizes_that_are_warmed_up(models, rows):
    model = models["text"]
    model.sizes.clear()
    answers = model.predict_together([_request("encode", text=["tea"] * count) for count in rows])
    assert [len(_pooled(answer)) for answer in answers] == rows
    [size] = model.sizes
    assert sum(rows) <= size <= 2 * sum(rows)
    assert size in BATCH_SIZES


def test_one_request_holds_no_more_rows_than_a_batch(models):
    with pytest.raises(RefusedError, match="larger than maximum input batch size"):
        models["text"].predict(_request("mood", text=["tea"] * 33))


NESTED = {
    "matrix": _request("mood", text=[["nested"]]),
    "wide matrix": _request("mood", text=[["a", "b"], ["c", "d"]]),
    "cube": _request("mood", text=[[["nested"]]]),
    "matrix of no columns": _request("mood", text=[[]]),
}


@pytest.mark.parametrize("case", NESTED)
def test_a_request_of_another_rank_does_not_end_the_server(models, case):
    """With padding the server reads out of bounds where ranks differ; without, the callers of that batch are refused."""
    plain = _request("mood", text=["fine"])
    with pytest.raises(RefusedError):
        models["text"].predict_together([plain, plain, NESTED[case]])
    models["text"].batching = _batching(pad=True)
    with pytest.raises(ServerDiedError):
        models["text"].predict_together([plain, plain, NESTED[case]])


@pytest.mark.parametrize(("short", "long"), [(3, 12), (1, 2), (5, 47)])
def test_ids_of_different_lengths_are_never_answered_wrongly(models, short, long):
    """Padding repeats a tensor's first value: the mask's 1 among them, so that [CLS] is read again and again."""
    model = models["ids"]
    requests = [_ids_request([2, *[40] * (short - 1)]), _ids_request([2, *[41] * (long - 1)])]
    with pytest.raises(RefusedError, match="different shapes and padding is turned off"):
        model.predict_together(requests)
    model.batching = _batching(pad=True)
    padded = _pooled(model.predict_together(requests)[0])
    assert np.abs(padded - _alone(model, requests[0])).max() > 1e-3


def test_ids_that_callers_fill_up_to_one_length_are_answered_together(models):
    model = models["ids"]
    rows = [[2, 40, 3], [2, *[41] * 11, 3]]
    together = model.predict_together([_ids_request(tokens, 16) for tokens in rows])
    for tokens, found in zip(rows, together, strict=True):
        np.testing.assert_allclose(_pooled(found), _alone(model, _ids_request(tokens)), atol=1e-5)


EMPTY = {
    "a pair": _request("pick", question=[], answer=[]),
    "a text": _request("mood", text=[]),
    "all tasks": _request("all_pairs", text_a=[], text_b=[]),
    "encode": _request("encode", text=[]),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_request_without_rows_is_answered_only_where_the_server_does_not_batch(models, case):
    model = models["text"]
    with pytest.raises(NeverAnsweredError):
        model.predict(EMPTY[case])
    model.batching = None
    assert {value.tensor_shape.dim[0].size for value in model.predict(EMPTY[case]).outputs.values()} == {0}


@pytest.mark.parametrize(("first", "second"), [(["who?"], ["a", "b"]), ([], ["a"]), (["who?"], [])])
def test_columns_of_unequal_length_are_refused_before_they_are_batched(models, first, second):
    with pytest.raises(RefusedError, match="equal 0th-dimension size"):
        models["text"].predict(_request("pick", question=first, answer=second))


@pytest.mark.parametrize("kind", ["text", "ids"])
@pytest.mark.parametrize("batched", [True, False])
def test_metadata_is_answered_row_by_row(models, exported, kind, batched):
    model = models[kind]
    model.batching = _batching() if batched else None
    expected = json.loads((exported[3][kind] / "assets" / "metadata.json").read_text())
    answers = model.predict_together(
        [_request("metadata", any_text=texts) for texts in ([""], ["a", "b"])[: 1 + batched]]
    )
    for answer, rows in zip(answers, (1, 2), strict=False):
        found = [json.loads(text) for text in tf.make_ndarray(answer.outputs["json"])]
        assert found == [expected] * rows


def test_a_signature_without_inputs_cannot_be_batched(models):
    with pytest.raises(RefusedError, match="at least one input"):
        models["text"].batching.merge([{}])


def test_token_embeddings_are_as_long_as_the_longest_text_of_the_batch(models):
    model = models["text"]
    requests = [_request("encode", text=["tea"]), _request("encode", text=["the milk is bad " * 5])]
    short, long = (
        {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
        for answer in model.predict_together(requests)
    )
    assert short["token_embeddings"].shape[1] == long["token_embeddings"].shape[1]
    model.batching = None
    alone = {name: tf.make_ndarray(value) for name, value in model.predict(requests[0]).outputs.items()}
    length = alone["token_mask"].shape[1]
    assert length < short["token_mask"].shape[1]
    # `token_mask` says where the text ends.
    assert short["token_mask"].sum() == alone["token_mask"].sum() == length
    np.testing.assert_allclose(short["token_embeddings"][:, :length], alone["token_embeddings"], atol=1e-5)


def test_a_field_that_the_server_does_not_know_is_refused():
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_sizes { value: 1 }", kit.message("BatchingParameters"))
