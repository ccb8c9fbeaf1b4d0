"""Writes a run as a SavedModel: `python -m mtdnn_tf.export --model_dir=DIR --output_dir=DIR --kind=text|ids`."""

from __future__ import annotations

from absl import flags

from mtdnn_tf import cli

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where version folders go. Default: export.output_dir, else served/<run>."
)
_KIND = flags.DEFINE_enum(
    "kind", None, ["text", "ids"], "text: raw strings in; ids: token ids in, loads anywhere. Default: export.kind."
)


def main() -> None:
    """Load the run, export it, say how to use it."""
    model_dir = cli.model_dir_from_flags()
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.runs import load_run
    from mtdnn_tf.serving.saved_model import export_run

    run = load_run(model_dir)
    kind = _KIND.value or run.config.export.kind
    path = export_run(
        run, _OUTPUT_DIR.value or run.config.export.output_dir or f"served/{model_dir.resolve().name}", kind
    )
    print(f"SavedModel ({kind}): {path}")
    print("next:")
    print(
        f"  saved_model_cli show --dir {path} --all"
        + ("   # in a process that imports tensorflow_text" if kind == "text" else "")
    )
    if kind == "text":
        print(f"  python -m mtdnn_tf.predict --saved_model={path} --task={run.tasks[0].name} --input=-")
    print("  export/README.md tells how to serve it")


if __name__ == "__main__":
    cli.run(main)
