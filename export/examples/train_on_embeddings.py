"""Trains a small classifier of one's own on frozen embeddings: `python export/examples/train_on_embeddings.py MODEL [TSV]`.

MODEL is a version folder of the text kind; the TSV has a text and a label on each line. Without one, the twelve rows below
are learned. The encoder stays as it is; texts are embedded once, so that an epoch costs next to nothing.
"""

from __future__ import annotations

import csv
import sys

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)

ROWS = [
    ("The parcel never arrived.", "delivery"),
    ("My order is three days late.", "delivery"),
    ("The courier left it with a neighbour.", "delivery"),
    ("When will the package be here?", "delivery"),
    ("I was charged twice.", "payment"),
    ("The refund is still missing.", "payment"),
    ("My card was refused at the checkout.", "payment"),
    ("Why is there a fee on my invoice?", "payment"),
    ("The app closes when I open a picture.", "software"),
    ("I cannot log in since the update.", "software"),
    ("The search shows an error page.", "software"),
    ("The screen stays black after the start.", "software"),
]


def main(path: str, table: str = "") -> None:
    """Embed the texts, train, print the loss before and after and what is predicted."""
    rows = ROWS
    if table:
        with open(table, encoding="utf-8", newline="") as file:
            rows = [(text, label) for text, label in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    texts, names = zip(*rows, strict=True)
    labels = sorted(set(names))
    targets = np.array([labels.index(name) for name in names])

    text = keras.Input((), dtype="string")
    found = keras.layers.TFSMLayer(path, call_endpoint="encode", trainable=False)(text)
    mask = keras.ops.cast(found["token_mask"], "float32")[..., None]  # [batch, length, 1]
    mean = keras.ops.sum(found["token_embeddings"] * mask, axis=1) / keras.ops.sum(mask, axis=1)
    encoder = keras.Model(text, mean)  # the mean over real tokens: [batch, d]; or take found["pooled"]
    embedded = encoder.predict(tf.constant(texts), batch_size=32, verbose=0)

    keras.utils.set_random_seed(1)
    normalize = keras.layers.Normalization()
    normalize.adapt(embedded)
    classify = keras.Sequential([normalize, keras.layers.Dense(len(labels))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classify.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    before = classify.evaluate(embedded, targets, verbose=0)
    classify.fit(embedded, targets, epochs=50, batch_size=32, verbose=0)
    print(f"loss {before:.4f} -> {classify.evaluate(embedded, targets, verbose=0):.4f}")

    whole = keras.Model(text, classify(encoder(text)))  # strings in, logits out: one model again
    for asked, index in zip(texts, np.argmax(whole.predict(tf.constant(texts), verbose=0), axis=-1), strict=True):
        print(f"{labels[index]}\t{asked}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
