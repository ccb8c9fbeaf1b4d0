"""Exponential moving average of the weights, kept beside them and exchanged with them for scoring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf


class WeightAverage:
    """The average of all trainable weights over the updates so far: after update n, a += (1 - decay) (w - a).

    It starts as the weights of the start, so that after n updates a = decay^n w_0 + (1 - decay) sum_k decay^(n - k) w_k: it looks
    back over about 1 / (1 - decay) updates. Every weight's average moves at every update, also that of heads which the update's
    task does not use: encoder and heads are then averaged over the same span of the run, and where the weights rest, the
    average comes to rest with them.

    Costs one more copy of the trainable weights in memory (4 bytes a weight), and one in each checkpoint.
    """

    def __init__(self, variables: Sequence[keras.Variable], decay: float) -> None:
        """Take the model's trainable variables, and by how much the average stays at an update, in [0, 1)."""
        self._weights: list[tf.Variable] = [variable.value for variable in variables]
        self._averages = [tf.Variable(weight, trainable=False) for weight in self._weights]
        self._decay = decay
        self._compiled = tf.function(self._move)

    def reset(self) -> None:
        """Start over from the weights as they are."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign(weight)

    def update(self) -> None:
        """Move the average after an update of the weights."""
        self._compiled()

    def _move(self) -> None:
        for weight, average in zip(self._weights, self._averages, strict=True):
            average.assign_add((1.0 - self._decay) * (weight - average))

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
