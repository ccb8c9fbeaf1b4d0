"""What tools and servers read of saved_model.pb: names, types and methods of every signature, and what tells exports apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.serving.fingerprint import FINGERPRINT_FILE, file_hashes, read_fingerprint
from mtdnn_tf.serving.graph_edits import read_graph
from tests.serving.server import LoadedModel

IDS = {"token_ids", "segment_ids", "padding_mask"}
CLASS = {"label": "DT_STRING", "label_id": "DT_INT32", "probabilities": "DT_FLOAT", "logits": "DT_FLOAT"}
PAIRS = {
    "follows.label": "DT_STRING", "follows.probabilities": "DT_FLOAT", "close.score": "DT_FLOAT", "pick.relevance": "DT_FLOAT",
}  # fmt: skip
# signature: text columns, outputs with their types, method
DOCUMENTED = {
    "mood": ({"text"}, CLASS, "predict"),
    "follows": ({"premise", "hypothesis"}, CLASS, "predict"),
    "close": ({"sentence1", "sentence2"}, {"score": "DT_FLOAT"}, "predict"),
    "pick": ({"question", "answer"}, {"relevance": "DT_FLOAT"}, "predict"),
    "all_single": ({"text"}, {"mood.label": "DT_STRING", "mood.probabilities": "DT_FLOAT"}, "predict"),
    "all_pairs": ({"text_a", "text_b"}, PAIRS, "predict"),
    "serving_default": ({"text_a", "text_b"}, PAIRS, "predict"),
    "encode": ({"text"}, {"pooled": "DT_FLOAT", "token_embeddings": "DT_FLOAT", "token_mask": "DT_INT32"}, "predict"),
    "metadata": ({"any_text"}, {"json": "DT_STRING"}, "predict"),
    "mood/classify": ({"inputs"}, {"classes": "DT_STRING", "scores": "DT_FLOAT"}, "classify"),
    "follows/classify": ({"inputs"}, {"classes": "DT_STRING", "scores": "DT_FLOAT"}, "classify"),
    "close/regress": ({"inputs"}, {"outputs": "DT_FLOAT"}, "regress"),
    "pick/regress": ({"inputs"}, {"outputs": "DT_FLOAT"}, "regress"),
}


def _inputs(kind, columns):
    if kind == "text" or columns in ({"any_text"}, {"inputs"}):
        return dict.fromkeys(columns, "DT_STRING")
    return dict.fromkeys(IDS, "DT_INT32")


def _types(tensors):
    return {name: tf.dtypes.as_dtype(tensor.dtype).name for name, tensor in tensors.items()}


def _named(types):
    return {
        name: {"DT_STRING": "string", "DT_INT32": "int32", "DT_FLOAT": "float32"}[each] for name, each in types.items()
    }


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_the_file_holds_the_documented_signatures(exported, kind):
    definitions = read_graph(exported[3][kind]).meta_graphs[0].signature_def
    assert {name for name in definitions if not name.startswith("__")} == set(DOCUMENTED)
    for name, (columns, outputs, method) in DOCUMENTED.items():
        assert _types(definitions[name].inputs) == _named(_inputs(kind, columns)), name
        assert _types(definitions[name].outputs) == _named(outputs), name
        assert definitions[name].method_name == f"tensorflow/serving/{method}"
        # The number of rows is free.
        tensors = [*definitions[name].inputs.values(), *definitions[name].outputs.values()]
        assert {tensor.tensor_shape.dim[0].size for tensor in tensors} == {-1}, name


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_examples_of_all_tasks_come_in_through_one_tensor(exported, kind):
    definitions = read_graph(exported[3][kind]).meta_graphs[0].signature_def
    names = {each.inputs["inputs"].name for each in definitions.values() if "inputs" in each.inputs}
    assert names == {"examples:0"}


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_saved_model_cli_shows_them_all(exported, kind):
    tool = str(Path(sys.executable).with_name("saved_model_cli"))
    command = [tool, "show", "--dir", str(exported[3][kind]), "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sections = re.split(r"signature_def\['([^']+)'\]:", done.stdout)
    shown = dict(zip(sections[1::2], sections[2::2], strict=True))
    for name, (columns, outputs, method) in DOCUMENTED.items():
        for direction, types in (("inputs", _inputs(kind, columns)), ("outputs", outputs)):
            for key, each in types.items():
                assert re.search(rf"{direction}\['{re.escape(key)}'\] tensor_info:\s+dtype: {each}\n", shown[name]), (
                    name
                )
        assert f"Method name is: tensorflow/serving/{method}" in shown[name]


def test_get_model_metadata_answers_with_them(exported):
    model = LoadedModel(exported[3]["text"])
    found = get_model_metadata_pb2.SignatureDefMap()
    assert model.metadata().metadata["signature_def"].Unpack(found)
    assert set(DOCUMENTED) <= set(found.signature_def)
    model.close()


def _changed(first, second):
    before, after = file_hashes(first), file_hashes(second)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_an_export_done_again_has_the_same_fingerprint_and_bytes_but_for_numbered_functions(exported, tmp_path):
    model, tasks, encoder, paths = exported
    again = mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "ids", max_length=48)
    assert read_fingerprint(again) == read_fingerprint(paths["ids"])
    assert _changed(paths["ids"], again) <= {"saved_model.pb"}
    head = model.get_layer("mood").weights[0]
    before = head.numpy()
    head.assign_add(head * 0 + 1e-3)
    try:
        other = mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "ids", max_length=48)
    finally:
        head.assign(before)
    assert read_fingerprint(other) != read_fingerprint(again)
    assert "variables/variables.data-00000-of-00001" in _changed(again, other)


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_the_fingerprint_lists_every_file_as_it_is(exported, kind):
    path = exported[3][kind]
    written = json.loads((path / FINGERPRINT_FILE).read_text())
    assert written["files"] == file_hashes(path)
    assert {"saved_model.pb", "assets/vocab.txt", "assets.extra/tf_serving_warmup_requests"} <= set(written["files"])
    assert re.fullmatch("[0-9a-f]{16}", written["fingerprint"])
    assert read_fingerprint(exported[3]["ids"]) != read_fingerprint(exported[3]["text"])


def test_what_signatures_share_is_in_the_graph_once(exported):
    """Python loads a model at the speed of its nodes."""
    library = read_graph(exported[3]["text"]).meta_graphs[0].graph_def.library.function
    ops = [node.op for function in library for node in function.node_def]
    assert sum("FastWordpieceTokenize" in op for op in ops) == 1 + 2  # of signatures with one text, and with two
    assert sum(function.signature.name.startswith("__inference_encode_ids") for function in library) == 1
