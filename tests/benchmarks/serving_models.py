"""What the serving benchmark asks: tasks, their models exported in every kind, and requests of exactly so many tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (ops of text models)

import mtdnn_tf as mtdnn
from mtdnn_tf.data.text import Tokenizer, encode_texts
from mtdnn_tf.modeling.head import Head
from mtdnn_tf.modeling.heads import LinearHead
from mtdnn_tf.modeling.model import INPUTS
from mtdnn_tf.tasks import TaskSpec
from tests.benchmarks.input_pipeline import ENCODER

LABELS = ("low", "middle", "high")
PAIR = ("text_a", "text_b")
LINEAR = TaskSpec("sort", "classification", ("text",), LABELS)
# Float32 against float32: beyond this, what is timed would not be the same model.
TOLERANCE = 1e-3


class Request(NamedTuple):
    """One request, as text models and as all others take it."""

    texts: list[list[bytes]]  # one or two columns of `batch` texts
    ids: dict[str, np.ndarray]  # `INPUTS`, each [batch, length] int32, without padding


def make_request(tokenizer: Tokenizer, columns: int, batch: int, length: int, seed: int = 0) -> Request:
    """Return random words that make `length` tokens a row, special tokens included."""
    random = np.random.default_rng(seed)
    words = [word for word in tokenizer.vocab if word.isascii() and word.isalpha() and word.islower()]
    room = length - 1 - columns
    sizes = [room // columns + (index < room % columns) for index in range(columns)]
    texts = [[" ".join(random.choice(words, size)).encode() for _ in range(batch)] for size in sizes]
    encoded = encode_texts([tf.constant(column) for column in texts], tokenizer, length + 1)
    ids = {name: encoded[name].numpy() for name in INPUTS}
    assert all(value.shape == (batch, length) for value in ids.values())
    assert ids["padding_mask"].all()
    return Request(texts, ids)


def nine_tasks(san: int) -> tuple[TaskSpec, ...]:
    """Return nine tasks on pairs of texts: so many SAN heads, and linear classification, regression and ranking in turns."""
    kinds = ["san"] * san + list(islice(cycle(("linear", "regression", "ranking")), 9 - san))
    return tuple(pair_task(kind, f"{kind}{index}") for index, kind in enumerate(kinds))


def pair_task(kind: str, name: str) -> TaskSpec:
    """Return a task on pairs: kind `linear` or `san` (classification by that head), `regression` or `ranking`."""
    if kind in ("linear", "san"):
        return TaskSpec(name, "classification", PAIR, LABELS, head=kind)
    return TaskSpec(name, kind, PAIR)


def kind_of(task: TaskSpec) -> str:
    """Return the kind that `pair_task` made it of."""
    return task.head if task.type == "classification" else task.type


class Exports:
    """Models of one encoder, exported when they are first asked for."""

    def __init__(self, folder: Path, max_length: int) -> None:
        """Take a folder to write to, and the greatest length of a request."""
        self.encoder = mtdnn.load_encoder(ENCODER)
        self._folder = folder
        self._max_length = max_length
        self._known: dict[Any, Path] = {}
        self._models: dict[tuple[str, ...], keras.Model] = {}

    def model(self, tasks: Sequence[TaskSpec]) -> keras.Model:
        """Return the Keras model of these tasks; heads of one kind hold equal numbers, each head its own."""
        names = tuple(task.name for task in tasks)
        if names not in self._models:
            self._models[names] = mtdnn.build_model(self.encoder, tasks)
            for task in tasks:
                _draw(self._models[names].get_layer(task.name))
        return self._models[names]

    def heads(self, tasks: Sequence[TaskSpec]) -> list[Head]:
        """Return the heads of the model of these tasks, in their order."""
        model = self.model(tasks)
        return [model.get_layer(task.name) for task in tasks]

    def folder(self, tasks: Sequence[TaskSpec], kind: str, weights: str) -> Path:
        """Return the version folder of an export."""
        key = (tuple(task.name for task in tasks), kind, weights)
        if key not in self._known:
            stored, _, frozen = weights.partition("-")
            self._known[key] = mtdnn.export_saved_model(
                self.model(tasks),
                tasks,
                self.encoder,
                self._folder / str(len(self._known)),
                kind,
                max_length=self._max_length,
                weights=stored,
                freeze=bool(frozen),
            )
        return self._known[key]


def _draw(head: Head) -> None:
    # Large enough for answers to tell texts apart: the sentence vector of these weights is small.
    random, scale = np.random.default_rng(0), 0.5 if isinstance(head, LinearHead) else 0.05
    for weight in head.weights:
        if weight.dtype == "float32":  # not the state of a seed generator
            weight.assign(random.normal(0.0, scale, weight.shape))


class Served:
    """A SavedModel in memory, called by its signatures with what a server reads from a request."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Load it."""
        self._loaded = tf.saved_model.load(str(folder))
        self._kind = kind

    def ask(self, signature: str, request: Request) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        function = self._loaded.signatures[signature]
        if self._kind == "ids":
            inputs: Mapping[str, Any] = request.ids
        else:
            inputs = dict(zip(sorted(function.structured_input_signature[1]), request.texts, strict=True))
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def own_values(task: TaskSpec, outputs: Mapping[str, np.ndarray], prefix: str = "") -> np.ndarray:
    """Return log probabilities, score or relevance, `[batch, outputs]`, of a signature's outputs."""
    if task.type == "classification":
        return np.log(outputs[f"{prefix}probabilities"])
    return outputs[f"{prefix}{'relevance' if task.type == 'ranking' else 'score'}"][:, np.newaxis]


def values_of(task: TaskSpec, logits: np.ndarray) -> np.ndarray:
    """Return the same of logits."""
    if task.type != "classification":
        return logits
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def differences(found: Mapping[str, Sequence[np.ndarray]], expected: Sequence[np.ndarray]) -> dict[str, float]:
    """Return each candidate's largest difference over all tasks.

    Raises:
        SystemExit: a float32 candidate differs by more than `TOLERANCE`.
    """
    largest = {
        name: max(float(np.abs(value - right).max()) for value, right in zip(values, expected, strict=True))
        for name, values in found.items()
    }
    for name, value in largest.items():
        if "float32" in name and not value <= TOLERANCE:
            raise SystemExit(f"{name}: answers differ by {value:.2g} from PyTorch's; {TOLERANCE:g} is allowed")
    return largest
