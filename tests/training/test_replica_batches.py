"""Parts of a batch hold every row once, keep queries whole, and what fills them up counts nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.training.losses import LOSSES
from mtdnn_tf.training.replica_batches import cut_batch


def _batch(group, seed=0):
    group = np.array(group, np.int32)
    rows = len(group)
    random = np.random.default_rng(seed)
    return {
        "token_ids": random.integers(5, 99, [rows, 7]).astype(np.int32),
        "label": random.integers(0, 2, rows).astype(np.float32),
        "group": group,
    }


GROUPS = {
    "rows": range(8),
    "ragged": range(5),
    "fewer than replicas": range(2),
    "queries": [0, 0, 1, 1, 1, 2, 3, 3, 3, 3],
    "one query": [0, 0, 0],
}


@pytest.mark.parametrize("replicas", [1, 2, 3, 8])
@pytest.mark.parametrize("name", GROUPS)
def test_every_row_is_in_one_part_and_queries_stay_whole(name, replicas):
    batch = _batch(list(GROUPS[name]))
    parts = cut_batch(batch, replicas)
    assert len(parts) == replicas
    assert len({len(part["group"]) for part in parts}) == 1
    real = [{key: value[part["sample_weight"] == 1] for key, value in part.items()} for part in parts]
    for key in ("token_ids", "label"):
        np.testing.assert_array_equal(np.concatenate([part[key] for part in real]), batch[key])
    queries = [len(set(part["group"])) for part in real]
    assert sum(queries) == len(set(batch["group"]))
    assert max(queries) - min(queries) <= 1
    for part, whole in zip(parts, real, strict=True):
        assert not set(part["group"][part["sample_weight"] == 0]) & set(whole["group"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [0, 3])
def test_rows_that_fill_up_change_neither_loss_nor_gradient(loss, rows):
    batch = _batch(GROUPS["queries"])
    [filled] = cut_batch(batch, 1, lambda most: most + rows)
    filled["label"][len(batch["label"]) :] = 1.0  # as a copy of a relevant answer would
    outputs = {"cross_entropy": 2, "pretraining": 5}.get(loss, 1)
    logits = tf.Variable(
        np.random.default_rng(1).uniform(0.5, 2, size=[len(filled["label"]), outputs]), dtype=tf.float32
    )
    real = len(batch["label"])
    with tf.GradientTape(persistent=True) as tape:
        expected = LOSSES[loss](logits[:real], {name: tf.constant(value) for name, value in batch.items()})
        found = LOSSES[loss](logits, {name: tf.constant(value) for name, value in filled.items()})
    assert float(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    gradients = [tf.convert_to_tensor(tape.gradient(value, logits)) for value in (expected, found)]
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-7)


def test_a_value_that_is_not_finite_in_a_row_that_fills_up_does_no_harm():
    [filled] = cut_batch(_batch(range(2)), 1, lambda most: most + 1)
    loss = LOSSES["mean_squared_error"](tf.constant([[1.0], [1.0], [np.inf]]), filled)
    assert np.isfinite(float(loss))
