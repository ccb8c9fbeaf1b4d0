"""Checks an export before it is published: a process without this package must answer as the Keras model does."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.serving.expected_answers import Case, expected_answers
from mtdnn_tf.serving.graph_edits import read_graph
from mtdnn_tf.serving.signatures import METADATA, METADATA_INPUT
from mtdnn_tf.serving.weight_formats import WEIGHT_FORMATS
from mtdnn_tf.tasks import ScoreMap, TaskSpec

# |served - model| <= tolerance * (1 + |model|), by the precision that the encoder computes in; rounded weights add their own.
# Scores on a scale of their own (`TaskSpec.score_map`) are compared in the units of their head.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
_PROGRAM = Path(__file__).with_name("stranger.py")
_ABSENT = ("mtdnn_tf", "keras_hub", "keras_nlp")
_SECONDS = 600


def check_saved_model(
    folder: Path,
    model: keras.Model,
    tasks: Sequence[TaskSpec],
    tokenizer: Tokenizer,
    max_length: int,
    kind: str,
    weights: str = "float32",
    tolerance: float | None = None,
) -> float:
    """Load a SavedModel in a new process, run every signature, and compare with the Keras model.

    The process can import neither this package nor keras_hub; for an ids model, nor tensorflow_text. Each signature is run as
    Python programs call it and as TensorFlow Serving does, with ordinary, empty, overlong and foreign texts in one batch.

    Args:
        folder: of the SavedModel.
        model: what was exported.
        tasks: its tasks.
        tokenizer: of its encoder.
        max_length: tokens; longer texts are cut.
        kind: `text` or `ids`.
        weights: how those of the encoder are stored.
        tolerance: allowed difference, relative to 1 + the value; None: the larger of what belongs to the precision of the
            encoder (`TOLERANCES`) and to `weights` (`WeightFormat.tolerance`).

    Returns:
        The largest difference, relative to 1 + the value.

    Raises:
        UserError: it can't be loaded, a signature is missing, fails or answers otherwise; one line says which.
    """
    encoder = model.get_layer("encoder")
    usual = max(TOLERANCES[encoder.compute_dtype], WEIGHT_FORMATS[weights].tolerance(encoder.num_layers))
    allowed = usual if tolerance is None else tolerance
    cases = expected_answers(model, tasks, tokenizer, max_length, kind)
    metadata = (folder / "assets" / "metadata.json").read_text(encoding="utf-8")
    rows = np.array([b"", b"any"], dtype=object)
    cases[METADATA] = Case({METADATA_INPUT: rows}, {"json": np.array([json.dumps(json.loads(metadata)).encode()] * 2)})
    _same_names(folder, cases)
    answers = _ask(folder, cases, kind)
    return max(
        _compare(
            f"signature {name!r}, output {output!r} ({way})", answers[f"{way}|{name}|{output}"], case, output, allowed
        )
        for way in ("python", "server")
        for name, case in cases.items()
        for output in case.outputs
    )


def _same_names(folder: Path, cases: Mapping[str, Case]) -> None:
    """Refuse signatures or outputs that are written but not expected, or the other way round."""
    definitions = read_graph(folder).meta_graphs[0].signature_def
    written = {
        (name, output)
        for name, definition in definitions.items()
        if not name.startswith("__")
        for output in definition.outputs
    }
    expected = {(name, output) for name, case in cases.items() for output in case.outputs}
    for name, output in sorted(written ^ expected):
        fault = "is not written" if (name, output) in expected else "is written but nobody expects it"
        raise _failure(f"signature {name!r}, output {output!r} {fault}")


def _ask(folder: Path, cases: Mapping[str, Case], kind: str) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as place:
        requests, answers = Path(place) / "requests.json", Path(place) / "answers.npz"
        asked = {
            "folder": str(folder.resolve()),
            "kind": kind,
            "absent": [*_ABSENT, *(["tensorflow_text"] if kind == "ids" else [])],
            "calls": {name: {key: _plain(value) for key, value in case.inputs.items()} for name, case in cases.items()},
        }
        requests.write_text(json.dumps(asked), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, str(_PROGRAM), str(requests), str(answers)],
                capture_output=True,
                text=True,
                errors="replace",
                cwd=place,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _failure(f"no answer within {_SECONDS} seconds") from None
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise _failure(f"the model can't be loaded and run: {lines[-1] if lines else f'exit {done.returncode}'}")
        with np.load(answers) as stored:
            return dict(stored)


def _plain(value: np.ndarray) -> dict[str, Any]:
    if value.dtype == object:
        return {"strings": [base64.b64encode(text).decode() for text in value.tolist()]}
    return {"integers": value.tolist()}


def _compare(where: str, served: np.ndarray, case: Case, output: str, allowed: float) -> float:
    expected = case.outputs[output]
    if served.shape != expected.shape:
        raise _failure(f"{where}: shape {list(served.shape)}, the Keras model's is {list(expected.shape)}")
    if not np.issubdtype(expected.dtype, np.floating):
        clear = case.margins[output] > 2 * allowed if output in case.margins else np.bool_(True)
        if ((served != expected) & clear).any():
            raise _failure(f"{where}: other values than the Keras model's")
        return 0.0
    centre, half_width = case.score_maps.get(output) or ScoreMap(0.0, 1.0)
    difference = np.abs(served - expected) / (half_width + np.abs(expected - centre))
    largest = float(difference.max(initial=0.0))
    if not largest <= allowed:  # also where it is not a number
        raise _failure(f"{where}: differs by {largest:.2g} from the Keras model; {allowed:.2g} is allowed")
    return largest


def _failure(fault: str) -> UserError:
    return UserError(f"export check: {fault}; nothing is published")
