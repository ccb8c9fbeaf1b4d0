"""An encoder in a directory: the layouts that are known, told apart by their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras_hub

from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.modeling.bert import BertEncoder
from mtdnn_tf.modeling.pretrained import (
    ORIGINAL_LAYOUT,
    copy_tensors,
    huggingface_layout,
    open_checkpoint,
    open_safetensors,
)

# Activation names of checkpoints, and which of `bert.ACTIVATIONS` each one is.
HIDDEN_ACTS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Google's own BERT code computes the tanh form under the name "gelu".
_ORIGINAL_HIDDEN_ACTS = {"gelu": "gelu_tanh", "relu": "relu"}

DIMENSIONS = {
    "vocab_size": "vocabulary_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
}
# What a Hugging Face configuration may say of a network that is not the BERT encoder built here.
_FIXED = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}


class Loaded(NamedTuple):
    """What a directory gave: the encoder, its tokenizer, and whether the weights hold a pooler."""

    backbone: BertEncoder
    tokenizer: Tokenizer
    has_pooler: bool = True


@dataclass(frozen=True)
class DirectoryForm:
    """One way in which weights lie in a directory: its files (patterns), and who reads them."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    load: Callable[[Path, float], Loaded]


def load_directory(directory: Path, dropout: float) -> Loaded:
    """Load the encoder in a directory, whichever of `DIRECTORY_FORMS` it has.

    Raises:
        UserError: files are missing or damaged, or it is no BERT.
    """
    missing = {
        title: [pattern for pattern in form.required if not any(directory.glob(pattern))]
        for title, form in DIRECTORY_FORMS.items()
    }
    for title, files in missing.items():
        if not files:
            return DIRECTORY_FORMS[title].load(directory, dropout)
    lacking = "; ".join(f"for a {title}, {', '.join(files)}" for title, files in missing.items())
    raise UserError(f"{directory}: holds no complete encoder. Missing files: {lacking}.")


def _load_huggingface(directory: Path, dropout: float) -> Loaded:
    config = _read_json(directory / "config.json")
    for key, expected in _FIXED.items():
        if config.get(key, expected) != expected:
            raise UserError(
                f"{directory / 'config.json'}: {key} must be {expected!r}: only BERT encoders can be loaded. "
                f"Received: {config[key]!r}"
            )
    backbone = build_backbone(config, directory / "config.json", dropout)
    file = open_safetensors(directory / "model.safetensors")
    has_pooler = copy_tensors(file, huggingface_layout(file.shapes), backbone)
    return Loaded(backbone, _read_tokenizer(directory, lowercase=True), has_pooler)


def _load_original(directory: Path, dropout: float) -> Loaded:
    config = _read_json(directory / "bert_config.json")
    backbone = build_backbone(config, directory / "bert_config.json", dropout, _ORIGINAL_HIDDEN_ACTS)
    has_pooler = copy_tensors(open_checkpoint(directory / "bert_model.ckpt"), ORIGINAL_LAYOUT, backbone)
    # These checkpoints don't say whether they are cased.
    lowercase = Tokenizer.from_vocabulary(directory / "vocab.txt").lowercase
    return Loaded(backbone, _read_tokenizer(directory, lowercase=lowercase), has_pooler)


def _load_preset(directory: Path, dropout: float) -> Loaded:
    try:
        # The path is absolute: a relative one that is also a built-in preset's name would be downloaded instead.
        preset = keras_hub.models.BertBackbone.from_preset(str(directory.absolute()), dtype="float32")
    except Exception as error:  # Keras, h5py and JSON errors alike: the folder is damaged or holds no BERT
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{directory}: KerasHub can't load this preset as a BERT: {reason}") from error
    backbone = BertEncoder(
        name="encoder",
        dropout=dropout,
        # KerasHub's own presets do not say: its BERT computes these.
        hidden_activation=getattr(preset, "hidden_activation", "gelu_tanh"),
        layer_norm_epsilon=getattr(preset, "layer_norm_epsilon", 1e-12),
        **{name: getattr(preset, name) for name in DIMENSIONS.values()},
    )
    backbone.set_weights(preset.get_weights())
    # KerasHub strips no accents by default, but lower-casing BERTs were pretrained without accents: the preset's
    # setting is left aside, and accents go where capitals go.
    lowercase = bool(_read_json(directory / "tokenizer.json").get("config", {}).get("lowercase", False))
    vocabulary = directory / "assets" / "tokenizer" / "vocabulary.txt"
    return Loaded(backbone, Tokenizer.from_file(vocabulary, lowercase=lowercase))


def build_backbone(
    config: Mapping[str, Any],
    where: Path | str,
    dropout: float,
    hidden_acts: Mapping[str, str] = HIDDEN_ACTS,
) -> BertEncoder:
    """Build the encoder that a configuration in Hugging Face's or Google's words describes, with random weights.

    Raises:
        UserError: a dimension is missing or impossible, or the activation is unknown; `where` leads the message.
    """
    config = {"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, **config}
    for key in DIMENSIONS:
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"{where}: {key} must be a whole number above 0. Received: {config.get(key)!r}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise UserError(
            f"{where}: hidden_size must be a multiple of num_attention_heads. "
            f"Received: {config['hidden_size']} and {config['num_attention_heads']}"
        )
    if config["hidden_act"] not in hidden_acts:
        raise UserError(unknown_name(str(where), "hidden_act", str(config["hidden_act"]), hidden_acts))
    return BertEncoder(
        name="encoder",
        dropout=dropout,
        hidden_activation=hidden_acts[config["hidden_act"]],
        layer_norm_epsilon=float(config["layer_norm_eps"]),
        **{ours: config[theirs] for theirs, ours in DIMENSIONS.items()},
    )


def _read_tokenizer(directory: Path, lowercase: bool) -> Tokenizer:
    path = directory / "tokenizer_config.json"
    config = _read_json(path) if path.is_file() else {}
    return Tokenizer.from_file(
        directory / "vocab.txt",
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a JSON object. Received: {type(content).__name__}")
    return content


DIRECTORY_FORMS: dict[str, DirectoryForm] = {
    "Hugging Face layout": DirectoryForm(
        required=("config.json", "model.safetensors", "vocab.txt"),
        optional=("tokenizer_config.json",),
        load=_load_huggingface,
    ),
    "KerasHub preset": DirectoryForm(
        required=("config.json", "model*.weights.h5", "tokenizer.json", "assets/tokenizer/vocabulary.txt"),
        optional=("metadata.json", "model.weights.json"),
        load=_load_preset,
    ),
    "pre-training run": DirectoryForm(
        required=tuple(f"encoder/{name}" for name in ("config.json", "model.safetensors", "vocab.txt")),
        optional=(),
        load=lambda directory, dropout: _load_huggingface(directory / "encoder", dropout),
    ),
    "original BERT checkpoint": DirectoryForm(
        required=("bert_config.json", "bert_model.ckpt.index", "vocab.txt"),
        optional=("bert_model.ckpt.data-*", "tokenizer_config.json"),
        load=_load_original,
    ),
}
