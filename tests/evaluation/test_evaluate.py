"""A head gives the same answers to the same rows, whichever task brings them, in a run and in an export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.serving.signatures import ServedModel

BORROWER = "  elsewhere: {head_of: follows, dev: follows.tsv}\ndata:"


@pytest.mark.parametrize("changes", [["pair_order=hypothesis_first"], ["pair_order=hypothesis_first", "head=linear"]])
def test_rows_are_answered_alike_through_the_owner_of_a_head_and_a_borrower(experiment, changes):
    experiment.write_text(experiment.read_text().replace("data:", BORROWER))
    config = mtdnn.load_config(experiment, [f"tasks.follows.{change}" for change in changes])
    config = select_tasks(config, ["follows", "elsewhere"])
    tasks = owner, _ = mtdnn.load_tasks(config)
    encoder = mtdnn.load_encoder(config.encoder.source, config=config)
    model = mtdnn.build_model(encoder, tasks, config=config)
    scorer = SplitScorer(model, tasks, encoder.tokenizer, config.data)
    scorer()
    np.testing.assert_array_equal(scorer.logits["elsewhere"], scorer.logits["follows"])

    served = ServedModel(model, tasks, encoder.tokenizer, config.data.max_length, "text")
    texts = read_examples(owner, "dev").texts
    inputs = {name: tf.constant(column) for name, column in zip(owner.text, texts, strict=True)}
    answered = served.signatures("{}")[0]["follows"](**inputs)
    np.testing.assert_allclose(answered["logits"], scorer.logits["elsewhere"], atol=1e-5)
