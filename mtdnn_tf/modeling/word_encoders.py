"""Sources `words://`: a Transformer on the words of the run's own texts, and where its word vectors start from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from mtdnn_tf.data.text import SPECIAL_TOKENS, Tokenizer
from mtdnn_tf.data.words import WordTokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.modeling.bert import BertEncoder, draw_weights
from mtdnn_tf.modeling.directories import Loaded
from mtdnn_tf.modeling.pretrained import check_finite
from mtdnn_tf.modeling.source_settings import parse_settings
from mtdnn_tf.modeling.word_transformer import WordTransformer, normal
from mtdnn_tf.seeds import derive_seed

WORDS = "words://"
DEFAULTS: dict[str, Any] = {
    "layers": 4,
    "hidden": 300,
    "heads": 6,
    "intermediate": 512,
    "embedding": 300,  # length of a word vector
    "positions": 402,  # [CLS], 400 words, [SEP]
    "embedding_dropout": 0.5,
    "min_count": 1,  # how often a word must come to be in the vocabulary
    "vocab": "",  # a file of words, one a line; empty: the words of the run's training and development texts
    "vectors": "",  # a GloVe file, or the source of a BERT whose table is taken; empty: random
    "seed": 0,
}
_WHOLE = ("layers", "hidden", "heads", "intermediate", "embedding", "positions", "min_count")
LoadBert = Callable[[str], tuple[EncoderBackbone, Tokenizer]]


def words_settings(source: str) -> dict[str, Any] | None:
    """Return the settings of a source `words://...`, those left out included; None: it is another kind of source.

    Raises:
        UserError: a key is unknown, or a value impossible.
    """
    if not source.startswith(WORDS):
        return None
    values = parse_settings(source.removeprefix(WORDS), source, DEFAULTS)
    for key in _WHOLE:
        if values[key] < 1:
            raise UserError(f"{source}: {key} must be a whole number above 0. Received: {values[key]}")
    if values["hidden"] % values["heads"]:
        raise UserError(
            f"{source}: hidden must be a multiple of heads. Received: {values['hidden']} and {values['heads']}"
        )
    if not 0 <= values["embedding_dropout"] < 1:
        raise UserError(
            f"{source}: embedding_dropout must be at least 0 and below 1. Received: {values['embedding_dropout']}"
        )
    return values


def without_vectors(source: str) -> str:
    """Return a source `words://` whose word vectors are random at first: for runs whose weights come from a checkpoint."""
    settings = source.removeprefix(WORDS).split(",")
    return WORDS + ",".join(item for item in settings if not item.startswith("vectors="))


def load_words(source: str, dropout: float, vocabulary: Sequence[str] | None, load_bert: LoadBert) -> Loaded:
    """Build the encoder of a source `words://...` with random weights, or word vectors from elsewhere.

    Args:
        source: see `DEFAULTS`.
        dropout: of the layers.
        vocabulary: special tokens and words, in id order; None: `vocab` of the source.
        load_bert: opens the source that `vectors` names.

    Raises:
        UserError: there is no vocabulary, a file can't be read or holds none of the words, or vectors are of another length.
    """
    values = words_settings(source) or dict(DEFAULTS)
    if vocabulary is None and not values["vocab"]:
        raise UserError(
            f"{source}: the vocabulary is made of a run's training and development texts; outside a run, name one: vocab=FILE"
        )
    tokenizer = WordTokenizer.from_file(values["vocab"]) if vocabulary is None else WordTokenizer(vocabulary)
    backbone = WordTransformer(
        tokenizer.vocab_size,
        name="encoder",
        embedding_dim=values["embedding"],
        hidden_dim=values["hidden"],
        num_layers=values["layers"],
        num_heads=values["heads"],
        intermediate_dim=values["intermediate"],
        max_sequence_length=values["positions"],
        dropout=dropout,
        embedding_dropout=values["embedding_dropout"],
    )
    draw_weights(backbone, derive_seed(values["seed"], "words"), normal)
    if values["vectors"]:
        _set_vectors(backbone, tokenizer.vocab, values["vectors"], source, load_bert)
    return Loaded(backbone, tokenizer)


def _set_vectors(
    backbone: WordTransformer, vocabulary: Sequence[str], vectors: str, source: str, load_bert: LoadBert
) -> None:
    wanted = vocabulary[len(SPECIAL_TOKENS) :]
    if Path(os.path.expanduser(vectors)).is_file():
        found = read_glove(Path(os.path.expanduser(vectors)), wanted, backbone.embedding_dim)
    else:
        found = _table_of_bert(*load_bert(vectors), wanted)
    if wanted and not found:
        raise UserError(
            f"{source}: {vectors} holds a vector of none of the {len(wanted)} words; expected a GloVe text file, unpacked, a word and "
            "its numbers a line"
        )
    length = len(next(iter(found.values()), np.zeros(backbone.embedding_dim)))
    if length != backbone.embedding_dim:
        raise UserError(
            f"{source}: embedding must be the length of the vectors, {length}. Received: {backbone.embedding_dim}"
        )
    table = backbone.token_embedding.embeddings.numpy()
    rows = [index for index, word in enumerate(vocabulary) if word in found]
    if rows:
        table[rows] = np.stack([found[vocabulary[index]] for index in rows])
    backbone.token_embedding.embeddings.assign(table)
    logging.info("%s: vectors of %d of %d words; the rest start random", vectors, len(rows), len(wanted))


def read_glove(path: Path, words: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Return the vectors `[length] float32` of those words that a GloVe text file holds: a word and its numbers a line.

    Raises:
        UserError: the file can't be read, or a line of a wanted word holds other than `length` numbers.
    """
    wanted, found = set(words), {}
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                word, _, rest = line.rstrip("\r\n").partition(" ")
                if word in wanted and word not in found:
                    found[word] = _vector(f"{path}:{number}", rest, length)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    return found


def _vector(where: str, text: str, length: int) -> np.ndarray:
    try:
        vector = np.array(text.split(" "), np.float32)
    except ValueError:
        raise UserError(f"{where}: a word must be followed by {length} numbers, apart by single spaces") from None
    if len(vector) != length:
        raise UserError(f"{where}: holds {len(vector)} numbers; the encoder's word vectors have {length} (embedding=)")
    check_finite(vector, where)
    return vector


def _table_of_bert(backbone: EncoderBackbone, tokenizer: Tokenizer, words: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the mean of the table's rows of each word's WordPieces; a word with an unknown piece gets none."""
    if not isinstance(backbone, BertEncoder):
        raise UserError("encoder.source: vectors must name a GloVe file or the source of a BERT")
    if not words:
        return {}
    table = backbone.token_embedding.embeddings.numpy()
    pieces = tokenizer(tf.constant(list(words)))
    return {
        word: table[ids].mean(axis=0)
        for word, ids in zip(words, pieces.to_list(), strict=True)
        if ids and tokenizer.unk_id not in ids
    }
