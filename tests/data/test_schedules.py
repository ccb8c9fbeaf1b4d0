"""Mixing strategies: counts that follow from their formulas, schedules that never change, options that fit."""

from __future__ import annotations

import numpy as np
import pytest

from mtdnn_tf import UserError
from mtdnn_tf.config import MixingConfig
from mtdnn_tf.data.schedules import MIXING_STRATEGIES, EpochOrder, apportion, check_mixing

NAMES = ("a", "b", "c")
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0}
STEPS = {"a": 1, "b": 4, "c": 2}


def _order(epoch=0, seed=7, **mixing):
    return EpochOrder(MixingConfig(**mixing), NAMES, (5, 3, 1), (40, 18, 4), epoch, 3, seed)


def _schedule(epoch=0, seed=7, **mixing):
    order = _order(epoch, seed, **mixing)
    return "".join(NAMES[task] for task in MIXING_STRATEGIES[order.config.strategy](order))


def _counts(schedule):
    return [schedule.count(name) for name in NAMES]


# What a schedule once was it must stay: a run goes on from its position alone.
GOLDEN = [
    ({"strategy": "proportional"}, ["aacabbaba", "aabaaabcb"]),
    ({"strategy": "uniform"}, ["bbcaccaba", "bbcaaaccb"]),
    ({"strategy": "temperature", "temperature": 3.0}, ["bbcaccaba", "bbcaaaccb"]),
    ({"strategy": "sqrt"}, ["abcabcaba", "abbaaaccb"]),
    ({"strategy": "annealed"}, ["aacabbaba", "abbaaaccb", "aaabcbcbc"]),
    ({"strategy": "ratio", "ratio": 0.5}, ["baaabaa", "aaaabba", "bacaaaa"]),
    ({"strategy": "ratio", "ratio": 0.5, "main_task": "b", "main_last": True}, ["abbb", "abbb", "cbbb"]),
    ({"strategy": "round_robin"}, ["cababbaaa", "bacbabaaa", "abcabbaaa"]),
    ({"strategy": "explicit", "weights": WEIGHTS}, ["bccbccaca", "bccaabccc"]),
    ({"strategy": "explicit", "steps": STEPS}, ["abcbbcb", "cbbbbac"]),
]


def test_every_strategy_has_a_golden_schedule():
    assert {mixing["strategy"] for mixing, _ in GOLDEN} == set(MIXING_STRATEGIES)


@pytest.mark.parametrize(("mixing", "epochs"), GOLDEN)
def test_schedules_stay_what_they_were(mixing, epochs):
    check_mixing(MixingConfig(**mixing), NAMES)  # options that fit are accepted
    assert [_schedule(epoch, **mixing) for epoch in range(len(epochs))] == epochs
    assert [_schedule(epoch, seed=8, **mixing) for epoch in range(9)] != [
        _schedule(epoch, **mixing) for epoch in range(9)
    ]


@pytest.mark.parametrize(
    ("mixing", "counts"),
    [
        ({"strategy": "proportional"}, [5, 3, 1]),
        ({"strategy": "round_robin"}, [5, 3, 1]),
        ({"strategy": "uniform"}, [3, 3, 3]),
        ({"strategy": "uniform", "steps_per_epoch": 11}, [4, 4, 3]),  # equal remainders: the first ones
        # Batches hold 8, 6 and 4 examples: examples seen 40^.5 : 18^.5 : 4^.5, steps these over 8, 6 and 4.
        ({"strategy": "sqrt"}, [4, 3, 2]),  # 3.56 : 3.19 : 2.25
        ({"strategy": "temperature", "temperature": 3.0}, [3, 3, 3]),  # 3.05 : 3.12 : 2.83
        ({"strategy": "temperature", "temperature": 1.0}, [5, 3, 1]),
        ({"strategy": "temperature", "temperature": 1.0, "steps_per_epoch": 18}, [10, 6, 2]),
        ({"strategy": "explicit", "weights": WEIGHTS, "steps_per_epoch": 8}, [2, 2, 4]),
        ({"strategy": "explicit", "steps": STEPS}, [1, 4, 2]),
    ],
)
def test_counts_follow_the_formula(mixing, counts):
    assert all(_counts(_schedule(epoch, **mixing)) == counts for epoch in range(3))


def test_annealing_goes_from_proportional_to_nearly_equal_numbers_of_examples():
    counts = [_counts(_schedule(epoch, strategy="annealed", steps_per_epoch=900)) for epoch in range(3)]
    assert counts[0] == [500, 300, 100]  # exponent 1: as proportional
    shares = np.array([40, 18, 4]) ** 0.2  # exponent 0.2 in the last epoch, E = 3
    seen = np.array(counts[2]) * [8, 6, 4]
    np.testing.assert_allclose(seen / seen.sum(), shares / shares.sum(), atol=0.005)


def test_annealing_in_a_single_epoch_is_proportional():
    order = EpochOrder(MixingConfig(strategy="annealed"), NAMES, (5, 3, 1), (50, 18, 10), 0, 1, 7)
    assert np.bincount(MIXING_STRATEGIES["annealed"](order)).tolist() == [5, 3, 1]


def _random_order(random, config, epoch=0):
    """Up to six tasks of any sizes, with any batch sizes: those of ranking tasks, which count queries, are small."""
    examples = random.integers(1, 5000, random.integers(1, 7))
    batches = -(-examples // random.choice([1, 2, 4, 8, 32, 100], len(examples)))
    names = tuple(f"task{number}" for number in range(len(examples)))
    return EpochOrder(config, names, tuple(batches.tolist()), tuple(examples.tolist()), epoch, 3, 7)


@pytest.mark.parametrize("mixing", [{"strategy": "temperature", "temperature": 1.0}, {"strategy": "annealed"}])
def test_shares_by_size_begin_as_proportional_whatever_the_batch_sizes(mixing):
    random = np.random.default_rng(3)
    for _ in range(40):
        order = _random_order(random, MixingConfig(**mixing))
        counts = np.bincount(MIXING_STRATEGIES[order.config.strategy](order), minlength=len(order.names))
        assert counts.tolist() == list(order.batches), order


@pytest.mark.parametrize(
    ("mixing", "epoch", "exponent"),
    [
        ({"strategy": "sqrt"}, 0, 1 / 2),
        ({"strategy": "temperature", "temperature": 5.0}, 0, 1 / 5),
        ({"strategy": "annealed"}, 1, 0.6),
        ({"strategy": "annealed"}, 2, 0.2),
    ],
)
def test_shares_are_of_the_examples_seen(mixing, epoch, exponent):
    random = np.random.default_rng(4)
    for _ in range(20):
        order = _random_order(random, MixingConfig(**mixing, steps_per_epoch=20_000), epoch)
        counts = np.bincount(MIXING_STRATEGIES[order.config.strategy](order), minlength=len(order.names))
        examples, batches = np.array(order.examples, np.float64), np.array(order.batches)
        assert counts.sum() == 20_000
        # Whole steps: a task's examples are off by those of one step at most, or it has the one step that every task gets.
        expected = examples**exponent / (examples / batches)
        expected *= 20_000 / expected.sum()
        assert np.all((np.abs(counts - expected) < len(counts)) | (counts == 1)), order


@pytest.mark.parametrize(("ratio", "others"), [(0.2, 1), (0.5, 2), (0.8, 4), (9.0, 4)])
def test_the_ratio_bounds_the_other_tasks_and_leaves_the_main_one(ratio, others):
    for epoch in range(5):
        counts = _counts(_schedule(epoch, strategy="ratio", ratio=ratio))
        assert counts[0] == 5
        assert sum(counts[1:]) == others
        assert counts[1] <= 3
        assert counts[2] <= 1


def test_main_last_puts_the_main_task_behind_the_others():
    assert all(_schedule(epoch, strategy="ratio", ratio=9.0, main_last=True).endswith("aaaaa") for epoch in range(5))


def test_a_round_takes_each_task_that_is_left_once():
    schedules = [_schedule(epoch, strategy="round_robin") for epoch in range(8)]
    for schedule in schedules:
        assert [set(schedule[:3]), set(schedule[3:5]), set(schedule[5:7]), schedule[7:]] == [
            {"a", "b", "c"},
            {"a", "b"},
            {"a", "b"},
            "aa",
        ]
    assert len({schedule[:3] for schedule in schedules}) > 1


@pytest.mark.parametrize(
    ("weights", "steps", "counts"),
    [([1, 1], 3, [2, 1]), ([1000, 1, 1], 10, [8, 1, 1]), ([0.5, 0.3, 0.2], 10, [5, 3, 2]), ([1, 1, 1], 3, [1, 1, 1])],
)
def test_steps_are_divided_without_rest(weights, steps, counts):
    assert apportion(weights, steps).tolist() == counts


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ({"strategy": "proportinal"}, r"mixing\.strategy: .*Did you mean 'proportional'"),
        ({"strategy": "temperature"}, r"mixing\.temperature: strategy 'temperature' needs it"),
        ({"strategy": "ratio"}, r"mixing\.ratio: strategy 'ratio' needs it"),
        ({"strategy": "proportional", "temperature": 2.0}, r"mixing\.temperature: has no effect on strategy"),
        ({"strategy": "round_robin", "steps_per_epoch": 9}, r"mixing\.steps_per_epoch: has no effect"),
        ({"strategy": "uniform", "main_last": False}, r"mixing\.main_last: has no effect"),
        ({"strategy": "ratio", "ratio": 1.0, "main_task": "bb"}, r"mixing\.main_task: unknown .*Did you mean 'b'"),
        ({"strategy": "explicit"}, r"mixing: strategy 'explicit' needs either weights or steps"),
        ({"strategy": "explicit", "weights": WEIGHTS, "steps": STEPS}, r"needs either weights or steps"),
        ({"strategy": "explicit", "weights": {"a": 1.0, "b": 2.0}}, r"mixing\.weights: .*missing: c"),
        ({"strategy": "explicit", "steps": STEPS | {"d": 1}}, r"mixing\.steps: unknown trained task 'd'"),
        ({"strategy": "explicit", "steps": STEPS, "steps_per_epoch": 7}, r"mixing\.steps_per_epoch: the sum of"),
        ({"strategy": "uniform", "steps_per_epoch": 2}, r"mixing\.steps_per_epoch: must be at least one for each of 3"),
    ],
)
def test_options_that_do_not_fit_are_refused(mixing, message):
    with pytest.raises(UserError, match=message):
        check_mixing(MixingConfig(**mixing), NAMES)
