"""A batch of a development set through the encoder: this project's two ways beside PyTorch, on the same weights and tokens.

Command: python -m tests.benchmarks.scoring [--models minilm,words] [--lengths 32,128] [--batch 64] [--repeats 7] [--json FILE]

"few operations" is what scores a run on a CPU, "layers" KerasHub's graph (`runtime.encoder: reference`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from transformers import BertModel

import mtdnn_tf as mtdnn
from mtdnn_tf.modeling.model import INPUTS
from tests.benchmarks.measuring import interleaved_seconds, machine, medians, parser, report, table
from tests.benchmarks.train_step import SOURCES, WORDS, batch_of, ints, weights_folder

Pass = Callable[[dict[str, np.ndarray]], Any]


def our_pass(model: str, policy: str, fast: bool) -> Pass:
    """Return this project's pass: few operations, or the layers."""
    keras.config.set_dtype_policy(policy)
    backbone = mtdnn.load_encoder(SOURCES[model], vocabulary=WORDS if model == "words" else None).backbone
    keras.config.set_dtype_policy("float32")
    backbone.fused = fast
    compiled = tf.function(lambda inputs: backbone(inputs, training=False)["pooled_output"])
    return lambda batch: compiled({name: tf.constant(batch[name]) for name in INPUTS}).numpy()


def torch_pass(autocast: bool) -> Pass:
    """Return PyTorch's pass, by transformers' BertModel."""
    model = BertModel.from_pretrained(weights_folder()).eval()

    def answer(batch: dict[str, np.ndarray]) -> Any:
        ids, types, mask = (
            torch.from_numpy(batch[name]).long() for name in ("token_ids", "segment_ids", "padding_mask")
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return model(input_ids=ids, token_type_ids=types, attention_mask=mask).pooler_output.float().numpy()

    return answer


def candidates(model: str) -> dict[str, Pass]:
    """Return the passes by name; PyTorch's library has no encoder on words to compare with."""
    found = {}
    for dtype, policy in {"float32": "float32", "bfloat16": "mixed_bfloat16"}.items():
        found[f"this project, few operations, {dtype}"] = our_pass(model, policy, True)
        found[f"this project, layers, {dtype}"] = our_pass(model, policy, False)
        if model == "minilm":
            found[f"PyTorch, {dtype}"] = torch_pass(dtype == "bfloat16")
    return found


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "")
    options.add_argument("--models", type=lambda text: text.split(","), default=["minilm", "words"])
    options.add_argument("--lengths", type=ints, default=(32, 128))
    options.add_argument("--batch", type=int, default=64)
    arguments = options.parse_args()
    torch.set_num_threads(machine()["cores"])
    print(machine())
    figures = []
    for model in arguments.models:
        passes = candidates(model)
        for length in arguments.lengths:
            batch = batch_of(length, rows=arguments.batch)
            calls = {name: (lambda run=run, batch=batch: run(batch)) for name, run in passes.items()}
            times = medians(interleaved_seconds(calls, arguments.repeats))
            rows = []
            for name, seconds in times.items():
                dtype = "bfloat16" if "bfloat16" in name else "float32"
                layers = times[f"this project, layers, {dtype}"]
                rows.append((name, 1000 * seconds, arguments.batch / seconds, layers / seconds))
            print(f"\n{model}, batch {arguments.batch}, length {length}; load average {machine()['load_average']}")
            print(table(("pass", "ms", "rows/s", "against layers"), rows), flush=True)
            figures.append({"model": model, "length": length, "seconds": times})
    report({"passes": figures}, arguments.json)


if __name__ == "__main__":
    main()
