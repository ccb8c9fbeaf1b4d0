"""Frozen exports: the encoder's kernels are constants of the graph, there once, and answers stay what they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.serving import saved_model
from mtdnn_tf.serving.check import check_saved_model
from mtdnn_tf.serving.graph_edits import read_graph
from mtdnn_tf.serving.served_encoder import ServedEncoder
from tests.small import TINY, TINY_WORDS

KERNELS = 2 * 4 + 1  # four of each layer, the pooler's
LARGE = 1000  # elements


def _large_constants(folder):
    """Return the shapes of all large constants in a SavedModel's graph and functions."""
    [meta_graph] = read_graph(folder).meta_graphs
    bodies = [meta_graph.graph_def.node, *(function.node_def for function in meta_graph.graph_def.library.function)]
    tensors = [node.attr["value"].tensor for nodes in bodies for node in nodes if node.op == "Const"]
    shapes = [tuple(dim.size for dim in tensor.tensor_shape.dim) for tensor in tensors]
    return [shape for shape in shapes if np.prod(shape) >= LARGE]


def _written(folder):
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    return [shape for name, shape in reader.get_variable_to_shape_map().items() if np.prod(shape) >= LARGE]


@pytest.fixture(scope="module")
def frozen(exported, tmp_path_factory):
    model, tasks, encoder, _ = exported
    folder = tmp_path_factory.mktemp("frozen")
    return mtdnn.export_saved_model(model, tasks, encoder, folder, "ids", freeze=True, max_length=48)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_outputs_are_those_of_variables(weights, count):
    backbone = mtdnn.load_encoder(TINY, seed=1).backbone
    random = np.random.default_rng(0)
    inputs = {"token_ids": tf.constant(random.integers(5, 190, [3, 7]), tf.int32)}
    inputs |= {"segment_ids": tf.zeros([3, 7], tf.int32), "padding_mask": tf.ones([3, 7], tf.int32)}
    tokens = [tf.constant(random.normal(size=[3, count, 32]), tf.float32)] if count else []
    one, other = (tf.function(ServedEncoder(backbone, weights, frozen))(inputs, *tokens) for frozen in (False, True))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-5 if weights != "bfloat16" else 5e-2)


def test_kernels_are_constants_once_and_no_variables(exported, frozen):
    assert len(_large_constants(frozen)) == KERNELS
    _, _, _, paths = exported
    assert _large_constants(paths["ids"]) == []
    assert len(_written(paths["ids"])) == len(_written(frozen)) + KERNELS


def test_another_program_gets_the_models_answers(exported, frozen):
    model, tasks, encoder, _ = exported
    assert check_saved_model(frozen, model, tasks, encoder.tokenizer, 48, "ids") < 1e-5


def test_it_is_told_in_the_metadata(frozen):
    assert json.loads((frozen / "assets" / "metadata.json").read_text())["frozen"] is True


@pytest.mark.parametrize("sharing", ["stack_pooling", "layerwise_implicit", "layerwise_explicit"])
def test_in_every_structure_they_are_there_once(experiment, tmp_path, sharing):
    tasks = mtdnn.load_tasks(mtdnn.load_config(experiment))
    encoder = mtdnn.load_encoder(TINY)
    model = mtdnn.build_model(encoder, tasks, sharing)
    folder = mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "ids", freeze=True, max_length=48)
    assert len(_large_constants(folder)) == KERNELS


@pytest.mark.parametrize("source", [TINY, TINY_WORDS])
def test_large_kernels_are_refused(exported, tmp_path, monkeypatch, source):
    _, tasks, _, _ = exported
    encoder = mtdnn.load_encoder(source, vocabulary=SPECIAL_TOKENS if source == TINY_WORDS else None)
    model = mtdnn.build_model(encoder, tasks)
    monkeypatch.setattr(saved_model, "_LARGEST_GRAPH", 1000)
    with pytest.raises(mtdnn.UserError, match=r"--freeze: kernels of .* GiB are too large"):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path / "a", "ids", freeze=True)
    assert not (tmp_path / "a").exists()


def test_the_configuration_knows_it(experiment):
    assert mtdnn.load_config(experiment, ["export.freeze=true"]).export.freeze
