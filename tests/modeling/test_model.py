"""One functional model: inputs and outputs by name, heads on one encoder, parts that share its weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.modeling.model import parameter_counts, shared_model
from mtdnn_tf.modeling.sharing import SHARING_MODES
from tests.small import TINY

INPUTS = {
    "token_ids": np.array([[2, 40, 50, 3, 60, 3, 0, 0], [2, 7, 8, 3, 10, 11, 12, 3]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]], np.int32),
    "padding_mask": np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32),
}
OUTPUTS = {"mood": 2, "follows": 2, "close": 1, "pick": 1}


@pytest.fixture
def tasks(experiment):
    return mtdnn.load_tasks(mtdnn.load_config(experiment))


@pytest.fixture
def model(tasks):
    return mtdnn.build_model(mtdnn.load_encoder(TINY), tasks, seed=1)


def test_inputs_and_outputs_go_by_name(model):
    assert {name: tensor.dtype for name, tensor in model.input.items()} == dict.fromkeys(INPUTS, "int32")
    outputs = model(INPUTS)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        n: (2, size) for n, size in OUTPUTS.items()
    }
    assert {value.dtype.name for value in outputs.values()} == {"float32"}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_model_of_one_task_gives_its_output_with_the_same_weights(model, name):
    one = mtdnn.task_model(model, name)
    np.testing.assert_array_equal(one(INPUTS), model(INPUTS)[name])
    head = model.get_layer(name)
    head.weights[0].assign(head.weights[0] + 1)
    np.testing.assert_array_equal(one(INPUTS), model(INPUTS)[name])
    names = {layer.name for layer in one.layers}
    assert name in names
    assert not names & (set(OUTPUTS) - {name})


@pytest.mark.parametrize("name", OUTPUTS)
def test_shared_part_and_head_make_the_whole(model, name):
    sequence, vector = shared_model(model)(INPUTS)
    assert sequence.shape == (2, 8, 32)
    assert vector.shape == (2, 32)
    found = model.get_layer(name)(sequence, vector, INPUTS["segment_ids"], INPUTS["padding_mask"], training=False)
    np.testing.assert_allclose(found, model(INPUTS)[name], atol=1e-6)


@pytest.mark.parametrize(("pooler", "expected"), [("pretrained", "pooled_output"), ("none", "sequence_output")])
def test_the_pooler_decides_what_linear_heads_see(tasks, pooler, expected):
    encoder = mtdnn.load_encoder(TINY)
    model = mtdnn.build_model(encoder, tasks, pooler=pooler)
    output = encoder.backbone(INPUTS)[expected]
    vector = output if pooler == "pretrained" else output[:, 0]
    np.testing.assert_allclose(shared_model(model)(INPUTS)[1], vector, atol=1e-6)


def test_adding_a_task_changes_no_other_head(tasks):
    some = mtdnn.build_model(mtdnn.load_encoder(TINY), tasks[1:3], seed=4)
    more = mtdnn.build_model(mtdnn.load_encoder(TINY), tasks, seed=4)
    for task in tasks[1:3]:
        for mine, theirs in zip(some.get_layer(task.name).weights, more.get_layer(task.name).weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_parameters_are_counted_by_part(model):
    counts = parameter_counts(model)
    assert set(counts) == {"encoder", *(f"heads/{name}" for name in OUTPUTS)}
    assert counts["heads/mood"] == 2 * 32 + 2
    assert sum(counts.values()) == model.count_params()


def test_a_task_that_borrows_a_head_adds_none(tasks):
    borrower = dataclasses.replace(tasks[0], name="mood_elsewhere", head_of="mood", sources={})
    assert set(mtdnn.build_model(mtdnn.load_encoder(TINY), [*tasks, borrower]).output) == set(OUTPUTS)


@pytest.mark.parametrize("sharing", SHARING_MODES)
def test_every_sharing_mode_builds(tasks, sharing):
    assert set(mtdnn.build_model(mtdnn.load_encoder(TINY), tasks, sharing).output) == set(OUTPUTS)


def test_what_cannot_be_built_is_told(tasks, model):
    encoder = mtdnn.load_encoder(TINY)
    with pytest.raises(mtdnn.UserError, match="Did you mean 'stack_cls'"):
        mtdnn.build_model(encoder, tasks, "stack_clss")
    with pytest.raises(mtdnn.UserError, match="different names, received mood, mood"):
        mtdnn.build_model(encoder, [tasks[0], tasks[0]])
    with pytest.raises(mtdnn.UserError, match="received none"):
        mtdnn.build_model(encoder, [])
    with pytest.raises(mtdnn.UserError, match=r"model\.pooler"):
        mtdnn.build_model(encoder, tasks, pooler="mean")
    with pytest.raises(mtdnn.UserError, match="Did you mean 'mood'"):
        mtdnn.task_model(model, "mod")
