"""Inference by few operations is that of the layers: outputs, task tokens, formats; and it follows the weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.modeling.weights import LiveWeights
from mtdnn_tf.serving.served_encoder import ServedEncoder
from tests.modeling.test_fused import _backbone, _inputs

KINDS = [("bert", ",activation=gelu"), ("bert", ",activation=gelu_new"), ("bert", ",activation=relu"), ("words", "")]


def _compared(backbone, inputs, *first_tokens):
    """Return the outputs of both ways, those of padding set to 0."""
    found = []
    for backbone.fused in (False, True):
        outputs = backbone(inputs, *first_tokens, training=False)
        length = outputs["sequence_output"].shape[1]
        mask = tf.ones([len(inputs["padding_mask"]), length])
        own = tf.cast(inputs["padding_mask"], tf.float32)
        mask = tf.concat([mask[:, : length - own.shape[1] + 1], own[:, 1:]], axis=1)[..., tf.newaxis]
        outputs["sequence_output"] = tf.cast(outputs["sequence_output"], tf.float32) * mask
        found.append({name: tf.cast(value, tf.float32).numpy() for name, value in outputs.items()})
    return found


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_outputs_are_those_of_the_layers(kind, more):
    layers, fast = _compared(_backbone(kind, dropout=0.3, more=more), _inputs())
    for name, value in layers.items():
        np.testing.assert_allclose(fast[name], value, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "words"])
@pytest.mark.parametrize("count", [1, 3])
def test_first_tokens_take_the_place_of_cls(kind, count):
    tokens = tf.random.stateless_normal([5, count, 48], [1, 2])
    layers, fast = _compared(_backbone(kind), _inputs(), tokens)
    assert fast["pooled_output"].shape == (5, count, 48)
    for name, value in layers.items():
        np.testing.assert_allclose(fast[name], value, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "words"])
def test_it_follows_the_weights(kind):
    """What scores a run after each epoch is traced once."""
    backbone = _backbone(kind)
    backbone.fused = True
    answer = tf.function(lambda inputs: backbone(inputs, training=False)["sequence_output"])
    before = answer(_inputs()).numpy()
    for variable in backbone.trainable_variables:
        variable.assign(variable + 0.02 * tf.random.stateless_normal(variable.shape, [3, 4]))
    after = answer(_inputs()).numpy()
    assert np.abs(after - before).max() > 0.05
    np.testing.assert_allclose(after, ServedEncoder(backbone)(_inputs())["sequence_output"], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "words"])
def test_in_bfloat16_it_is_what_a_bfloat16_export_serves(kind):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = _backbone(kind)
    finally:
        keras.config.set_dtype_policy("float32")
    found = backbone.inference(LiveWeights(tf.bfloat16))(_inputs())
    for name, value in ServedEncoder(backbone, "bfloat16")(_inputs()).items():
        assert found[name].dtype == tf.float32
        # The word vectors of an export are rounded, too.
        np.testing.assert_allclose(found[name], value, atol=0.03)
    rounded, _ = _compared(backbone, _inputs())
    exact, _ = _compared(_backbone(kind), _inputs())
    error = np.abs(found["pooled_output"] - exact["pooled_output"]).max()
    assert 0 < error < 0.02
    assert error < np.abs(rounded["pooled_output"] - exact["pooled_output"]).max()
