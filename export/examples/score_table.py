"""Scores a TSV file through tf.data: `python export/examples/score_table.py MODEL TASK INPUT.tsv > answers.tsv`.

MODEL is a version folder of the text kind; INPUT has no header, and the columns of the task in the task's order. A line of
output for each line of input. A row with another number of columns ends the program; see beam_scoring.py for files that
may hold such rows or are too large for one go.
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)

BATCH = 64


def main(path: str, task: str, table: str) -> None:
    """Read, ask in batches while the next one is read, print."""
    model = tf.saved_model.load(path)
    ask = model.signatures[task]
    with tf.io.gfile.GFile(f"{path}/assets/metadata.json") as file:
        columns = json.load(file)["tasks"][task]["text"]

    def answer(numbers: tf.Tensor, lines: tf.Tensor) -> dict[str, tf.Tensor]:
        fields = tf.strings.split(lines, "\t")  # [batch, (columns)]
        wrong = tf.boolean_mask(numbers, fields.row_lengths() != len(columns))
        rule = f"every line must hold {', '.join(columns)}, separated by tabs; this one does not: line"
        tf.debugging.Assert(tf.size(wrong) == 0, [rule, wrong[:1]])
        return ask(**dict(zip(columns, tf.unstack(fields.to_tensor(shape=[None, len(columns)]), axis=1), strict=True)))

    answers = tf.data.TextLineDataset(table).enumerate(1).batch(BATCH).map(answer).prefetch(tf.data.AUTOTUNE)
    try:
        for found in answers.as_numpy_iterator():
            if "label" in found:
                for label, probabilities in zip(found["label"], found["probabilities"], strict=True):
                    print(label.decode(), *(f"{probability:.6f}" for probability in probabilities), sep="\t")
            else:
                for value in next(iter(found.values())):
                    print(f"{value:.6f}")
    except tf.errors.InvalidArgumentError as error:
        told = error.message.rsplit("assertion failed: ", 1)[-1].splitlines()[0]
        sys.exit(f"error: {table}: {told.replace('] [', ' ').strip('[]')}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
