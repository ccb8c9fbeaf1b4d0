"""Pretrained tensors: which name in a file goes into which variable of the encoder, checked before anything is set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import keras
import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.bert import BertEncoder

POOLER = "pooler.dense."


@dataclass(frozen=True)
class Slot:
    """A variable of the encoder and the shape that checkpoints keep it in."""

    variable: keras.Variable
    shape: tuple[int, ...]  # kernels: (inputs, outputs)
    is_kernel: bool = False


@dataclass(frozen=True)
class Layout:
    """How a family of files spells the names of `encoder_slots` and lays out kernels."""

    spell: Callable[[str], str]
    kernels_transposed: bool  # (outputs, inputs), as PyTorch keeps them
    ignored: tuple[str, ...]  # patterns of tensors that belong to other parts than the encoder


@dataclass(frozen=True)
class TensorFile:
    """Named tensors on disk."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def encoder_slots(backbone: BertEncoder) -> dict[str, Slot]:
    """Return every variable of the encoder under its name in Hugging Face's BertModel."""
    slots = {
        "embeddings.word_embeddings.weight": _as_is(backbone.token_embedding.embeddings),
        "embeddings.position_embeddings.weight": _as_is(backbone.position_embedding.position_embeddings),
        "embeddings.token_type_embeddings.weight": _as_is(backbone.segment_embedding.embeddings),
        **_norm("embeddings.LayerNorm", backbone.embeddings_layer_norm),
        **_dense("pooler.dense", backbone.pooled_dense),
    }
    for index, layer in enumerate(backbone.transformer_layers):
        slots |= _layer_slots(f"encoder.layer.{index}", layer)
    return slots


def _layer_slots(name: str, layer: keras.Layer) -> dict[str, Slot]:
    attention = layer._self_attention_layer
    return {
        **_dense(f"{name}.attention.self.query", attention.query_dense),
        **_dense(f"{name}.attention.self.key", attention.key_dense),
        **_dense(f"{name}.attention.self.value", attention.value_dense),
        **_dense(f"{name}.attention.output.dense", attention.output_dense),
        **_norm(f"{name}.attention.output.LayerNorm", layer._self_attention_layer_norm),
        **_dense(f"{name}.intermediate.dense", layer._feedforward_intermediate_dense),
        **_dense(f"{name}.output.dense", layer._feedforward_output_dense),
        **_norm(f"{name}.output.LayerNorm", layer._feedforward_layer_norm),
    }


def _as_is(variable: keras.Variable) -> Slot:
    return Slot(variable, tuple(variable.shape))


def _norm(name: str, layer: keras.Layer) -> dict[str, Slot]:
    return {f"{name}.weight": _as_is(layer.gamma), f"{name}.bias": _as_is(layer.beta)}


def _dense(name: str, layer: keras.Layer) -> dict[str, Slot]:
    # Keras keeps attention kernels as [d, heads, d/heads] (in) and [heads, d/heads, d] (out), files as matrices.
    outputs = math.prod(layer.bias.shape)
    inputs = math.prod(layer.kernel.shape) // outputs
    return {
        f"{name}.weight": Slot(layer.kernel, (inputs, outputs), is_kernel=True),
        f"{name}.bias": Slot(layer.bias, (outputs,)),
    }


def huggingface_layout(names: Iterable[str]) -> Layout:
    """Return the layout of a Hugging Face BERT file with these tensor names.

    Files of models with a task head spell `bert.` before the encoder's tensors; files converted from TensorFlow call
    LayerNorm's two vectors gamma and beta.
    """
    names = tuple(names)
    prefix = "bert." if any(name.startswith("bert.") for name in names) else ""
    old_norm = any(name.endswith("LayerNorm.gamma") for name in names)

    def spell(name: str) -> str:
        if old_norm:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return prefix + name

    ignored = (f"{prefix}embeddings.position_ids", "cls.*", "classifier.*", "qa_outputs.*")
    return Layout(spell, kernels_transposed=True, ignored=ignored)


def _spell_original(name: str) -> str:
    name = re.sub(r"\.layer\.(\d+)", r".layer_\1", name)
    name = name.replace("_embeddings.weight", "_embeddings")
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    name = re.sub(r"\.weight$", ".kernel", name)
    return "bert/" + name.replace(".", "/")


ORIGINAL_LAYOUT = Layout(
    _spell_original,
    kernels_transposed=False,
    ignored=("cls/*", "output_weights", "output_bias", "global_step", "*/adam_m", "*/adam_v"),
)
"""The TensorFlow 1 checkpoints that BERT was released in."""


def open_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        UserError: it is cut off or damaged.
    """
    try:
        tensors = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a complete safetensors file: {error}; fetch it again") from None
    return TensorFile(path, {name: value.shape for name, value in tensors.items()}, tensors.__getitem__)


def open_checkpoint(prefix: Path) -> TensorFile:
    """Open a TensorFlow checkpoint by the path that its files start with.

    Raises:
        UserError: it is damaged, now or when a tensor is read.
    """

    def damaged(error: Exception) -> UserError:
        return UserError(
            f"{prefix}: not a complete TensorFlow checkpoint: {str(error).splitlines()[0]}; fetch it again"
        )

    try:
        reader = tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise damaged(error) from None

    def read(name: str) -> np.ndarray:
        try:
            return reader.get_tensor(name)
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            raise damaged(error) from None

    shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    return TensorFile(prefix, shapes, read)


def copy_tensors(file: TensorFile, layout: Layout, backbone: BertEncoder) -> bool:
    """Set the encoder's variables from a file; nothing is set unless everything fits.

    Returns:
        Whether the file holds a pooler. Without one, the pooler's variables are left as they are.

    Raises:
        UserError: tensors are missing, unknown, or of another shape than the configuration gives.
    """
    slots = encoder_slots(backbone)
    has_pooler = any(layout.spell(name) in file.shapes for name in slots if name.startswith(POOLER))
    wanted = {layout.spell(name): slot for name, slot in slots.items() if has_pooler or not name.startswith(POOLER)}
    _check_names(file, wanted, layout)
    _check_shapes(file, wanted, layout)
    values = {name: _read_floats(file, name) for name in wanted}
    for name, slot in wanted.items():
        value = values[name].T if slot.is_kernel and layout.kernels_transposed else values[name]
        slot.variable.assign(np.reshape(value, slot.variable.shape))
    return has_pooler


def _check_names(file: TensorFile, wanted: Mapping[str, Slot], layout: Layout) -> None:
    missing = [name for name in wanted if name not in file.shapes]
    unknown = [
        name
        for name in sorted(file.shapes)
        if name not in wanted and not any(fnmatchcase(name, pattern) for pattern in layout.ignored)
    ]
    if missing or unknown:
        raise UserError(
            f"{file.path}: does not hold the BERT encoder that its configuration describes: "
            f"missing tensors: {_first(missing)}; unknown tensors: {_first(unknown)}"
        )


def _check_shapes(file: TensorFile, wanted: Mapping[str, Slot], layout: Layout) -> None:
    misfits = []
    for name, slot in wanted.items():
        expected = slot.shape[::-1] if slot.is_kernel and layout.kernels_transposed else slot.shape
        if tuple(file.shapes[name]) != expected:
            misfits.append(f"{name} is {list(file.shapes[name])}, expected {list(expected)}")
    if misfits:
        raise UserError(f"{file.path}: does not fit its configuration: {_first(misfits)}")


def _read_floats(file: TensorFile, name: str) -> np.ndarray:
    value = file.read(name)
    if value.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(f"{file.path}: {name} holds {value.dtype.name}; weights must be floating-point (not quantised)")
    return value.astype(np.float32)


def _first(items: list[str], count: int = 3) -> str:
    """Join the first few of a list, and say how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more if items else "none"
