"""One epoch's batches of all tasks in one order: Algorithm 1 of the paper, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.data.batches import Epochs, TokenizedTask, num_batches, tokenize_task, training_batches
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec


class HasTokenizer(Protocol):
    """What an `Encoder` is to this module."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What its texts are split with."""


Strategy = Callable[[Sequence[int], tf.Tensor], tf.Tensor]


def proportional(batch_counts: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Merge all tasks' batches and shuffle them, every batch once an epoch (paper, Algorithm 1).

    Args:
        batch_counts: batches of each task.
        seed: `[2] int64`, of the epoch.

    Returns:
        Task ids, `[sum of counts] int64`, in the order of the steps.
    """
    tasks = np.repeat(np.arange(len(batch_counts), dtype=np.int64), batch_counts)
    return tf.random.experimental.stateless_shuffle(tf.constant(tasks), seed)


# From batch counts and the epoch's seed to the epoch's task ids.
MIXING_STRATEGIES: dict[str, Strategy] = {"proportional": proportional}


@dataclass(frozen=True)
class Mixture:
    """The training batches of several tasks, one task a batch."""

    task_names: tuple[str, ...]  # a batch's task_id is an index into these
    batch_counts: Mapping[str, int]  # batches an epoch, by task
    example_counts: Mapping[str, int]  # examples (ranking: queries) an epoch, by task
    tokenized: Mapping[str, TokenizedTask] = field(repr=False)
    _epochs: tuple[Epochs, ...] = field(repr=False)
    _strategy: Strategy = field(repr=False)
    _seed: int = field(repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches an epoch, exactly."""
        return sum(self.batch_counts.values())

    @property
    def dataset(self) -> tf.data.Dataset:
        """All epochs one after the other, without end; batches as in `training_batches`."""
        zero = tf.constant(0, tf.int64)
        endless = tf.data.Dataset.counter().flat_map(
            lambda epoch: self._choose(epoch, [zero] * len(self._epochs), self._task_ids(epoch))
        )
        return endless.prefetch(tf.data.AUTOTUNE)

    def schedule(self, epoch: int) -> np.ndarray:
        """Return the task id of every step of an epoch, `[steps_per_epoch] int64`: the order of `epoch_dataset`."""
        schedule: np.ndarray = self._task_ids(tf.constant(epoch, tf.int64)).numpy()
        return schedule

    def step_counts(self, epoch: int) -> dict[str, int]:
        """Return how many steps of an epoch each task gets."""
        counts = np.bincount(self.schedule(epoch), minlength=len(self.task_names))
        return dict(zip(self.task_names, counts.tolist(), strict=True))

    def epoch_dataset(self, epoch: int, start_step: int = 0) -> tf.data.Dataset:
        """Return one epoch's batches from a step on; its cardinality is known."""
        schedule = self.schedule(epoch)
        done = np.bincount(schedule[:start_step], minlength=len(self._epochs))
        starts = [tf.constant(count, tf.int64) for count in done]
        dataset = self._choose(tf.constant(epoch, tf.int64), starts, tf.constant(schedule[start_step:]))
        # The choice loses the count (choose_from_datasets does not know that no input runs dry).
        return dataset.apply(tf.data.experimental.assert_cardinality(len(schedule) - start_step)).prefetch(
            tf.data.AUTOTUNE
        )

    def _task_ids(self, epoch: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(derive_seed(self._seed, "mixing"), tf.int64), epoch])
        return self._strategy(list(self.batch_counts.values()), seed)

    def _choose(self, epoch: tf.Tensor, starts: Sequence[tf.Tensor], task_ids: tf.Tensor) -> tf.data.Dataset:
        datasets = [batches(epoch, start) for batches, start in zip(self._epochs, starts, strict=True)]
        choices = tf.data.Dataset.from_tensor_slices(task_ids)
        return tf.data.Dataset.choose_from_datasets(datasets, choices, stop_on_empty_dataset=False)


def build_mixture(
    tasks: Sequence[TaskSpec],
    encoder: HasTokenizer | Tokenizer,
    config: ExperimentConfig,
    seed: int | None = None,
) -> Mixture:
    """Read, tokenise and batch the training split of every task, and mix them as `mixing.strategy` says.

    Args:
        tasks: tasks with `head_of` are not trained and left out.
        encoder: an `Encoder`, or its tokenizer.
        config: `data`, `mixing` and `training.seed` are used.
        seed: in place of `training.seed`.

    Raises:
        UserError: a task has no training source or no rows, a file is bad, or the strategy is unknown.
    """
    strategy = config.mixing.strategy
    if strategy not in MIXING_STRATEGIES:
        raise UserError(unknown_name("mixing.strategy", "strategy", strategy, MIXING_STRATEGIES))
    trained = [task for task in tasks if task.head_of is None]
    for task in trained:
        if "train" not in task.sources:
            raise UserError(f"tasks.{task.name}.train: is missing; a task with a head of its own needs training rows")
    if not trained:
        raise UserError("tasks: none of them has a head of its own to train")
    seed = config.training.seed if seed is None else seed
    tokenizer = encoder if isinstance(encoder, Tokenizer) else encoder.tokenizer
    data = config.data
    tokenized = {
        task.name: tokenize_task(read_examples(task, "train"), task, tokenizer, data.max_length) for task in trained
    }
    sizes = {task.name: task.batch_size or data.batch_size for task in trained}
    return Mixture(
        task_names=tuple(tokenized),
        batch_counts={name: num_batches(split, sizes[name]) for name, split in tokenized.items()},
        example_counts={name: split.num_items for name, split in tokenized.items()},
        tokenized=tokenized,
        _epochs=tuple(
            training_batches(split, sizes[name], data.buckets, seed, task_id)
            for task_id, (name, split) in enumerate(tokenized.items())
        ),
        _strategy=MIXING_STRATEGIES[strategy],
        _seed=seed,
    )
