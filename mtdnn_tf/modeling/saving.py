"""An encoder written as a folder in the Hugging Face layout: `load_encoder` and other programs read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mtdnn_tf.files import atomic_directory
from mtdnn_tf.modeling.bert import BertEncoder, as_bert
from mtdnn_tf.modeling.directories import DIMENSIONS, HIDDEN_ACTS
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.pretrained import Slot, encoder_slots


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
        (temporary / "vocab.txt").write_text(
            "".join(f"{token}\n" for token in encoder.tokenizer.vocab), encoding="utf-8"
        )
    return Path(folder)


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
        "model_max_length": encoder.max_positions,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
