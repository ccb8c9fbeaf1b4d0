"""Warm-up requests: TensorFlow Serving replays them before a version answers, so that no caller pays for the first run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtdnn_tf.data.text import Tokenizer, encode_texts
from mtdnn_tf.serving.signatures import METADATA
from mtdnn_tf.tasks import TaskSpec

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # as export/batching_parameters.txt allows them
MAX_REQUESTS = 1000  # TensorFlow Serving refuses a version that brings more
# Outputs that callers ask for alone, through `output_filter`: of a task's signature, and of `encode`.
FILTERED_OUTPUTS = ("label", "probabilities", "pooled")
# MultiInference requests must name a model; which one does not matter when they are replayed.
_MODEL = "warmup"


@dataclass(frozen=True)
class Warmup:
    """What warm-up requests are made of."""

    signatures: Mapping[str, Any]  # concrete functions by name
    methods: Mapping[str, str]  # method names of Classify and Regress signatures
    tasks: Sequence[TaskSpec]
    tokenizer: Tokenizer
    max_length: int
    kind: str
    filters: bool = True  # whether requests with an `output_filter` are among them: TensorFlow keeps a graph for each set of outputs

    def write(self, folder: Path, buckets: Sequence[int]) -> int:
        """Write requests for every signature, length and batch size into `assets.extra` of a SavedModel.

        Where there is room, one request for each of `FILTERED_OUTPUTS` and one for the metadata follow: their first run costs
        the same at any shape.

        Args:
            folder: of the SavedModel.
            buckets: lengths in tokens; those over `max_length` become that.

        Returns:
            The number of requests; 0 where TensorFlow Serving's protobufs, of the extra `serving` (tensorflow-serving-api),
            are missing.
        """
        try:
            import tensorflow_serving.apis  # noqa: F401
        except ImportError:
            return 0
        names = sorted(set(self.signatures) - {METADATA})
        shapes = warmup_shapes(len(names) + bool(self.methods), buckets, self.max_length)
        whole = (log for length, size in shapes for log in self._requests(names, length, size))
        single = (log for length, _ in shapes[:1] for log in self._single_requests(names, length))
        requests = list(itertools.islice(itertools.chain(whole, single), MAX_REQUESTS))
        path = folder / WARMUP_FILE
        path.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for request in requests:
                writer.write(request.SerializeToString(deterministic=True))
        return len(requests)

    def _requests(self, names: Sequence[str], length: int, size: int) -> Iterator[Any]:
        """Return a request for all outputs of each signature."""
        for name in names:
            log = self._example_log if name in self.methods else self._predict_log
            yield log(name, length, size)
        if self.methods:
            yield self._multi_inference(length, size)

    def _single_requests(self, names: Sequence[str], length: int) -> Iterator[Any]:
        """Return requests of one row that need no more than one shape."""
        if METADATA in self.signatures:
            yield self._predict_log(METADATA, length, 1)
        for name in names if self.filters else ():
            for output in filtered_outputs(self.signatures[name]):
                yield self._predict_log(name, length, 1, [output])

    def _example_log(self, name: str, length: int, size: int) -> Any:
        from tensorflow_serving.apis import prediction_log_pb2

        log = prediction_log_pb2.PredictionLog()
        request = getattr(log, f"{self.methods[name].rsplit('/', 1)[-1]}_log").request
        columns = self._columns([self._task(name)])
        request.input.example_list.examples.extend([self._example(columns, length)] * size)
        request.model_spec.name = _MODEL
        request.model_spec.signature_name = name
        return log

    def _predict_log(self, name: str, length: int, size: int, outputs: Sequence[str] = ()) -> Any:
        from tensorflow_serving.apis import prediction_log_pb2

        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        for input_name, value in self._values(name, length).items():
            request.inputs[input_name].CopyFrom(tf.make_tensor_proto(tf.repeat(value, size, axis=0)))
        request.model_spec.name = _MODEL
        request.model_spec.signature_name = name
        request.output_filter.extend(outputs)
        return log

    def _multi_inference(self, length: int, size: int) -> Any:
        """Return one request to all Classify and Regress signatures: its examples hold the columns of all tasks."""
        from tensorflow_serving.apis import prediction_log_pb2

        log = prediction_log_pb2.PredictionLog()
        request = log.multi_inference_log.request
        for name in sorted(self.methods):
            task = request.tasks.add(method_name=self.methods[name])
            task.model_spec.name = _MODEL
            task.model_spec.signature_name = name
        columns = self._columns([self._task(name) for name in sorted(self.methods)])
        request.input.example_list.examples.extend([self._example(columns, length)] * size)
        return log

    def _task(self, signature: str) -> TaskSpec:
        name = signature.rsplit("/", 1)[0]
        return next(task for task in self.tasks if task.name == name)

    def _is_pair(self, signature: str) -> bool:
        """Return whether an ids signature is asked with two texts in a row."""
        return signature in ("all_pairs", "serving_default") or any(
            task.name == signature and len(task.text) == 2 for task in self.tasks
        )

    def _columns(self, tasks: Sequence[TaskSpec]) -> dict[str, tuple[int, int]]:
        """Return the text columns of these tasks: each column's place among its task's, and how many that task has."""
        return {name: (index, len(task.text)) for task in tasks for index, name in enumerate(task.text)}

    def _example(self, columns: Mapping[str, tuple[int, int]], length: int) -> tf.train.Example:
        if self.kind == "text":
            texts = {name: self._texts(length, count)[index].encode() for name, (index, count) in columns.items()}
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])) for name, text in texts.items()
            }
        else:
            ids = self._ids(length, pair=any(count == 2 for _, count in columns.values()))
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=value[0].numpy().tolist()))
                for name, value in ids.items()
            }
        return tf.train.Example(features=tf.train.Features(feature=features))

    def _values(self, signature: str, length: int) -> dict[str, tf.Tensor]:
        """Return one row for each input of a signature that predicts."""
        if self.kind == "ids" and signature != METADATA:
            return self._ids(length, self._is_pair(signature))
        names = sorted(self.signatures[signature].structured_input_signature[1])
        texts = self._texts(length, len(names))
        return {name: tf.constant([text]) for name, text in zip(names, texts, strict=True)}

    def _ids(self, length: int, pair: bool) -> dict[str, tf.Tensor]:
        texts = [tf.constant([text]) for text in self._texts(length, 2 if pair else 1)]
        return encode_texts(texts, self.tokenizer, self.max_length)

    def _texts(self, length: int, count: int) -> list[str]:
        """Return one or two texts that make `length` tokens together, special tokens included."""
        room = length - 1 - count
        return [" ".join([self._word] * (room // count + (index < room % count))) for index in range(count)]

    @cached_property
    def _word(self) -> str:
        """A word that is one token; where the vocabulary has none of letters, one that is unknown."""
        words = [token for token in self.tokenizer.vocab if token.isalpha()]
        words.sort(key=lambda word: not (word.isascii() and word.islower()))  # which no rule of a tokenizer changes
        return next((word for word in words if self.tokenizer(tf.constant([word])).row_lengths()[0] == 1), "a")


def missing_warmup(folder: Path) -> str:
    """Return a line that says why an exported model has no warm-up requests; empty where it has some."""
    if (folder / WARMUP_FILE).is_file():
        return ""
    return (
        "no warm-up requests: tensorflow-serving-api is missing, so a server's first answers will be slow; install it (the extra "
        "`serving`) and export again"
    )


def warmup_shapes(signatures: int, buckets: Sequence[int], max_length: int) -> list[tuple[int, int]]:
    """Return (length, batch size) of the requests to each signature: all of them, or as many as the server takes.

    The shortest and the longest length, and the batch sizes 1 and 32, are the last to go.
    """
    lengths = sorted({min(bucket, max_length) for bucket in buckets} | {max_length})
    sizes = list(BATCH_SIZES)
    while signatures * len(lengths) * len(sizes) > MAX_REQUESTS:
        shortened = sizes if len(sizes) > 2 else lengths
        if len(shortened) <= 2:
            return [(max_length, 1)] if signatures <= MAX_REQUESTS else []
        del shortened[len(shortened) // 2]
    return [(length, size) for length in lengths for size in sizes]


def filtered_outputs(signature: Any) -> list[str]:
    """Return the outputs of a signature that are warmed up alone, too; none where it has no other."""
    outputs = sorted(signature.structured_outputs)
    found = [name for name in outputs if name in FILTERED_OUTPUTS or name.endswith(".pooled")]
    return found if len(outputs) > 1 else []
