"""Answers for raw texts: `python -m mtdnn_tf.predict --model_dir=DIR --task=NAME --input=FILE` (or `-` for lines on stdin).

With `--saved_model` instead of `--model_dir` the exported text model answers, just as a server would. A file with labels is
scored as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.errors import UserError

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "A text SavedModel (its version folder, or the folder above).")
_TASK = flags.DEFINE_string("task", None, "The task that answers.")
_INPUT = flags.DEFINE_string(
    "input", "-", "A .tsv, .csv or .jsonl file with the task's columns, or - for tab-separated lines."
)
_OUTPUT = flags.DEFINE_string("output", None, "Where the answers go (.tsv or .jsonl). Default: the terminal.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["tsv", "jsonl"], "Format of the answers. Default: by the ending of --output, else tsv."
)


def main() -> None:
    """Read texts, answer, write; score too where the file has labels."""
    if (_SAVED_MODEL.value is None) == (cli.MODEL_DIR.value is None):
        raise UserError("give either --model_dir (a run) or --saved_model (an exported text model)")
    if _TASK.value is None:
        raise UserError("--task is missing: name the task that answers")
    cli.refuse_flags("a model answers as it was trained", cli.FIXED)
    cli.start_tensorflow()
    from mtdnn_tf.answering import RunAnswerer, SavedModelAnswerer, in_order_of_lines, read_input, score_input
    from mtdnn_tf.evaluation.predictions import as_jsonl, as_tsv
    from mtdnn_tf.files import write_text_atomically

    answerer: SavedModelAnswerer | RunAnswerer
    if _SAVED_MODEL.value:
        cli.refuse_flags("an exported model answers in the format of its weights", ["precision"])
        answerer = SavedModelAnswerer(_SAVED_MODEL.value, _TASK.value)
    else:
        model_dir = cli.model_dir_from_flags()
        cli.prepare_as_trained(model_dir)
        answerer = RunAnswerer(model_dir, _TASK.value)
    examples = read_input(answerer.task, _INPUT.value)
    rows = answerer(examples)
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    wanted = _FORMAT.value or ("jsonl" if output and output.suffix == ".jsonl" else "tsv")
    text = (as_jsonl if wanted == "jsonl" else as_tsv)(answerer.task, in_order_of_lines(rows, examples))
    if output:
        write_text_atomically(output, text)
        print(f"{len(rows)} answers: {output}")
    else:
        sys.stdout.write(text)
    if examples.labels is not None:
        scores = score_input(answerer.task, rows, examples)
        print("  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items()), file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
