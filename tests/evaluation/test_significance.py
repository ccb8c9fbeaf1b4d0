"""Paired tests against values worked out by hand, published ones, and plain enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mtdnn_tf.evaluation.significance import mcnemar, paired_bootstrap, paired_test


def test_the_t_test_gives_the_value_of_the_table():
    """Student (1908): hours of sleep gained by ten patients under two drugs; t = 4.0621 with 9 degrees of freedom, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    test = paired_test(np.subtract(second, first))
    assert test.difference == pytest.approx(1.58)
    assert test.difference / (test.deviation / math.sqrt(10)) == pytest.approx(4.0621, abs=1e-4)
    assert test.t_p_value == pytest.approx(0.00283, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_sign_flips_are_those_of_an_enumeration(count):
    values = np.random.default_rng(count).normal(0.5, 1, count).round(1)
    patterns = itertools.product([-1, 1], repeat=count)
    sums = [abs(math.fsum(sign * value for sign, value in zip(signs, values, strict=True))) for signs in patterns]
    seen = abs(math.fsum(values))
    test = paired_test(values)
    assert test.is_exact
    assert test.sign_flip_p_value == np.mean([value >= seen - 1e-9 for value in sums])


def test_all_on_one_side_is_two_of_all_patterns():
    assert paired_test([0.1, 0.2, 0.3]).sign_flip_p_value == 2 / 8
    assert paired_test([0.1] * 5).sign_flip_p_value == 2 / 32


def test_many_pairs_are_sampled_near_what_enumeration_gives():
    values = np.random.default_rng(1).normal(0.3, 1, 20)
    exact = paired_test(values)
    more = paired_test([*values, 0.0])  # a pair without a difference changes no sum
    assert exact.is_exact
    assert not more.is_exact
    assert more.sign_flip_p_value == pytest.approx(exact.sign_flip_p_value, abs=0.005)


def test_one_pair_or_equal_differences_leave_p_open():
    assert paired_test([0.2]).t_p_value is paired_test([0.2]).sign_flip_p_value is None
    assert paired_test([0.25, 0.25]).t_p_value is None


def test_mcnemar_is_a_coin_for_each_disagreement():
    """Of ten disagreements nine on one side: p = 2 (1 + 10) / 2^10."""
    first = np.array([True] * 9 + [False] + [True] * 5)
    second = np.array([False] * 9 + [True] + [True] * 5)
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (9, 1)
    assert found.p_value == pytest.approx(22 / 1024)
    assert mcnemar(first, first).p_value == 1.0


def test_the_bootstrap_agrees_with_the_normal_interval():
    gains = np.random.default_rng(2).normal(0.1, 1.0, 4000)
    found = paired_bootstrap(lambda rows: float(gains[rows].mean()), 4000, 2000)
    reach = 1.96 * gains.std() / math.sqrt(4000)
    assert (found.low, found.high) == pytest.approx((gains.mean() - reach, gains.mean() + reach), abs=0.003)
    assert found.p_value < 0.01


def test_a_bootstrap_of_no_difference_says_so():
    assert paired_bootstrap(lambda rows: 0.0, 10, 50).p_value == 1.0


def test_ties_count_on_both_sides_though_sums_are_rounded():
    """0.1 + 0.2 - 0.3 is not 0: of three seeds' differences that cancel, neither side may lose its share of the ties."""
    rows = np.array([0.1, 0.2, -0.3, 0.3, -0.2, -0.1])
    exact = np.array([1, 2, -3, 3, -2, -1])
    rounded = paired_bootstrap(lambda taken: float(np.sum(rows[taken])), 6, samples=500)
    whole = paired_bootstrap(lambda taken: float(np.sum(exact[taken])), 6, samples=500)
    assert rounded.p_value == whole.p_value
