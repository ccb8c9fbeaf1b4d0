"""How much each task's loss counts: fixed weights, and three rules that learn weights while training.

All of them work with one task a step: they see a task's loss when its batch has been taken, and keep plain numbers, so
that a checkpoint holds them whole and every worker computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from mtdnn_tf.config import TrainingConfig
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.tasks import TaskSpec

_SQUARED_LOSSES = ("mean_squared_error",)  # of a normal distribution: Kendall et al. halve these
_LARGEST_LOG_VARIANCE = 7.0  # weights stay within a factor of 1,100 of the start even where a loss reaches 0
_SMALLEST_WEIGHT = 1e-3


class FixedWeights:
    """`loss_weight` of each task, always. Base of the other rules, which multiply it."""

    _kept: ClassVar[tuple[str, ...]] = ()  # attributes that a checkpoint must hold

    def __init__(self, tasks: Sequence[TaskSpec], config: TrainingConfig) -> None:
        """Take the tasks that are trained."""
        self.config = config
        self.names = tuple(task.name for task in tasks)
        self._given = {task.name: task.loss_weight for task in tasks}

    def weight(self, name: str) -> float:
        """Return what the loss of the task's next batch is multiplied by."""
        return self._given[name] * self._learned(name)

    def _learned(self, name: str) -> float:
        return 1.0

    def observe(self, name: str, loss: float, shared_norm: float) -> None:
        """Learn from a step: the unweighted loss, more than 0, and its gradient's norm at the last shared layer."""

    def end_epoch(self) -> None:
        """Learn from a whole epoch."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {name.lstrip("_"): getattr(self, name) for name in self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for name in self._kept:
            setattr(self, name, state[name.lstrip("_")])


class UncertaintyWeights(FixedWeights):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, Eq. 7 and 10).

    Each task has a log variance s, learned by gradient descent on exp(-s) L + s / 2 (classification, ranking) or
    exp(-s) L / 2 + s / 2 (regression): the weight is exp(-s), or half of it. Where a loss stays at L, s comes to rest at
    log(2 L), or log(L): the weight at 1 / (2 L).
    """

    _kept = ("_log_variance",)

    def __init__(self, tasks: Sequence[TaskSpec], config: TrainingConfig) -> None:
        """Start at variance 1."""
        super().__init__(tasks, config)
        self._log_variance = dict.fromkeys(self.names, 0.0)
        self._factor = {task.name: 0.5 if task.loss in _SQUARED_LOSSES else 1.0 for task in tasks}

    def _learned(self, name: str) -> float:
        return self._factor[name] * math.exp(-self._log_variance[name])

    def observe(self, name: str, loss: float, shared_norm: float) -> None:
        """Take one step down the gradient of the task's log variance."""
        slope = 0.5 - self._learned(name) * loss
        moved = self._log_variance[name] - self.config.loss_weighting_rate * slope
        self._log_variance[name] = min(max(moved, -_LARGEST_LOG_VARIANCE), _LARGEST_LOG_VARIANCE)


class DynamicWeightAverage(FixedWeights):
    """Dynamic weight average (Liu, Johns and Davison 2019, Eq. 7).

    w = T softmax(r / temperature) over T tasks, r the ratio of a task's mean losses in the last two epochs: a task whose loss
    falls more slowly counts more. Weights are 1 in the first two epochs. Of a task without a batch in an epoch the mean stays.
    """

    _kept = ("_weights", "_epoch_means", "_sums", "_counts")

    def __init__(self, tasks: Sequence[TaskSpec], config: TrainingConfig) -> None:
        """Start with equal weights."""
        super().__init__(tasks, config)
        self._weights = dict.fromkeys(self.names, 1.0)
        self._epoch_means: list[dict[str, float]] = []  # of the last two epochs at most
        self._sums = dict.fromkeys(self.names, 0.0)
        self._counts = dict.fromkeys(self.names, 0)

    def _learned(self, name: str) -> float:
        return self._weights[name]

    def observe(self, name: str, loss: float, shared_norm: float) -> None:
        """Add the loss to the epoch's mean."""
        self._sums[name] += loss
        self._counts[name] += 1

    def end_epoch(self) -> None:
        """Set the weights of the next epoch."""
        known = self._epoch_means[-1] if self._epoch_means else {}
        seen = {name: self._sums[name] / self._counts[name] for name in self.names if self._counts[name]}
        self._epoch_means = [*self._epoch_means[-1:], {**known, **seen}]
        self._sums = dict.fromkeys(self.names, 0.0)
        self._counts = dict.fromkeys(self.names, 0)
        if len(self._epoch_means) == 2:
            before, after = self._epoch_means
            rates = {name: after[name] / before[name] if before.get(name) else 1.0 for name in self.names}
            self._weights = _softmax(rates, self.config.dwa_temperature)


def _softmax(values: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Return weights that add up to their number."""
    highest = max(values.values())
    powers = {name: math.exp((value - highest) / temperature) for name, value in values.items()}
    return {name: len(values) * power / sum(powers.values()) for name, power in powers.items()}


class GradNorm(FixedWeights):
    """GradNorm (Chen et al. 2018, Algorithm 1), for steps of one task each.

    A task's weighted gradient norm at the last shared layer is drawn towards the tasks' mean norm times r^alpha, r being its
    loss as a share of its first loss, relative to the tasks' mean share: a task that lags behind is pulled harder. Of the other
    tasks the latest norm and loss stand in. Weights add up to the number of tasks. With norms g and shares that stay, w g is
    proportional to r^alpha in the end.
    """

    _kept = ("_weights", "_first_losses", "_shares", "_norms")

    def __init__(self, tasks: Sequence[TaskSpec], config: TrainingConfig) -> None:
        """Start with equal weights."""
        super().__init__(tasks, config)
        self._weights = dict.fromkeys(self.names, 1.0)
        self._first_losses: dict[str, float] = {}
        self._shares: dict[str, float] = {}  # latest loss / first loss
        self._norms: dict[str, float] = {}

    def _learned(self, name: str) -> float:
        return self._weights[name]

    def observe(self, name: str, loss: float, shared_norm: float) -> None:
        """Move the task's weight, once every task has been seen."""
        first = self._first_losses.setdefault(name, loss)
        self._shares[name], self._norms[name] = loss / first, shared_norm
        if len(self._norms) < len(self.names):
            return
        mean_norm = sum(self._weights[task] * self._norms[task] for task in self.names) / len(self.names)
        mean_share = sum(self._shares.values()) / len(self.names)
        if not mean_norm or not mean_share:
            return
        target = mean_norm * (self._shares[name] / mean_share) ** self.config.gradnorm_alpha
        off = self._weights[name] * shared_norm - target
        # The L1 loss has slope +-g; the distance bounds the step, so that weights come to rest instead of swinging.
        step = self.config.loss_weighting_rate * max(min(off / mean_norm, 1.0), -1.0)
        self._weights[name] = max(self._weights[name] - step, _SMALLEST_WEIGHT)
        total = sum(self._weights.values())
        self._weights = {task: weight * len(self.names) / total for task, weight in self._weights.items()}


LOSS_WEIGHTINGS: dict[str, Callable[[Sequence[TaskSpec], TrainingConfig], FixedWeights]] = {
    "fixed": FixedWeights,
    "uncertainty": UncertaintyWeights,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
}


def build_loss_weighting(tasks: Sequence[TaskSpec], config: TrainingConfig) -> FixedWeights:
    """Return the rule that `training.loss_weighting` names, for the tasks that have a head of their own.

    Raises:
        UserError: the rule is unknown.
    """
    name = config.loss_weighting
    if name not in LOSS_WEIGHTINGS:
        raise UserError(unknown_name("training.loss_weighting", "rule", name, LOSS_WEIGHTINGS))
    return LOSS_WEIGHTINGS[name]([task for task in tasks if task.head_of is None], config)
