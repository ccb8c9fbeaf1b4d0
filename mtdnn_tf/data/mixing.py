"""Batches of all tasks in one order, one task a batch: what `mixing.strategy` says, a pure function of (seed, epoch)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.data.batches import TokenizedTask, TrainingBatches, num_batches
from mtdnn_tf.data.cache import tokenized_split
from mtdnn_tf.data.documents import document_files
from mtdnn_tf.data.pipelines import made_ahead
from mtdnn_tf.data.schedules import MIXING_STRATEGIES, EpochOrder, check_mixing
from mtdnn_tf.data.service import check_service, served
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec


class HasTokenizer(Protocol):
    """What an `Encoder` is to this module."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What its texts are split with."""


@dataclass(frozen=True)
class Mixture:
    """The training batches of several tasks, one task a batch."""

    task_names: tuple[str, ...]  # a batch's task_id is an index into these
    batch_counts: Mapping[str, int]  # batches of one pass over a task's data, by task
    example_counts: Mapping[str, int]  # examples (ranking: queries) of one pass
    tokenized: Mapping[str, TokenizedTask] = field(repr=False)
    epochs: int  # of the run
    accumulate: int  # batches to one update
    max_length: int  # tokens that rows were cut to
    _passes: tuple[TrainingBatches, ...] = field(repr=False)
    _order: Callable[[int], np.ndarray] = field(repr=False)
    _service: str = ""  # address of a tf.data service that makes the batches

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches an epoch, exactly; the same in every epoch."""
        return len(self._order(0))

    @property
    def updates_per_epoch(self) -> int:
        """The number of updates of the weights an epoch; the last one may have fewer batches."""
        return -(-self.steps_per_epoch // self.accumulate)

    @property
    def total_updates(self) -> int:
        """The number of updates of the whole run: what a learning-rate schedule spans."""
        return self.epochs * self.updates_per_epoch

    @property
    def dataset(self) -> tf.data.Dataset:
        """All epochs of the run one after the other; batches as in `TrainingBatches`; its cardinality is known."""
        return self._epochs(range(self.epochs), 0)

    def schedule(self, epoch: int) -> np.ndarray:
        """Return the task id of every step of an epoch, `[steps_per_epoch] int64`: the order of `epoch_dataset`."""
        return self._order(epoch).copy()

    def step_counts(self, epoch: int) -> dict[str, int]:
        """Return how many steps of an epoch each task gets."""
        return dict(zip(self.task_names, self._counts(self._order(epoch)).tolist(), strict=True))

    def epoch_dataset(self, epoch: int, start_step: int = 0) -> tf.data.Dataset:
        """Return one epoch's batches from a step on; its cardinality is known.

        Each task goes on where the epoch before left it: its batches are used up before any of them comes again.
        """
        return self._epochs(range(epoch, epoch + 1), start_step)

    def batches(self, epochs: int, start: tuple[int, int] = (0, 0)) -> Iterator[dict[str, tf.Tensor]]:
        """Yield the batches of a run, those of `epoch_dataset` after each other; the pipeline is set up once (with a service, each epoch).

        Args:
            epochs: of the run, at least one more than those that are done.
            start: (epoch, step) of the first batch.
        """
        epoch, step = start
        if self._service:  # it is sent an epoch's work at a time: a message ends at 2 GB
            for later in range(epoch, epochs):
                yield from self.epoch_dataset(later, step if later == epoch else 0)
        else:
            yield from self._epochs(range(epoch, epochs), step)

    def _epochs(self, epochs: range, start_step: int) -> tf.data.Dataset:
        """Return the batches of some epochs one after the other, of the first one from a step on."""
        first, *later = (self._order(epoch) for epoch in epochs)
        before = [*(self._order(epoch) for epoch in range(epochs.start)), first[:start_step]]
        choices = np.concatenate([first[start_step:], *later])
        return self._chosen(choices, np.sum([self._counts(order) for order in before], axis=0))

    def _counts(self, order: np.ndarray) -> np.ndarray:
        return np.bincount(order, minlength=len(self.task_names))

    def _chosen(self, choices: np.ndarray, starts: np.ndarray) -> tf.data.Dataset:
        """Return the batches that the choices name, each task's from its own start, counted from the beginning of the run."""
        if self._service:
            return served(self._service, self._passes, choices, self._items(choices, starts))
        counts, batches = self._counts(choices), self.batch_counts.values()
        streams = [
            _stream(passes, int(start), int(count), of_pass)
            for passes, start, count, of_pass in zip(self._passes, starts, counts, batches, strict=True)
        ]
        dataset = tf.data.Dataset.choose_from_datasets(
            streams, tf.data.Dataset.from_tensor_slices(choices), stop_on_empty_dataset=False
        )
        # The choice loses the count (choose_from_datasets does not know that no input runs dry).
        return made_ahead(dataset.apply(tf.data.experimental.assert_cardinality(len(choices))))

    def _items(self, choices: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the items of the batches that the choices name, `[batches, any] int64`, filled up with -1."""
        streams = []
        for task_id, (passes, of_pass) in enumerate(zip(self._passes, self.batch_counts.values(), strict=True)):
            start, count = int(starts[task_id]), int(np.sum(choices == task_id))
            first, last = start // of_pass, -(-(start + count) // of_pass)
            with tf.device("CPU"):
                found = [passes.items(tf.constant(index, tf.int64), tf.constant(0)) for index in range(first, last)]
            streams.append(np.concatenate(found)[start - first * of_pass :] if found else np.empty([0, 0], np.int64))
        items = np.full([len(choices), max(stream.shape[1] for stream in streams)], -1, np.int64)
        for task_id, stream in enumerate(streams):
            steps = np.flatnonzero(choices == task_id)
            items[steps, : stream.shape[1]] = stream[: len(steps)]
        return items


def _stream(passes: TrainingBatches, start: int, count: int, of_pass: int) -> tf.data.Dataset:
    """Return at least `count` batches of one task from the `start`-th of the run on, over as many passes as that takes."""
    first_pass, offset = divmod(start, of_pass)
    return passes(first_pass, offset, -(-(offset + count) // of_pass))


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
        config: `data`, `mixing`, and of `training` epochs, accumulate and seed are used.
        seed: in place of `training.seed`.

    Raises:
        UserError: a task has no training source or no rows, a file is bad, the strategy is unknown, or `data.service` is not there.
    """
    trained = [task for task in tasks if task.head_of is None]
    for task in trained:
        if "train" not in task.sources:
            raise UserError(f"tasks.{task.name}.train: is missing; a task with a head of its own needs training rows")
    if not trained:
        raise UserError("tasks: none of them has a head of its own to train")
    _check_documents(trained, config)
    check_mixing(config.mixing, [task.name for task in trained])
    seed = config.training.seed if seed is None else seed
    tokenizer = encoder if isinstance(encoder, Tokenizer) else encoder.tokenizer
    data = config.data
    tokenized = {task.name: tokenized_split(task, "train", tokenizer, data) for task in trained}
    sizes = {task.name: task.batch_size or data.batch_size for task in trained}
    batches = {name: num_batches(split, sizes[name]) for name, split in tokenized.items()}
    examples = {name: split.num_items for name, split in tokenized.items()}

    if data.service:
        check_service(data.service, sum(split.token_ids.nbytes for split in tokenized.values()))
    buckets = data.buckets if data.bucketing == "length" else None

    @functools.cache
    def order(epoch: int) -> np.ndarray:
        return MIXING_STRATEGIES[config.mixing.strategy](
            EpochOrder(
                config.mixing,
                tuple(tokenized),
                tuple(batches.values()),
                tuple(examples.values()),
                epoch,
                config.training.epochs,
                seed,
            )
        )

    return Mixture(
        task_names=tuple(tokenized),
        batch_counts=batches,
        example_counts=examples,
        tokenized=tokenized,
        epochs=config.training.epochs,
        accumulate=config.training.accumulate,
        max_length=data.max_length,
        _passes=tuple(
            TrainingBatches(split, sizes[name], buckets, seed, task_id)
            for task_id, (name, split) in enumerate(tokenized.items())
        ),
        _order=order,
        _service=data.service,
    )


def _check_documents(trained: Sequence[TaskSpec], config: ExperimentConfig) -> None:
    """Refuse what does not go with rows that are made anew in every pass, with masks that other batches have not."""
    of_documents = [task for task in trained if task.type in DOCUMENT_TYPES]
    if of_documents and len(trained) > 1:
        raise UserError(
            f"tasks.{of_documents[0].name}: pre-training takes a run of its own; train the other tasks on its encoder"
        )
    if of_documents and config.data.service:
        raise UserError("data.service: makes no batches of running text; leave the key empty")
    for task in of_documents:
        _check_held_out(task)


def _check_held_out(task: TaskSpec) -> None:
    """Refuse a file of running text that is both trained on and held out."""
    files = {split: document_files(source) for split, source in task.sources.items()}
    trained = set(files.pop("train"))
    for split, paths in files.items():
        shared = next((path for path in paths if path in trained), None)
        if shared:
            raise UserError(f"tasks.{task.name}.{split}: {shared} is also trained on; hold other files out")
