"""Trains the tasks of a configuration together: `python -m mtdnn_tf.train --config=FILE`.

The same command goes on where a run was cut off. At the end it prints the development scores and where things are.
"""

from __future__ import annotations

import sys

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.errors import UserError
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import load_tasks

_FRESH = flags.DEFINE_bool("fresh", False, "Throws away the run that the directory holds, and starts over.")

_PROFILE = flags.DEFINE_string(
    "profile", None, "Writes a profiler's trace of these steps, as in --profile=10-20, into logs/ of the run directory."
)


def refuse_running_text(config: ExperimentConfig) -> None:
    """Refuse tasks that another command trains, which also keeps their encoder.

    Raises:
        UserError: all tasks are of running text; some of them beside others are refused when batches are mixed.
    """
    tasks = load_tasks(config)
    if all(task.type in DOCUMENT_TYPES for task in tasks):
        raise UserError(
            f"tasks.{tasks[0].name}: running text (type: {tasks[0].type}) is trained by `python -m mtdnn_tf.pretrain`, which "
            "writes the encoder for later runs; received `python -m mtdnn_tf.train`"
        )


def main() -> None:
    """Read the flags, run, say what came out."""
    config, model_dir = cli.config_from_flags(), cli.model_dir_from_flags()
    refuse_running_text(config)
    # TensorFlow takes seconds to import: not before the configuration is known to be good.
    cli.start_tensorflow()
    from mtdnn_tf.evaluation.report import score_table
    from mtdnn_tf.experiment import run_experiment
    from mtdnn_tf.training.profiling import parse_steps

    profile = parse_steps(_PROFILE.value) if _PROFILE.value is not None else None
    command = command_line("train", *sys.argv[1:])
    outcome = run_experiment(config, model_dir, fresh=_FRESH.value, command=command, profile=profile)
    if not outcome.is_chief:
        return
    print(f"\n{score_table(outcome.scores, outcome.run.tasks)}\n")
    print(f"run: {model_dir}  (report.html, MODEL_CARD.md, scores.json, best/, logs/ for TensorBoard)")
    run, task = f"--model_dir={model_dir}", outcome.run.tasks[0].name
    print("next:")
    print(f"  {command_line('predict', run, f'--task={task}', '--input=-')}")
    print(f"  {command_line('export', run, f'--output_dir=served/{model_dir.name}')}")


if __name__ == "__main__":
    cli.run(main)
