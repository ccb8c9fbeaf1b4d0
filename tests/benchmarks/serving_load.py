"""How long a SavedModel takes to load, each time in a new process, and its size on disk beside the bytes of its weights.

Used by tests.benchmarks.serving; by itself, `python -m tests.benchmarks.serving_load FOLDER` times one load of a version folder.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.measuring import machine, table


def load_once(folder: str) -> dict[str, float]:
    """Load a version folder; return the seconds until it can be called, and of the first call of the encoder."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (ops of text models)

    started = time.perf_counter()
    loaded = tf.saved_model.load(folder)
    encode = loaded.signatures["encode"]
    seconds = time.perf_counter() - started
    inputs = {
        name: tf.constant(["one text"]) if spec.dtype == tf.string else tf.ones([1, 8], tf.int32)
        for name, spec in encode.structured_input_signature[1].items()
    }
    started = time.perf_counter()
    encode(**inputs)["pooled"].numpy()
    return {"load_seconds": seconds, "first_call_seconds": time.perf_counter() - started}


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of all files of a version folder, and of the variables in it."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    types, shapes = reader.get_variable_to_dtype_map(), reader.get_variable_to_shape_map()
    weights = sum(
        types[name].size * int(tf.TensorShape(shape).num_elements())
        for name, shape in shapes.items()
        if types[name] != tf.string  # the graph of objects
    )
    return {
        "disk_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "weight_bytes": weights,
    }


def measure_load(folders: dict[str, Path], repeats: int = 3) -> dict[str, dict[str, float]]:
    """Load each folder so many times, in turns, and print the medians."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in range(repeats):
        for name, folder in folders.items():
            command = [sys.executable, "-m", "tests.benchmarks.serving_load", str(folder)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
            seen[name].append(json.loads(answer.stdout.splitlines()[-1]))
    found: dict[str, dict[str, float]] = {}
    for name, loads in seen.items():
        medians = {key: statistics.median(load[key] for load in loads) for key in loads[0]}
        found[name] = medians | sizes(folders[name])
    rows = [
        (
            name,
            values["load_seconds"],
            values["first_call_seconds"],
            values["disk_bytes"] / 2**20,
            values["weight_bytes"] / 2**20,
            values["disk_bytes"] / values["weight_bytes"],
        )
        for name, values in found.items()
    ]
    print(f"\nLoading a model of nine heads; load average {machine()['load_average']}")
    print(table(("model", "load s", "first call s", "disk MiB", "weights MiB", "disk / weights"), rows))
    return found


if __name__ == "__main__":
    print(json.dumps(load_once(sys.argv[1])))
