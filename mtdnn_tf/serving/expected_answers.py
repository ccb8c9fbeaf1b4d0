"""What an exported model must answer to sample texts, from the Keras model and NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.data.text import Tokenizer, encode_texts
from mtdnn_tf.modeling.model import head_views, view_model
from mtdnn_tf.modeling.sharing import View
from mtdnn_tf.serving.signatures import combined_groups, largest_group
from mtdnn_tf.tasks import ScoreMap, TaskSpec

Arrays = dict[str, np.ndarray]
_LONG = "rain and more rain " * 200
FIRST = ("A good day for a walk.", "", "naïve café, 中国 😀", _LONG)
SECOND = ("It is raining.", "", "¿Qué?", "short")


@dataclass(frozen=True)
class Case:
    """One signature's inputs, and the outputs it must give."""

    inputs: Arrays  # strings `[batch] object` (bytes), or ids `[batch, length] int32`
    outputs: Arrays
    margins: Arrays = field(default_factory=dict)  # of label outputs, `[batch]`: the best probability less the second
    score_maps: Mapping[str, ScoreMap | None] = field(default_factory=dict)  # of outputs that are scores


def expected_answers(
    model: keras.Model, tasks: Sequence[TaskSpec], tokenizer: Tokenizer, max_length: int, kind: str
) -> dict[str, Case]:
    """Return a case for every signature but `metadata`.

    Args:
        model: of `build_model`.
        tasks: its tasks.
        tokenizer: of its encoder.
        max_length: tokens; longer texts are cut.
        kind: `text` or `ids`: what the signatures take.
    """
    asked = _Asked(model, tokenizer, max_length, kind)
    own = [task for task in tasks if task.head_of is None]
    cases: dict[str, Case] = {}
    for task in own:
        cases[task.name] = asked.task(task)
        method = "classify" if task.type == "classification" else "regress"
        cases[f"{task.name}/{method}"] = asked.example(task, cases[task.name])
    groups = combined_groups(own, kind)
    cases |= {name: asked.combined(group) for name, group in groups.items()}
    return cases | {"serving_default": cases[largest_group(groups)], "encode": asked.encode()}


@dataclass(frozen=True)
class _Asked:
    model: keras.Model
    tokenizer: Tokenizer
    max_length: int
    kind: str
    known: dict[tuple[int, str], tuple[dict[str, tf.Tensor], dict[str, View]]] = field(default_factory=dict)

    def task(self, task: TaskSpec) -> Case:
        outputs = self._answer(task, full=True)
        score_maps = dict.fromkeys(outputs, task.score_map)
        return Case(self._inputs(task.text, task.pair_order), outputs, _margins(outputs), score_maps)

    def example(self, task: TaskSpec, plain: Case) -> Case:
        """Return the same as serialised tf.Example."""
        rows = [
            {name: _feature(value[row]) for name, value in plain.inputs.items()}
            for row in range(len(next(iter(plain.inputs.values()))))
        ]
        examples = [tf.train.Example(features=tf.train.Features(feature=row)).SerializeToString() for row in rows]
        if task.type == "classification":
            classes = np.tile(np.array([label.encode() for label in task.labels]), (len(rows), 1))
            outputs = {"classes": classes, "scores": plain.outputs["probabilities"]}
        else:
            outputs = {"outputs": next(iter(plain.outputs.values()))}
        score_maps = dict.fromkeys(outputs, task.score_map)
        return Case({"inputs": np.array(examples, dtype=object)}, outputs, score_maps=score_maps)

    def combined(self, tasks: Sequence[TaskSpec]) -> Case:
        names = ("text",) if len(tasks[0].text) == 1 else ("text_a", "text_b")
        outputs: Arrays = {}
        score_maps: dict[str, ScoreMap | None] = {}
        for task in tasks:
            own = {f"{task.name}.{name}": value for name, value in self._answer(task, full=False).items()}
            outputs |= own
            score_maps |= dict.fromkeys(own, task.score_map)
        return Case(self._inputs(names, tasks[0].pair_order), outputs, _margins(outputs), score_maps)

    def encode(self) -> Case:
        ids, views = self._encoded(1, "premise_first")
        outputs = {"token_mask": ids["padding_mask"].numpy()}
        # Where tasks part on top of the encoder, all see the same.
        distinct = {id(view.vector): name for name, view in reversed(views.items())}
        for name in distinct.values():
            prefix = f"{name}." if len(distinct) > 1 else ""
            outputs[f"{prefix}token_embeddings"] = views[name].sequence.numpy()
            outputs[f"{prefix}pooled"] = views[name].vector.numpy()
        return Case(self._inputs(("text",), "premise_first"), outputs)

    def _inputs(self, columns: Sequence[str], pair_order: str) -> Arrays:
        if self.kind == "ids":
            return self._ids(len(columns), pair_order)
        texts = (FIRST, SECOND)[: len(columns)]
        return {
            name: np.array([text.encode() for text in column], dtype=object)
            for name, column in zip(columns, texts, strict=True)
        }

    def _ids(self, count: int, pair_order: str) -> Arrays:
        texts = [tf.constant(column) for column in (FIRST, SECOND)[:count]]
        encoded = encode_texts(texts, self.tokenizer, self.max_length, pair_order)
        return {name: encoded[name].numpy() for name in INPUTS}

    def _answer(self, task: TaskSpec, full: bool) -> Arrays:
        ids, views = self._encoded(len(task.text), task.pair_order)
        head = self.model.get_layer(task.name)
        logits = head(*views[task.name], ids["segment_ids"], ids["padding_mask"], training=False)
        return _outputs(task, _float(logits), full)

    def _encoded(self, count: int, pair_order: str) -> tuple[dict[str, tf.Tensor], dict[str, View]]:
        """Return ids and what each head sees, float32, of the sample texts; computed once for each kind of input."""
        if (count, pair_order) not in self.known:
            ids = {name: tf.constant(value) for name, value in self._ids(count, pair_order).items()}
            self.known[count, pair_order] = ids, self._seen(ids)
        return self.known[count, pair_order]

    def _seen(self, ids: dict[str, tf.Tensor]) -> dict[str, View]:
        """Return the views of all heads; heads that see the same share one view."""
        views = head_views(self.model)
        first = {id(view.vector): name for name, view in reversed(views.items())}
        values = view_model(self.model, list(first.values()))(ids, training=False)
        found = {
            key: View(*(tf.cast(values[name][part], tf.float32) for part in View._fields))
            for key, name in first.items()
        }
        return {name: found[id(view.vector)] for name, view in views.items()}


def _outputs(task: TaskSpec, logits: np.ndarray, full: bool) -> Arrays:
    if task.type != "classification":
        return {"relevance" if task.type == "ranking" else "score": logits[:, 0]}
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    best = logits.argmax(axis=-1)
    labels = np.array([label.encode() for label in task.labels])
    outputs = {"label": labels[best], "probabilities": powers / powers.sum(axis=-1, keepdims=True)}
    return outputs | {"label_id": best.astype(np.int32), "logits": logits} if full else outputs


def _margins(outputs: Arrays) -> Arrays:
    """Return how clear each label is: where two classes are as good as equal, either is right."""
    margins: Arrays = {}
    for name, value in outputs.items():
        if name.endswith("probabilities"):
            prefix, best = name.removesuffix("probabilities"), np.sort(value, axis=-1)
            margins |= dict.fromkeys((f"{prefix}label", f"{prefix}label_id"), best[:, -1] - best[:, -2])
    return margins


def _float(value: tf.Tensor) -> np.ndarray:
    array: np.ndarray = tf.cast(value, tf.float32).numpy()
    return array


def _feature(value: bytes | np.ndarray) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value.tolist()))
