"""Task heads: from the shared sequence and sentence vector to one task's logits."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.head import Head
from mtdnn_tf.modeling.pretraining_head import PretrainingHead
from mtdnn_tf.tasks import TaskSpec


class LinearHead(Head):
    """Dropout and one dense layer on the sentence vector (paper, Eq. 1, 2 and 5; no squashing of regression or relevance)."""

    def __init__(self, task: TaskSpec, *, dropout: float, seed: int, **kwargs: Any) -> None:
        """See `Head`."""
        super().__init__(task, dropout=dropout, seed=seed)
        self.dropout = self._dropout("dropout")
        self.dense = self._dense(self.outputs, "logits")

    def build(self, sequence_shape: Any, vector_shape: Any, *_: Any, **__: Any) -> None:
        """Create the weights."""
        self.dense.build(vector_shape)

    def call(
        self, sequence: Any, vector: Any, segment_ids: Any, padding_mask: Any, training: bool | None = None
    ) -> Any:
        """Return logits; see `Head`."""
        return self._in_task_units(self.dense(self.dropout(vector, training=training)))


class MLPHead(Head):
    """Dropout, a ReLU layer of the encoder's feed-forward width, and a dense layer on the sentence vector (d -> d_ff -> C).

    The head of the stacked structure with mean pooling (Sun 2019; see `sharing.py`).
    """

    def __init__(self, task: TaskSpec, *, dropout: float, seed: int, width: int, **kwargs: Any) -> None:
        """Take the width d_ff of the hidden layer; see `Head`."""
        super().__init__(task, dropout=dropout, seed=seed)
        self.dropout = self._dropout("dropout")
        self.hidden = self._dense(width, "hidden")
        self.dense = self._dense(self.outputs, "logits")

    def build(self, sequence_shape: Any, vector_shape: Any, *_: Any, **__: Any) -> None:
        """Create the weights: d d_ff + d_ff + d_ff C + C."""
        self.hidden.build(vector_shape)
        self.dense.build((None, self.hidden.units))

    def call(
        self, sequence: Any, vector: Any, segment_ids: Any, padding_mask: Any, training: bool | None = None
    ) -> Any:
        """Return logits; see `Head`."""
        return self._in_task_units(self.dense(ops.relu(self.hidden(self.dropout(vector, training=training)))))


class SANHead(Head):
    """Stochastic answer network for text pairs (paper, Eq. 3 and 4): K reasoning steps over premise and hypothesis.

    The state starts as the self-attended hypothesis; each step attends to the premise from the state and classifies the
    two; a GRU makes the next state. As in the released code, step k classifies before the update, so that K steps give K
    predictions. The result is the log of their mean probability, computed in log space; in training, each step is left out
    of it with a given probability, one drawn at random never.
    """

    def __init__(
        self, task: TaskSpec, *, dropout: float, seed: int, steps: int = 5, prediction_dropout: float = 0.1
    ) -> None:
        """Take the number of reasoning steps K and the rate at which steps are left out; see `Head`.

        Raises:
            UserError: the task is no classification of text pairs.
        """
        if task.type != "classification" or len(task.text) != 2:
            raise UserError(
                f"tasks.{task.name}.head: 'san' classifies pairs of texts; received {task.type} of {len(task.text)}"
            )
        super().__init__(task, dropout=dropout, seed=seed)
        self.steps, self.prediction_dropout = steps, prediction_dropout
        # One mask for all positions of a row ("variational"), another one at every call.
        self.memory_dropout = self._dropout("memory_dropout", noise_shape=(None, 1, None))
        self.state_dropout = self._dropout("state_dropout")
        self.answer_dropout = self._dropout("answer_dropout")
        self.summary = self._dense(1, "summary")  # w1
        self.answer = self._dense(self.outputs, "answer")  # W3
        self.step_seeds = keras.random.SeedGenerator(self._part_seed("steps"))

    def build(self, sequence_shape: Any, *_: Any, **__: Any) -> None:
        """Create the weights: (d+1) + (d^2+d) + (6d^2+6d) + (4dC+C)."""
        width = int(sequence_shape[-1])
        bound = 1 / math.sqrt(width)
        uniform = {
            part: keras.initializers.RandomUniform(-bound, bound, seed=self._part_seed(f"gru_{part}"))
            for part in ("kernel", "recurrent", "bias")
        }
        self.attention = self._dense(width, "attention")  # W2
        self.cell = keras.layers.GRUCell(
            width,
            reset_after=True,
            kernel_initializer=uniform["kernel"],
            recurrent_initializer=uniform["recurrent"],
            bias_initializer=uniform["bias"],
            dtype="float32",
            name="gru",
        )
        self.summary.build((None, None, width))
        self.attention.build((None, width))
        self.answer.build((None, 4 * width))
        self.cell.build((None, width))

    def call(
        self, sequence: Any, vector: Any, segment_ids: Any, padding_mask: Any, training: bool | None = None
    ) -> Any:
        """Return log probabilities as logits; see `Head`."""
        premise, hypothesis = self._parts(segment_ids, padding_mask)
        dropped = self.memory_dropout(sequence, training=training)
        state = _attend(self.summary(dropped)[..., 0], hypothesis, dropped)
        predictions = []
        for step in range(self.steps):
            query = self.attention(self.state_dropout(state, training=training))
            keys = self.memory_dropout(sequence, training=training)
            found = _attend(ops.einsum("bld,bd->bl", keys, query), premise, sequence)
            compared = ops.concatenate([found, state, ops.abs(found - state), found * state], axis=-1)
            logits = self.answer(self.answer_dropout(compared, training=training))
            predictions.append(ops.log_softmax(logits, axis=-1))
            if step + 1 < self.steps:
                previous = self.state_dropout(state, training=training)
                state, _ = self.cell(found, [previous], training=training)
        return self._log_mean(ops.stack(predictions, axis=1), training)

    def _parts(self, segment_ids: Any, padding_mask: Any) -> tuple[Any, Any]:
        """Return which positions are premise and hypothesis, `[batch, length] float32`; [CLS] goes with what stands first."""
        real = ops.cast(padding_mask, "float32")
        second = ops.cast(segment_ids, "float32") * real
        first = real - second
        return (first, second) if self.task.pair_order == "premise_first" else (second, first)

    def _log_mean(self, log_probabilities: Any, training: bool | None) -> Any:
        """Return the log of the mean over steps (`[batch, steps, outputs]` in, `[batch, outputs]` out)."""
        if not training or self.prediction_dropout == 0:
            return ops.logsumexp(log_probabilities, axis=1) - math.log(self.steps)
        batch = ops.shape(log_probabilities)[0]
        kept = keras.random.uniform((batch, self.steps), seed=self.step_seeds) >= self.prediction_dropout
        chosen = keras.random.randint((batch,), 0, self.steps, seed=self.step_seeds)
        kept = ops.logical_or(kept, ops.one_hot(chosen, self.steps, dtype="bool"))
        left_out = ops.where(kept, 0.0, -1e9)[..., None]
        count = ops.sum(ops.cast(kept, "float32"), axis=1, keepdims=True)
        return ops.logsumexp(log_probabilities + left_out, axis=1) - ops.log(count)


def _attend(scores: Any, allowed: Any, values: Any) -> Any:
    """Return the sum of values weighted by the softmax of scores over allowed positions; zeros where none is allowed."""
    highest = ops.max(ops.where(allowed > 0, scores, -1e9), axis=-1, keepdims=True)
    weights = ops.exp(ops.minimum(scores - ops.stop_gradient(highest), 0.0)) * allowed
    weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1e-30)
    return ops.einsum("bl,bld->bd", weights, values)


# A head is added here, and its name to the task types that take it.
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "mlp": MLPHead,
    "san": SANHead,
    "pretraining": PretrainingHead,
}


def build_head(
    task: TaskSpec, *, dropout: float, san_steps: int, san_prediction_dropout: float, width: int, seed: int
) -> Head:
    """Return the head of a task, not yet built; `width` is the encoder's feed-forward width.

    Raises:
        UserError: the head is unknown or does not suit the task.
    """
    if task.head not in HEADS:
        raise UserError(unknown_name(f"tasks.{task.name}.head", "head", task.head, HEADS))
    rate = dropout if task.dropout is None else task.dropout
    options: dict[str, dict[str, Any]] = {
        "san": {"steps": san_steps, "prediction_dropout": san_prediction_dropout},
        "mlp": {"width": width},
    }
    return HEADS[task.head](task, dropout=rate, seed=seed, **options.get(task.head, {}))
