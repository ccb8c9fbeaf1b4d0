"""Nine tasks of all four kinds of head, with ragged last batches; and a program that trains them and says what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.small import ROWS, TINY, YAML

NAMES = ("mood", "follows", "close", "pick")


def write_nine_tasks(folder: Path) -> Path:
    """Write the files; return the configuration's path."""
    names = [f"{name}{number}" for number in (1, 2) for name in NAMES] + ["mood3"]
    heads = {name: ROWS[name][0] for name in NAMES}
    for index, name in enumerate(names):
        rows = "\n".join(ROWS[name[:-1]][1]).split("\n")
        if not name.startswith("pick"):
            rows = rows[: len(rows) - index % 3]  # 12, 11 or 10 rows, or 9, 8, 7, in batches of 4
        (folder / f"{name}.tsv").write_text("\n".join([heads[name[:-1]], *rows]) + "\n", encoding="utf-8")
    opening, _, rest = YAML.format(encoder=TINY).partition("tasks:\n")
    tasks, _, closing = rest.partition("data:")
    blocks = _blocks(tasks)
    written = "".join(blocks[name[:-1]].replace(name[:-1], name) for name in names)
    path = folder / "nine.yaml"
    path.write_text(f"{opening}tasks:\n{written}data:{closing}", encoding="utf-8")
    return path


def _blocks(tasks: str) -> dict[str, str]:
    """Return the lines of each task."""
    blocks: dict[str, str] = {}
    for line in tasks.splitlines(keepends=True):
        if not line.startswith("    "):
            name = line.split(":")[0].strip()
        blocks[name] = blocks.get(name, "") + line
    return blocks


def main(config_path: str, model_dir: str, devices: str, *overrides: str) -> None:
    """Train in this process, whose CPU counts as so many devices; print the scores as one line of JSON."""
    import tensorflow as tf

    if int(devices) > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(devices)
        )
    import mtdnn_tf as mtdnn
    from mtdnn_tf.experiment import run_experiment

    outcome = run_experiment(mtdnn.load_config(config_path, overrides), model_dir, verbose=0)
    print(json.dumps(outcome.scores))


if __name__ == "__main__":
    main(*sys.argv[1:])
