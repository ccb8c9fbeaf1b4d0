"""Every sharing structure is exported in both kinds, and answers as the Keras model does in a process of its own."""

from __future__ import annotations

import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.cli import select_tasks
from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.modeling.sharing import SHARING_MODES
from tests.small import TINY, TINY_WORDS

VOCABULARY = (*SPECIAL_TOKENS, "rain", "and", "more", "short", "a", "good", "day", "for", "walk.", "it", "is", "###")


def _export(experiment, folder, sharing, kind, encoder, check=True, **options):
    """Export a single-text and a pair task."""
    config = select_tasks(mtdnn.load_config(experiment, [f"model.sharing={sharing}"]), ["mood", "follows"])
    tasks = mtdnn.load_tasks(config)
    model = mtdnn.build_model(encoder, tasks, sharing, seed=1)
    return mtdnn.export_saved_model(model, tasks, encoder, folder, kind, max_length=48, check=check, **options)


QUICK = [("layerwise_implicit", "ids"), ("layerwise_explicit", "text")]
# stack_cls is exported and checked by every other test of this folder.
CASES = [
    pytest.param(mode, kind, marks=[] if (mode, kind) in QUICK else pytest.mark.slow)
    for mode in SHARING_MODES
    for kind in EXPORT_KINDS
    if mode != "stack_cls"
]


@pytest.mark.parametrize(("sharing", "kind"), CASES)
def test_an_export_passes_its_check(experiment, tmp_path, sharing, kind):
    path = _export(experiment, tmp_path, sharing, kind, mtdnn.load_encoder(TINY, seed=1))
    outputs = tf.saved_model.load(str(path)).signatures["encode"].structured_outputs
    per_task = {"mood.pooled", "follows.pooled"}
    assert per_task <= set(outputs) if sharing.startswith("layerwise") else {"pooled"} <= set(outputs)


@pytest.mark.parametrize(
    ("sharing", "kind", "options"),
    [
        ("stack_pooling", "text", {}),
        pytest.param("layerwise_explicit", "ids", {}, marks=pytest.mark.slow),
        pytest.param("stack_cls", "ids", {"weights": "int8"}, marks=pytest.mark.slow),
        pytest.param("layerwise_implicit", "text", {"freeze": True}, marks=pytest.mark.slow),
    ],
)
def test_an_encoder_on_words_passes_too(experiment, tmp_path, sharing, kind, options):
    encoder = mtdnn.load_encoder(TINY_WORDS, seed=1, vocabulary=VOCABULARY)
    path = _export(experiment, tmp_path, sharing, kind, encoder, **options)
    assert tuple((path / "assets" / "vocab.txt").read_text().split()) == VOCABULARY


@pytest.mark.slow
def test_an_implicit_token_needs_a_pass_for_each_task_and_no_more_weights(experiment, tmp_path):
    sizes = {}
    for sharing in ("stack_cls", "layerwise_implicit"):
        encoder = mtdnn.load_encoder(TINY, seed=1)
        path = _export(experiment, tmp_path / sharing, sharing, "ids", encoder, check=False)
        sizes[sharing] = sum(file.stat().st_size for file in (path / "variables").iterdir())
    tokens = 2 * 32 * 4  # two tasks, d, bytes
    assert abs(sizes["layerwise_implicit"] - sizes["stack_cls"] - tokens) < 2000  # the index of names
