"""PCGrad on vectors whose projections can be done by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.training.surgery import gram_matrix, project_conflicts


def _changed_sum(*vectors):
    vectors = np.array(vectors, np.float64)
    return project_conflicts(vectors @ vectors.T, np.random.default_rng(0)) @ vectors


def test_two_conflicting_gradients_lose_what_they_have_against_each_other():
    # g1 = (1, 0), g2 = (-1, 1): g1 + g2/2 = (1/2, 1/2) and g2 + g1 = (0, 1)
    np.testing.assert_allclose(_changed_sum([1, 0], [-1, 1]), [0.5, 1.5])


def test_gradients_that_agree_are_simply_added():
    np.testing.assert_allclose(_changed_sum([1, 0], [2, 1], [0, 3]), [3, 4])


def test_opposite_gradients_cancel_and_a_zero_gradient_does_no_harm():
    np.testing.assert_allclose(_changed_sum([2, 0], [-3, 0], [0, 0]), [0, 0], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_combination_equals_projecting_the_vectors(seed):
    """Against Algorithm 1 written out on vectors, with the same orders."""
    gradients = np.random.default_rng(seed).normal(size=(4, 6))
    orders, expected = np.random.default_rng(99), np.zeros(6)
    for task in range(4):
        vector = gradients[task].copy()
        for other in orders.permutation(4):
            if other != task and vector @ gradients[other] < 0:
                vector -= vector @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
        expected += vector
    shares = project_conflicts(gradients @ gradients.T, np.random.default_rng(99))
    np.testing.assert_allclose(shares @ gradients, expected, rtol=1e-9)


def test_dot_products_run_over_the_variables_that_both_gradients_have():
    one = {0: tf.constant([1.0, 2.0]), 1: tf.constant([[3.0]])}
    two = {0: tf.constant([4.0, -1.0]), 2: tf.constant([9.0])}
    gram = gram_matrix([one, two])
    np.testing.assert_allclose(gram, [[14.0, 2.0], [2.0, 98.0]])
    assert all(gram[pair] == gram[pair[::-1]] for pair in itertools.permutations(range(2)))


def test_products_are_added_in_the_order_of_the_variables():
    """The order of a set of ids differs from process to process, and with it the last bits of a float32 sum."""
    gradient = {3: tf.constant([1e4]), 1: tf.constant([1e4]), 2: tf.constant([1.0])}
    other = {2: tf.constant([1.0]), 1: tf.constant([-1e4]), 3: tf.constant([1e4])}
    assert gram_matrix([other, gradient])[1, 0] == 1.0  # 1e8 - 1e8 + 1; in the order of the keys 0
