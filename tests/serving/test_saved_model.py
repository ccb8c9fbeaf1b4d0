"""Exported models in processes that cannot import this package: same numbers, right names, complete or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.data.text import encode_texts

TEXTS = {
    "mood": (["a good day", "", "café 中国 😀"],),
    "follows": (["the dog runs", "", "rain " * 60], ["an animal runs", "it is wet", ""]),
    "close": (["a dog", "tea"], ["a hound", "a star"]),
    "pick": (["who?", "who?"], ["the baker", "at noon"]),
}
# Refuses to import what a stranger's machine has not; of the ids kind, that is tensorflow-text too.
STRANGER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ImportError(name + " is not on this machine")
sys.meta_path.insert(0, Refuse())
import json
import numpy as np
import tensorflow as tf
{more}
request = json.load(sys.stdin)
signatures = tf.saved_model.load(request["path"]).signatures
answers = []
for name, inputs in request["calls"]:
    outputs = signatures[name](**{{key: tf.constant(value) for key, value in inputs.items()}})
    answers.append({{
        key: [item.decode() for item in np.ravel(value.numpy())] if value.dtype == tf.string else value.numpy().tolist()
        for key, value in outputs.items()
    }})
print("ANSWERS" + json.dumps(answers))
"""


def _ask_a_stranger(kind, path, calls):
    refused = {"mtdnn_tf", "keras_hub", "keras_nlp"} | ({"tensorflow_text"} if kind == "ids" else set())
    code = STRANGER.format(refused=sorted(refused), more="import tensorflow_text" if kind == "text" else "")
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"path": str(path), "calls": calls}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("ANSWERS")[1])


def _ids(task, encoder):
    encoded = encode_texts([tf.constant(texts) for texts in TEXTS[task.name]], encoder.tokenizer, 48, task.pair_order)
    return {name: value.numpy().tolist() for name, value in encoded.items()}


def _inputs(task, encoder, kind):
    if kind == "ids":
        return _ids(task, encoder)
    return dict(zip(task.text, TEXTS[task.name], strict=True))


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_a_stranger_gets_the_numbers_of_the_keras_model(exported, kind):
    model, tasks, encoder, paths = exported
    answers = _ask_a_stranger(kind, paths[kind], [(task.name, _inputs(task, encoder, kind)) for task in tasks])
    for task, answer in zip(tasks, answers, strict=True):
        inputs = {name: tf.constant(value) for name, value in _ids(task, encoder).items()}
        logits = mtdnn.task_model(model, task.name)(inputs).numpy()
        if task.type == "classification":
            expected = tf.nn.softmax(logits).numpy()
            np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
            np.testing.assert_allclose(answer["logits"], logits, atol=1e-4)
            assert answer["label_id"] == expected.argmax(-1).tolist()
            assert answer["label"] == [task.labels[index] for index in expected.argmax(-1)]
            assert set(answer) == {"label", "label_id", "probabilities", "logits"}
        else:
            name = "relevance" if task.type == "ranking" else "score"
            assert set(answer) == {name}
            np.testing.assert_allclose(answer[name], logits[:, 0], atol=1e-5)


def test_a_combined_signature_answers_as_each_task_does(exported):
    _, tasks, _, paths = exported
    first, second = TEXTS["follows"]
    pairs = [task for task in tasks if len(task.text) == 2]
    calls = [("all_pairs", {"text_a": first, "text_b": second})]
    calls += [(task.name, dict(zip(task.text, (first, second), strict=True))) for task in pairs]
    together, *alone = _ask_a_stranger("text", paths["text"], calls)
    assert set(together) == {"follows.label", "follows.probabilities", "close.score", "pick.relevance"}
    for task, answer in zip(pairs, alone, strict=True):
        for name in {"label", "probabilities", "score", "relevance"} & set(answer):
            if name == "label":
                assert together[f"{task.name}.{name}"] == answer[name]
            else:
                np.testing.assert_allclose(together[f"{task.name}.{name}"], answer[name], atol=1e-6)


EXPECTED = {
    "mood", "follows", "close", "pick", "mood/classify", "follows/classify", "close/regress", "pick/regress",
    "all_single", "all_pairs", "serving_default", "encode", "metadata",
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_signatures_inputs_and_dtypes_are_those_of_the_contract(exported, kind):
    _, tasks, _, paths = exported
    signatures = tf.saved_model.load(str(paths[kind])).signatures
    assert set(signatures) == EXPECTED
    for task in tasks:
        inputs = signatures[task.name].structured_input_signature[1]
        assert set(inputs) == set(task.text if kind == "text" else INPUTS)
        assert {spec.dtype for spec in inputs.values()} == {tf.string if kind == "text" else tf.int32}
    dtypes = {spec.dtype for each in signatures.values() for spec in each.structured_outputs.values()}
    assert dtypes == {tf.float32, tf.int32, tf.string}
    default = signatures["serving_default"].structured_outputs
    assert set(default) == set(signatures["all_pairs"].structured_outputs)


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_examples_are_classified_and_regressed(exported, kind):
    _, tasks, encoder, paths = exported
    signatures = tf.saved_model.load(str(paths[kind])).signatures
    for task in tasks:
        inputs = _inputs(task, encoder, kind)
        direct = signatures[task.name](**{name: tf.constant(value) for name, value in inputs.items()})
        examples = tf.constant([_example(inputs, row) for row in range(len(next(iter(inputs.values()))))])
        if task.type == "classification":
            found = signatures[f"{task.name}/classify"](inputs=examples)
            np.testing.assert_allclose(found["scores"], direct["probabilities"], atol=1e-6)
            assert found["classes"].numpy()[0].tolist() == [label.encode() for label in task.labels]
        else:
            found = signatures[f"{task.name}/regress"](inputs=examples)["outputs"]
            np.testing.assert_allclose(found, next(iter(direct.values())), atol=1e-6)


def _example(inputs, row):
    features = {}
    for name, values in inputs.items():
        if isinstance(values[row], str):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[values[row].encode()]))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values[row]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_encode_gives_the_encoders_outputs(exported):
    _, _, encoder, paths = exported
    found = tf.saved_model.load(str(paths["text"])).signatures["encode"](text=tf.constant(["a good day", "tea"]))
    inputs = encode_texts([tf.constant(["a good day", "tea"])], encoder.tokenizer, 48)
    outputs = encoder.backbone(inputs)
    np.testing.assert_allclose(found["token_embeddings"], outputs["sequence_output"], atol=1e-5)
    np.testing.assert_allclose(found["pooled"], outputs["pooled_output"], atol=1e-5)
    np.testing.assert_array_equal(found["token_mask"], inputs["padding_mask"])


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_ids_of_a_pair_are_asked_of_tasks_of_one_order(exported, tmp_path, kind):
    """A text goes to each task in the order that it was trained with; a row of ids has one order only."""
    model, tasks, encoder, _ = exported
    tasks = [replace(task, pair_order="hypothesis_first") if task.name == "close" else task for task in tasks]
    path = mtdnn.export_saved_model(model, tasks, encoder, tmp_path, kind, max_length=48, check=True)
    outputs = tf.saved_model.load(str(path)).signatures["all_pairs"].structured_outputs
    asked = {name.split(".")[0] for name in outputs}
    assert asked == ({"follows", "close", "pick"} if kind == "text" else {"follows", "pick"})


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_what_a_stranger_needs_to_know_travels_inside(exported, kind):
    path = exported[3][kind]
    [answer] = _ask_a_stranger(kind, path, [("metadata", {"any_text": ["", "anything"]})])
    assert answer["json"][0] == answer["json"][1]
    metadata = json.loads(answer["json"][0])
    assert metadata == json.loads((path / "assets" / "metadata.json").read_text())
    assert metadata["max_length"] == 48
    assert metadata["tasks"]["mood"]["labels"] == ["negative", "positive"]
    assert metadata["tasks"]["close"]["layout"] == {
        "format": "auto",
        "columns": {"label": "score"},
        "encoding": "utf-8",
    }
    assert (path / "assets" / "vocab.txt").read_text().splitlines()[:2] == ["[PAD]", "[UNK]"]


def test_weights_are_written_once(exported):
    model, _, _, paths = exported
    for path in paths.values():
        size = (path / "variables" / "variables.data-00000-of-00001").stat().st_size
        assert size < 1.1 * 4 * model.count_params()


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_keras_opens_it_as_a_layer(exported, kind):
    model, tasks, encoder, paths = exported
    task = next(task for task in tasks if task.name == "follows")
    layer = keras.layers.TFSMLayer(str(paths[kind]), call_endpoint="call_follows")
    inputs = {name: tf.constant(value) for name, value in _inputs(task, encoder, kind).items()}
    ids = {name: tf.constant(value) for name, value in _ids(task, encoder).items()}
    expected = tf.nn.softmax(mtdnn.task_model(model, "follows")(ids))
    np.testing.assert_allclose(layer(inputs)["probabilities"], expected, atol=1e-5)


def test_a_signature_of_one_text_is_a_layer_of_a_keras_model(exported):
    paths = exported[3]
    text = keras.Input((), dtype="string")
    answers = keras.layers.TFSMLayer(str(paths["text"]), call_endpoint="mood")(text)
    program = keras.Model(text, answers["probabilities"])
    assert program(tf.constant(["a good day", "tea"])).shape == (2, 2)


def test_saved_model_cli_shows_and_runs_it(exported):
    tool = str(Path(sys.executable).with_name("saved_model_cli"))
    shown = subprocess.run(
        [tool, "show", "--dir", str(exported[3]["ids"]), "--tag_set", "serve", "--signature_def", "mood"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "inputs['token_ids'] tensor_info:" in shown
    assert "outputs['probabilities'] tensor_info:" in shown
    ids = "[[2,40,50,3]]"
    ran = subprocess.run(
        [tool, "run", "--dir", str(exported[3]["ids"]), "--tag_set", "serve", "--signature_def", "mood",
         "--input_exprs", f"token_ids={ids};segment_ids=[[0,0,0,0]];padding_mask=[[1,1,1,1]]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Result for output key probabilities" in ran.stdout


def test_versions_count_upwards_and_old_ones_stay(exported, tmp_path):
    model, tasks, encoder, _ = exported
    (tmp_path / "7").mkdir()
    path = mtdnn.export_saved_model(model, tasks[:1], encoder, tmp_path, "ids")
    assert path.name == "8"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["7", "8"]


def test_a_failed_export_leaves_nothing(exported, tmp_path, monkeypatch):
    model, tasks, encoder, _ = exported

    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mtdnn_tf.serving.saved_model.Warmup.write", full)
    with pytest.raises(mtdnn.UserError, match="no space left"):
        mtdnn.export_saved_model(model, tasks[:1], encoder, tmp_path / "served", "ids")
    assert list((tmp_path / "served").iterdir()) == []


def test_bad_targets_are_told(exported, tmp_path):
    model, tasks, encoder, _ = exported
    with pytest.raises(mtdnn.UserError, match="Did you mean 'text'"):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "txt")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mtdnn.UserError, match="is a file"):
        mtdnn.export_saved_model(model, tasks, encoder, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
