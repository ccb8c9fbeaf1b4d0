"""What init shows: each guess as a small table, and the first rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtdnn_tf.data.lines import shortened
from mtdnn_tf.starting.preparing import Prepared
from mtdnn_tf.starting.task_file import file_seen, source_paths, split_seen, texts_seen

_ROWS = 3
_CELL = 48  # characters


def guess_table(output: Path, task: Prepared) -> str:
    """Return the guess about a task, a line for each part of it, and the first rows as they are read."""
    guess, kind = task.guess, task.guess.kind
    lines = [
        ("file", file_seen(task)),
        ("type", kind.type),
        *(("text", line) for line in texts_seen(task)),
        ("label", f"{guess.label.title} ({kind.seen})"),
    ]
    for split, path in source_paths(output, task).items():
        about = split_seen(task, split)
        lines.append((split, f"{path}" + (f" ({about})" if about else "")))
    lines += [("unsure", note) for note in task.notes]
    table = "\n".join(f"  {name:<7} {_printable(text)}" for name, text in lines)
    return f"{task.name}\n{table}\n\n{first_rows(task)}"


def first_rows(task: Prepared) -> str:
    """Return the first rows, label first, as the task will read them."""
    guess = task.guess
    columns = [guess.label.stripped, *(column.values for column in guess.text_columns)]
    rows = [("label", *guess.text), *zip(*(column[:_ROWS] for column in columns), strict=True)]
    cells = [[shortened(_printable(cell), _CELL) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join("  " + _line(row, widths) for row in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
