"""Heads compute what the paper's equations say, re-derived in NumPy, and nothing of what they must not."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, logsumexp, softmax

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.heads import HEADS, SANHead, build_head
from mtdnn_tf.task_types import KNOWN_HEADS
from mtdnn_tf.tasks import TaskSpec

D, STEPS = 8, 5
PAIR = TaskSpec("nli", "classification", ("premise", "hypothesis"), ("c", "n", "e"), head="san")
SINGLE = TaskSpec("mood", "classification", ("text",), ("negative", "positive"))
REGRESSION = TaskSpec("close", "regression", ("a", "b"), loss="mean_squared_error")


def _inputs(batch=4, length=9, width=D, seed=0):
    draw = np.random.default_rng(seed)
    sequence = draw.normal(size=(batch, length, width)).astype(np.float32)
    vector = draw.normal(size=(batch, width)).astype(np.float32)
    segments = np.zeros((batch, length), np.int32)
    mask = np.ones((batch, length), np.int32)
    for row in range(batch):
        segments[row, 3 + row % 2 : 7] = 1
        mask[row, 7 + row % 3 :] = 0
    return sequence, vector, segments * mask, mask


def _head(task, dropout=0.0, steps=STEPS, prediction_dropout=0.0, seed=3):
    head = build_head(
        task, dropout=dropout, san_steps=steps, san_prediction_dropout=prediction_dropout, width=8, seed=seed
    )
    head(*_inputs())
    return head


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _gru(cell, x, h):
    """The cell of Cho et al. with the reset gate after the product, as in cuDNN; Keras keeps gates in the order z, r, n."""
    kernel, recurrent, bias = (weight.numpy() for weight in cell.weights)
    xz, xr, xn = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hn = np.split(h @ recurrent + bias[1], 3, axis=-1)
    z = _sigmoid(xz + hz)
    return z * h + (1 - z) * np.tanh(xn + _sigmoid(xr + hr) * hn)


def _san(head, sequence, segments, mask):
    """The released listing, one row at a time over its own tokens; returns each step's logits, [steps, batch, C]."""
    w1, b1 = (weight.numpy() for weight in head.summary.weights)
    w2, b2 = (weight.numpy() for weight in head.attention.weights)
    w3, b3 = (weight.numpy() for weight in head.answer.weights)
    rows = []
    for tokens, segment, real in zip(sequence, segments, mask, strict=True):
        premise, hypothesis = tokens[(real == 1) & (segment == 0)], tokens[(real == 1) & (segment == 1)]
        if head.task.pair_order == "hypothesis_first":
            premise, hypothesis = hypothesis, premise
        state = softmax((hypothesis @ w1 + b1)[:, 0]) @ hypothesis
        logits = []
        for _ in range(head.steps):
            found = softmax(premise @ (state @ w2 + b2)) @ premise
            compared = np.concatenate([found, state, np.abs(found - state), found * state])
            logits.append(compared @ w3 + b3)
            state = _gru(head.cell, found, state)
        rows.append(logits)
    return np.array(rows).transpose(1, 0, 2)


@pytest.mark.parametrize("order", ["premise_first", "hypothesis_first"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_san_is_the_log_of_the_mean_over_steps(order, steps):
    task = TaskSpec("nli", "classification", PAIR.text, PAIR.labels, head="san", pair_order=order)
    head, inputs = _head(task, steps=steps), _inputs()
    expected = logsumexp(log_softmax(_san(head, inputs[0], *inputs[2:]), axis=-1), axis=0) - np.log(steps)
    np.testing.assert_allclose(head(*inputs).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(-1), 1, atol=1e-6)


def test_stochastic_prediction_dropout_averages_some_of_the_steps():
    head = _head(PAIR, prediction_dropout=0.5)
    inputs = _inputs()
    steps = log_softmax(_san(head, inputs[0], *inputs[2:]), axis=-1)  # [K, B, C]
    subsets = [[k for k in range(STEPS) if bits >> k & 1] for bits in range(1, 2**STEPS)]
    means = np.array([logsumexp(steps[chosen], axis=0) - np.log(len(chosen)) for chosen in subsets])
    seen = set()
    for _ in range(40):
        drawn = head(*inputs, training=True).numpy()
        for row in range(len(drawn)):
            distances = np.abs(means[:, row] - drawn[row]).max(-1)
            assert distances.min() < 1e-4  # a mean over a subset that is not empty, and normalised
            seen.add(int(distances.argmin()))
    assert len(seen) > 10
    sizes = [len(subsets[index]) for index in seen]
    assert {1, 2, 3, 4} <= set(sizes)


def test_extreme_logits_stay_finite():
    head = _head(PAIR)
    head.answer.kernel.assign(head.answer.kernel * 1e4)
    sequence, *rest = _inputs()
    assert np.isfinite(head(sequence * 100, *rest).numpy()).all()


@pytest.mark.parametrize("empty", [0, 1], ids=["no premise", "no hypothesis"])
def test_a_row_without_one_of_its_parts_is_finite(empty):
    sequence, vector, _segments, mask = _inputs()
    assert np.isfinite(_head(PAIR)(sequence, vector, mask * (1 - empty), mask).numpy()).all()


def test_padding_changes_nothing():
    head = _head(PAIR)
    sequence, vector, segments, mask = _inputs()
    wider = [np.pad(each, [(0, 0), (0, 5)]) for each in (segments, mask)]
    noise = np.pad(sequence, [(0, 0), (0, 5), (0, 0)], constant_values=7.0)
    np.testing.assert_allclose(head(noise, vector, *wider), head(sequence, vector, segments, mask), atol=1e-6)


def test_san_ignores_the_sentence_vector_and_linear_the_sequence():
    sequence, vector, segments, mask = _inputs()
    san, linear = _head(PAIR), _head(SINGLE)
    np.testing.assert_array_equal(san(sequence, vector, segments, mask), san(sequence, -vector, segments, mask))
    np.testing.assert_array_equal(linear(sequence, vector, segments, mask), linear(-sequence, vector, segments, mask))


def test_the_parameter_count_of_the_paper_size_san():
    head = build_head(PAIR, dropout=0.1, san_steps=5, san_prediction_dropout=0.1, width=8, seed=0)
    head(*_inputs(width=768))
    assert head.count_params() == 4_144_132


def test_linear_is_one_dense_layer_without_squashing():
    for task, outputs in ((SINGLE, 2), (REGRESSION, 1)):
        head, inputs = _head(task), _inputs()
        kernel, bias = (weight.numpy() for weight in head.weights)
        assert kernel.shape == (D, outputs)
        np.testing.assert_allclose(head(*inputs), inputs[1] @ kernel + bias, atol=1e-6)


def test_dropout_is_the_tasks_own_where_it_has_one():
    task = TaskSpec("mood", "classification", ("text",), ("a", "b"), dropout=0.4)
    assert _head(task, dropout=0.1).rate == 0.4
    assert _head(SINGLE, dropout=0.1).rate == 0.1


def test_memory_dropout_is_one_mask_for_all_positions():
    head = _head(PAIR, dropout=0.5)
    dropped = head.memory_dropout(np.ones((2, 6, D), np.float32), training=True).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert (dropped[0] != dropped[1]).any()


def test_new_weights_have_the_released_distribution():
    head = build_head(PAIR, dropout=0.1, san_steps=5, san_prediction_dropout=0.1, width=8, seed=0)
    head(*_inputs(width=256))
    for dense in (head.attention, head.answer):
        assert dense.kernel.numpy().std() == pytest.approx(0.02, rel=0.1)
        assert not dense.bias.numpy().any()
    for weight in head.cell.weights:
        assert np.abs(weight.numpy()).max() <= 1 / 16
        assert weight.numpy().std() == pytest.approx(1 / 16 / np.sqrt(3), rel=0.1)


def test_seeds_go_by_task_name_alone():
    same, again, other = _head(PAIR), _head(PAIR), _head(TaskSpec("rte", *_fields(PAIR), head="san"))
    for mine, theirs, foreign in zip(same.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.shape == foreign.shape
    assert np.abs(same.attention.kernel - other.attention.kernel).max() > 1e-3


def _fields(task):
    return task.type, task.text, task.labels


POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("task", [PAIR, SINGLE, REGRESSION], ids=lambda task: task.name)
def test_logits_are_float32_whatever_the_precision(task, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        head = _head(task)
        assert head(*_inputs()).dtype == "float32"
        assert {weight.dtype for weight in head.weights} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("task", [PAIR, SINGLE, REGRESSION], ids=lambda task: task.name)
def test_everything_in_a_head_is_computed_in_float32(task, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        head = _head(task)
        half = tf.as_dtype(keras.config.dtype_policy().compute_dtype)
        sequence, vector, *masks = _inputs()

        @tf.function
        def logits(sequence, vector):
            return head(sequence, vector, *masks, training=True)

        graph = logits.get_concrete_function(tf.cast(sequence, half), tf.cast(vector, half)).graph
        computed = {op.type for op in graph.get_operations() for output in op.outputs if output.dtype == half}
        assert computed == {"Placeholder"}  # what the encoder hands over
        assert any(op.type == "MatMul" for op in graph.get_operations())
    finally:
        keras.config.set_dtype_policy(before)


def test_the_table_holds_the_heads_that_tasks_may_name():
    assert set(HEADS) == set(KNOWN_HEADS)


@pytest.mark.parametrize("task", [REGRESSION, SINGLE], ids=lambda task: task.name)
def test_san_refuses_what_it_cannot_do(task):
    with pytest.raises(UserError, match=rf"tasks\.{task.name}\.head: 'san' classifies pairs"):
        SANHead(task, dropout=0.1, seed=0)


def test_an_unknown_head_is_told_with_the_closest():
    with pytest.raises(UserError, match=r"tasks\.mood\.head: .*Did you mean 'linear'"):
        _head(TaskSpec("mood", "classification", ("text",), ("a", "b"), head="liner"))
