"""Peak memory of training steps: this project's passes, recomputation, Keras and PyTorch, each in a process of its own.

Command: python -m tests.benchmarks.train_memory [--models minilm,base] [--length 128] [--json FILE]

What is printed is the largest resident set of the whole process, and that before its first step: libraries, weights and slots.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.measuring import machine, parser, report, table

VARIANTS = (
    "fused, float32",
    "fused, bfloat16",
    "fused, float32, recomputed",
    "fused, bfloat16, recomputed",
    "reference, float32",
    "reference, bfloat16",
    "Keras, float32",
    "Keras, bfloat16",
    "PyTorch, float32",
    "PyTorch, bfloat16",
)


def peak_bytes() -> int:
    """Return the largest resident set of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(variant: str, model: str, length: int, repeats: int) -> None:
    """Take steps of one variant and print its figures as JSON."""
    from tests.benchmarks import train_step  # TensorFlow and PyTorch, which the parent does not need

    source, batch = train_step.SOURCES[model], train_step.batch_of(length)
    precision = "mixed_bfloat16" if "bfloat16" in variant else "float32"
    if variant.startswith("PyTorch"):
        train_step.torch.set_num_threads(machine()["cores"])
        step = train_step.torch_step(source, precision != "float32")
    elif variant.startswith("Keras"):
        step = train_step.keras_step(source, precision)
    else:
        step = train_step.our_step(
            source, precision, variant.startswith("fused"), recompute=variant.endswith("recomputed")
        )
    before, seconds = peak_bytes(), []
    for _ in range(2 + repeats):
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"before": before, "peak": peak_bytes(), "seconds": statistics.median(seconds[2:])}))


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "")
    options.add_argument("--models", default="minilm,base")
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--variant", help="one of them, in this process; without: all, each in its own")
    arguments = options.parse_args()
    if arguments.variant:
        run(arguments.variant, arguments.models, arguments.length, arguments.repeats)
        return
    figures: dict[str, Any] = {}
    for model in arguments.models.split(","):
        rows = []
        for variant in VARIANTS:
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.train_memory",
                f"--variant={variant}",
                f"--models={model}",
            ]
            command += [f"--length={arguments.length}", f"--repeats={arguments.repeats}"]
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
            found = json.loads(answer.stdout.splitlines()[-1])
            figures[f"{model}, {variant}"] = found
            rows.append((variant, found["peak"] / 2**30, found["before"] / 2**30, 1000 * found["seconds"]))
        print(f"\n{model}, batch 32, length {arguments.length}; load average {machine()['load_average']}")
        print(table(("step", "peak GiB", "before the first step", "ms"), rows))
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
