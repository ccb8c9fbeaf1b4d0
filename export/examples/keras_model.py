"""Puts a model's answers into a Keras model: `python export/examples/keras_model.py MODEL TASK text...`.

MODEL is a version folder of the text kind; TASK one of its classification tasks with one text. The Keras model around it
here tells the surest label, and abstains where the probability is under a half more than chance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)


class Decide(keras.layers.Layer):
    """The greatest probability, and the label's number; -1 where that probability is too small."""

    def __init__(self, least: float) -> None:
        """Take the least probability."""
        super().__init__()
        self.least = least

    def call(self, probabilities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return `[batch] float32` and `[batch] int64` of probabilities `[batch, classes] float32`."""
        surest = keras.ops.max(probabilities, axis=-1)
        label = keras.ops.cast(keras.ops.argmax(probabilities, axis=-1), "int64")
        return surest, keras.ops.where(surest < self.least, -1, label)


def build(path: str, task: str, classes: int) -> keras.Model:
    """Return a Keras model from strings `[batch]` to the surest label of each."""
    text = keras.Input((), dtype="string", name="text")
    # A task with two texts has `call_endpoint="call_<task>"`, and takes a dict of its columns.
    answers = keras.layers.TFSMLayer(path, call_endpoint=task)(text)
    surest, label = Decide((1 + 0.5) / classes)(answers["probabilities"])
    return keras.Model(text, {"probability": surest, "label": label})


def main(path: str, task: str, *texts: str) -> None:
    """Build the Keras model, ask it."""
    labels = json.loads((Path(path) / "assets" / "metadata.json").read_text(encoding="utf-8"))["tasks"][task]["labels"]
    found = build(path, task, len(labels)).predict(tf.constant(texts), verbose=0)
    for text, label, probability in zip(texts, found["label"], found["probability"], strict=True):
        print(f"{labels[label] if label >= 0 else 'unsure'}\t{probability:.3f}\t{text}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
