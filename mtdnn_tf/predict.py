"""Predict on raw text: `python -m mtdnn_tf.predict --model_dir=DIR --task=NAME --input=FILE` (or `-` for standard input).

With `--saved_model` instead of `--model_dir` the exported text model answers, just as a server would. Rows of a file that have
labels are scored as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.data.faults import options_as
from mtdnn_tf.data.formats import FILE_FORMATS
from mtdnn_tf.errors import UserError

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "A text SavedModel (its version folder, or the folder above).")
_TASK = flags.DEFINE_string("task", None, "The task that answers.")
_INPUT = flags.DEFINE_string(
    "input",
    "-",
    "A TSV, CSV or JSON file with the task's columns, or - for standard input: the task's texts in each line, separated by "
    "a tab. Answers keep the order of the lines; a blank line of standard input has an empty row.",
)
_TEXT = flags.DEFINE_list(
    "text",
    [],
    "The input's text columns, in the task's order; positions from 0 without a header. Default: as in the task's own files, else "
    "by the task's names.",
)
_LABEL = flags.DEFINE_string(
    "label", None, "The input's label column, for a score; its position without a header. Default: as for --text."
)
_HEADER = flags.DEFINE_bool(
    "header",
    None,
    "Whether the input's first line names the columns. Default: as in the task's own files; of standard input: no.",
)
_INPUT_FORMAT = flags.DEFINE_enum(
    "input_format",
    None,
    [*FILE_FORMATS, "canonical"],
    "Format of the input. Default: by its ending; of standard input: tsv.",
)
_ENCODING = flags.DEFINE_string(
    "encoding", None, "Encoding of the input, as in --encoding=cp1252. Default: UTF-8, else as in the task's own files."
)
_OUTPUT = flags.DEFINE_string("output", None, "Where the answers go (.tsv or .jsonl). Default: the terminal.")
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["tsv", "jsonl"],
    "Format of the answers (of the input: --input_format). Default: by the ending of --output, else tsv.",
)


def main() -> None:
    """Read texts, answer, write; score too where the file has labels."""
    if (_SAVED_MODEL.value is None) == (cli.MODEL_DIR.value is None):
        raise UserError("give either --model_dir (a run) or --saved_model (an exported text model)")
    if _TASK.value is None:
        raise UserError("--task is missing: name the task that answers")
    cli.refuse_flags("a model answers as it was trained", ["config", "task_file", *cli.FIXED])
    cli.start_tensorflow()
    from mtdnn_tf.answering import RunAnswerer, SavedModelAnswerer, score_input
    from mtdnn_tf.evaluation.predictions import as_jsonl, as_tsv
    from mtdnn_tf.files import write_text_atomically
    from mtdnn_tf.prediction_input import InputLayout, options_as_flags, read_input

    answerer: SavedModelAnswerer | RunAnswerer
    if _SAVED_MODEL.value:
        cli.refuse_flags("an exported model answers in the format of its weights", ["precision"])
        answerer = SavedModelAnswerer(_SAVED_MODEL.value, _TASK.value)
    else:
        model_dir = cli.model_dir_from_flags()
        cli.prepare_as_trained(model_dir)
        answerer = RunAnswerer(model_dir, _TASK.value)
    task = answerer.task
    layout = InputLayout(tuple(_TEXT.value), _LABEL.value, _HEADER.value, _INPUT_FORMAT.value, _ENCODING.value)
    with options_as(**options_as_flags(task.text)):
        received = read_input(task, _INPUT.value, layout)
    rows = answerer(received.examples)
    ordered = received.in_order_of_lines(task, rows)
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    wanted = _FORMAT.value or ("jsonl" if output and output.suffix == ".jsonl" else "tsv")
    if wanted == "jsonl":
        takes_unicode = output or sys.stdout.encoding.lower().startswith("utf")
        text = as_jsonl(task, ordered, ascii_only=not takes_unicode)
    else:
        text = as_tsv(task, ordered)
    if output:
        write_text_atomically(output, text)
        print(f"{len(rows)} answers: {output}")
    else:
        sys.stdout.write(text)
    sys.stdout.flush()
    for note in received.notes(task):
        print(note, file=sys.stderr)
    if received.examples.labels is not None and (scores := score_input(task, rows, received.examples)):
        print("  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items()), file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
