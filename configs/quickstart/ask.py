"""Asks the exported example model one question of each kind: `python configs/quickstart/ask.py served/quickstart`.

Only TensorFlow and tensorflow-text are imported: any program that has them can use the model like this.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)

# The inputs of each task's signature. Neither these texts nor near copies of them are among the example's data.
QUESTIONS = {
    "sentiment": {"text": ["The food was wonderful and we will certainly come back."]},
    "entailment": {"premise": ["The train left before noon."], "hypothesis": ["The train left in the evening."]},
    "similarity": {"sentence1": ["The shop closes at six."], "sentence2": ["At six o'clock the shop shuts."]},
    "answers": {
        "question": ["Why do leaves turn yellow in autumn?"] * 3,
        "answer": [
            "Children like to jump into heaps of leaves.",
            "The green pigment breaks down, and the yellow that was hidden under it shows.",
            "The park keeps its gates open until eight.",
        ],
    },
}


def main(folder: str) -> None:
    """Load the newest version below the folder and ask it."""
    versions = [path for path in Path(folder).glob("*") if path.name.isdigit()]
    if not versions:
        sys.exit(f"error: {folder}: holds no exported model; run `make quickstart` first")
    newest = max(versions, key=lambda path: int(path.name))
    signatures = tf.saved_model.load(str(newest)).signatures

    def ask(task: str) -> dict[str, tf.Tensor]:
        return signatures[task](**{column: tf.constant(texts) for column, texts in QUESTIONS[task].items()})

    found = ask("sentiment")
    show("sentiment", *QUESTIONS["sentiment"]["text"], f"{label(found)}  {spread(found)}")

    found, texts = ask("entailment"), QUESTIONS["entailment"]
    show("entailment", f"{texts['premise'][0]} -> {texts['hypothesis'][0]}", f"{label(found)}  {spread(found)}")

    found, texts = ask("similarity"), QUESTIONS["similarity"]
    show("similarity, 0 to 5", f"{texts['sentence1'][0]} / {texts['sentence2'][0]}", f"{found['score'].numpy()[0]:.2f}")

    found, texts = ask("answers"), QUESTIONS["answers"]
    best = int(tf.argmax(found["relevance"]))
    show("answers, best of three", texts["question"][0], texts["answer"][best])


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
