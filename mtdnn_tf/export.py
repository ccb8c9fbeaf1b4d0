"""Writes a run as a SavedModel: `python -m mtdnn_tf.export --model_dir=DIR --output_dir=DIR --kind=text|ids --check`."""

from __future__ import annotations

import shlex

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.config import EXPORT_KINDS, EXPORT_WEIGHTS

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where version folders go. Default: export.output_dir, else served/<run>."
)
_KIND = flags.DEFINE_enum(
    "kind", None, EXPORT_KINDS, "text: raw strings in; ids: token ids in, loads anywhere. Default: export.kind."
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    EXPORT_WEIGHTS,
    "How the encoder is stored: bfloat16 is half the size, and fast on CPUs that compute in it; int8 a quarter, for size alone. "
    "Default: export.weights.",
)
_FREEZE = flags.DEFINE_bool(
    "freeze",
    None,
    "Whether the encoder's kernels are constants of the graph: single short texts are answered sooner, each signature in use takes "
    "more memory. Default: export.freeze.",
)
_CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Before anything is published, loads the model in a process without this package, runs every signature and compares "
    "with the Keras model.",
)


def main() -> None:
    """Load the run, export it, say how to use it."""
    reason = "a run is exported as it was trained, in float32 or as --weights says"
    cli.refuse_flags(reason)
    model_dir = cli.run_from_flags(reason)
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.runs import load_run
    from mtdnn_tf.serving.fingerprint import read_fingerprint
    from mtdnn_tf.serving.saved_model import export_run
    from mtdnn_tf.serving.warmup import missing_warmup

    run = load_run(model_dir)
    kind = _KIND.value or run.config.export.kind
    output_dir = _OUTPUT_DIR.value or run.config.export.output_dir or f"served/{run.name}"
    weights = _WEIGHTS.value or run.config.export.weights
    freeze = run.config.export.freeze if _FREEZE.value is None else _FREEZE.value
    path = export_run(run, output_dir, kind, weights=weights, freeze=freeze, check=_CHECK.value)
    print(f"SavedModel ({kind}, {weights}{', frozen' if freeze else ''}): {path}")
    print(f"fingerprint: {read_fingerprint(path)}   # the same for every export of this run by these versions")
    if _CHECK.value:
        print("checked: in a process of its own, every signature answers as the Keras model does")
    if missing := missing_warmup(path):
        print(missing)
    print("next:")
    print(f"  {shlex.join(['saved_model_cli', 'show', '--dir', str(path), '--all'])}")
    if kind == "text":
        print(f"  {command_line('predict', f'--saved_model={path}', f'--task={run.tasks[0].name}', '--input=-')}")
    print("  export/README.md tells how to serve it")


if __name__ == "__main__":
    cli.run(main)
