"""Rules for loss weights, on problems whose answer is known; and that a run goes on with what they have learned."""

from __future__ import annotations

import math

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import TrainingConfig
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training.loss_weighting import LOSS_WEIGHTINGS, build_loss_weighting

SORT = TaskSpec("sort", "classification", ("text",), ("no", "yes"))
RATE = TaskSpec("rate", "regression", ("text",), loss="mean_squared_error", loss_weight=2.0)


def _rule(name, **options):
    return build_loss_weighting([SORT, RATE], TrainingConfig(loss_weighting=name, **options))


def test_fixed_weights_are_those_of_the_tasks():
    rule = _rule("fixed")
    rule.observe("sort", 9.0, 3.0)
    rule.end_epoch()
    assert (rule.weight("sort"), rule.weight("rate")) == (1.0, 2.0)


@pytest.mark.parametrize("loss", [0.05, 0.7, 4.0])
def test_uncertainty_comes_to_rest_where_its_loss_is_smallest(loss):
    """d/ds (exp(-s) L + s/2) = 0 at exp(-s) = 1 / (2 L); for regression exp(-s) = 1 / L, halved in the weight."""
    rule = _rule("uncertainty")
    for _ in range(3000):
        rule.observe("sort", loss, 1.0)
        rule.observe("rate", loss, 1.0)
    assert rule.weight("sort") == pytest.approx(1 / (2 * loss), rel=1e-3)
    assert rule.weight("rate") == pytest.approx(2.0 * 1 / (2 * loss), rel=1e-3)  # loss_weight 2


def test_uncertainty_stays_finite_where_a_loss_vanishes():
    rule = _rule("uncertainty")
    for _ in range(100_000):
        rule.observe("sort", 0.0, 0.0)
    assert rule.weight("sort") == pytest.approx(math.exp(7))


def test_dynamic_weight_average_follows_its_equation():
    rule = _rule("dwa", dwa_temperature=2.0)
    for losses in ([(2.0, 1.0), (4.0, 1.0)], [(1.5, 0.9)]):  # means 3 and 1; then 1.5 and 0.9
        for sort, rate in losses:
            rule.observe("sort", sort, 1.0)
            rule.observe("rate", rate, 1.0)
        assert (rule.weight("sort"), rule.weight("rate")) == (1.0, 2.0)  # the first two epochs
        rule.end_epoch()
    slow, fast = math.exp(0.9 / 2), math.exp(0.5 / 2)
    assert rule.weight("rate") == pytest.approx(2.0 * 2 * slow / (slow + fast))
    assert rule.weight("sort") == pytest.approx(2 * fast / (slow + fast))


def test_dynamic_weight_average_keeps_the_mean_of_a_task_that_had_no_batch():
    rule = _rule("dwa")
    for names in (("sort", "rate"), ("sort",)):
        for name in names:
            rule.observe(name, 0.5, 1.0)
        rule.end_epoch()
    assert (rule.weight("sort"), rule.weight("rate")) == (1.0, 2.0)


def test_gradnorm_evens_out_gradients_of_tasks_that_learn_alike():
    rule = _rule("gradnorm")
    for _ in range(2000):
        rule.observe("sort", 1.0, 1.0)
        rule.observe("rate", 1.0, 4.0)
    # w_sort 1 = w_rate 4 and w_sort + w_rate = 2
    assert rule.weight("sort") == pytest.approx(1.6, rel=1e-3)
    assert rule.weight("rate") / 2.0 == pytest.approx(0.4, rel=1e-3)


def test_gradnorm_pulls_harder_at_the_task_that_lags_behind():
    rule = _rule("gradnorm", gradnorm_alpha=1.0)
    rule.observe("sort", 1.0, 1.0)
    rule.observe("rate", 1.0, 1.0)
    for _ in range(2000):
        rule.observe("sort", 1.0, 1.0)  # has kept all of its loss
        rule.observe("rate", 0.5, 1.0)  # has lost half
    # w_sort : w_rate = r_sort : r_rate = 1 : 0.5 and they add up to 2
    assert rule.weight("sort") == pytest.approx(4 / 3, rel=1e-3)
    assert rule.weight("rate") / 2.0 == pytest.approx(2 / 3, rel=1e-3)


def test_gradnorm_waits_until_every_task_was_seen():
    rule = _rule("gradnorm")
    rule.observe("sort", 1.0, 5.0)
    assert rule.weight("sort") == 1.0


def test_an_unknown_rule_is_told_with_the_closest():
    with pytest.raises(mtdnn.UserError, match=r"training\.loss_weighting: .*Did you mean 'gradnorm'"):
        _rule("gradnorms")


@pytest.mark.parametrize("name", LOSS_WEIGHTINGS)
def test_a_rule_goes_on_from_its_state(name):
    whole, first = _rule(name), _rule(name)
    for rule in (whole, first):
        for step in range(6):
            rule.observe("sort", 2.0 / (step + 1), 1.0)
            rule.observe("rate", 1.0 / (step + 1) ** 2, 2.0)
            if step == 3:
                rule.end_epoch()
    second = _rule(name)
    second.restore(first.state())
    for rule in (whole, second):
        rule.end_epoch()
        rule.observe("sort", 0.2, 1.0)
    assert [second.weight(task) for task in ("sort", "rate")] == [whole.weight(task) for task in ("sort", "rate")]
