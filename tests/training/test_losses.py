"""Losses against hand-made numbers and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import KNOWN_LOSSES, TaskSpec
from mtdnn_tf.training.losses import (
    LOSSES,
    balanced_weights,
    cross_entropy,
    list_softmax,
    mean_squared_error,
    pointwise,
    task_loss,
    with_class_weights,
)


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


MOOD = TaskSpec("mood", "classification", ("text",), ("bad", "fair", "good"))


def _weighted(weights):
    return TaskSpec("mood", "classification", ("text",), MOOD.labels, class_weights=weights)


def test_class_weights_multiply_the_losses_of_their_rows_and_rows_are_counted():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 3)).astype(np.float32), np.array([0, 0, 1, 2, 2, 0])
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]
    loss = task_loss(_weighted({"bad": 0.5, "good": 7.0}))
    expected = (np.array([0.5, 1.0, 7.0])[labels] * losses).sum() / 6
    assert float(loss(tf.constant(logits), _batch(labels))) == pytest.approx(expected, abs=1e-5)
    counted = _batch(labels) | {"sample_weight": tf.constant([1.0, 1, 1, 1, 0, 0])}
    expected = (np.array([0.5, 1.0, 7.0])[labels] * losses)[:4].sum() / 4
    assert float(loss(tf.constant(logits), counted)) == pytest.approx(expected, abs=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 90 + [1] * 7 + [2] * 3, np.int32)
    found = balanced_weights(labels, MOOD.labels)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert list(found) == list(MOOD.labels)
    assert list(found.values()) == pytest.approx(expected.tolist())
    assert np.mean([found[MOOD.labels[label]] for label in labels]) == pytest.approx(1.0)


def test_a_class_without_rows_has_no_part_in_the_balance():
    assert balanced_weights(np.array([0, 0, 0, 2]), MOOD.labels) == {"bad": 4 / 6, "fair": 1.0, "good": 2.0}


def test_weights_become_numbers_for_every_label():
    labels = np.array([0, 0, 0, 2])
    assert with_class_weights(_weighted({"good": 3.0}), labels).class_weights == {"bad": 1.0, "fair": 1.0, "good": 3.0}
    assert with_class_weights(_weighted("balanced"), labels).class_weights["good"] == 2.0
    assert with_class_weights(MOOD, labels) is MOOD
    with pytest.raises(UserError, match=r"tasks\.mood\.class_weights: 'balanced' needs the training rows"):
        task_loss(_weighted("balanced"))


def _regression(ends):
    return TaskSpec("close", "regression", ("text",), range=ends, loss="mean_squared_error")


@pytest.mark.parametrize("ends", [(20000, 90000), (-1e9, 1e9), (0, 0.01), (1e6, 1e6 + 1000)])
def test_far_scores_give_the_loss_of_the_same_scores_from_minus_one_to_one(ends):
    low, high = ends
    units, outputs = np.array([-1.0, 0.5, 1.0]), np.array([0.25, 0.25, -0.5])
    scores, logits = (low + (each + 1) / 2 * (high - low) for each in (units, outputs))
    loss = task_loss(_regression((float(low), float(high))))
    found = loss(tf.constant(logits[:, np.newaxis], tf.float32), _batch(scores))
    assert float(found) == pytest.approx(np.mean((units - outputs) ** 2), rel=1e-3)


@pytest.mark.parametrize("ends", [None, (0, 5), (1, 5), (0, 10), (-1, 1), (0, 1)])
def test_near_scores_are_learnt_raw(ends):
    assert task_loss(_regression(ends)) is mean_squared_error
