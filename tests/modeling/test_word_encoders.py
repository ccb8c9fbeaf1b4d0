"""Encoders on words: their sources, and where their word vectors start from."""

from __future__ import annotations

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import OptimizerConfig
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.modeling import encoders
from mtdnn_tf.modeling.directories import Loaded
from mtdnn_tf.training.rates import rate_factors

VOCABULARY = (*SPECIAL_TOKENS, "dog", "runs", "zzz")
SMALL = "words://layers=1,hidden=8,heads=2,intermediate=8,embedding=4"


def _load(source, vocabulary=VOCABULARY):
    return mtdnn.load_encoder(source, seed=1, vocabulary=vocabulary)


def _vectors(encoder):
    return encoder.backbone.token_embedding.embeddings.numpy()


def test_the_default_is_the_study_s(tmp_path):
    backbone = _load("words://").backbone
    sizes = (backbone.num_layers, backbone.hidden_dim, backbone.num_heads, backbone.intermediate_dim)
    assert sizes == (4, 300, 6, 512)
    assert (backbone.dropout, backbone.embedding_dropout, backbone.max_sequence_length) == (0.1, 0.5, 402)
    kernels = np.concatenate([weight.numpy().ravel() for weight in backbone.weights if weight.name == "kernel"])
    assert abs(kernels.std() - 0.05) < 1e-3
    assert np.abs(kernels).max() > 0.15  # not truncated


def test_a_vocabulary_may_be_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(VOCABULARY) + "\n")
    from_file = mtdnn.load_encoder(f"{SMALL},vocab={tmp_path / 'words.txt'}")
    assert from_file.tokenizer.vocab == VOCABULARY
    np.testing.assert_array_equal(_vectors(from_file), _vectors(_load(SMALL)))


def test_vectors_of_a_glove_file_go_to_their_words(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2 3 4\n. . . 0.5 1 2 3\nunknown 9 9 9 9\nruns -1 0 0.5 1e-1\n", encoding="utf-8")
    found, random = _vectors(_load(f"{SMALL},vectors={path}")), _vectors(_load(SMALL))
    np.testing.assert_array_equal(found[5:7], np.array([[1, 2, 3, 4], [-1, 0, 0.5, 0.1]], np.float32))
    np.testing.assert_array_equal(found[[0, 1, 2, 3, 4, 7]], random[[0, 1, 2, 3, 4, 7]])


def test_vectors_of_a_bert_are_means_of_wordpieces(monkeypatch):
    """`random://` splits words into characters: the vector of a word is the mean of theirs."""
    bert = mtdnn.load_encoder("random://layers=1,hidden=4,heads=1,intermediate=4", seed=1)
    monkeypatch.setitem(encoders.SCHEMES, "bert", lambda *_: Loaded(bert.backbone, bert.tokenizer))
    found = _vectors(_load(f"{SMALL},vectors=bert://"))
    vocab, table = bert.tokenizer.vocab, bert.backbone.token_embedding.embeddings.numpy()
    expected = np.mean([table[vocab.index(piece)] for piece in ("d", "##o", "##g")], axis=0)
    np.testing.assert_allclose(found[5], expected, atol=1e-7)


def test_word_vectors_alone_learn_with_the_embeddings_rate():
    backbone = _load(SMALL).backbone
    variables = backbone.trainable_variables
    found = rate_factors(variables, backbone, OptimizerConfig(embedding_rate=0.1, head_rate=3.0))
    factors = {variable.path: factor for variable, factor in zip(variables, found, strict=True)}
    assert {path for path, factor in factors.items() if factor != 1.0} == {"token_embedding/embeddings"}
    assert factors["token_embedding/embeddings"] == pytest.approx(0.1)


BAD = {
    "no vocabulary": ("words://", "outside a run, name one: vocab=FILE"),
    "unknown key": ("words://layer=2", "Did you mean 'layers'"),
    "no number": ("words://layers=two", "layers must be a whole number"),
    "no such share": ("words://embedding_dropout=1.5", "embedding_dropout must be at least 0 and below 1"),
    "heads": ("words://hidden=10,heads=3", "hidden must be a multiple of heads"),
    "no layer": ("words://layers=0", "layers must be a whole number above 0"),
    "no such vectors": ("words://vectors=nowhere.txt", "'nowhere.txt' is no directory and no known source"),
    "vectors of another length": (f"{SMALL},vectors=random://hidden=8", "embedding must be the length"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_source_is_told(case):
    source, message = BAD[case]
    with pytest.raises(mtdnn.UserError, match=message):
        _load(source, None if case == "no vocabulary" else VOCABULARY)


@pytest.mark.parametrize(
    ("line", "message"),
    [("dog 1 2 3", "holds 3 numbers"), ("dog 1 2 x 4", "must be followed by 4"), ("dog 1 nan 3 4", "1 of 4 are NaN")],
)
def test_a_faulty_line_of_a_glove_file_is_told_by_its_place(tmp_path, line, message):
    path = tmp_path / "glove.txt"
    path.write_text(f"other 1 2 3 4\n{line}\n", encoding="utf-8")
    with pytest.raises(mtdnn.UserError, match=rf"glove\.txt:2: .*{message}"):
        _load(f"{SMALL},vectors={path}")


@pytest.mark.parametrize("content", [b"PK\x03\x04 packed", b"Dog 1 2 3 4\n"])
def test_vectors_of_none_of_the_words_are_refused(tmp_path, content):
    path = tmp_path / "glove.zip"
    path.write_bytes(content)
    count = len(VOCABULARY) - len(SPECIAL_TOKENS)
    with pytest.raises(
        mtdnn.UserError, match=rf"glove\.zip holds a vector of none of the {count} words; expected a GloVe"
    ):
        _load(f"{SMALL},vectors={path}")
