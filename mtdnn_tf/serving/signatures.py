"""The functions that an exported model answers with, by signature name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.data.text import Tokenizer, encode_texts
from mtdnn_tf.modeling.model import first_tokens, head_views, view_model
from mtdnn_tf.modeling.sharing import View
from mtdnn_tf.serving.request_rules import checked_ids, checked_texts, int32_ids, unragged, with_a_position
from mtdnn_tf.serving.served_encoder import ServedEncoder
from mtdnn_tf.serving.stacked_heads import ServedHeads
from mtdnn_tf.tasks import TaskSpec

Tensors = dict[str, tf.Tensor]
PAIR_NAMES = ("text_a", "text_b")

METADATA, METADATA_INPUT = "metadata", "any_text"  # the signature and its one input

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class ServedModel(tf.Module):
    """The model as served: weights once, the encoder traced once and called by every signature.

    What signatures have in common, texts to ids and ids to logits, is a function of its own for each way of doing it: the graph
    holds it once, and is loaded the sooner.

    Beside the signatures there is a function `call_<signature>` for each prediction that takes a dict of tensors: Keras'
    TFSMLayer passes its input as one positional argument, which signatures of several inputs refuse.

    The Keras model stays hidden in closures: its weights are copied into plain variables laid out for serving, and only these
    are written.
    """

    def __init__(
        self,
        model: keras.Model,
        tasks: Sequence[TaskSpec],
        tokenizer: Tokenizer,
        max_length: int,
        kind: str,
        weights: str = "float32",
        frozen: bool = False,
    ) -> None:
        """Take a model of `build_model`, what its texts need, and how to store the encoder (see `ServedEncoder`)."""
        super().__init__(name="mtdnn")
        self._tasks = tuple(task for task in tasks if task.head_of is None)
        self._kind = kind
        # A tuple behind a function: tf.Module would track the layers of anything it can see.
        self._hidden = lambda: (model, tokenizer, max_length)
        self.heads = ServedHeads(model, self._tasks)
        self.encoder = ServedEncoder(model.get_layer("encoder"), weights, frozen)
        self.first_tokens = [token.embedding.value for token in first_tokens(model)]
        views = head_views(model)
        # Where tasks part on top of the encoder, all heads see the same: one group.
        self._groups = list(_grouped(self._tasks, lambda task: id(views[task.name].vector)).values())
        known: dict[Any, Any] = {}
        # Hidden likewise: what calls these functions brings them along, and a tf.function in sight is traced anew when it is
        # saved, with all that it calls.
        self._known = lambda: known

    def _views(self, names: Sequence[str], ids: Sequence[tf.Tensor]) -> dict[str, View]:
        """Return what the heads of these tasks see, float32."""

        def encode_ids(*ids: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
            return self._encoded(names, ids)

        encode = self._once(("views", *names), encode_ids, ids)
        return dict(zip(names, itertools.starmap(View, encode(*ids)), strict=True))

    def _encoded(self, names: Sequence[str], ids: Sequence[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        model, *_ = self._hidden()
        backbone, below = model.get_layer("encoder"), view_model(model, names)
        with backbone.replaced_by(self.encoder):
            outputs = below(dict(zip(INPUTS, ids, strict=True)), training=False)
        views = [View(**outputs[name]) for name in names]
        return [(tf.cast(view.sequence, tf.float32), tf.cast(view.vector, tf.float32)) for view in views]

    def signatures(self, metadata: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the functions to save, and the method names of those that are not plain predictions."""
        found: dict[str, Any] = {}
        methods: dict[str, str] = {}
        for task in self._tasks:
            found[task.name] = self._predict_signature(task.name, [task], self._columns(task), combined=False)
            method, function = self._example_signature(task)
            found[f"{task.name}/{method.rsplit('/', 1)[-1]}"] = function
            methods[f"{task.name}/{method.rsplit('/', 1)[-1]}"] = method
        found |= self._combined_signatures()
        found["encode"] = self._encode_signature()
        found[METADATA] = _metadata_signature(metadata)
        return found, methods

    def _columns(self, task: TaskSpec) -> tuple[str, ...]:
        return task.text if self._kind == "text" else INPUTS

    def _specs(self, names: Sequence[str]) -> list[tf.TensorSpec]:
        if self._kind == "text":
            return [tf.TensorSpec([None], tf.string, name=name) for name in names]
        return [tf.TensorSpec([None, None], tf.int32, name=name) for name in names]

    def _ids(self, inputs: Sequence[tf.Tensor], pair_order: str) -> tuple[tf.Tensor, ...]:
        """Return `token_ids`, `segment_ids` and `padding_mask` of a request."""
        key = (len(inputs), pair_order) if self._kind == "text" else "ids"
        function = self._once(key, lambda *inputs: self._request_ids(inputs, pair_order), inputs)
        ids: tuple[tf.Tensor, ...] = function(*inputs)
        return ids

    def _request_ids(self, inputs: Sequence[tf.Tensor], pair_order: str) -> tuple[tf.Tensor, ...]:
        model, tokenizer, max_length = self._hidden()
        if self._kind == "ids":
            return with_a_position(checked_ids(inputs, model.get_layer("encoder")))
        encoded = encode_texts(checked_texts(inputs), tokenizer, max_length, pair_order)
        return with_a_position([encoded[name] for name in INPUTS])

    def _logits(self, tasks: Sequence[TaskSpec], inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return logits by task; the encoder runs once for each pair order among the tasks, that is once as a rule.

        With an implicit task token in every layer it runs once for each task.
        """
        logits: dict[str, tf.Tensor] = {}
        for order, asked in _grouped(tasks, lambda task: task.pair_order).items():
            ids = self._ids(inputs, order)
            groups = {group[0].name: [task for task in group if task in asked] for group in self._groups}
            views = self._views([name for name, group in groups.items() if group], ids)
            for name, view in views.items():
                seen, together = (*view, *ids[1:]), groups[name]
                heads = self._once(tuple(task.name for task in together), partial(self.heads, together), seen)
                logits |= heads(*seen)
        return logits

    def _once(self, key: Any, function: Callable[..., Any], inputs: Sequence[tf.Tensor]) -> Any:
        """Return a function's graph, made when it is first asked for by this key."""
        known = self._known()
        if key not in known:
            specs = [tf.TensorSpec(value.shape, value.dtype) for value in inputs]
            known[key] = tf.function(function, autograph=False, input_signature=specs)
        return known[key]

    def _predict_signature(self, name: str, tasks: Sequence[TaskSpec], columns: Sequence[str], combined: bool) -> Any:
        def predict(*inputs: tf.Tensor) -> Tensors:
            logits = self._logits(tasks, inputs)
            return {
                f"{task.name}.{output}" if combined else output: value
                for task in tasks
                for output, value in answer_tensors(task, logits[task.name], full=not combined).items()
            }

        by_dict = _by_dict(predict, self._specs(columns))
        setattr(self, f"call_{name}", by_dict.get_concrete_function())
        return _named(by_dict, self._specs(columns))

    def _combined_signatures(self) -> dict[str, Any]:
        texts = {"all_single": ("text",), "all_pairs": PAIR_NAMES}
        groups = combined_groups(self._tasks, self._kind)
        found = {
            name: self._predict_signature(name, tasks, texts[name] if self._kind == "text" else INPUTS, combined=True)
            for name, tasks in groups.items()
        }
        return found | {"serving_default": found[largest_group(groups)]}

    def _example_signature(self, task: TaskSpec) -> tuple[str, Any]:
        """Return the method name and a function that takes serialised tf.Example, as Classify and Regress requests send them."""
        classify = task.type == "classification"
        names = self._columns(task)

        def answer(examples: tf.Tensor) -> Tensors:
            logits = self._logits([task], self._parse(examples, names))[task.name]
            if not classify:
                return {"outputs": logits[:, 0]}
            classes = tf.tile(tf.constant([task.labels]), [tf.shape(logits)[0], 1])
            return {"classes": classes, "scores": tf.nn.softmax(logits)}

        spec = [tf.TensorSpec([None], tf.string, name="inputs")]
        return (CLASSIFY if classify else REGRESS), _named(_by_dict(answer, spec), spec)

    def _parse(self, examples: tf.Tensor, names: Sequence[str]) -> list[tf.Tensor]:
        if self._kind == "text":
            features: Mapping[str, Any] = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
            parsed = tf.io.parse_example(examples, features)
            return [parsed[name] for name in names]
        parsed = tf.io.parse_example(examples, {name: tf.io.RaggedFeature(tf.int64) for name in names})
        return [int32_ids(value) for value in unragged([parsed[name] for name in names])]

    def _encode_signature(self) -> Any:
        def encode(*inputs: tf.Tensor) -> Tensors:
            ids = self._ids(inputs, "premise_first")
            names = [group[0].name for group in self._groups]
            return encode_tensors(self._views(names, ids), ids[2])

        specs = self._specs(("text",) if self._kind == "text" else INPUTS)
        return _named(_by_dict(encode, specs), specs)


def combined_groups(tasks: Sequence[TaskSpec], kind: str) -> dict[str, list[TaskSpec]]:
    """Return the tasks that `all_single` and `all_pairs` answer; without a name that would have none.

    A row of ids holds its two texts in one order: an ids model answers together only those pair tasks that have the order of the
    first of them.
    """
    own = [task for task in tasks if task.head_of is None]
    pairs = [task for task in own if len(task.text) == 2]
    if kind == "ids":
        pairs = [task for task in pairs if task.pair_order == pairs[0].pair_order]
    groups = {"all_single": [task for task in own if len(task.text) == 1], "all_pairs": pairs}
    return {name: group for name, group in groups.items() if group}


def largest_group(groups: Mapping[str, Sequence[TaskSpec]]) -> str:
    """Return the name of the group that `serving_default` stands for: the one of more tasks, of two alike the pairs."""
    return max(groups, key=lambda name: (len(groups[name]), name == "all_pairs"))


def encode_tensors(views: Mapping[str, View], padding_mask: tf.Tensor) -> Tensors:
    """Return the outputs of `encode`.

    Returns:
        `token_embeddings` float32 `[batch, length, d]`, `pooled` float32 `[batch, d]`, `token_mask` int32 `[batch, length]`.
        Where each task sees the texts in its own way, the first two are there for each: `<task>.token_embeddings`, `<task>.pooled`.
    """
    found = {"token_mask": padding_mask}
    for name, view in views.items():
        prefix = f"{name}." if len(views) > 1 else ""
        found |= {f"{prefix}token_embeddings": view.sequence, f"{prefix}pooled": view.vector}
    return found


def _grouped(tasks: Sequence[TaskSpec], key: Callable[[TaskSpec], Any]) -> dict[Any, list[TaskSpec]]:
    """Return the tasks of each key, in their order."""
    found: dict[Any, list[TaskSpec]] = {}
    for task in tasks:
        found.setdefault(key(task), []).append(task)
    return found


def answer_tensors(task: TaskSpec, logits: tf.Tensor, full: bool) -> Tensors:
    """Return the outputs of one task.

    Args:
        task: the task.
        logits: `[batch, classes] float32`.
        full: also `label_id` and `logits`; combined signatures leave them out.

    Returns:
        classification: `label` string `[batch]`, `probabilities` float32 `[batch, classes]`, `label_id` int32 `[batch]`, `logits`;
        regression: `score` float32 `[batch]`; ranking: `relevance` float32 `[batch]`.
    """
    if task.type != "classification":
        return {"relevance" if task.type == "ranking" else "score": logits[:, 0]}
    label_id = tf.argmax(logits, axis=-1, output_type=tf.int32)
    answer = {"label": tf.gather(tf.constant(task.labels), label_id), "probabilities": tf.nn.softmax(logits)}
    return answer | {"label_id": label_id, "logits": logits} if full else answer


def _by_dict(function: Callable[..., Tensors], specs: Sequence[tf.TensorSpec]) -> Any:
    """Return a tf.function of one dict of tensors."""
    signature = {spec.name: spec for spec in specs}

    @tf.function(autograph=False, input_signature=[signature])
    def by_dict(inputs: Mapping[str, tf.Tensor]) -> Tensors:
        return function(*(inputs[name] for name in signature))

    return by_dict


def _named(by_dict: Any, specs: Sequence[tf.TensorSpec]) -> Any:
    """Return a tf.function of named arguments: the names of the specs become the signature's input names."""

    @tf.function(autograph=False)
    def by_name(**inputs: tf.Tensor) -> Tensors:
        outputs: Tensors = by_dict(inputs)
        return outputs

    return by_name.get_concrete_function(**{spec.name: spec for spec in specs})


def _metadata_signature(metadata: str) -> Any:
    """Return a function of `[batch] string` that answers every row with the metadata, whatever the row holds.

    TensorFlow Serving runs no signature without inputs over REST, and none without rows while it batches requests.
    """

    def describe(texts: tf.Tensor) -> Tensors:
        return {"json": tf.fill(tf.shape(*checked_texts([texts])), metadata)}

    spec = [tf.TensorSpec([None], tf.string, name=METADATA_INPUT)]
    return _named(_by_dict(describe, spec), spec)
