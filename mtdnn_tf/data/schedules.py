"""In which order an epoch's batches of several tasks come: one function for each mixing strategy, pure in (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import MixingConfig
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.seeds import derive_seed


@dataclass(frozen=True)
class EpochOrder:
    """What a strategy knows when it orders one epoch."""

    config: MixingConfig
    names: tuple[str, ...]  # a task id is an index into these
    batches: tuple[int, ...]  # of one pass over each task's data
    examples: tuple[int, ...]  # of one pass; ranking: queries
    epoch: int  # from 0
    epochs: int
    seed: int  # of the run

    def shuffled(self, task_ids: np.ndarray, purpose: str = "mixing") -> np.ndarray:
        """Return the ids in an order that only seed, epoch and purpose decide."""
        seed = tf.constant([derive_seed(self.seed, purpose), self.epoch], tf.int64)
        result: np.ndarray = tf.random.experimental.stateless_shuffle(tf.constant(task_ids), seed).numpy()
        return result

    def random_keys(self, rows: int, columns: int) -> np.ndarray:
        """Return random whole numbers `[rows, columns] int64` that only seed and epoch decide."""
        seed = tf.constant([derive_seed(self.seed, "mixing"), self.epoch], tf.int64)
        keys: np.ndarray = tf.random.stateless_uniform([rows, columns], seed, None, None, tf.int64).numpy()
        return keys


Strategy = Callable[[EpochOrder], np.ndarray]


def repeated(counts: Sequence[int]) -> np.ndarray:
    """Return task 0 counts[0] times, then task 1 counts[1] times, and so on, `[sum of counts] int64`."""
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def apportion(weights: Sequence[float] | np.ndarray, steps: int) -> np.ndarray:
    """Divide steps among tasks by weight: whole numbers, at least one each, that add up to `steps`.

    Largest remainders are rounded up; of equal ones the first. Where a task would get nothing, the largest gives one.
    """
    quotas = np.asarray(weights, np.float64) / np.sum(weights) * steps
    counts = np.floor(quotas).astype(np.int64)
    most_lacking = np.argsort(counts - quotas, kind="stable")
    counts[most_lacking[: steps - counts.sum()]] += 1
    for task in np.flatnonzero(counts == 0):
        counts[counts.argmax()] -= 1
        counts[task] = 1
    return counts


def proportional(order: EpochOrder) -> np.ndarray:
    """Merge all tasks' batches and shuffle them: every batch once an epoch (Liu et al. 2019a, Algorithm 1)."""
    return order.shuffled(repeated(order.batches))


def round_robin(order: EpochOrder) -> np.ndarray:
    """Take a batch of each task in turn, each round in a new order; a task drops out when its batches are used up.

    Every batch comes once an epoch (the training order of the study that compares four sharing structures).
    """
    batches = np.array(order.batches)
    rounds = int(batches.max())
    ranks = np.argsort(order.random_keys(rounds, len(batches)), axis=1, kind="stable")
    still_there = batches[ranks] > np.arange(rounds)[:, np.newaxis]
    in_turn: np.ndarray = ranks[still_there].astype(np.int64)
    return in_turn


def ratio(order: EpochOrder) -> np.ndarray:
    """All batches of the main task, and `ratio` times as many drawn from those of all the others, without replacement.

    The ratio of the original program: it bounds the others, and leaves the main task whole. `main_last` puts the main task's
    batches after the others (its `mix_opt`).
    """
    main = _main_task(order)
    others = repeated([0 if task == main else count for task, count in enumerate(order.batches)])
    chosen = order.shuffled(others, "ratio")[: int(min(order.batches[main] * (order.config.ratio or 0), len(others)))]
    main_batches = np.full(order.batches[main], main, np.int64)
    together = np.concatenate([chosen, main_batches])
    return together if order.config.main_last else order.shuffled(together)


def _main_task(order: EpochOrder) -> int:
    name = order.config.main_task
    return 0 if name is None else order.names.index(name)


def uniform(order: EpochOrder) -> np.ndarray:
    """Give every task the same number of steps."""
    return _weighted(order, [1.0] * len(order.names))


def temperature(order: EpochOrder) -> np.ndarray:
    """Give a task with N examples a share of the examples seen that is proportional to N^(1/T)."""
    return _by_size(order, 1.0 / (order.config.temperature or 1.0))


def square_root(order: EpochOrder) -> np.ndarray:
    """Give a task with N examples a share of the examples seen that is proportional to the square root of N."""
    return _by_size(order, 0.5)


def annealed(order: EpochOrder) -> np.ndarray:
    """Go from proportional towards equal numbers of examples: shares of the examples seen proportional to N^a.

    a = 1 - 0.8 (e - 1) / (E - 1) in epoch e from 1 to E (Stickland and Murray 2019).
    """
    epoch = min(order.epoch, order.epochs - 1)
    return _by_size(order, 1.0 - 0.8 * epoch / max(order.epochs - 1, 1))


def explicit(order: EpochOrder) -> np.ndarray:
    """Take the shares of the steps (`weights`) or the numbers of steps (`steps`) that the configuration gives."""
    if order.config.steps:
        return order.shuffled(repeated([order.config.steps[name] for name in order.names]))
    return _weighted(order, [order.config.weights[name] for name in order.names])


def _by_size(order: EpochOrder, exponent: float) -> np.ndarray:
    """Give a task with N examples a share of the examples seen that is proportional to N^exponent; 1: as `proportional`.

    A step of a task shows `N / batches` examples on average, so its steps are proportional to N^exponent divided by that: a batch
    size changes how many steps a task gets, not how often its examples are seen.
    """
    examples = np.asarray(order.examples, np.float64)
    return _weighted(order, np.power(examples, exponent - 1.0) * np.asarray(order.batches))


def _weighted(order: EpochOrder, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Shuffle steps that were divided by weight, a share of the steps.

    A task's batches are used up before any comes again, epochs notwithstanding.
    """
    steps = order.config.steps_per_epoch or sum(order.batches)
    return order.shuffled(repeated(apportion(weights, steps).tolist()))


MIXING_STRATEGIES: dict[str, Strategy] = {
    "proportional": proportional,
    "uniform": uniform,
    "temperature": temperature,
    "sqrt": square_root,
    "annealed": annealed,
    "ratio": ratio,
    "round_robin": round_robin,
    "explicit": explicit,
}

# Which options of `mixing` a strategy reads, beside those that it cannot do without.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "uniform": ("steps_per_epoch",),
    "temperature": ("temperature", "steps_per_epoch"),
    "sqrt": ("steps_per_epoch",),
    "annealed": ("steps_per_epoch",),
    "ratio": ("ratio", "main_task", "main_last"),
    "explicit": ("weights", "steps", "steps_per_epoch"),
}
_NEEDED = {"temperature": "temperature", "ratio": "ratio"}


def check_mixing(config: MixingConfig, names: Sequence[str]) -> None:
    """Check strategy and options against each other and against the tasks that are trained.

    Raises:
        UserError: an unknown strategy; an option that it needs and lacks, or that has no effect on it; tasks that `weights` or
            `steps` name and that are not trained, or leave out; fewer steps than tasks.
    """
    strategy = config.strategy
    if strategy not in MIXING_STRATEGIES:
        raise UserError(unknown_name("mixing.strategy", "strategy", strategy, MIXING_STRATEGIES))
    read = _OPTIONS.get(strategy, ())
    options = ("temperature", "ratio", "main_task", "main_last", "weights", "steps", "steps_per_epoch")
    given = {name: value for name in options if (value := getattr(config, name)) not in (None, {})}
    for name in given:
        if name not in read:
            raise UserError(f"mixing.{name}: has no effect on strategy {strategy!r}, which reads {_listed(read)}")
    needed = _NEEDED.get(strategy)
    if needed and needed not in given:
        raise UserError(f"mixing.{needed}: strategy {strategy!r} needs it; give a number, as in {needed}: 2")
    if config.main_task and config.main_task not in names:
        raise UserError(unknown_name("mixing.main_task", "trained task", config.main_task, names))
    if strategy == "explicit":
        _check_explicit(config, names)
    if config.steps_per_epoch and config.steps_per_epoch < len(names):
        raise UserError(
            f"mixing.steps_per_epoch: must be at least one for each of {len(names)} tasks, received {config.steps_per_epoch}"
        )


def _check_explicit(config: MixingConfig, names: Sequence[str]) -> None:
    if bool(config.weights) == bool(config.steps):
        raise UserError("mixing: strategy 'explicit' needs either weights or steps, as in weights: {rte: 2, mnli: 1}")
    if config.steps and config.steps_per_epoch:
        raise UserError("mixing.steps_per_epoch: the sum of mixing.steps already says it; remove one of them")
    key = "weights" if config.weights else "steps"
    given = config.weights or config.steps
    for name in given:
        if name not in names:
            raise UserError(unknown_name(f"mixing.{key}", "trained task", name, names))
    missing = [name for name in names if name not in given]
    if missing:
        raise UserError(f"mixing.{key}: every trained task needs a number; missing: {', '.join(missing)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "no option"
