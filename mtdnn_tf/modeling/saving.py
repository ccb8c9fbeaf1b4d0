"""Encoders written to files: whole, as a folder in the Hugging Face layout; or without weights, for a run to be opened again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mtdnn_tf.data.text import Tokenizer, read_vocabulary
from mtdnn_tf.data.words import WordTokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import atomic_directory, write_text_atomically
from mtdnn_tf.modeling.bert import BertEncoder, as_bert, seed_dropout
from mtdnn_tf.modeling.directories import DIMENSIONS, HIDDEN_ACTS
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.pretrained import Slot, encoder_slots, read_json
from mtdnn_tf.modeling.word_transformer import WordTransformer

_BACKBONES = {kind.__name__: kind for kind in (BertEncoder, WordTransformer)}
_TOKENIZERS = {kind.__name__: kind for kind in (Tokenizer, WordTokenizer)}
_OF_PROCESS = ("name", "trainable", "dtype", "dropout")  # what a backbone is built with anew


def save_encoder(encoder: Encoder, folder: str | Path, replace: bool = False) -> Path:
    """Write weights (float32, pooler included), configuration, vocabulary and tokenizer settings; heads are no part of it.

    Args:
        encoder: what is written.
        folder: appears complete or not at all.
        replace: whether a folder of that name gives way.

    Raises:
        UserError: the encoder is no BERT, the folder is there and `replace` is false, or it can't be written.
    """
    backbone = as_bert(encoder.backbone, "the Hugging Face layout")
    tensors = {name: _as_stored(slot) for name, slot in encoder_slots(backbone).items()}
    with atomic_directory(folder, replace=replace) as temporary:
        config, weights = temporary / "config.json", temporary / "model.safetensors"
        _write_json(config, _config(backbone, encoder.tokenizer.pad_id))
        # The format is named as other programs expect it: kernels are laid out as (outputs, inputs).
        safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
        shutil.copymode(config, weights)  # safetensors lets no other user (a server, say) read what it writes
        _write_json(temporary / "tokenizer_config.json", _tokenizer_config(encoder))
        (temporary / "vocab.txt").write_text(_vocabulary(encoder), encoding="utf-8")
    return Path(folder)


def write_description(encoder: Encoder, settings: Path, vocabulary: Path) -> None:
    """Write all but the weights: settings as JSON, and the vocabulary.

    Raises:
        UserError: they can't be written.
    """
    parts: dict[str, Any] = {"backbone": encoder.backbone, "tokenizer": encoder.tokenizer}
    content: dict[str, Any] = {"has_pooler": encoder.has_pooler}
    for name, part in parts.items():
        config = {key: value for key, value in part.get_config().items() if key not in _OF_PROCESS}
        content[name] = {"type": type(part).__name__, **config}
    write_text_atomically(vocabulary, _vocabulary(encoder))
    write_text_atomically(settings, json.dumps(content, indent=1) + "\n")


def read_description(settings: Path, vocabulary: Path, *, source: str, dropout: float, seed: int) -> Encoder:
    """Build the encoder that `write_description` described, with weights for a checkpoint to replace.

    Args:
        settings: the JSON file.
        vocabulary: the other file.
        source: where the encoder once came from.
        dropout: the rate of every dropout in the encoder.
        seed: of the dropout masks.

    Raises:
        UserError: a file is missing or damaged.
    """
    content, vocab = read_json(settings), read_vocabulary(vocabulary)
    try:
        backbone, tokenizer = dict(content["backbone"]), dict(content["tokenizer"])
        built = _BACKBONES[backbone.pop("type")](name="encoder", dropout=dropout, **backbone)
        words = _TOKENIZERS[tokenizer.pop("type")].from_config(vocab, tokenizer)
        has_pooler = bool(content["has_pooler"])
    except UserError as error:
        raise UserError(f"{vocabulary}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{settings}: damaged, or of another version: {error!r}") from None
    seed_dropout(built, seed)
    return Encoder(built, words, source, has_pooler)


def reads_words(settings: Path) -> bool:
    """Return whether the tokens that a run's files describe are whole words; without `settings`, an older run's are."""
    described = read_json(settings).get("tokenizer") if settings.is_file() else None
    return described is None or described.get("type") == WordTokenizer.__name__


def _vocabulary(encoder: Encoder) -> str:
    return "".join(f"{token}\n" for token in encoder.tokenizer.pieces)


def _as_stored(slot: Slot) -> np.ndarray:
    value = np.reshape(slot.variable.numpy(), slot.shape)
    return np.ascontiguousarray(value.T if slot.is_kernel else value, np.float32)


def _config(backbone: BertEncoder, pad_id: int) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in reversed(HIDDEN_ACTS.items())}
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        **{theirs: getattr(backbone, ours) for theirs, ours in DIMENSIONS.items()},
        "hidden_act": names[backbone.hidden_activation],
        "layer_norm_eps": backbone.layer_norm_epsilon,
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.dropout,
        "pad_token_id": pad_id,
    }


def _tokenizer_config(encoder: Encoder) -> dict[str, Any]:
    tokenizer = encoder.tokenizer
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.split_ideographs,
        "model_max_length": encoder.max_positions,
        "added_tokens_decoder": {
            str(token.id): {
                "content": token.content,
                "normalized": token.normalized,
                **dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False),
            }
            for token in tokenizer.added_tokens
        },
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
