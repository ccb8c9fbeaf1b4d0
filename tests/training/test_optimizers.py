"""Both Adamax rules against the golden traces, their state, the schedules and the clipping."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.errors import UserError
from mtdnn_tf.training.optimizers import (
    RULES,
    Adam,
    CorrectedAdamax,
    Lamb,
    PaperAdamax,
    build_optimizer,
    clipping_scale,
)
from mtdnn_tf.training.rates import SCHEDULES, WarmupSchedule

START = [1.0, -2.0, 3.0]
GRADIENTS = [[0.5, -0.25, 0.0], [0.1, 0.3, -0.2], [0.1, 0.3, -0.2]]


def _trace(optimizer: keras.optimizers.Optimizer, gradients: list[list[float]]) -> list[np.ndarray]:
    variable = keras.Variable(START, name="kernel")
    optimizer.build([variable])
    values = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
        values.append(variable.numpy())
    return values


def test_paper_rule_follows_the_golden_trace():
    schedule = WarmupSchedule(0.1, total_steps=10, warmup=0.1, shape="linear_jump")
    trace = _trace(PaperAdamax(schedule), GRADIENTS)
    expected = [[1, -2, 3], [0.98919, -2.00045, 3.0063], [0.97886, -2.00865, 3.019095]]
    np.testing.assert_allclose(trace, expected, atol=1e-5)


def test_corrected_rule_follows_the_golden_trace():
    trace = _trace(CorrectedAdamax(0.1, weight_decay=0.01), GRADIENTS[:2])
    np.testing.assert_allclose(trace[-1], [0.8401, -1.9093, 3.0466], atol=1e-4)


@pytest.mark.parametrize(
    ("rule", "keras_rule"),
    [
        (Adam(0.1, weight_decay=0.0), keras.optimizers.Adam(0.1, epsilon=1e-6)),
        (Adam(0.1, weight_decay=0.02), keras.optimizers.AdamW(0.1, epsilon=1e-6, weight_decay=0.02)),
        (Lamb(0.1, weight_decay=0.0), keras.optimizers.Lamb(0.1, epsilon=1e-6)),
    ],
    ids=["adam", "adamw", "lamb"],
)
def test_a_rule_is_keras_own_where_every_variable_is_always_updated(rule, keras_rule):
    np.testing.assert_allclose(_trace(rule, GRADIENTS), _trace(keras_rule, GRADIENTS), atol=2e-5)


def test_adam_s_first_step_is_the_rate_along_the_sign():
    np.testing.assert_allclose(_trace(Adam(0.1, weight_decay=0.0), [[5.0, -0.2, 0.0]])[0], [0.9, -1.9, 3.0], atol=1e-5)


def test_lamb_s_first_step_is_the_rate_times_the_weights_norm():
    [first] = _trace(Lamb(0.1, weight_decay=0.0), [[5.0, -0.2, 0.1]])
    assert np.linalg.norm(np.subtract(first, START)) == pytest.approx(0.1 * np.linalg.norm(START), rel=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_factors_scale_each_variable_s_step(name):
    config = OptimizerConfig(name=name, schedule="constant", warmup=0.0, weight_decay=0.0, head_rate=3.0)
    optimizer = build_optimizer(config, 10)
    encoder = mtdnn.load_encoder("random://layers=1,hidden=4,heads=1,intermediate=4").backbone
    deep, head = encoder.pooled_dense.bias, keras.Variable(np.zeros(4, np.float32), name="pooled_dense")
    with pytest.raises(UserError, match="depend on the encoder"):
        optimizer.build([deep, head])
    optimizer.place(encoder)
    optimizer.build([deep, head])
    deep.assign(np.ones(4))
    head.assign(np.ones(4))
    optimizer.apply([tf.fill([4], 0.4)] * 2, [deep, head])
    np.testing.assert_allclose(1.0 - head.numpy(), 3.0 * (1.0 - deep.numpy()), rtol=1e-2)


@pytest.mark.parametrize("rule", [PaperAdamax, CorrectedAdamax, Adam, Lamb])
def test_a_variable_without_gradient_does_not_move_and_stays_young(rule):
    encoder, head = keras.Variable([1.0], name="encoder"), keras.Variable([1.0], name="head")
    optimizer = rule(0.1)
    optimizer.build([encoder, head])
    for _ in range(5):
        optimizer.apply([tf.constant([1.0])], [encoder])
    assert head.numpy() == [1.0]
    alone = keras.Variable([1.0], name="alone")
    fresh = rule(0.1)
    fresh.build([alone])
    fresh.apply([tf.constant([0.3])], [alone])
    optimizer.apply([tf.constant([0.3])], [head])
    assert head.numpy() == alone.numpy()  # its own count of updates, not the run's


@pytest.mark.parametrize(("decay_all", "decayed"), [(True, {"kernel", "bias", "gamma", "beta"}), (False, {"kernel"})])
def test_decay_spares_biases_and_normalisation_when_told(decay_all, decayed):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.LayerNormalization()])
    optimizer = PaperAdamax(0.1, decay_all=decay_all)
    assert {v.path.rsplit("/")[-1] for v in model.trainable_variables if optimizer.decays(v)} == decayed


@pytest.mark.parametrize("shape", SCHEDULES)
def test_every_schedule_rises_in_a_line_from_zero_and_is_never_negative(shape):
    schedule = WarmupSchedule(2.0, total_steps=100, warmup=0.1, shape=shape)
    rates = [float(schedule(step)) for step in range(110)]
    np.testing.assert_allclose(rates[:10], [0.2 * step for step in range(10)], atol=1e-6)
    assert min(rates) >= 0
    assert max(rates) <= 2.0 + 1e-6


def test_schedules_differ_where_they_should():
    at = {shape: float(WarmupSchedule(1.0, 100, 0.1, shape)(10)) for shape in SCHEDULES}
    assert at == pytest.approx({"linear": 1.0, "linear_jump": 0.9, "cosine": 1.0, "polynomial": 1.0, "constant": 1.0})
    middle = {shape: float(WarmupSchedule(1.0, 100, 0.1, shape)(55)) for shape in SCHEDULES}
    assert middle == pytest.approx(
        {"linear": 0.5, "linear_jump": 0.45, "cosine": 0.5, "polynomial": 0.25, "constant": 1.0}
    )
    end = {shape: float(WarmupSchedule(1.0, 100, 0.1, shape)(100)) for shape in SCHEDULES}
    assert end == pytest.approx(
        {"linear": 0.0, "linear_jump": 0.0, "cosine": 0.0, "polynomial": 0.0, "constant": 1.0}, abs=1e-6
    )
    assert float(WarmupSchedule(1.0, 100, 0.0, "linear")(0)) == 1.0


def test_schedule_survives_its_configuration():
    schedule = WarmupSchedule(1.0, 100, 0.2, "linear")
    copy = WarmupSchedule.from_config(schedule.get_config())
    assert float(copy(7)) == float(schedule(7))


@pytest.mark.parametrize(("change", "message"), [({"schedule": "lineer"}, "'linear'"), ({"name": "adamx"}, "'adamax'")])
def test_unknown_names_are_answered_with_the_closest(change, message):
    with pytest.raises(UserError, match=f"Did you mean {message}"):
        build_optimizer(OptimizerConfig(**change), 10)


def test_an_option_that_has_no_effect_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.bias_correction: lamb always corrects"):
        build_optimizer(OptimizerConfig(name="lamb", bias_correction=True), 10)


def test_clipping_scales_all_gradients_by_their_common_norm():
    scale, norm = clipping_scale([tf.constant([3.0]), tf.constant([4.0])], 1.0)
    assert float(norm) == 5.0
    assert float(scale) == pytest.approx(0.2, abs=1e-7)


@pytest.mark.parametrize("limit", [0.0, 10.0])
def test_clipping_leaves_small_gradients_alone(limit):
    scale, _ = clipping_scale([tf.constant([3.0, 4.0])], limit)
    assert float(scale) == 1.0


@pytest.mark.parametrize("name", ["adamax", "adamw", "lamb"])
def test_compiled_updates_are_the_plain_ones(name):
    """Large variables by a kernel, small ones without, with a scale: the same values and slots as scaled gradients give."""
    shapes = [(160, 128), (7,)]
    results = []
    for fused in (False, True):
        variables = [keras.Variable(np.ones(shape, np.float32), name=f"v{shape[0]}") for shape in shapes]
        optimizer = build_optimizer(OptimizerConfig(name=name, learning_rate=0.1, schedule="constant", warmup=0.0), 10)
        optimizer.build(variables)
        optimizer.fused = fused
        draws = np.random.default_rng(1)
        for _ in range(3):
            gradients = [tf.constant(draws.normal(size=shape), tf.float32) for shape in shapes]
            if fused:
                optimizer.apply_scaled(gradients, variables, tf.constant(0.5))
            else:
                optimizer.apply([gradient * 0.5 for gradient in gradients], variables)
        results.append([v.numpy() for v in (*variables, *optimizer.variables)])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=2e-5, atol=1e-6)
