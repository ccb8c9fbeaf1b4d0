"""The task file that says what was guessed, line by line, and why."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtdnn_tf.commands import command_line
from mtdnn_tf.config import EncoderConfig, TrainingConfig
from mtdnn_tf.config_tree import dump_yaml
from mtdnn_tf.starting.lengths import fitting_length, tokens_of, words_of
from mtdnn_tf.starting.preparing import Prepared, kind_of_source
from mtdnn_tf.starting.splits import task_columns

_WIDTH = 120
_QUESTIONS = 8  # in a batch of ranking: each brings all its candidates


def data_folder(output: Path) -> Path:
    """Return where held-out files go: reviews.yaml has reviews_data/."""
    return output.with_name(f"{output.stem}_data")


def new_files(output: Path, tasks: Sequence[Prepared]) -> dict[Path, str]:
    """Return the files to be written for the tasks whose development set is held out."""
    return {
        data_folder(output) / f"{task.name}_{split}{task.held_out.ending}": getattr(task.held_out, split)
        for task in tasks
        if task.held_out is not None
        for split in ("train", "dev")
    }


def source_paths(output: Path, task: Prepared) -> dict[str, str]:
    """Return the file of each split, relative to the task file."""
    paths = {"train": task.table.path}
    paths |= {split: found.table.path for split in ("dev", "test") if (found := getattr(task, split)) is not None}
    if task.held_out is not None:
        paths |= {
            split: str(data_folder(output) / f"{task.name}_{split}{task.held_out.ending}") for split in ("train", "dev")
        }
    return {split: os.path.relpath(paths[split], output.parent) for split in ("train", "dev", "test") if split in paths}


def task_file(output: Path, tasks: Sequence[Prepared]) -> str:
    """Return the task file as YAML with comments.

    Args:
        output: where it will stand; its paths start from there.
        tasks: what it names.
    """
    blocks = [_head(output, tasks), _encoder(), "tasks:\n" + "\n".join(_task(output, task) for task in tasks)]
    return "\n".join([*blocks, _data(tasks), _training()])


def _head(output: Path, tasks: Sequence[Prepared]) -> str:
    what = "; ".join(f"{task.name} ({task.guess.kind.type})" for task in tasks)
    lines = [
        f"Purpose: train {what} on one encoder.",
        f"Command: {command_line('train', f'--config={output.name}', f'--model_dir=runs/{output.stem}')}",
        "Keys people change: training.epochs, data.max_length, optimizer.learning_rate, encoder.source",
        "Written by mtdnn_tf.init, which guessed it from the files: correct what is wrong, then plan, then train.",
    ]
    return "".join(comment(line) for line in lines)


def _encoder() -> str:
    return (
        "# encoder: # the default; or a folder with config.json, model.safetensors and vocab.txt, or a KerasHub preset\n"
        f"#   source: {EncoderConfig().source}\n"
    )


def _task(output: Path, task: Prepared) -> str:
    return f"  {task.name}:\n" + textwrap.indent("".join(_entries(output, task)), "    ")


def _entries(output: Path, task: Prepared) -> Iterator[str]:
    guess, kind = task.guess, task.guess.kind
    yield comment(file_seen(task))
    yield from (comment(f"Unsure: {note}") for note in task.notes)
    yield _entry("type", kind.type)
    yield _entry("text", list(guess.text), "; ".join(texts_seen(task)))
    if kind.labels:
        yield _entry("labels", list(kind.labels), f"rows: {kind.seen}")
    if kind.range is not None:
        low, high = (int(end) if end.is_integer() else end for end in kind.range)
        yield _entry("range", [low, high], f"seen: {kind.seen}")
    if kind.type == "ranking":
        yield _entry("batch_size", _QUESTIONS, f"questions, with all their candidates; rows: {kind.seen}")
    columns = task_columns(task.table, guess)
    if columns:
        where = "counted from 0" if task.table.header is False else "as the file calls them"
        yield _entry("columns", columns, where)
    for split, path in source_paths(output, task).items():
        yield _entry(split, kind_of_source(task, split, path), split_seen(task, split))


def file_seen(task: Prepared) -> str:
    """Return what the training file is, for people."""
    table = task.table
    header = {True: ", first line is the header", False: ", no header", None: ""}[table.header]
    left_out = f"; left out: {', '.join(task.guess.left_out)}" if task.guess.left_out else ""
    return f"{Path(table.path).name}: {len(table):,} rows{header}{left_out}"


def texts_seen(task: Prepared) -> list[str]:
    """Return how long the texts are, a line for each."""
    seen = [(name, words_of(column)) for name, column in zip(task.guess.text, task.guess.text_columns, strict=True)]
    return [f"{name}: {words.median} words at the median, at most {words.longest}" for name, words in seen]


def split_seen(task: Prepared, split: str) -> str:
    """Return how many rows a split has, for people; "" for a training file that is used as it is."""
    if task.held_out is not None and split != "test":
        rows = task.held_out.sizes[split == "dev"]
        return f"{rows:,} rows" + (", held out of the training file" if split == "dev" else "")
    found = getattr(task, split) if split != "train" else None
    if found is None:
        return ""
    return f"{len(found.table):,} rows" + ("" if found.label is not None else ", unlabelled")


def _data(tasks: Sequence[Prepared]) -> str:
    tokens = [tokens_of(task.guess.text_columns) for task in tasks]
    length = fitting_length(tokens)
    cut = float(np.mean(np.concatenate(tokens) > length))
    about = "about 1.5 tokens a word; memory and time grow with it"
    cut = max(cut, 0.001) if cut else 0.0
    if cut:
        about = f"tokens; {100 * cut:.2g}% of the examples are longer and are cut (" + about + ")"
    else:
        about = f"tokens; holds every example ({about})"
    return "data:\n" + textwrap.indent(_entry("max_length", length, about), "  ")


def _training() -> str:
    return f"# training:\n#   epochs: {TrainingConfig().epochs} # the default\n"


def _entry(key: str, value: str | int | list[Any] | dict[str, Any], about: str = "") -> str:
    """Return a key with its value; the comment behind it where it fits in the line, else above."""
    text = _list(key, value) if isinstance(value, list) else dump_yaml({key: value})
    one_line = text.count("\n") == 1 and len(text) + len(about) < _WIDTH - 8
    if about and one_line:
        return f"{text[:-1]} {comment(about)}"
    return (comment(about) if about else "") + text


def _list(key: str, items: Sequence[Any]) -> str:
    """Return a list in one line, or an item a line where it is longer."""
    text = dump_yaml({key: list(items)})
    if text.count("\n") == 1:
        return text
    return f"{key}:\n" + "".join(f"  - {dump_yaml([item]).strip()[1:-1]}\n" for item in items)


def comment(text: str) -> str:
    """Return a text of any characters as comment lines."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    lines = textwrap.wrap(plain, _WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)
