"""Writes a task file for data of your own: `python -m mtdnn_tf.init --train=reviews.tsv`.

It guesses type, columns and labels from a TSV, CSV or JSON file and shows its guess. `--train` may be repeated, a task
for each file. Without a development file some rows are held out, in new files beside the task file. Nothing is overwritten.
"""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import atomic_directory, write_text_atomically
from mtdnn_tf.starting.guessing import Wishes
from mtdnn_tf.starting.preparing import Files, prepare_all
from mtdnn_tf.starting.screen import guess_table
from mtdnn_tf.starting.task_file import data_folder, new_files, task_file
from mtdnn_tf.task_types import TASK_TYPES

_TRAIN = flags.DEFINE_multi_string("train", [], "The training file; may be repeated, a task for each.")
_DEV = flags.DEFINE_multi_string(
    "dev", [], "The development file, one for each --train. Default: looked for beside it."
)
_TEST = flags.DEFINE_multi_string("test", [], "The test file, one for each --train. Default: looked for beside it.")
_NAME = flags.DEFINE_multi_string("name", [], "The task's name, one for each --train. Default: after the file.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "The task file to write. Default: <name>.yaml; of several tasks, tasks.yaml."
)
_TYPE = flags.DEFINE_enum("type", None, list(TASK_TYPES), "The type of task, instead of a guess.")
_TEXT = flags.DEFINE_list("text", [], "The text columns, one or two, instead of a guess; positions without a header.")
_LABEL = flags.DEFINE_string("label", None, "The label's column, instead of a guess; its position without a header.")
_NO_LABEL = flags.DEFINE_list(
    "no_label",
    None,
    "The values that stand for no label, as in --no_label=-,nan; --no_label= for none. Default: guessed.",
)
_HEADER = flags.DEFINE_bool("header", None, "Whether the first line names the columns, instead of a guess.")
_ENCODING = flags.DEFINE_string("encoding", "utf-8", "Encoding of the files, as in --encoding=latin-1.")
_SPLIT_DEV = flags.DEFINE_float("split_dev", None, "Share of the rows to hold out for scoring, even beside a dev file.")


def main() -> None:
    """Read the flags, guess, write, show."""
    cli.refuse_flags("there is no configuration yet", ["config", "task_file", "model_dir", *cli.CHANGES])
    no_label = None if _NO_LABEL.value is None else tuple(_NO_LABEL.value)
    share, wishes = _share(), Wishes(_TYPE.value, tuple(_TEXT.value), _LABEL.value, no_label)
    if len(wishes.text) > 2:
        raise UserError(f"--text: name one column or two, received {len(wishes.text)}")
    tasks = prepare_all(_NAME.value, _files(), wishes, share)
    output = Path(_OUTPUT.value or f"{tasks[0].name if len(tasks) == 1 else 'tasks'}.yaml")
    files = new_files(output, tasks)
    for path in (output, *([data_folder(output)] if files else [])):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path}: is there already, and is not overwritten; name another file with --output")
    with atomic_directory(data_folder(output)) if files else nullcontext() as folder:
        if folder:
            for path, text in files.items():
                (folder / path.name).write_text(text, encoding="utf-8", newline="")
        write_text_atomically(output, task_file(output, tasks))  # where that fails, the folder is not left behind
    for task in tasks:
        print(f"{guess_table(output, task)}\n")
    if files:
        print(f"no development file: rows held out in new files in {data_folder(output)}/")
    print(f"task file: {output}  (correct there what is wrong above)")
    config = shlex.quote(f"--config={output}")
    print(f"next:\n  python -m mtdnn_tf.plan {config}\n  python -m mtdnn_tf.train {config}")


def _share() -> float | None:
    share: float | None = _SPLIT_DEV.value
    if share is not None and not 0 < share < 1:
        raise UserError(f"--split_dev: must be more than 0 and less than 1, received {share:g}")
    if share is not None and _DEV.value:
        raise UserError("give either --dev (a file) or --split_dev (a share to hold out)")
    return share


def _files() -> list[Files]:
    """Return the files of each task."""
    if not _TRAIN.value:
        raise UserError("--train is missing: name a TSV, CSV or JSON file, as in --train=reviews.tsv")
    count = len(_TRAIN.value)
    for flag in (_DEV, _TEST):
        if flag.value and len(flag.value) != count:
            raise UserError(f"--{flag.name}: give one for each --train; received {len(flag.value)} for {count} files")
    devs, tests = (flag.value or [None] * count for flag in (_DEV, _TEST))
    return [
        Files(train, dev, test, _HEADER.value, _ENCODING.value)
        for train, dev, test in zip(_TRAIN.value, devs, tests, strict=True)
    ]


if __name__ == "__main__":
    cli.run(main)
