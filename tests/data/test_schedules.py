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
    ({"strategy": "temperature", "temperature": 3.0}, ["abcabcaba", "abbaaaccb"]),
    ({"strategy": "sqrt"}, ["aacabbaba", "aabaaabcb"]),
    ({"strategy": "annealed"}, ["aacabbaba", "aabaaabcb", "aaaacbcbb"]),
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
        ({"strategy": "sqrt"}, [5, 3, 1]),  # 40^.5 : 18^.5 : 4^.5 = 4.53 : 3.04 : 1.43
        ({"strategy": "temperature", "temperature": 3.0}, [4, 3, 2]),  # 4.03 : 3.09 : 1.87
        ({"strategy": "temperature", "temperature": 1.0, "steps_per_epoch": 62}, [40, 18, 4]),
        ({"strategy": "explicit", "weights": WEIGHTS, "steps_per_epoch": 8}, [2, 2, 4]),
        ({"strategy": "explicit", "steps": STEPS}, [1, 4, 2]),
    ],
)
def test_counts_follow_the_formula(mixing, counts):
    assert all(_counts(_schedule(epoch, **mixing)) == counts for epoch in range(3))


def test_annealing_goes_from_proportional_to_nearly_uniform():
    counts = [_counts(_schedule(epoch, strategy="annealed", steps_per_epoch=620)) for epoch in range(3)]
    assert counts[0] == [400, 180, 40]  # exponent 1: shares as examples
    shares = np.array([40, 18, 4]) ** 0.2  # exponent 0.2 in the last epoch, E = 3
    np.testing.assert_allclose(counts[2], 620 * shares / shares.sum(), atol=1)


def test_annealing_in_a_single_epoch_is_proportional():
    order = EpochOrder(MixingConfig(strategy="annealed"), NAMES, (5, 3, 1), (50, 30, 10), 0, 1, 7)
    assert np.bincount(MIXING_STRATEGIES["annealed"](order)).tolist() == [5, 3, 1]


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
