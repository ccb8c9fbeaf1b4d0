"""The check before publishing: passes what answers as the Keras model does, and names what does not."""

from __future__ import annotations

import re
import shutil

import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import EXPORT_KINDS
from mtdnn_tf.serving import saved_model
from mtdnn_tf.serving.check import check_saved_model
from mtdnn_tf.serving.graph_edits import read_graph

MAX_LENGTH = 48


def _check(exported, kind, path=None):
    model, tasks, encoder, paths = exported
    return check_saved_model(path or paths[kind], model, tasks, encoder.tokenizer, MAX_LENGTH, kind)


@pytest.mark.parametrize("kind", EXPORT_KINDS)
def test_a_good_export_passes_by_far(exported, kind):
    assert 0 <= _check(exported, kind) < 1e-5


def test_an_export_of_other_weights_is_not_published(exported, tmp_path, monkeypatch):
    model, tasks, encoder, _ = exported
    head = model.get_layer("close").weights[0]
    before, save = head.numpy(), saved_model._save

    def save_then_train_on(*arguments):
        save(*arguments)
        head.assign_add(head * 0 + 0.5)

    (tmp_path / "1").mkdir()
    monkeypatch.setattr(saved_model, "_save", save_then_train_on)
    expected = r"export check: signature 'close', output 'score' \(python\): differs by .* 0\.0001 is allowed; nothing is published"
    try:
        with pytest.raises(mtdnn.UserError, match=expected):
            mtdnn.export_saved_model(model, tasks, encoder, tmp_path, "ids", max_length=MAX_LENGTH, check=True)
    finally:
        head.assign(before)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_damaged_file_is_told_in_one_line(exported, tmp_path):
    copy = shutil.copytree(exported[3]["ids"], tmp_path / "1")
    weights = copy / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(mtdnn.UserError, match="can't be loaded and run") as raised:
        _check(exported, "ids", copy)
    assert "\n" not in str(raised.value)


def test_a_signature_that_nobody_expects_is_refused(exported, tmp_path):
    copy = shutil.copytree(exported[3]["ids"], tmp_path / "1")
    proto = read_graph(copy)
    definitions = proto.meta_graphs[0].signature_def
    definitions["extra"].CopyFrom(definitions["mood"])
    (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
    with pytest.raises(mtdnn.UserError, match=re.escape("signature 'extra', output 'label' is written but nobody")):
        _check(exported, "ids", copy)


def test_a_text_model_does_not_pass_for_an_ids_model(exported):
    """It needs tensorflow-text's ops, which the machines that ids models are meant for do not have."""
    model, tasks, encoder, paths = exported
    with pytest.raises(mtdnn.UserError, match="can't be loaded and run"):
        check_saved_model(paths["text"], model, tasks, encoder.tokenizer, MAX_LENGTH, "ids")
