"""The pre-training heads compute what BERT's equations say, on the encoder's own token embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import erf, log_softmax

import mtdnn_tf as mtdnn
from mtdnn_tf.evaluation.metrics import METRICS, Predictions
from mtdnn_tf.modeling.model import task_model
from mtdnn_tf.tasks import TaskSpec
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.losses import LOSSES

TASK = TaskSpec("text", "pretraining", (), head="pretraining", loss="pretraining")
SOURCE = "random://layers=1,hidden=16,heads=2,intermediate=32,positions=16"
INPUTS = {
    "token_ids": np.array([[2, 40, 4, 42, 3, 44, 3, 0], [2, 50, 51, 3, 4, 4, 54, 3]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]], np.int32),
    "padding_mask": np.array([[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32),
    "masked_positions": np.array([[2, 0], [4, 5]], np.int32),
    "masked_ids": np.array([[41, -1], [52, 53]], np.int32),
}
LABELS = tf.constant([1.0, 0.0])


@pytest.fixture
def parts():
    encoder = mtdnn.load_encoder(SOURCE, dropout=0.0)
    model = mtdnn.build_model(encoder, [TASK])
    head = model.get_layer("text")
    for index, weight in enumerate(head.weights):  # biases and LayerNorm start where they hide mistakes
        weight.assign(weight + tf.random.stateless_normal(weight.shape, [index, 0], stddev=0.3))
    return encoder, model, head


def _expected(encoder, head):
    states = {name: value.numpy() for name, value in encoder.backbone({k: INPUTS[k] for k in list(INPUTS)[:3]}).items()}
    dense, norm = ([weight.numpy() for weight in layer.weights] for layer in (head.transform, head.norm))
    table = encoder.backbone.token_embedding.embeddings.numpy()
    rows = []
    for row in range(2):
        found = []
        for position, token in zip(INPUTS["masked_positions"][row], INPUTS["masked_ids"][row], strict=True):
            if token < 0:
                continue
            x = states["sequence_output"][row, position] @ dense[0] + dense[1]
            x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-12) * norm[0] + norm[1]
            scores = log_softmax(x @ table.T + head.decoder_bias.numpy())
            found.append((-scores[token], 1, scores.argmax() == token))
        kernel, bias = (weight.numpy() for weight in head.following.weights)
        rows.append([*(states["pooled_output"][row] @ kernel + bias), *np.sum(found, axis=0)])
    return np.array(rows)


def test_the_columns_are_those_of_berts_equations(parts):
    encoder, model, head = parts
    np.testing.assert_allclose(model(INPUTS)["text"], _expected(encoder, head), atol=1e-4)


def test_positions_without_a_token_count_nothing(parts):
    _, model, _ = parts
    other = INPUTS | {"masked_positions": np.array([[2, 7], [4, 5]], np.int32)}
    np.testing.assert_array_equal(model(other)["text"], model(INPUTS)["text"])


def test_the_loss_is_the_mean_of_masked_tokens_plus_the_mean_of_next_sentences(parts):
    outputs = tf.constant([[0.0, 0.0, 6.0, 3.0, 1.0], [np.log(3.0), 0.0, 2.0, 1.0, 1.0]])
    expected = 8 / 4 + (np.log(2) + np.log(4 / 3)) / 2
    assert float(LOSSES["pretraining"](outputs, {"label": LABELS})) == pytest.approx(expected, abs=1e-6)


def test_the_metrics_are_over_all_masked_tokens_and_rows():
    logits = np.array([[0.0, 1.0, 6.0, 3.0, 1.0], [2.0, 3.0, 2.0, 1.0, 1.0]], np.float32)
    predictions = Predictions(logits, np.array([1.0, 0.0]))
    found = {name: METRICS[name](predictions) for name in ("masked_loss", "masked_accuracy", "next_accuracy")}
    assert found == pytest.approx({"masked_loss": 2.0, "masked_accuracy": 0.5, "next_accuracy": 0.5})


@pytest.mark.parametrize("fused", [False, True])
def test_the_embeddings_learn_as_inputs_and_as_outputs(parts, fused):
    """The gradient of the table is what nudging it says; tokens that no row shows have only that of the decoder."""
    encoder, model, _ = parts
    encoder.backbone.fused = fused
    one = task_model(model, "text")
    table = encoder.backbone.token_embedding.embeddings

    def loss():
        return LOSSES["pretraining"](one(INPUTS, training=True), {"label": LABELS})

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tf.convert_to_tensor(tape.gradient(value, table.value)).numpy()
    start = table.numpy()
    for token in (40, 41, 53, 99):  # shown; to be found; to be found; neither
        step = np.zeros_like(start)
        step[token] = 1e-2 * gradient[token] / np.linalg.norm(gradient[token])
        sides = []
        for sign in (1, -1):
            table.assign(start + sign * step)
            sides.append(float(loss()))
        table.assign(start)
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(np.linalg.norm(gradient[token]), rel=0.05)


def test_the_table_is_the_encoders_alone(parts):
    encoder, model, head = parts
    names = [set(part) for part in checkpoints.model_parts(model, [TASK]).values()]
    assert names[1] == {"transform:kernel", "transform:bias", "norm:gamma", "norm:beta", "following:kernel",
                        "following:bias", "bias"}  # fmt: skip
    vocabulary, width = encoder.backbone.vocabulary_size, encoder.hidden_dim
    assert head.count_params() == width**2 + width + 2 * width + 2 * width + 2 + vocabulary
    assert len(model.trainable_variables) == len({id(variable) for variable in model.trainable_variables})
