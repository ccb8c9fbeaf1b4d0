"""Pre-trains an encoder on running text: `python -m mtdnn_tf.pretrain --config=configs/pretraining/small.yaml`.

The same command goes on where a run was cut off. At the end it prints the scores beside the baseline, and where the encoder is.
"""

from __future__ import annotations

import sys

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.run_files import ENCODER_FOLDER

_FRESH = flags.DEFINE_bool("fresh", False, "Throws away the run that the directory holds, and starts over.")


def main() -> None:
    """Read the flags, run, say what came out."""
    config, model_dir = cli.config_from_flags(), cli.model_dir_from_flags()
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.report import score_table
    from mtdnn_tf.pretraining import run_pretraining

    command = command_line("pretrain", *sys.argv[1:])
    outcome, baseline = run_pretraining(config, model_dir, fresh=_FRESH.value, command=command)
    if not outcome.is_chief:
        return
    print(f"\n{score_table(outcome.scores, outcome.run.tasks)}")
    print(
        f"without context: masked_loss {baseline.masked_loss:.2f} (nats, training frequencies)  "
        f"next_accuracy {100 * baseline.next_accuracy:.2f}\n"
    )
    print(f"run: {model_dir}  (report.html, scores.json, baseline.json, best/ with heads)")
    print(f"encoder: {model_dir / ENCODER_FOLDER}  (Hugging Face layout, no heads)")
    encoder = f"--set=encoder.source={model_dir / ENCODER_FOLDER}"
    print(f"next:\n  {command_line('train', '--config=FILE', encoder)}")


if __name__ == "__main__":
    cli.run(main)
