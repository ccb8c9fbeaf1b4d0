"""Whatever is sent to an exported model, it answers with finite numbers or says which rule was broken."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.data.text import encode_texts
from mtdnn_tf.modeling.model import INPUTS
from mtdnn_tf.serving.request_rules import int32_ids

REFUSED = tf.errors.InvalidArgumentError


@pytest.fixture(scope="module")
def models(exported):
    return {kind: tf.saved_model.load(str(path)) for kind, path in exported[3].items()}


@pytest.fixture(scope="module")
def text(models):
    return models["text"].signatures


@pytest.fixture(scope="module")
def ids(models):
    return models["ids"].signatures


def _ids(token_ids, segment_ids=None, padding_mask=None):
    token_ids = np.asarray(token_ids, np.int32)
    given = (token_ids, segment_ids, padding_mask)
    fallback = (None, np.zeros_like(token_ids), np.ones_like(token_ids))
    values = [other if value is None else value for value, other in zip(given, fallback, strict=True)]
    return {name: tf.constant(np.asarray(value, np.int32)) for name, value in zip(INPUTS, values, strict=True)}


def _columns(name, signatures, values):
    return {column: tf.constant(values) for column in signatures[name].structured_input_signature[1]}


def _answered(found, rows):
    for value in found.values():
        assert value.shape[0] == rows
        if value.dtype == tf.float32:
            assert np.isfinite(value.numpy()).all()
    if "probabilities" in found:
        np.testing.assert_allclose(tf.reduce_sum(found["probabilities"], axis=-1), np.ones(rows), atol=1e-5)
    return found


TEXT_SIGNATURES = ("mood", "follows", "close", "pick", "all_single", "all_pairs", "encode")
ODD = {
    "empty": b"",
    "blank": b" \t\r\n",
    "NUL": b"a\0b",
    "only NUL": b"\0" * 1000,
    "no UTF-8": b"\xff\xfe\x80 a \xc3\x28 \xed\xa0\x80",
    "cut short": "中".encode()[:2],
    "right to left": "‮שלום العالم‬".encode(),
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈".encode(),
    "combining": ("e" + "\u0301" * 500).encode(),
    "noncharacters": "\uffff\ufdd0\U0010ffff\ue000".encode(),
    "special tokens": b"[CLS] [SEP] [MASK] [PAD] [UNK] ##a",
    "one long word": b"a" * 100_000,
    "many words": b"good day " * 10_000,
}


@pytest.mark.parametrize("name", TEXT_SIGNATURES)
def test_odd_texts_are_answered(text, name):
    _answered(text[name](**_columns(name, text, list(ODD.values()))), len(ODD))


@pytest.mark.parametrize("odd", [*ODD.values()], ids=[*ODD])
def test_an_odd_text_does_not_change_its_neighbours(text, odd):
    alone = text["mood"](text=tf.constant(["a good day"]))["logits"]
    beside = text["mood"](text=tf.constant([odd, b"a good day"]))["logits"]
    np.testing.assert_allclose(beside[1:], alone, atol=1e-5)


@pytest.mark.parametrize("unit", [b"good day ", b"a", "中".encode(), b"\xff", b"\0"], ids=repr)
def test_texts_of_five_megabytes_are_answered(text, unit):
    _answered(text["mood"](text=tf.constant([unit * (5_000_000 // len(unit))])), 1)


def test_ten_thousand_random_strings_are_answered(text):
    generator = random.Random(1)
    texts = [generator.randbytes(generator.randrange(200)) for _ in range(10_000)]
    for start in range(0, len(texts), 500):
        half = texts[start : start + 500]
        _answered(text["all_pairs"](text_a=tf.constant(half), text_b=tf.constant(half[::-1])), 500)


@pytest.mark.parametrize("words", [44, 45, 46, 47, 48, 49, 50, 200, 5_000])
def test_long_texts_are_cut_as_in_training(exported, text, words):
    model, tasks, encoder, _ = exported
    follows = next(task for task in tasks if task.name == "follows")
    first, second = tf.constant(["a b c d " * words, "rain"]), tf.constant(["x " * words, "a b c d " * words])
    encoded = encode_texts([first, second], encoder.tokenizer, 48, follows.pair_order)
    assert encoded["token_ids"].shape == (2, 48)
    found = text["follows"](premise=first, hypothesis=second)["logits"]
    np.testing.assert_allclose(found, mtdnn.task_model(model, "follows")(encoded), atol=1e-5)
    single = encode_texts([second], encoder.tokenizer, 48)
    found = text["mood"](text=second)["logits"]
    np.testing.assert_allclose(found, mtdnn.task_model(model, "mood")(single), atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 1000])
@pytest.mark.parametrize("name", TEXT_SIGNATURES)
def test_batches_of_any_size_are_answered(text, ids, name, size):
    found = _answered(text[name](**_columns(name, text, np.array(["a good day"] * size, object).astype("S"))), size)
    assert {key: value.dtype for key, value in found.items()} == {
        key: spec.dtype for key, spec in text[name].structured_outputs.items()
    }
    _answered(ids[name](**_ids(np.full((size, 5), 7))), size)


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_no_examples_get_no_answers(models, kind):
    found = models[kind].signatures["mood/classify"](inputs=tf.zeros([0], tf.string))
    assert found["scores"].shape == (0, 2)


@pytest.mark.parametrize("name", ["follows", "close", "pick", "all_pairs"])
@pytest.mark.parametrize(("first", "second"), [(3, 2), (2, 3), (3, 1), (1, 3), (0, 2)])
def test_columns_of_unequal_length_are_refused(text, name, first, second):
    columns = text[name].structured_input_signature[1]
    inputs = {column: tf.fill([size], "a") for column, size in zip(sorted(columns), (first, second), strict=True)}
    with pytest.raises(REFUSED, match="each input must hold the same number of texts"):
        text[name](**inputs)


@pytest.mark.parametrize("value", ["a", [["a", "b"]]], ids=["scalar", "matrix"])
def test_texts_of_another_shape_are_refused(text, value):
    with pytest.raises(REFUSED, match=r"Shape of tensor .* is not compatible with expected shape \[\?\]"):
        text["mood"](text=tf.constant(value))


def test_wrong_types_are_refused(text, ids):
    with pytest.raises(REFUSED, match="expected to be a string tensor but is a int32 tensor"):
        text["mood"](text=tf.constant([1]))
    wide = {name: tf.cast(value, tf.int64) for name, value in _ids([[2, 40, 3]]).items()}
    with pytest.raises(REFUSED, match="expected to be a int32 tensor but is a int64 tensor"):
        ids["mood"](**wide)


def test_missing_and_unknown_inputs_are_named(text, ids):
    with pytest.raises(TypeError, match="missing a required argument: 'hypothesis'"):
        text["follows"](premise=tf.constant(["a"]))
    with pytest.raises(TypeError, match="unexpected keyword argument 'txt'"):
        text["mood"](text=tf.constant(["a"]), txt=tf.constant(["a"]))
    inputs = _ids([[2, 3]])
    del inputs["padding_mask"]
    with pytest.raises(TypeError, match="missing a required argument: 'padding_mask'"):
        ids["mood"](**inputs)


ROW = [[2, 40, 3]]
REFUSED_IDS = {
    "negative id": (_ids([[2, -1, 3]]), r"token_ids must be from 0 to 192; received\] \[-1\] \[to\] \[3\]"),
    "id out of the vocabulary": (_ids([[2, 193, 3]]), "token_ids must be from 0 to 192"),
    "greatest id": (_ids([[2, 2**31 - 1, 3]]), "token_ids must be from 0 to 192"),
    "id in padding": (_ids([[2, 3, -1]], padding_mask=[[1, 1, 0]]), "token_ids must be from 0 to 192"),
    "segment": (_ids(ROW, segment_ids=[[0, 0, 2]]), "segment_ids must be from 0 to 1"),
    "mask": (_ids(ROW, padding_mask=[[1, 1, -1]]), "padding_mask must be from 0 to 1"),
    "one too long": (_ids([[2] * 129]), r"the length must be from 1 to 128 tokens; received\] \[129\]"),
    "over 512": (_ids([[2] * 513]), "the length must be from 1 to 128 tokens"),
    "none too long": (_ids(np.zeros((0, 129))), "the length must be from 1 to 128 tokens"),
    "no tokens": (_ids(np.zeros((2, 0))), "the length must be from 1 to 128 tokens"),
    "shorter segments": (_ids(ROW, segment_ids=[[0, 0]]), "segment_ids must have the shape of token_ids"),
    "segments that would be broadcast": (_ids(ROW, segment_ids=[[0]]), "segment_ids must have the shape"),
    "mask of one row": (_ids(ROW * 2, padding_mask=[[1, 1, 1]]), "padding_mask must have the shape of token_ids"),
    "a row without a batch": (_ids([2, 40, 3]), r"Shape of tensor .* is not compatible with expected shape \[\?,\?\]"),
}


@pytest.mark.parametrize("name", ["mood", "follows", "pick", "all_pairs", "all_single", "encode"])
@pytest.mark.parametrize(("inputs", "message"), [*REFUSED_IDS.values()], ids=[*REFUSED_IDS])
def test_ids_that_mean_nothing_are_refused(ids, name, inputs, message):
    with pytest.raises(REFUSED, match=message):
        ids[name](**inputs)


@pytest.mark.parametrize("name", ["mood", "follows", "close", "pick", "all_pairs", "encode"])
def test_rows_without_a_real_token_are_answered(ids, name):
    _answered(ids[name](**_ids(ROW * 2, padding_mask=[[0, 0, 0], [1, 1, 1]])), 2)
    _answered(ids[name](**_ids(ROW, segment_ids=[[1, 1, 1]])), 1)  # no first text
    _answered(ids[name](**_ids([[2] * 128])), 1)  # as long as can be


def test_an_empty_request_of_ids_gets_an_empty_answer(ids):
    assert ids["mood"](**_ids(np.zeros((0, 0))))["probabilities"].shape == (0, 2)


def test_ids_of_examples_are_not_wrapped_round(ids):
    features = {name: [2, 40, 3] for name in INPUTS} | {"segment_ids": [0] * 3, "padding_mask": [1] * 3}
    _answered({"scores": ids["mood/classify"](inputs=_example(features))["scores"]}, 1)
    for wrong in (2**32 + 5, -(2**32) + 5):
        with pytest.raises(REFUSED, match="token_ids must be from 0 to 192"):
            ids["mood/classify"](inputs=_example(features | {"token_ids": [2, wrong, 3]}))
    unequal = _example(features | {"segment_ids": [0]})
    for examples in (unequal, tf.concat([_example(features), unequal], 0)):
        with pytest.raises(REFUSED, match="each example must have as many values of segment_ids as of token_ids"):
            ids["mood/classify"](inputs=examples)
    assert int32_ids(tf.constant([5, 2**40, -(2**40)], tf.int64)).numpy().tolist() == [5, 2**31 - 1, -(2**31)]


def _example(features):
    lists = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for name, value in features.items()}
    return tf.constant([tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()])


@pytest.mark.parametrize("broken", [b"", b"no example", b"\xff\xff"], ids=["empty", "text", "bytes"])
def test_what_is_no_example_is_refused(text, broken):
    # TensorFlow's message quotes the bytes; where they are no UTF-8, its Python front end fails to decode its own message.
    with pytest.raises(
        (REFUSED, UnicodeDecodeError), match=r"Feature: text .* is required|Could not parse|codec can't"
    ):
        text["mood/classify"](inputs=tf.constant([broken]))


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_eight_threads_get_the_answers_of_one(models, kind):
    generator = np.random.default_rng(1)
    signature = models[kind].signatures["all_pairs"]
    requests = []
    for size in generator.integers(1, 9, 64):
        if kind == "text":
            texts = [" ".join(generator.choice(["rain", "tea", "a", "dog"], 12)) for _ in range(size)]
            requests.append({"text_a": tf.constant(texts), "text_b": tf.constant(texts[::-1])})
        else:
            requests.append(_ids(generator.integers(0, 193, (size, generator.integers(1, 129)))))
    serial = [signature(**request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda request: signature(**request), requests))
    for one, other in zip(serial, threaded, strict=True):
        assert set(one) == set(other)
        for name, value in one.items():
            if value.dtype == tf.string:
                assert value.numpy().tolist() == other[name].numpy().tolist()
            else:
                np.testing.assert_allclose(value, other[name], atol=1e-6)


def test_an_export_cannot_cut_texts_longer_than_the_encoder_takes(exported, tmp_path):
    model, tasks, encoder, _ = exported
    with pytest.raises(
        mtdnn.UserError, match="max_length: must be from 3 to the 128 positions of the encoder; received 129"
    ):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path, max_length=129)
