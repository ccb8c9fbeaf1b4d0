"""Asks a model by task: `python export/examples/ask_by_task.py MODEL TASK column=text ...`; without a task, lists them.

MODEL is a version folder of the text kind, as served/quickstart/1. Several texts of a column: `column=text column=text`.
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)


def main(path: str, task: str = "", *columns: str) -> None:
    """Load the model; ask it, or list what it can be asked."""
    model = tf.saved_model.load(path)  # to be kept: the signatures alone do not hold the weights
    if not task:
        with tf.io.gfile.GFile(f"{path}/assets/metadata.json") as file:
            metadata = json.load(file)
        for name, each in metadata["tasks"].items():
            print(f"{name} ({each['type']}): {' '.join(f'{column}=...' for column in each['text'])}")
        return
    if task not in model.signatures:
        sys.exit(f"error: the model has no signature {task!r}; it has {', '.join(sorted(model.signatures))}")
    texts: dict[str, list[str]] = {}
    for column in columns:
        name, _, text = column.partition("=")
        texts.setdefault(name, []).append(text)
    expected = model.signatures[task].structured_input_signature[1]
    if set(texts) != set(expected):
        sys.exit(f"error: {task} takes {', '.join(sorted(expected))}; received {', '.join(sorted(texts)) or 'nothing'}")
    try:
        found = model.signatures[task](**{name: tf.constant(values) for name, values in texts.items()})
    except tf.errors.InvalidArgumentError as error:  # a column has more texts than another
        sys.exit(f"error: {error.message}")
    for name, value in sorted(found.items()):
        # Strings come as bytes.
        print(name, [item.decode() for item in value.numpy()] if value.dtype == tf.string else value.numpy().tolist())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
