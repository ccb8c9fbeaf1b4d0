"""Writes a multi-task model as a SavedModel: complete, atomic, numbered for a server to pick up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mtdnn_tf.config import config_hash
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.evaluation.runs import Run
from mtdnn_tf.files import atomic_directory
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.provenance import versions
from mtdnn_tf.serving.signatures import ServedModel
from mtdnn_tf.serving.warmup import write_warmup
from mtdnn_tf.tasks import TaskSpec

KINDS = ("ids", "text")


def export_run(run: Run, output_dir: str | Path, kind: str) -> Path:
    """Export a finished run, its model card beside the model; return the version folder.

    Raises:
        UserError: as `export_saved_model`.
    """
    return export_saved_model(
        run.model,
        run.tasks,
        run.encoder,
        output_dir,
        kind,
        max_length=run.config.data.max_length,
        metadata={"configuration": config_hash(run.config), "run": run.model_dir.resolve().name},
        model_card=run.model_dir / "MODEL_CARD.md",
    )


def export_saved_model(
    model: keras.Model,
    tasks: Sequence[TaskSpec],
    encoder: Encoder,
    output_dir: str | Path,
    kind: str = "text",
    *,
    max_length: int = 128,
    metadata: Mapping[str, Any] | None = None,
    model_card: Path | None = None,
) -> Path:
    """Write the next numbered version folder below `output_dir`; it appears complete, by one rename, or not at all.

    Args:
        model: of `build_model`.
        tasks: its tasks; those that borrow a head are answered through the lender's signature and get none.
        encoder: whose tokenizer goes into text models.
        output_dir: the model's folder, as TensorFlow Serving's `base_path`.
        kind: `text` takes strings (needs tensorflow-text's ops where it is loaded); `ids` takes token ids and loads anywhere.
        max_length: tokens; longer texts are cut as in training.
        metadata: further keys for the metadata that travel inside.
        model_card: a file to be put beside the metadata.

    Returns:
        The version folder.

    Raises:
        UserError: unknown kind, more tokens than the encoder has positions, `output_dir` is a file, or the disk is full.
    """
    if kind not in KINDS:
        raise UserError(unknown_name("--kind", "kind of SavedModel", kind, KINDS))
    if not 3 <= max_length <= encoder.max_positions:
        raise UserError(
            f"max_length: must be from 3 to the {encoder.max_positions} positions of the encoder; received {max_length}"
        )
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file; --output_dir names the folder that version folders go into")
    described = describe(tasks, encoder, kind, max_length) | dict(metadata or {})
    served = ServedModel(model, tasks, encoder.tokenizer, max_length, kind)
    signatures, methods = served.signatures(json.dumps(described))
    target = output_dir / str(_next_version(output_dir))
    with atomic_directory(target) as temporary:
        _save(served, signatures, temporary)
        _set_method_names(temporary / "saved_model.pb", methods)
        _add_assets(temporary, described, encoder, model_card)
        write_warmup(temporary, tasks, kind)
    return target


def describe(tasks: Sequence[TaskSpec], encoder: Encoder, kind: str, max_length: int) -> dict[str, Any]:
    """Return what a stranger to this package needs to know of the model."""
    return {
        "kind": kind,
        "max_length": max_length,
        "encoder": encoder.source,
        "tasks": {
            task.name: {
                "type": task.type,
                "text": list(task.text),
                "labels": list(task.labels),
                "range": list(task.range) if task.range else None,
                "pair_order": task.pair_order,
                "metrics": list(task.metrics),
                "main_metric": task.main_metric,
            }
            for task in tasks
            if task.head_of is None
        },
        "versions": versions(),
    }


def _next_version(output_dir: Path) -> int:
    numbers = [int(path.name) for path in output_dir.glob("*") if path.name.isdigit()] if output_dir.is_dir() else []
    return max(numbers, default=0) + 1


def _save(served: ServedModel, signatures: Mapping[str, Any], folder: Path) -> None:
    options = tf.saved_model.SaveOptions(save_debug_info=False, experimental_custom_gradients=False)
    tf.saved_model.save(served, str(folder), signatures=dict(signatures), options=options)


def _set_method_names(path: Path, methods: Mapping[str, str]) -> None:
    """Give Classify and Regress signatures the method names that TensorFlow Serving looks for; TensorFlow always writes "predict"."""
    proto = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in proto.meta_graphs:
        for name, method in methods.items():
            graph.signature_def[name].method_name = method
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _add_assets(folder: Path, described: Mapping[str, Any], encoder: Encoder, model_card: Path | None) -> None:
    assets = folder / "assets"
    assets.mkdir(exist_ok=True)
    (assets / "metadata.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (assets / "vocab.txt").write_text("\n".join(encoder.tokenizer.vocab) + "\n", encoding="utf-8")
    if model_card is not None and model_card.is_file():
        shutil.copyfile(model_card, assets / "MODEL_CARD.md")
