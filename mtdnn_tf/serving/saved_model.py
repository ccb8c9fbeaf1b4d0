"""Writes a multi-task model as a SavedModel: complete, atomic, numbered for a server to pick up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.config import EXPORT_KINDS, DataConfig, ExperimentConfig, ExportConfig, config_hash
from mtdnn_tf.errors import UserError, unknown_name
from mtdnn_tf.evaluation.model_card import exported_model_card
from mtdnn_tf.evaluation.runs import Run, refuse_pretraining
from mtdnn_tf.modeling.encoders import Encoder
from mtdnn_tf.modeling.model import trained_length
from mtdnn_tf.run_files import CARD_FILE
from mtdnn_tf.serving.check import check_saved_model
from mtdnn_tf.serving.fingerprint import fingerprint, write_fingerprint
from mtdnn_tf.serving.graph_edits import finish_graph
from mtdnn_tf.serving.metadata import describe
from mtdnn_tf.serving.signatures import ServedModel
from mtdnn_tf.serving.versions import new_version, refuse_file
from mtdnn_tf.serving.warmup import Warmup
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS
from mtdnn_tf.tasks import TaskSpec

_LARGEST_GRAPH = 2_000_000_000  # bytes; a protobuf ends at 2^31
CardWriter = Callable[[Mapping[str, Any]], str]


def export_run(
    run: Run,
    output_dir: str | Path,
    kind: str,
    *,
    weights: str = "float32",
    freeze: bool = False,
    check: bool = False,
) -> Path:
    """Export a finished run with its model card; return the version folder.

    Args:
        run: of `load_run`.
        output_dir: as in `export_saved_model`.
        kind: as in `export_saved_model`.
        weights: as in `export_saved_model`.
        freeze: as in `export_saved_model`.
        check: as in `export_saved_model`.

    Raises:
        UserError: as `export_saved_model`.
    """
    return export_saved_model(
        run.model,
        run.tasks,
        run.encoder,
        output_dir,
        kind,
        config=run.config,
        weights=weights,
        freeze=freeze,
        metadata={"run": run.name},
        model_card=lambda facts: exported_model_card(run, facts),
        check=check,
    )


def export_saved_model(
    model: keras.Model,
    tasks: Sequence[TaskSpec],
    encoder: Encoder,
    output_dir: str | Path,
    kind: str | None = None,
    *,
    config: ExperimentConfig | None = None,
    weights: str | None = None,
    freeze: bool | None = None,
    max_length: int | None = None,
    buckets: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    model_card: CardWriter | None = None,
    check: bool = False,
) -> Path:
    """Write the next numbered version folder below `output_dir`; it appears complete, by one rename, or not at all.

    Args:
        model: of `build_model`.
        tasks: its tasks; those that borrow a head are answered through the lender's signature and get none.
        encoder: whose tokenizer goes into text models.
        output_dir: the model's folder, as TensorFlow Serving's `base_path`.
        config: of the run: arguments left out are taken from it, as the command `export` does (`export`, `data`; its hash goes into the
            metadata). None: the defaults.
        kind: `text` takes strings (needs tensorflow-text's ops where it is loaded); `ids` takes token ids and loads anywhere.
        weights: how the encoder's kernels and embeddings are stored: `float32`; `bfloat16` halves them, and products are
            computed in it; `int8` quarters them, and is for size, not speed. Heads, inputs and outputs are as ever.
        freeze: whether the encoder's kernels are constants of the graph instead of variables: with bfloat16, single texts are
            answered sooner, and each signature in use takes their memory several times more.
        max_length: tokens; longer texts are cut. Left out: as in training, whether here (`MultiTaskTrainer.fit`) or by `config`; of a
            model that neither tells, 128, or the encoder's positions where these are fewer.
        buckets: lengths in tokens that warm-up requests have; those over `max_length` become that.
        metadata: further keys for the metadata that travel inside.
        model_card: returns the text of `assets.extra/MODEL_CARD.md`, given what is known of the export by name.
        check: whether to load it in a process without this package and to compare every signature's answers with the
            model's before it is published; see `check_saved_model`.

    Returns:
        The version folder.

    Raises:
        UserError: unknown kind or weights, kernels too large for a graph, more tokens than the encoder has positions,
            `output_dir` is a file, the disk is full, or the check failed: nothing is published then.
    """
    defaults, data = (config.export, config.data) if config else (ExportConfig(), None)
    kind, weights = kind or defaults.kind, weights or defaults.weights
    freeze = defaults.freeze if freeze is None else freeze
    buckets = buckets or (data or DataConfig()).buckets
    if max_length is None:
        max_length = data.max_length if data else trained_length(model, encoder)
    if config is not None:
        metadata = {"configuration": config_hash(config), **(metadata or {})}
    if kind not in EXPORT_KINDS:
        raise UserError(unknown_name("--kind", "kind of SavedModel", kind, EXPORT_KINDS))
    if weights not in WEIGHT_FORMATS:
        raise UserError(unknown_name("--weights", "format of weights", weights, WEIGHT_FORMATS))
    refuse_pretraining(tasks, "it has nothing to serve")
    if not 3 <= max_length <= encoder.max_positions:
        raise UserError(
            f"max_length: must be from 3 to the {encoder.max_positions} positions of the encoder; received {max_length}"
        )
    output_dir = Path(output_dir)
    refuse_file(output_dir, "--output_dir")
    if freeze:
        _refuse_large(encoder, weights)
    described = describe(tasks, encoder, kind, weights, max_length) | {"frozen": freeze} | dict(metadata or {})
    served = ServedModel(model, tasks, encoder.tokenizer, max_length, kind, weights, freeze)
    signatures, methods = served.signatures(json.dumps(described))
    with new_version(output_dir) as (folder, publish):
        _save(served, signatures, folder)
        finish_graph(folder, methods)
        _add_assets(folder, described, encoder)
        # Of a frozen model each further set of outputs would hold the encoder's constants again.
        warmup = Warmup(signatures, methods, tasks, encoder.tokenizer, max_length, kind, filters=not freeze)
        requests = warmup.write(folder, buckets)
        mark = fingerprint(folder)
        if model_card is not None:
            facts = {
                "kind": kind,
                "weights": weights + (", frozen" if freeze else ""),
                "fingerprint": mark,
                "warm-up requests": requests,
            }
            _write_card(folder, model_card, facts, freeze)
        write_fingerprint(folder, mark)
        if check:
            check_saved_model(folder, model, tasks, encoder.tokenizer, max_length, kind, weights)
        return publish()


def _refuse_large(encoder: Encoder, weights: str) -> None:
    """Refuse constants that saved_model.pb can't hold."""
    size = WEIGHT_FORMATS[weights].size * sum(layer.count_params() for layer in encoder.backbone.transformer_layers)
    if size > _LARGEST_GRAPH:
        raise UserError(
            f"--freeze: kernels of {size / 2**30:.1f} GiB are too large: a graph holds less than 2 GiB; take --nofreeze, or "
            "--weights=bfloat16"
        )


def _save(served: ServedModel, signatures: Mapping[str, Any], folder: Path) -> None:
    options = tf.saved_model.SaveOptions(save_debug_info=False, experimental_custom_gradients=False)
    tf.saved_model.save(served, str(folder), signatures=dict(signatures), options=options)


def _add_assets(folder: Path, described: Mapping[str, Any], encoder: Encoder) -> None:
    assets = folder / "assets"
    assets.mkdir(exist_ok=True)
    (assets / "metadata.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (assets / "vocab.txt").write_text("\n".join(encoder.tokenizer.vocab) + "\n", encoding="utf-8")


def _write_card(folder: Path, model_card: CardWriter, facts: Mapping[str, Any], freeze: bool) -> None:
    files = [*(folder / "variables").iterdir(), *([folder / "saved_model.pb"] if freeze else [])]
    weights = sum(path.stat().st_size for path in files)
    path = folder / "assets.extra" / CARD_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(model_card({**facts, "bytes of weights": weights}), encoding="utf-8")
