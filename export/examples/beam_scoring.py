"""Scores a large TSV file with Apache Beam: `python export/examples/beam_scoring.py MODEL TASK INPUT OUTPUT [--columns=a,b]`.

MODEL is a version folder of the text kind, as served/quickstart/1; INPUT is UTF-8 without a header, its columns those of
the task in the task's order, or as `--columns` names them (others are passed over). Into the folder OUTPUT go

    answers.jsonl      line i holds the answer to line i of INPUT, or {"error": ...}
    bad_rows.tsv       line number and reason of each row that could not be asked
    shards/            both, for so many lines each; the same command goes on where an interrupted one stopped

Needs `pip install apache-beam tensorflow-text`. Arguments after `--` go to Beam, as in `-- --runner=DirectRunner`; with a
runner on several machines, all paths lie on storage that all of them see.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that split texts into tokens)
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

TEXTS_A_CALL = 64


@dataclass(frozen=True)
class Shard:
    """Some successive lines of the input: what is scored and written as one, so that the order never has to be restored."""

    number: int
    offset: int  # bytes before the first line
    first_line: int  # counted from 1
    lines: int


@dataclass(frozen=True)
class ScoredShard:
    """What comes of a shard, in the order of its lines."""

    number: int
    answers: list[dict[str, Any]]
    bad_rows: list[tuple[int, str]]


class SavedModelHandler(ModelHandler[Shard, ScoredShard, Any]):
    """Loads the exported model once a worker; answers for the lines of a shard."""

    def __init__(self, model: str, task: str, source: str, columns: Sequence[str]) -> None:
        """Take the version folder, the signature, the input file and the names of its columns."""
        super().__init__()
        self._model, self._task, self._source, self._columns = model, task, source, tuple(columns)

    def load_model(self) -> Any:
        """Load the SavedModel; the object is kept, for its signatures hold no reference to it."""
        return tf.saved_model.load(self._model)

    def batch_elements_kwargs(self) -> dict[str, int]:
        """A shard is many texts already."""
        return {"min_batch_size": 1, "max_batch_size": 1}

    def run_inference(
        self, batch: Sequence[Shard], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[ScoredShard]:
        """Yield what comes of each shard."""
        for shard in batch:
            yield self._scored(shard, model.signatures[self._task])

    def _scored(self, shard: Shard, signature: Any) -> ScoredShard:
        answers: dict[int, dict[str, Any]] = {}
        rows: dict[int, dict[str, bytes]] = {}
        for number, line in enumerate(read_lines(self._source, shard), start=shard.first_line):
            row, reason = parse(line, self._columns)
            if reason:
                answers[number] = {"error": reason}
            else:
                rows[number] = row
        bad_rows = [(number, answer["error"]) for number, answer in answers.items()]
        names = list(signature.structured_input_signature[1])
        # Texts of similar length are asked together: less padding.
        numbers = sorted(rows, key=lambda number: sum(len(rows[number][name]) for name in names))
        for start in range(0, len(numbers), TEXTS_A_CALL):
            asked = numbers[start : start + TEXTS_A_CALL]
            found = signature(**{name: tf.constant([rows[number][name] for number in asked]) for name in names})
            values = {name: plain(value.numpy()) for name, value in found.items()}
            for index, number in enumerate(asked):
                answers[number] = {name: value[index] for name, value in sorted(values.items())}
        return ScoredShard(shard.number, [answers[number] for number in sorted(answers)], bad_rows)


def parse(line: bytes, columns: Sequence[str]) -> tuple[dict[str, bytes], str]:
    """Return the texts of a line by column, and what is wrong with it."""
    fields = line.split(b"\t")
    if len(fields) != len(columns):
        return {}, f"expected {len(columns)} columns, found {len(fields)}"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, f"invalid UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}"
    return dict(zip(columns, fields, strict=True)), ""


def plain(values: np.ndarray) -> list[Any]:
    """Return an output as JSON holds it."""
    return [value.decode() for value in values] if values.dtype == object else values.tolist()


def read_lines(path: str, shard: Shard) -> Iterator[bytes]:
    """Yield the lines of a shard without their ends."""
    with FileSystems.open(path) as file:
        file.seek(shard.offset)
        for _ in range(shard.lines):
            yield file.readline().removesuffix(b"\n").removesuffix(b"\r")


def split(path: str, lines: int) -> tuple[list[Shard], str]:
    """Return the shards of a file, and its hash."""
    shards: list[Shard] = []
    digest = hashlib.sha256()
    offset, number, start, first = 0, 0, 0, 1
    with FileSystems.open(path) as file:
        while line := file.readline():
            digest.update(line)
            offset, number = offset + len(line), number + 1
            if number - first + 1 == lines:
                shards.append(Shard(len(shards), start, first, lines))
                start, first = offset, number + 1
    if number >= first:
        shards.append(Shard(len(shards), start, first, number - first + 1))
    return shards, digest.hexdigest()


class WriteShard(beam.DoFn):
    """Writes the bad rows of a shard, then its answers: a shard whose answers are there is complete."""

    def __init__(self, output: str) -> None:
        """Take the output folder."""
        self._output = output

    def process(self, shard: ScoredShard) -> Iterator[str]:
        """Yield the file of the answers."""
        rows = "".join(f"{number}\t{reason}\n" for number, reason in shard.bad_rows)
        write(shard_path(self._output, shard.number, "bad_rows.tsv"), [rows.encode()])
        path = shard_path(self._output, shard.number, "answers.jsonl")
        write(path, (json.dumps(answer, ensure_ascii=False).encode() + b"\n" for answer in shard.answers))
        yield path


def shard_path(output: str, number: int, name: str) -> str:
    """Return where a shard's file is."""
    return FileSystems.join(output, "shards", f"{number:06d}.{name}")


def write(path: str, parts: Iterable[bytes]) -> None:
    """Write a file beside its place and rename it when it is complete."""
    temporary = f"{path}.{np.random.default_rng().integers(2**62):x}.tmp"
    with FileSystems.create(temporary, "application/octet-stream") as file:
        for part in parts:
            file.write(part)
    if FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([temporary], [path])


def content(paths: Iterable[str]) -> Iterator[bytes]:
    """Yield what files hold, one after the other."""
    for path in paths:
        with FileSystems.open(path) as file:
            while part := file.read(1 << 20):
                yield part


def remember(output: str, plan: dict[str, Any]) -> None:
    """Write down what is scored by what; end the program where the folder holds answers to something else."""
    path = FileSystems.join(output, "plan.json")
    if not FileSystems.exists(path):
        if not FileSystems.exists(FileSystems.join(output, "shards")):
            FileSystems.mkdirs(FileSystems.join(output, "shards"))
        write(path, [json.dumps(plan, indent=1).encode()])
    elif (found := json.loads(b"".join(content([path])))) != plan:
        other = ", ".join(name for name in plan if found.get(name) != plan[name])
        sys.exit(f"error: {output}: holds answers with another {other}; name another folder or remove this one")


def main() -> None:
    """Read the command line, score what has not been scored, put the shards together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--columns", help="names of the input's columns, separated by commas")
    parser.add_argument("--shard_lines", type=int, default=2000)
    ours = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    arguments = parser.parse_args(ours)
    with tf.io.gfile.GFile(f"{arguments.model}/assets/metadata.json") as file:
        tasks = json.load(file)["tasks"]
    if arguments.task not in tasks:
        parser.error(f"the model has no task {arguments.task!r}; it has {', '.join(tasks)}")
    columns = arguments.columns.split(",") if arguments.columns else tasks[arguments.task]["text"]
    if missing := [name for name in tasks[arguments.task]["text"] if name not in columns]:
        parser.error(f"--columns: {', '.join(missing)} must be among them")

    shards, digest = split(arguments.input, arguments.shard_lines)
    with tf.io.gfile.GFile(f"{arguments.model}/fingerprint.pb", "rb") as file:
        model = hashlib.sha256(file.read()).hexdigest()
    plan = {"input": digest, "model": model, "task": arguments.task, "columns": columns}
    remember(arguments.output, plan | {"shard_lines": arguments.shard_lines})
    answers = [shard_path(arguments.output, shard.number, "answers.jsonl") for shard in shards]
    bad_rows = [shard_path(arguments.output, shard.number, "bad_rows.tsv") for shard in shards]
    missing_shards = [shard for shard, path in zip(shards, answers, strict=True) if not FileSystems.exists(path)]
    print(f"{len(shards)} shards, {len(shards) - len(missing_shards)} of them there already")
    if missing_shards:
        handler = SavedModelHandler(arguments.model, arguments.task, arguments.input, columns)
        with beam.Pipeline(options=PipelineOptions(sys.argv[1 + len(ours) + 1 :])) as pipeline:
            (
                pipeline
                | beam.Create(missing_shards)
                | beam.Reshuffle()  # shards are shared out among the workers
                | RunInference(handler)
                | beam.ParDo(WriteShard(arguments.output))
            )
    write(FileSystems.join(arguments.output, "bad_rows.tsv"), content(bad_rows))
    write(FileSystems.join(arguments.output, "answers.jsonl"), content(answers))
    print(FileSystems.join(arguments.output, "answers.jsonl"))


if __name__ == "__main__":
    main()
