"""An encoder that was written is the one that is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.data.text import AddedToken, Tokenizer
from mtdnn_tf.modeling.bert import ACTIVATIONS
from mtdnn_tf.modeling.directories import build_backbone
from mtdnn_tf.modeling.saving import save_encoder

INPUTS = {
    "token_ids": np.array([[2, 40, 41, 3, 50, 3, 0]], np.int32),
    "segment_ids": np.array([[0, 0, 0, 0, 1, 1, 0]], np.int32),
    "padding_mask": np.array([[1, 1, 1, 1, 1, 1, 0]], np.int32),
}
DIMENSIONS_OF_TINY = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
HUGGINGFACE_NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_written_encoder_is_read_as_it_was(tmp_path, activation):
    source = f"random://layers=2,hidden=32,heads=4,positions=32,activation={HUGGINGFACE_NAMES[activation]},seed=3"
    encoder = mtdnn.load_encoder(source)
    folder = save_encoder(encoder, tmp_path / "encoder")
    again = mtdnn.load_encoder(str(folder))
    for name, value in encoder.backbone(INPUTS).items():
        np.testing.assert_array_equal(again.backbone(INPUTS)[name], value)
    assert again.backbone.get_config() == encoder.backbone.get_config()
    assert again.tokenizer.fingerprint == encoder.tokenizer.fingerprint
    assert again.has_pooler


def test_added_tokens_are_read_as_they_were(tmp_path):
    encoder = mtdnn.load_encoder("random://layers=1,hidden=16")
    vocab = encoder.tokenizer.vocab
    added = [
        AddedToken("<URL>", len(vocab)),
        AddedToken("\n", len(vocab) + 1, normalized=False),
        AddedToken("a", vocab.index("a")),
    ]
    tokenizer = Tokenizer(vocab, split_ideographs=False, added_tokens=added)
    backbone = build_backbone({**DIMENSIONS_OF_TINY, "vocab_size": tokenizer.vocab_size}, "here", 0.1)
    folder = save_encoder(replace(encoder, backbone=backbone, tokenizer=tokenizer), tmp_path / "encoder")
    assert mtdnn.load_encoder(str(folder)).tokenizer.fingerprint == tokenizer.fingerprint


def test_a_folder_that_is_there_stays_unless_asked(tmp_path):
    encoder = mtdnn.load_encoder("random://layers=1,hidden=16")
    save_encoder(encoder, tmp_path / "encoder")
    with pytest.raises(mtdnn.UserError, match="already exists"):
        save_encoder(encoder, tmp_path / "encoder")
    save_encoder(mtdnn.load_encoder("random://layers=2,hidden=16"), tmp_path / "encoder", replace=True)
    assert mtdnn.load_encoder(str(tmp_path / "encoder")).num_layers == 2


def test_who_may_read_one_of_its_files_may_read_all(tmp_path):
    folder = save_encoder(mtdnn.load_encoder("random://layers=1,hidden=16"), tmp_path / "encoder")
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.peers
@pytest.mark.weights
def test_transformers_reads_it_and_computes_the_same(tmp_path, minilm):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    encoder = mtdnn.load_encoder(minilm, dropout=0.0)
    folder = save_encoder(encoder, tmp_path / "encoder")
    model = transformers.BertModel.from_pretrained(folder).eval()
    names = {"token_ids": "input_ids", "segment_ids": "token_type_ids", "padding_mask": "attention_mask"}
    with torch.no_grad():
        theirs = model(**{names[name]: torch.tensor(value) for name, value in INPUTS.items()})
    ours = encoder.backbone(INPUTS)
    np.testing.assert_allclose(ours["pooled_output"], theirs.pooler_output.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours["sequence_output"][0, :6], theirs.last_hidden_state[0, :6].numpy(), atol=1e-4)
