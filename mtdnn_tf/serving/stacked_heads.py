"""Heads as they are served: those of one kind keep their weights side by side, and answer together in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.modeling.head import Head
from mtdnn_tf.modeling.heads import LinearHead, SANHead
from mtdnn_tf.tasks import ScoreMap, TaskSpec

_NEVER = -1e9  # logit of a class that only fills up


class ServedHeads(tf.Module):
    """All heads of a model, those of one kind stacked; a head of another kind is asked as the model has it."""

    def __init__(self, model: keras.Model, tasks: Sequence[TaskSpec]) -> None:
        """Take a model of `build_model` and the tasks with a head of their own; heads of one signature come to stand together."""
        super().__init__(name="heads")
        kinds: dict[Any, list[Head]] = {}
        for task in sorted(tasks, key=lambda task: (len(task.text), task.pair_order)):
            head = model.get_layer(task.name)
            kinds.setdefault((type(head), getattr(head, "steps", 0)), []).append(head)
        stacks: list[LinearStack | SANStack] = []
        places: dict[str, tuple[int, int]] = {}  # which stack, and where in it
        others: dict[str, Head] = {}
        for (kind, _), heads in kinds.items():
            if kind in _STACKS:
                places |= {head.name: (len(stacks), index) for index, head in enumerate(heads)}
                stacks.append(_STACKS[kind](heads))
            else:
                others |= {head.name: head for head in heads}
        self.stacks = stacks
        self.weights = [weight.value for head in others.values() for weight in head.weights]
        # Behind a function: Keras layers that tf.Module can see are saved a second time.
        self._hidden = lambda: (places, others)

    def __call__(
        self,
        tasks: Sequence[TaskSpec],
        sequence: tf.Tensor,
        vector: tf.Tensor,
        segment_ids: tf.Tensor,
        padding_mask: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Return logits by task, of tasks of one pair order; the arguments are those of a head (see `Head`)."""
        places, others = self._hidden()
        logits: dict[str, tf.Tensor] = {
            task.name: others[task.name](sequence, vector, segment_ids, padding_mask, training=False)
            for task in tasks
            if task.name in others
        }
        real = tf.cast(padding_mask, tf.float32)
        second = tf.cast(segment_ids, tf.float32) * real
        parts = (real - second, second) if tasks[0].pair_order == "premise_first" else (second, real - second)
        texts = EncodedTexts(sequence, vector, *parts)
        for number, stack in enumerate(self.stacks):
            names = {places[task.name][1]: task.name for task in tasks if places.get(task.name, (None,))[0] == number}
            for first, count in _stretches(sorted(names)):
                found = stack(first, count, texts)
                logits |= {names[first + index]: values for index, values in enumerate(found)}
        return logits


def _stretches(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending indices as stretches without gaps: first index and length."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((index, 1))
    return found


class EncodedTexts(NamedTuple):
    """What stacks answer from."""

    sequence: tf.Tensor  # [batch, length, d]
    vector: tf.Tensor  # [batch, d]
    premise: tf.Tensor  # [batch, length] float32, 1 on its positions
    hypothesis: tf.Tensor  # likewise


class LinearStack(tf.Module):
    """Linear heads (paper, Eq. 1, 2 and 5): one product for all of them."""

    def __init__(self, heads: Sequence[LinearHead]) -> None:
        """Take trained heads."""
        super().__init__(name="linear_heads")
        self.sizes = [head.outputs for head in heads]
        # What turns a head's outputs into scores is part of its weights here.
        maps = [head.task.score_map or ScoreMap(0.0, 1.0) for head in heads]
        pairs = list(zip(heads, maps, strict=True))
        kernels = [each.half_width * _value(head.dense.kernel) for head, each in pairs]
        biases = [each.half_width * _value(head.dense.bias) + each.centre for head, each in pairs]
        self.kernel, self.bias = _variable(np.concatenate(kernels, axis=1)), _variable(np.concatenate(biases))

    def __call__(self, first: int, count: int, texts: EncodedTexts) -> list[tf.Tensor]:
        """Return the logits `[batch, outputs]` of `count` heads from `first` on."""
        sizes = self.sizes[first : first + count]
        start = sum(self.sizes[:first])
        kernel, bias = (part[..., start : start + sum(sizes)] for part in (self.kernel, self.bias))
        return list(tf.split(tf.matmul(texts.vector, kernel) + bias, sizes, axis=-1))


class SANStack(tf.Module):
    """Stochastic answer networks (paper, Eq. 3 and 4) of equal numbers of steps: every product of a step is one for all of them.

    Weights are `[heads, ...]`; a slice of them along the first axis is a view, so that one head alone costs no copy.
    """

    def __init__(self, heads: Sequence[SANHead]) -> None:
        """Take trained heads."""
        super().__init__(name="san_heads")
        self.steps = heads[0].steps
        self.sizes = [head.outputs for head in heads]
        most = max(self.sizes)
        self.summary = _variable(np.stack([_value(head.summary.kernel)[:, 0] for head in heads]))
        # The bias of the summary is the same at all positions: softmax does not see it.
        self.attention_kernel = _stacked(head.attention.kernel for head in heads)
        self.attention_bias = _stacked(head.attention.bias for head in heads)
        self.input_kernel = _stacked(head.cell.kernel for head in heads)
        self.state_kernel = _stacked(head.cell.recurrent_kernel for head in heads)
        self.gate_bias = _stacked(head.cell.bias for head in heads)
        answers = [(_value(head.answer.kernel), _value(head.answer.bias)) for head in heads]
        self.answer_kernel = _variable(np.stack([_filled(kernel, most, 0.0) for kernel, _ in answers]))
        self.answer_bias = _variable(np.stack([_filled(bias, most, _NEVER) for _, bias in answers]))

    def __call__(self, first: int, count: int, texts: EncodedTexts) -> list[tf.Tensor]:
        """Return the log probabilities `[batch, outputs]` of `count` heads from `first` on."""
        sequence = texts.sequence

        def own(weights: tf.Variable) -> tf.Tensor:
            return weights[first : first + count]

        def dense(x: tf.Tensor, kernel: tf.Variable, bias: tf.Tensor) -> tf.Tensor:
            return tf.matmul(x, own(kernel)) + bias[:, tf.newaxis]  # [heads, batch, ...]

        def attend(queries: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
            """Return `[heads, batch, d]` of queries `[batch, heads, d]`."""
            scores = tf.matmul(queries, sequence, transpose_b=True)
            weights = _shares(scores, allowed[:, tf.newaxis])
            return tf.transpose(tf.matmul(weights, sequence), [1, 0, 2])

        gate_bias, answer_bias = own(self.gate_bias), own(self.answer_bias)
        batch = tf.shape(sequence)[0]
        state = attend(tf.tile(own(self.summary)[tf.newaxis], [batch, 1, 1]), texts.hypothesis)
        predictions = []
        for step in range(self.steps):
            query = dense(state, self.attention_kernel, own(self.attention_bias))
            found = attend(tf.transpose(query, [1, 0, 2]), texts.premise)
            compared = tf.concat([found, state, tf.abs(found - state), found * state], axis=-1)
            predictions.append(tf.nn.log_softmax(dense(compared, self.answer_kernel, answer_bias)))
            if step + 1 < self.steps:
                state = _gru(
                    dense(found, self.input_kernel, gate_bias[:, 0]),
                    dense(state, self.state_kernel, gate_bias[:, 1]),
                    state,
                )
        mean = tf.reduce_logsumexp(tf.stack(predictions), axis=0) - math.log(self.steps)
        return [mean[index, :, :size] for index, size in enumerate(self.sizes[first : first + count])]


_STACKS: dict[type[Head], type[LinearStack] | type[SANStack]] = {LinearHead: LinearStack, SANHead: SANStack}


def _gru(from_input: tf.Tensor, from_state: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
    """Return the next state of a GRU whose reset gate acts after the product (Keras' `reset_after`)."""
    input_update, input_reset, input_new = tf.split(from_input, 3, axis=-1)
    state_update, state_reset, state_new = tf.split(from_state, 3, axis=-1)
    update = tf.sigmoid(input_update + state_update)
    new = tf.tanh(input_new + tf.sigmoid(input_reset + state_reset) * state_new)
    return update * state + (1.0 - update) * new


def _shares(scores: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """Return the softmax over allowed positions (the last axis); zeros where none is allowed."""
    highest = tf.reduce_max(tf.where(allowed > 0.0, scores, -1e9), axis=-1, keepdims=True)
    weights = tf.exp(tf.minimum(scores - highest, 0.0)) * allowed
    return weights / tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1e-30)


def _value(variable: keras.Variable) -> np.ndarray:
    value: np.ndarray = variable.numpy()
    return value


def _variable(value: np.ndarray) -> tf.Variable:
    return tf.Variable(value, trainable=False)


def _stacked(variables: Any) -> tf.Variable:
    return _variable(np.stack([_value(variable) for variable in variables]))


def _filled(values: np.ndarray, columns: int, value: float) -> np.ndarray:
    """Return `values` with so many columns, the new ones of one value."""
    missing = [(0, 0)] * (values.ndim - 1) + [(0, columns - values.shape[-1])]
    return np.pad(values, missing, constant_values=value)
