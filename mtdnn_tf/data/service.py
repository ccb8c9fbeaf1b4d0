"""Batches made by the workers of a tf.data service, in the order and with the content that they have without it.

The trainer decides which items make up which batch. The service hands these lists out, each to the worker that is free next
(dynamic sharding: none twice), and the workers gather and pad the rows. What comes back in any order is put in order again; what
has not come when it is needed, or never comes because its worker died, is made here. So the service cannot change a run.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import BATCH_SPEC, TrainingBatches
from mtdnn_tf.data.pipelines import PARALLEL_CALLS, without_tuner
from mtdnn_tf.errors import UserError

Batch = dict[str, tf.Tensor]
_ADDRESS = re.compile(r"grpc://(?P<host>[^:/]+|\[[^\]]+\]):(?P<port>\d+)")
_EARLY = 256  # batches that may wait for a late one
_WAITING = 8  # batches that have come, and that nobody has asked for
_PATIENCE = 60.0  # seconds without a batch after which batches are made here
_TIMEOUT = 10.0  # seconds, for a dispatcher to answer
_MOST_BYTES = 1_500_000_000  # of tokens: they travel in the dataset's graph, and protocol buffers end at 2 GB


def check_service(address: str, bytes_of_tokens: int) -> None:
    """Check that a dispatcher answers at the address, and that the data can be sent there.

    Raises:
        UserError: it does not, or there are too many tokens.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise UserError(
            f"data.service: must be the address of a dispatcher, as in grpc://host:5000. Received: {address!r}"
        )
    try:
        socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), timeout=_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"data.service: no dispatcher answers at {address} ({error}); start one, or leave the key empty"
        ) from None
    if bytes_of_tokens > _MOST_BYTES:
        raise UserError(
            f"data.service: the tokenised tasks have {bytes_of_tokens / 1e9:.1f} GB, and {_MOST_BYTES / 1e9} GB at most can be "
            "sent to a service; leave the key empty"
        )


def served(address: str, tasks: Sequence[TrainingBatches], choices: np.ndarray, items: np.ndarray) -> tf.data.Dataset:
    """Return batches that a service makes.

    Args:
        address: of the dispatcher, as in grpc://host:5000.
        tasks: by task id.
        choices: `[batches] int64`, each one's task id.
        items: `[batches, any] int64`, each one's items, filled up with -1.

    Returns:
        The batches in the given order; structure as `BATCH_SPEC`.
    """

    def make(position: tf.Tensor, task: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, Batch]:
        return position, _batch(tasks, task, chosen)

    work = tf.data.Dataset.from_tensor_slices((np.arange(len(choices)), choices, items))
    unordered = work.map(make, num_parallel_calls=PARALLEL_CALLS).apply(
        tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.DYNAMIC, address)
    )

    def ordered() -> Iterator[Batch]:
        with _Arrivals(without_tuner(unordered), address) as arrivals:
            early: dict[int, Batch] = {}
            for position in range(len(choices)):
                while position not in early and len(early) < _EARLY:
                    arrived = arrivals.next()
                    if arrived is None:
                        break
                    if arrived[0] >= position:
                        early[arrived[0]] = arrived[1]
                here = early.pop(position, None)
                yield _batch(tasks, choices[position], items[position]) if here is None else here

    dataset = tf.data.Dataset.from_generator(ordered, output_signature=BATCH_SPEC)
    return without_tuner(dataset.apply(tf.data.experimental.assert_cardinality(len(choices))))


class _Arrivals:
    """What a service sends, taken by a thread of its own: where no worker is left, nothing comes and nothing ends."""

    def __init__(self, dataset: tf.data.Dataset, address: str) -> None:
        self._dataset = dataset
        self._address = address
        self._queue: queue.Queue[tuple[int, Batch] | Exception | None] = queue.Queue(_WAITING)
        self._closed = threading.Event()
        self._patience = _PATIENCE
        self._ended = False

    def __enter__(self) -> _Arrivals:
        threading.Thread(target=self._take, name="data.service", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def next(self) -> tuple[int, Batch] | None:
        """Return the position and the batch that came next; None where no more will come, or none came in time.

        Once none came in time, what is late is no longer waited for.
        """
        if self._ended:
            return None
        try:
            arrived = self._queue.get(self._patience > 0, self._patience)
        except queue.Empty:
            if self._patience:
                print(
                    f"data.service: no batch came from {self._address} in {self._patience:.0f} s; made here", flush=True
                )
            self._patience = 0.0
            return None
        if isinstance(arrived, Exception):
            raise arrived
        self._ended = arrived is None
        return arrived

    def _take(self) -> None:
        try:
            for position, batch in self._dataset:
                self._put((int(position), batch))
                if self._closed.is_set():
                    return
            self._put(None)
        except Exception as error:  # told where the batch is missed
            self._put(error)

    def _put(self, arrived: tuple[int, Batch] | Exception | None) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(arrived, timeout=1.0)
                break


def _batch(tasks: Sequence[TrainingBatches], task: tf.Tensor, items: tf.Tensor) -> Batch:
    batch: Batch = tf.switch_case(
        tf.cast(task, tf.int32), [lambda own=own: own.batch(tf.convert_to_tensor(items)) for own in tasks]
    )
    return batch
