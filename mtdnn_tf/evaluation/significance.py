"""Is a difference more than chance? Paired tests over runs, and over the examples of one split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_EXACT_PAIRS = 20  # 2^20 sign patterns are enumerated; of more pairs a sample is drawn
_SAMPLED_FLIPS = 100_000
_ROUNDING = 1e-12  # of sums that are equal but for the order of their terms; of scores, which are 1 at most


@dataclass(frozen=True)
class PairedTest:
    """Tests of differences between pairs of runs; None: the test says nothing about so few or such equal differences."""

    pairs: int
    difference: float  # mean
    deviation: float | None  # standard deviation of the differences, n - 1
    t_p_value: float | None  # two-sided paired t
    sign_flip_p_value: float | None  # two-sided
    is_exact: bool  # False: of sampled sign patterns


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Test whether differences of pairs have mean 0.

    The t test takes them for normally distributed. The sign-flip test takes them for symmetric about 0 only (Fisher 1935):
    its p is the share of all 2^n sign patterns whose sum is as far from 0 as the one seen, so it can't be below 2 / 2^n.

    Args:
        differences: one for each pair; at least one.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return PairedTest(len(values), float(values.mean()), None, None, None, True)
    deviation = float(values.std(ddof=1))
    t_p_value = float(stats.ttest_1samp(values, 0.0).pvalue) if deviation > _ROUNDING else None
    p_value, is_exact = _sign_flip(values)
    return PairedTest(len(values), float(values.mean()), deviation, t_p_value, p_value, is_exact)


def _sign_flip(values: np.ndarray) -> tuple[float, bool]:
    seen = abs(values.sum()) - _ROUNDING * max(np.abs(values).sum(), 1.0)
    if len(values) <= _EXACT_PAIRS:
        sums = np.zeros(1)
        for value in values:  # doubles with each value: [2^n]
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= seen)), True
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=[_SAMPLED_FLIPS, len(values)])
    # The pattern that was seen is one of them (Phipson and Smyth 2010): p is never 0.
    return float((1 + np.sum(np.abs(signs @ values) >= seen)) / (1 + _SAMPLED_FLIPS)), False


@dataclass(frozen=True)
class McNemar:
    """On which examples only one of two classifiers is right."""

    first_only: int
    second_only: int
    p_value: float  # exact, two-sided


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Compare two classifiers on the same examples by the exact form of McNemar's test (1947): a coin for each disagreement.

    Args:
        first_right: `[examples] bool`, where the first gives the label.
        second_right: the same of the second.
    """
    first = int(np.sum(first_right & ~second_right))
    second = int(np.sum(second_right & ~first_right))
    p_value = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    return McNemar(first, second, float(p_value))


@dataclass(frozen=True)
class Bootstrap:
    """The difference of two models over resamplings of the examples."""

    low: float  # 95 % of the resampled differences are between
    high: float
    p_value: float  # two-sided: how often the difference is not on the side of the one seen


def paired_bootstrap(
    difference: Callable[[np.ndarray], float], units: int, samples: int = 1000, seed: int = 0
) -> Bootstrap:
    """Resample the examples of a split with replacement, the same for both models (Efron and Tibshirani 1993; Koehn 2004).

    It says how far the difference would hold on other examples like these; it says nothing about other seeds.

    Args:
        difference: from the rows `[units] int64` of a resampling to the difference of the scores.
        units: examples, of ranking queries.
        samples: how many resamplings.
        seed: of the resamplings.
    """
    random = np.random.default_rng(seed)
    values = np.array([difference(random.integers(0, units, units)) for _ in range(samples)])
    low, high = np.percentile(values, [2.5, 97.5])
    # One is added to both counts: with so many samples, p can't be known to be smaller.
    beyond = min(np.sum(values <= _ROUNDING), np.sum(values >= -_ROUNDING))
    return Bootstrap(float(low), float(high), float(min(1.0, 2 * (1 + beyond) / (1 + samples))))
