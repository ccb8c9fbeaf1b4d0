"""Asks the exported example model one question of each kind: `python configs/quickstart/ask.py served/quickstart`.

Only TensorFlow and tensorflow-text are imported: any program that has them can use the model like this.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)

QUESTION = "Why do leaves turn yellow in autumn?"
ANSWERS = [
    "Children like to jump into heaps of leaves.",
    "The green pigment breaks down, and the yellow that was hidden under it shows.",
    "The park keeps its gates open until eight.",
]


def main(folder: str) -> None:
    """Load the newest version below the folder and ask it."""
    versions = [path for path in Path(folder).glob("*") if path.name.isdigit()]
    if not versions:
        sys.exit(f"error: {folder}: holds no exported model; run `make quickstart` first")
    newest = max(versions, key=lambda path: int(path.name))
    ask = tf.saved_model.load(str(newest)).signatures

    text = "The food was wonderful and we will certainly come back."
    found = ask["sentiment"](text=tf.constant([text]))
    show("sentiment", text, f"{label(found)}  {spread(found)}")

    premise, hypothesis = "The train left before noon.", "The train left in the evening."
    found = ask["entailment"](premise=tf.constant([premise]), hypothesis=tf.constant([hypothesis]))
    show("entailment", f"{premise} -> {hypothesis}", f"{label(found)}  {spread(found)}")

    first, second = "The shop closes at six.", "At six o'clock the shop shuts."
    found = ask["similarity"](sentence1=tf.constant([first]), sentence2=tf.constant([second]))
    show("similarity, 0 to 5", f"{first} / {second}", f"{found['score'].numpy()[0]:.2f}")

    found = ask["answers"](question=tf.constant([QUESTION] * len(ANSWERS)), answer=tf.constant(ANSWERS))
    best = int(tf.argmax(found["relevance"]))
    show("answers, best of three", QUESTION, ANSWERS[best])


def label(found: dict[str, tf.Tensor]) -> str:
    """Return the label of the first text."""
    return found["label"].numpy()[0].decode()


def spread(found: dict[str, tf.Tensor]) -> str:
    """Return its probabilities, in the order of the task's labels."""
    return "(" + ", ".join(f"{probability:.2f}" for probability in found["probabilities"].numpy()[0]) + ")"


def show(task: str, asked: str, answered: str) -> None:
    """Print one question and its answer."""
    print(f"\n{task}\n  {asked}\n  => {answered}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python configs/quickstart/ask.py <folder of the exported model>")
    main(sys.argv[1])
