"""Weights in bfloat16 and int8: how they are rounded, how much smaller they are, and exports that hold them."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_WEIGHTS
from mtdnn_tf.serving import signatures
from mtdnn_tf.serving.check import check_saved_model
from mtdnn_tf.serving.fingerprint import read_fingerprint
from mtdnn_tf.serving.served_encoder import ServedEncoder
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS, Int8Kernel, Int8Table, quantised

VALUES = np.array([[1.0, -0.5, 0.0], [-0.25, 2.54, 0.0]], np.float32)
STORED = {"float32": tf.float32, "bfloat16": tf.bfloat16, "int8": tf.int8}


def test_the_largest_of_an_output_is_127_steps():
    steps, scale = quantised(VALUES, axis=0)
    assert steps.tolist() == [[127, -25, 0], [-32, 127, 0]]
    np.testing.assert_allclose(scale, [[1 / 127, 0.02, 1 / 127]], rtol=1e-6)


def test_no_value_is_off_by_more_than_half_a_step():
    values = np.random.default_rng(0).normal(size=[40, 30]).astype(np.float32)
    for axis in (0, 1):
        steps, scale = quantised(values, axis)
        assert steps.dtype == np.int8
        assert (np.abs(steps * scale - values) <= scale * 0.5001).all()


def test_products_and_look_ups_are_those_of_the_rounded_values():
    x = np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)
    steps, scale = quantised(VALUES, axis=0)
    np.testing.assert_allclose(Int8Kernel(VALUES, tf.float32)(tf.constant(x)), x @ (steps * scale), rtol=1e-6)
    steps, scale = quantised(VALUES, axis=1)
    ids = np.array([[1, 0], [1, 1]])
    np.testing.assert_allclose(Int8Table(VALUES, tf.float32)(tf.constant(ids)), (steps * scale)[ids], rtol=1e-6)


def test_the_configuration_and_the_flag_know_them():
    assert set(EXPORT_WEIGHTS) == set(WEIGHT_FORMATS)


@pytest.mark.parametrize("weights", WEIGHT_FORMATS)
def test_a_format_says_how_large_a_weight_is(weights):
    assert WEIGHT_FORMATS[weights].size == STORED[weights].size


@pytest.mark.parametrize("weights", WEIGHT_FORMATS)
def test_kernels_and_tables_are_stored_in_the_format(weights):
    encoder = ServedEncoder(mtdnn.load_encoder("random://layers=1,hidden=32,heads=2", seed=1).backbone, weights)
    large = [variable for variable in encoder.variables if variable.shape.rank == 2 and min(variable.shape) > 1]
    assert len(large) == 8  # three tables, four kernels of the layer, the pooler's
    assert {variable.dtype for variable in large} == {STORED[weights]}


@pytest.fixture(scope="module")
def rounded(exported, tmp_path_factory):
    """What gives the version folder of the model in a format and kind, exported when it is first asked for."""
    model, tasks, encoder, paths = exported
    folder = tmp_path_factory.mktemp("rounded")

    @cache
    def version(weights, kind):
        if weights == "float32":
            return paths[kind]
        return mtdnn.export_saved_model(
            model, tasks, encoder, folder / weights / kind, kind, weights=weights, max_length=48
        )

    return version


EACH_FORMAT_AND_KIND = pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("bfloat16", "text"),
        ("int8", "ids"),
        pytest.param("bfloat16", "ids", marks=pytest.mark.slow),
        pytest.param("int8", "text", marks=pytest.mark.slow),
    ],
)


@EACH_FORMAT_AND_KIND
def test_a_process_without_this_package_answers_within_the_formats_tolerance(exported, rounded, weights, kind):
    model, tasks, encoder, _ = exported
    apart = check_saved_model(rounded(weights, kind), model, tasks, encoder.tokenizer, 48, kind, weights)
    assert 1e-4 < apart < WEIGHT_FORMATS[weights].tolerance(layers=2)


@EACH_FORMAT_AND_KIND
def test_edges_stay_as_they_are(rounded, weights, kind):
    plain, other = (tf.saved_model.load(str(rounded(each, kind))).signatures for each in ("float32", weights))
    assert set(plain) == set(other)
    for name in plain:
        assert plain[name].structured_input_signature == other[name].structured_input_signature
        assert plain[name].structured_outputs == other[name].structured_outputs


def test_metadata_and_fingerprints_tell_them_apart(rounded):
    asked = [("float32", "text"), ("float32", "ids"), ("bfloat16", "text"), ("int8", "ids")]
    paths = [rounded(weights, kind) for weights, kind in asked]
    told = [json.loads((path / "assets" / "metadata.json").read_text())["weights"] for path in paths]
    assert told == [weights for weights, _ in asked]
    assert len({read_fingerprint(path) for path in paths}) == len(paths)


@pytest.mark.parametrize("weights", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_a_wrong_model_does_not_pass(exported, tmp_path, monkeypatch, weights):
    """Words have each other's vectors."""
    model, tasks, encoder, _ = exported

    class Wrong(ServedEncoder):
        def __init__(self, backbone, weights, frozen):
            super().__init__(backbone, weights, frozen)
            self.inference.token.values.assign(tf.reverse(self.inference.token.values, [0]))

    monkeypatch.setattr(signatures, "ServedEncoder", Wrong)
    with pytest.raises(mtdnn.UserError, match=r"export check: .* nothing is published"):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "ids", weights=weights, max_length=48, check=True)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_told(exported, tmp_path):
    model, tasks, encoder, _ = exported
    with pytest.raises(mtdnn.UserError, match="--weights: unknown format of weights 'int4'"):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path, weights="int4")


@pytest.mark.parametrize(("weights", "share"), [("bfloat16", 0.5), ("int8", 0.25)])
def test_the_file_of_variables_shrinks(tmp_path, weights, share):
    encoder = mtdnn.load_encoder("random://layers=1,hidden=256,heads=2,intermediate=1024,positions=128", seed=1)
    task = mtdnn.TaskSpec(name="mood", type="classification", text=("text",), labels=("no", "yes"), head="linear")
    model = mtdnn.build_model(encoder, [task])
    path = mtdnn.export_saved_model(model, [task], encoder, tmp_path, "ids", weights=weights)
    size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert share < size / (4 * model.count_params()) < 1.1 * share
