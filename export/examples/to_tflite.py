"""Converts a task to TensorFlow Lite and compares: `python export/examples/to_tflite.py MODEL TASK OUTPUT.tflite [TEXTS]`.

MODEL is a version folder of the ids kind. The file holds built-in operations alone and runs in any TensorFlow Lite (LiteRT)
interpreter, on batches and lengths of any size; what the SavedModel refuses (ids out of the vocabulary, too many tokens) is
not checked there. TEXTS is a file with a text a line, asked in words of the vocabulary for the comparison.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

TOLERANCE = 1e-4
TEXTS = ["The room was spotless .", "a", "The train left before noon , and we had to wait for the next one ."]


def inputs(path: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Return ids of words that stand in the vocabulary as they are, second half as second text; `[UNK]` for others."""
    vocabulary = (Path(path) / "assets" / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token: index for index, token in enumerate(vocabulary)}
    rows = [["[CLS]", *text.lower().split()[:100], "[SEP]"] for text in texts]
    shape = len(rows), max(map(len, rows))
    found = {name: np.zeros(shape, np.int32) for name in ("token_ids", "segment_ids", "padding_mask")}
    for number, row in enumerate(rows):
        found["token_ids"][number, : len(row)] = [ids.get(token, ids["[UNK]"]) for token in row]
        found["segment_ids"][number, (len(row) + 1) // 2 : len(row)] = 1
        found["padding_mask"][number, : len(row)] = 1
    return found


def main(path: str, task: str, output: str, table: str = "") -> None:
    """Convert, write, compare."""
    Path(output).write_bytes(tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=[task]).convert())
    lite = tf.lite.Interpreter(output).get_signature_runner(task)
    model = tf.saved_model.load(path)
    texts = Path(table).read_text(encoding="utf-8").splitlines() if table else TEXTS
    greatest = 0.0
    for start in range(0, len(texts), 8):
        ids = inputs(path, texts[start : start + 8])
        expected = model.signatures[task](**{name: tf.constant(value) for name, value in ids.items()})
        for name, value in lite(**ids).items():
            if value.dtype == np.float32:
                greatest = max(greatest, float(np.abs(value - expected[name].numpy()).max()))
    print(f"{output}: {Path(output).stat().st_size} bytes; greatest difference {greatest:.2e}")
    if not greatest < TOLERANCE:
        sys.exit(f"error: the difference is not below {TOLERANCE}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
