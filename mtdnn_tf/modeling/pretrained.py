"""Pretrained tensors: which name in a file goes into which variable of the encoder, checked before anything is set."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import tensorflow as tf
from absl import logging

from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.bert import BertEncoder

POOLER = "pooler.dense."
_WORDS = "embeddings.word_embeddings.weight"
_PARTS = ("embeddings", "encoder", "pooler")  # of an encoder, in every layout
_FLOATS = "weights must be floating-point numbers of 16, 32 or 64 bits (not quantised)"
_LFS_POINTER = b"version https://git-lfs"


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
    own: tuple[
        str, ...
    ]  # what the names of the encoder's tensors start with; all others belong to heads or an optimizer
    ignored: tuple[str, ...]  # patterns of tensors that are left out without a warning

    def stored(self, shape: tuple[int, ...], is_kernel: bool) -> tuple[int, ...]:
        """Return the shape that a tensor has in such a file."""
        return shape[::-1] if is_kernel and self.kernels_transposed else shape


@dataclass(frozen=True)
class TensorFile:
    """Named tensors on disk."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    shards: Mapping[str, Path] = field(default_factory=dict)  # by tensor, where `path` is the index of several files

    def place(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self.shards.get(name, self.path)


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


def huggingface_layout(names: Iterable[str], where: Path | str = "weights") -> Layout:
    """Return the layout of a Hugging Face BERT file with these tensor names.

    Files of models with a head put `bert.`, or what the encoder is called there, before its tensors; files converted from
    TensorFlow call LayerNorm's two vectors gamma and beta.

    Raises:
        UserError: there are several encoders; `where` leads the message.
    """
    names = tuple(names)
    found = sorted(name.removesuffix(_WORDS) for name in names if f".{name}".endswith(f".{_WORDS}"))
    if len(found) > 1:
        raise UserError(
            f"{where}: holds {len(found)} encoders, at {', '.join(repr(name) for name in found)}; a file must hold one: "
            "save the one that is wanted by itself"
        )
    prefix = found[0] if found else "bert." if any(name.startswith("bert.") for name in names) else ""
    old_norm = any(name.endswith("LayerNorm.gamma") for name in names)

    def spell(name: str) -> str:
        if old_norm:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return prefix + name

    buffers = tuple(f"{prefix}embeddings.{name}" for name in ("position_ids", "token_type_ids"))
    return Layout(
        spell,
        kernels_transposed=True,
        own=tuple(f"{prefix}{part}." for part in _PARTS),
        ignored=(*buffers, "cls.*", "classifier.*", "qa_outputs.*"),
    )


def _spell_original(name: str) -> str:
    name = re.sub(r"\.layer\.(\d+)", r".layer_\1", name)
    name = name.replace("_embeddings.weight", "_embeddings")
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    name = re.sub(r"\.weight$", ".kernel", name)
    return "bert/" + name.replace(".", "/")


ORIGINAL_LAYOUT = Layout(
    _spell_original,
    kernels_transposed=False,
    own=tuple(f"bert/{part}/" for part in _PARTS),
    ignored=(
        "cls/*",
        "output_weights",
        "output_bias",
        "global_step",
        "*/adam_[mv]",
        "*/lamb_[mv]",
        "*/Adam",
        "*/Adam_1",
    ),
)
"""The TensorFlow 1 checkpoints that BERT was released in."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; a byte order mark is no part of it.

    Raises:
        UserError: it can't be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a JSON object. Received: {type(content).__name__}")
    return content


def open_safetensors(path: Path) -> TensorFile:
    """Open a safetensors file.

    Raises:
        UserError: it is cut off or damaged; when a tensor is read, its numbers are of a type that NumPy lacks.
    """
    try:
        file = safetensors.safe_open(path, framework="np")
        names = file.keys()  # all that it has of a mapping
        slices = {name: file.get_slice(name) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        if _is_lfs_pointer(path):
            raise UserError(f"{path}: holds a pointer of Git LFS in place of the weights: run `git lfs pull`") from None
        raise UserError(f"{path}: not a complete safetensors file: {error}; fetch it again") from None

    def read(name: str) -> np.ndarray:
        try:
            value: np.ndarray = file.get_tensor(name)
        except (AttributeError, TypeError, ValueError, safetensors.SafetensorError):
            raise UserError(f"{path}: {name} holds {slices[name].get_dtype()}; {_FLOATS}") from None
        return value

    return TensorFile(path, {name: tuple(each.get_shape()) for name, each in slices.items()}, read)


def _is_lfs_pointer(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def open_sharded_safetensors(index: Path) -> TensorFile:
    """Open the safetensors files that an index names: `{"weight_map": {tensor: file}}`.

    Raises:
        UserError: the index or one of its files is missing or damaged, or a tensor is not where the index says.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index}: weight_map must say which file holds each tensor. Received: {_shown(places)}")
    for name, shard in places.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{index}: {name} must be in a file of the same folder. Received: {_shown(shard)}")
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise UserError(
            f"{index}: names {len(shards)} files, and the folder lacks {first_few(missing)}; fetch them, too"
        )
    files = {shard: open_safetensors(index.parent / shard) for shard in shards}
    for name, shard in places.items():
        if name not in files[shard].shapes:
            raise UserError(
                f"{files[shard].path}: holds no tensor {name}, which {index.name} says it does; fetch both again"
            )
    return TensorFile(
        index,
        {name: files[shard].shapes[name] for name, shard in places.items()},
        lambda name: files[places[name]].read(name),
        {name: files[shard].path for name, shard in places.items()},
    )


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


def check_sizes(file: TensorFile, layout: Layout, config: Mapping[str, Any]) -> None:
    """Compare the sizes of a configuration in Hugging Face's words with a file, before an encoder of these sizes is built.

    Raises:
        UserError: the last layer is missing, or a tensor is of another shape.
    """
    hidden = config["hidden_size"]
    last = f"encoder.layer.{config['num_hidden_layers'] - 1}.intermediate.dense.weight"
    shapes = {
        _WORDS: (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        last: layout.stored((hidden, config["intermediate_size"]), is_kernel=True),
    }
    expected = {layout.spell(name): shape for name, shape in shapes.items()}
    _refuse_names(file, missing=[name for name in expected if name not in file.shapes])
    _check_shapes(file, expected)


def copy_tensors(file: TensorFile, layout: Layout, backbone: BertEncoder) -> bool:
    """Set the encoder's variables from a file; nothing is set unless everything fits.

    Tensors of other parts, such as heads, are left out; a warning names those that are not among the usual ones.

    Returns:
        Whether the file holds a pooler. Without one, the pooler's variables are left as they are.

    Raises:
        UserError: tensors of the encoder are missing, unknown, of another shape than the configuration gives, or not finite.
    """
    slots = encoder_slots(backbone)
    has_pooler = any(layout.spell(name) in file.shapes for name in slots if name.startswith(POOLER))
    wanted = {layout.spell(name): slot for name, slot in slots.items() if has_pooler or not name.startswith(POOLER)}
    others = [
        name
        for name in sorted(file.shapes)
        if name not in wanted and not any(fnmatchcase(name, pattern) for pattern in layout.ignored)
    ]
    _refuse_names(
        file,
        missing=[name for name in wanted if name not in file.shapes],
        unknown=[name for name in others if name.startswith(layout.own)],
    )
    _check_shapes(file, {name: layout.stored(slot.shape, slot.is_kernel) for name, slot in wanted.items()})
    values = {name: _read_floats(file, name) for name in wanted}
    for name, slot in wanted.items():
        value = values[name].T if slot.is_kernel and layout.kernels_transposed else values[name]
        slot.variable.assign(np.reshape(value, slot.variable.shape))
    if others:
        logging.warning("%s: left out, as no part of the encoder: %s", file.path, first_few(others))
    return has_pooler


def _refuse_names(file: TensorFile, missing: Sequence[str] = (), unknown: Sequence[str] = ()) -> None:
    if missing or unknown:
        raise UserError(
            f"{file.path}: does not hold the BERT encoder that its configuration describes: "
            f"missing tensors: {first_few(missing)}; unknown tensors: {first_few(unknown)}"
        )


def _check_shapes(file: TensorFile, expected: Mapping[str, tuple[int, ...]]) -> None:
    misfits = [name for name, shape in expected.items() if tuple(file.shapes[name]) != shape]
    if misfits:
        place = file.place(misfits[0])
        told = [
            f"{name} is {list(file.shapes[name])}, expected {list(expected[name])}"
            for name in misfits
            if file.place(name) == place
        ]
        raise UserError(f"{place}: does not fit its configuration: {first_few(told)}")


def _read_floats(file: TensorFile, name: str) -> np.ndarray:
    value = file.read(name)
    if value.dtype.name not in ("float32", "float16", "bfloat16", "float64"):
        raise UserError(f"{file.place(name)}: {name} holds {value.dtype.name}; {_FLOATS}")
    with np.errstate(over="ignore", invalid="ignore"):
        value = value.astype(np.float32)
    check_finite(value, f"{file.place(name)}: {name}")
    return value


def check_finite(value: np.ndarray, where: str) -> None:
    """Refuse weights that are NaN or infinite: nothing could be computed with them.

    Raises:
        UserError: one is; `where` leads the message.
    """
    bad = value.size - np.count_nonzero(np.isfinite(value))
    if bad:
        raise UserError(
            f"{where}: weights must be finite float32 numbers, and {bad} of {value.size} are NaN or infinite; fetch or save them again"
        )


def first_few(items: Sequence[str], count: int = 3) -> str:
    """Join the first few of a list, and say how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more if items else "none"


def _shown(value: Any) -> str:
    return repr(value)[:60]
