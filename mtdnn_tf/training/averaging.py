"""Exponential moving average of the weights, kept beside them and exchanged with them for scoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf


def horizon(decay: float, updates: int) -> float:
    """Return over about how many of the last updates an average looks back after so many of them."""
    return min(1.0 / (1.0 - decay), (10 + updates) / 9)


class WeightAverage:
    """The average of all trainable weights over the updates so far: after update n, a += (1 - d_n) (w - a).

    d_n = min(decay, (1 + n) / (10 + n)) for n from 1: with the decay alone, the weights of the start, random heads included, would
    still count decay^n, most of the average of a short run. It starts as the weights of the start, of which d_1 d_2 ... d_n is left
    (0.001 after 6 updates). It looks back over about `horizon` updates. Every weight's average moves at every update, also that
    of heads which the update's task does not use: encoder and heads are then averaged over the same span of the run, and where
    the weights rest, the average comes to rest with them.

    n is the optimizer's own count of updates: it is in every checkpoint, and leaves out what a loss scale left out.

    Costs one more copy of the trainable weights in memory (4 bytes a weight), and one in each checkpoint.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float, updates: keras.Variable) -> None:
        """Take the model's trainable variables, the largest decay, in [0, 1), and the optimizer's `iterations`."""
        self._weights: list[tf.Variable] = [variable.value for variable in variables]
        self._averages = [tf.Variable(weight, trainable=False) for weight in self._weights]
        self._decay, self._updates = decay, updates.value
        self._compiled = tf.function(self._move)

    def reset(self) -> None:
        """Start over from the weights as they are."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign(weight)

    def update(self) -> None:
        """Move the average after an update of the weights, which the optimizer has counted."""
        self._compiled()

    def _move(self) -> None:
        count = tf.cast(self._updates, tf.float32)
        share = 1.0 - tf.minimum(self._decay, (1.0 + count) / (10.0 + count))
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign_add(share * (weight - average))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the model the averages; afterwards it has its weights back, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = tf.identity(weight)
            weight.assign(average)
            average.assign(kept)

    def parts(self, model_parts: Mapping[str, Mapping[str, tf.Variable]]) -> dict[str, dict[str, tf.Variable]]:
        """Return the averages by part and name like the weights that they belong to, each part's name after `average/`."""
        averages = {id(weight): average for weight, average in zip(self._weights, self._averages, strict=True)}
        named = {
            part: {name: averages[id(weight)] for name, weight in weights.items() if id(weight) in averages}
            for part, weights in model_parts.items()
        }
        return {f"average/{part}": own for part, own in named.items() if own}
