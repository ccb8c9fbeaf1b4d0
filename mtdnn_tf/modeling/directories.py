"""An encoder in a directory: the layouts that are known, told apart by their files."""

from __future__ import annotations

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
    check_finite,
    check_sizes,
    copy_tensors,
    huggingface_layout,
    open_checkpoint,
    open_safetensors,
    open_sharded_safetensors,
    read_json,
)
from mtdnn_tf.modeling.tokenizer_files import read_tokenizer

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

    required: tuple[tuple[str, ...], ...]  # of each, one of several patterns
    optional: tuple[str, ...]
    load: Callable[[Path, float], Loaded]

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns of its files."""
        return (*(pattern for each in self.required for pattern in each), *self.optional)

    def missing(self, directory: Path) -> list[str]:
        """Return what a directory lacks of it, in words."""
        return [
            " or ".join(each) for each in self.required if not any(any(directory.glob(pattern)) for pattern in each)
        ]


def load_directory(directory: Path, dropout: float) -> Loaded:
    """Load the encoder in a directory, whichever of `DIRECTORY_FORMS` it has.

    Raises:
        UserError: files are missing or damaged, or it is no BERT.
    """
    missing = {title: form.missing(directory) for title, form in DIRECTORY_FORMS.items()}
    for title, files in missing.items():
        if not files:
            return DIRECTORY_FORMS[title].load(directory, dropout)
    fewest = min(map(len, missing.values()))
    lacking = "; ".join(
        f"of the {title}, {', '.join(files)}" for title, files in missing.items() if len(files) == fewest
    )
    raise UserError(f"{directory}: holds no complete encoder. {_advice(directory)}Missing files: {lacking}.")


def _advice(directory: Path) -> str:
    """Say which files of another program a directory holds and what makes an encoder of them, or where inside it one is."""
    for path in sorted(path for path in directory.iterdir() if path.is_dir()):
        if any(not form.missing(path) for form in DIRECTORY_FORMS.values()):
            return f"The folder {path.name} in it holds one: use {path}. "
    for pattern, advice in _OTHER_PROGRAMS.items():
        found = next(iter(sorted(directory.glob(pattern))), None)
        if found is not None:
            return f"It holds {found.relative_to(directory)}: {advice.format(directory=str(directory))}. "
    return ""


def _load_huggingface(directory: Path, dropout: float) -> Loaded:
    path = directory / "config.json"
    config = read_json(path)
    _refuse_others(config, _FIXED, path, "only BERT encoders can be loaded")
    config = checked_config(config, path)
    whole = directory / "model.safetensors"
    file = open_safetensors(whole) if whole.is_file() else open_sharded_safetensors(directory / _INDEX)
    layout = huggingface_layout(file.shapes, file.path)
    check_sizes(file, layout, config)
    tokenizer = read_tokenizer(directory, config.get("tokenizer_class"))
    backbone = build_backbone(config, path, dropout)
    return Loaded(backbone, tokenizer, copy_tensors(file, layout, backbone))


def _load_original(directory: Path, dropout: float) -> Loaded:
    path = directory / "bert_config.json"
    config = checked_config(read_json(path), path, _ORIGINAL_HIDDEN_ACTS)
    file = open_checkpoint(directory / "bert_model.ckpt")
    check_sizes(file, ORIGINAL_LAYOUT, config)
    tokenizer = read_tokenizer(directory)
    backbone = build_backbone(config, path, dropout, _ORIGINAL_HIDDEN_ACTS)
    return Loaded(backbone, tokenizer, copy_tensors(file, ORIGINAL_LAYOUT, backbone))


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
    for variable in backbone.weights:
        check_finite(variable.numpy(), f"{directory}: {variable.path}")
    # KerasHub strips no accents by default, but lower-casing BERTs were pretrained without accents: the preset's
    # setting is left aside, and accents go where capitals go.
    settings = read_json(directory / "tokenizer.json").get("config")
    lowercase = isinstance(settings, dict) and bool(settings.get("lowercase", False))
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
        UserError: see `checked_config`.
    """
    config = checked_config(config, where, hidden_acts)
    return BertEncoder(
        name="encoder",
        dropout=dropout,
        hidden_activation=hidden_acts[config["hidden_act"]],
        layer_norm_epsilon=float(config["layer_norm_eps"]),
        **{ours: config[theirs] for theirs, ours in DIMENSIONS.items()},
    )


def checked_config(
    config: Mapping[str, Any], where: Path | str, hidden_acts: Mapping[str, str] = HIDDEN_ACTS
) -> dict[str, Any]:
    """Return a configuration in Hugging Face's or Google's words with defaults for what it leaves out.

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
    if config["hidden_act"] not in list(hidden_acts):
        raise UserError(unknown_name(str(where), "hidden_act", str(config["hidden_act"]), hidden_acts))
    epsilon = config["layer_norm_eps"]
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise UserError(f"{where}: layer_norm_eps must be a number from 0 to below 1. Received: {epsilon!r}")
    return config


def _refuse_others(config: Mapping[str, Any], fixed: Mapping[str, Any], where: Path | str, reason: str) -> None:
    """Refuse a configuration that says something else than what is computed here."""
    for key, expected in fixed.items():
        if config.get(key, expected) != expected:
            raise UserError(f"{where}: {key} must be {expected!r}: {reason}. Received: {config[key]!r}")


def _alternatives(*patterns: str) -> tuple[tuple[str, ...], ...]:
    return tuple((pattern,) for pattern in patterns)


_INDEX = "model.safetensors.index.json"
_HUGGINGFACE_FILES = (("config.json",), ("model.safetensors", _INDEX), ("vocab.txt", "tokenizer.json"))

DIRECTORY_FORMS: dict[str, DirectoryForm] = {
    "Hugging Face layout": DirectoryForm(
        required=_HUGGINGFACE_FILES,
        optional=("model-*-of-*.safetensors", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"),
        load=_load_huggingface,
    ),
    "KerasHub preset": DirectoryForm(
        required=_alternatives("config.json", "model*.weights.h5", "tokenizer.json", "assets/tokenizer/vocabulary.txt"),
        optional=("metadata.json", "model.weights.json"),
        load=_load_preset,
    ),
    "pre-training run": DirectoryForm(
        required=tuple(tuple(f"encoder/{name}" for name in each) for each in _HUGGINGFACE_FILES),
        optional=(),
        load=lambda directory, dropout: _load_huggingface(directory / "encoder", dropout),
    ),
    "original BERT checkpoint": DirectoryForm(
        required=_alternatives("bert_config.json", "bert_model.ckpt.index", "vocab.txt"),
        optional=("bert_model.ckpt.data-*", "tokenizer_config.json"),
        load=_load_original,
    ),
}

_CONVERT = (
    'convert them where PyTorch and transformers are installed: python -c "from transformers import AutoModel; '
    "AutoModel.from_pretrained('{directory}'%s).save_pretrained('{directory}')\""
)
# Files by which folders of other programs are known, and what makes a folder of them that can be read here.
_OTHER_PROGRAMS = {
    "best/state.json": "a run of this program; to start from its weights, set training.init_from: {directory}",
    "adapter_config.json": "an adapter without the encoder that it was trained on; merge the two with PEFT's merge_and_unload, "
    "and save what comes of it",
    "pytorch_model*.bin": f"weights that PyTorch pickled, which are not read because a pickle can run code; {_CONVERT % ''}",
    "tf_model.h5": f"weights of transformers for TensorFlow; {_CONVERT.replace('transformers are', 'transformers 4 are') % ', from_tf=True'}",
    "flax_model.msgpack": f"weights of transformers for Flax; {_CONVERT.replace('transformers are', 'transformers 4 are') % ', from_flax=True'}",
    "saved_model.pb": "a SavedModel, as TensorFlow Hub has them, whose graph is fixed and can't be trained here; get the same "
    "encoder in another layout: Hugging Face, KerasHub preset or original BERT checkpoint",
    "*.ckpt*.index": "a checkpoint, but not bert_model.ckpt; where the original BERT program wrote it, rename its files to "
    "bert_model.ckpt.index, ...; checkpoints of TensorFlow Model Garden (TF 2) are not read: get the same encoder in the Hugging "
    "Face layout",
    "*.onnx": "a graph for inference, which can't be trained here; get the encoder that it was made from",
    "*.gguf": "weights for inference only; get the encoder that they were made from",
    "*.pt": "weights that PyTorch pickled, which are not read because a pickle can run code; save the model as safetensors",
}
