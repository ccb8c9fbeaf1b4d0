"""Losses against hand-made numbers and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.tasks import KNOWN_LOSSES
from mtdnn_tf.training.losses import LOSSES, cross_entropy, list_softmax, mean_squared_error, pointwise


def _batch(labels, group=None):
    labels = tf.constant(labels, tf.float32)
    group = tf.range(len(labels)) if group is None else tf.constant(group, tf.int32)
    return {"label": labels, "group": group}


def test_the_table_holds_the_names_that_tasks_may_use():
    assert set(LOSSES) == set(KNOWN_LOSSES)


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).astype(np.float32)
    expected = -(np.log(0.7) + np.log(0.1)) / 2
    assert float(cross_entropy(tf.constant(logits), _batch([0, 1]))) == pytest.approx(expected, abs=1e-6)


def test_mean_squared_error_takes_raw_values():
    assert float(mean_squared_error(tf.constant([[4.0], [1.0]]), _batch([5.0, 0.5]))) == pytest.approx(0.625)


def test_list_softmax_gives_the_golden_value():
    logits = tf.constant([[2.0], [1.0], [0.0], [3.0]])
    assert float(list_softmax(logits, _batch([1, 0, 0, 1], [0, 0, 1, 1]))) == pytest.approx(0.1809245, abs=1e-6)


def test_list_softmax_takes_lists_of_any_length():
    scores, relevance, group = [2.0, 1.0, 0.5, -1.0, 4.0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1]
    first = -np.log(np.exp(1) / (np.exp(2) + np.exp(1)))
    second = -np.log(np.exp(0.5) / (np.exp(0.5) + np.exp(-1) + np.exp(4)))
    loss = list_softmax(tf.constant([[s] for s in scores]), _batch(relevance, group))
    assert float(loss) == pytest.approx((first + second) / 2, abs=1e-5)


def test_list_softmax_leaves_out_queries_without_an_answer():
    logits, group = tf.constant([[2.0], [1.0], [9.0], [3.0]]), [0, 0, 1, 1]
    alone = list_softmax(logits[:2], _batch([1, 0], [0, 0]))
    assert float(list_softmax(logits, _batch([1, 0, 0, 0], group))) == pytest.approx(float(alone))
    assert float(list_softmax(logits, _batch([0, 0, 0, 0], group))) == 0.0


def test_list_softmax_spreads_its_target_over_several_answers():
    logits = tf.constant([[0.0], [0.0], [0.0]])
    assert float(list_softmax(logits, _batch([1, 1, 0], [0, 0, 0]))) == pytest.approx(np.log(3), abs=1e-6)


def test_list_softmax_is_finite_far_out():
    logits = tf.Variable([[1000.0], [-1000.0]])
    with tf.GradientTape() as tape:
        loss = list_softmax(logits, _batch([0, 1], [0, 0]))
    assert float(loss) == pytest.approx(2000.0)
    assert np.all(np.isfinite(tape.gradient(loss, logits)))


def test_pointwise_is_the_cross_entropy_of_a_classifier_of_pairs():
    scores, relevance = [2.0, -1.0, 0.5], [1.0, 0.0, 2.0]
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-0.5))) / 3
    loss = pointwise(tf.constant([[score] for score in scores]), _batch(relevance, [0, 0, 1]))
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    two_classes = cross_entropy(tf.constant([[0.0, score] for score in scores]), _batch([1, 0, 1]))
    assert float(loss) == pytest.approx(float(two_classes), abs=1e-6)
