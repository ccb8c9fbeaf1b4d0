"""Warm-up requests: TensorFlow Serving replays them before a version answers, so that no caller pays for the first run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mtdnn_tf.modeling.model import INPUTS
from mtdnn_tf.tasks import TaskSpec

_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_BATCH_SIZES = (1, 8)
_TEXT = "A short text, as long as most of those that a served model is asked about."
_LENGTH = 16  # tokens of a warm-up request to an ids model


def write_warmup(folder: Path, tasks: Sequence[TaskSpec], kind: str) -> bool:
    """Write requests for every signature into `assets.extra` of a SavedModel.

    Returns:
        Whether it was done: TensorFlow Serving's protobufs come with the extra `serving` (tensorflow-serving-api).
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return False
    path = folder / _FILE
    path.parent.mkdir(exist_ok=True)
    saved = tf.saved_model.load(str(folder)).signatures
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name in sorted(saved):
            for size in _BATCH_SIZES:
                log = prediction_log_pb2.PredictionLog()
                _fill(log, name, saved[name], size, {task.name: task for task in tasks}, kind)
                writer.write(log.SerializeToString(deterministic=True))
    return True


def _fill(log: Any, name: str, signature: Any, size: int, tasks: dict[str, TaskSpec], kind: str) -> None:
    method = name.rsplit("/", 1)[-1]
    if method in ("classify", "regress"):
        request = getattr(log, f"{method}_log").request
        columns = tasks[name.rsplit("/", 1)[0]].text if kind == "text" else INPUTS
        request.input.example_list.examples.extend([_example(columns, kind)] * size)
    else:
        request = log.predict_log.request
        for input_name, spec in signature.structured_input_signature[1].items():
            request.inputs[input_name].CopyFrom(tf.make_tensor_proto(_value(input_name, spec, size)))
    request.model_spec.signature_name = name


def _value(name: str, spec: tf.TensorSpec, size: int) -> tf.Tensor:
    if spec.dtype == tf.string:
        return tf.fill([size], _TEXT)
    return tf.fill([size, _LENGTH], tf.constant(1 if name == "padding_mask" else 0, tf.int32))


def _example(columns: Sequence[str], kind: str) -> tf.train.Example:
    if kind == "text":
        features = {name: _bytes_feature(_TEXT.encode()) for name in columns}
    else:
        features = {name: _int_feature([1 if name == "padding_mask" else 0] * _LENGTH) for name in columns}
    return tf.train.Example(features=tf.train.Features(feature=features))


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int_feature(values: list[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
