"""Heads side by side give what each gives alone: all kinds, unequal numbers of labels, both orders of a pair, any subset."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.serving.stacked_heads import ServedHeads, _stretches
from mtdnn_tf.tasks import TaskSpec

PAIR = ("one", "two")
TASKS = (
    TaskSpec("moods", "classification", ("text",), ("low", "high", "none")),
    TaskSpec("follows", "classification", PAIR, ("no", "maybe", "yes"), head="san"),
    TaskSpec("close", "regression", PAIR),
    TaskSpec("same", "classification", PAIR, ("no", "yes"), head="san"),
    TaskSpec("turned", "classification", PAIR, ("no", "yes"), head="san", pair_order="hypothesis_first"),
    TaskSpec("linear", "classification", PAIR, ("a", "b", "c", "d")),
    TaskSpec("pay", "regression", PAIR, range=(20000.0, 90000.0)),  # on a scale of its own
)


@pytest.fixture(scope="module")
def model():
    return mtdnn.build_model(mtdnn.load_encoder("random://layers=1,hidden=32,heads=2", seed=1), TASKS, seed=3)


def _inputs(rows=5, length=9):
    random = np.random.default_rng(0)
    lengths = np.array([9, 4, 7, 3, 9])[:rows, np.newaxis]
    mask = np.arange(length) < lengths
    arrays = (
        random.normal(size=(rows, length, 32)).astype(np.float32),
        random.normal(size=(rows, 32)).astype(np.float32),
        (mask & (np.arange(length) >= lengths // 2)).astype(np.int32),
        mask.astype(np.int32),
    )
    return [tf.constant(array) for array in arrays]


@pytest.mark.parametrize(
    "names",
    [[task.name] for task in TASKS]
    + [["follows", "close", "same", "linear"], ["moods", "linear"], ["close", "pay"], ["same", "follows"]],
    ids="+".join,
)
def test_logits_are_those_of_the_heads(model, names):
    inputs = _inputs()
    found = ServedHeads(model, TASKS)([task for task in TASKS if task.name in names], *inputs)
    assert sorted(found) == sorted(names)
    for name in names:
        np.testing.assert_allclose(found[name], model.get_layer(name)(*inputs, training=False), rtol=1e-6, atol=2e-6)


def test_weights_are_those_of_the_heads_once(model):
    """Only classes that fill up, and summaries' biases, which softmax does not see, make a difference."""
    stacked = sum(int(np.prod(variable.shape)) for variable in ServedHeads(model, TASKS).variables)
    own = sum(model.get_layer(task.name).count_params() for task in TASKS)
    filled = 2 * (4 * 32 + 1)  # two SAN heads of two labels beside one of three
    assert stacked == own + filled - 3


def test_stretches_are_without_gaps():
    assert _stretches([0, 1, 3, 4, 5, 8]) == [(0, 2), (3, 3), (8, 1)]
    assert _stretches([]) == []
