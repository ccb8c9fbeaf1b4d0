"""Trains a chain of stages: `python -m mtdnn_tf.recipe --config=configs/recipes/X.yaml --model_dir=runs/X`.

Each stage has its own run directory, `<model_dir>/<stage>`, or `<model_dir>/<stage>/<task>` where it trains each task alone. The
same command goes on where it was cut off; finished stages are not touched. `--set` and the dedicated flags are for all stages;
`--tasks` restricts those that train each task alone.
"""

from __future__ import annotations

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.commands import command_line
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.studies.planned import Grid, plan_runs
from mtdnn_tf.studies.progress import Ledger, states_of, summary
from mtdnn_tf.studies.running import KEEP, run_all
from mtdnn_tf.studies.stages import read_body, read_stages, refuse_unknown_keys

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what remains to be trained, and trains nothing.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "So many runs are trained at once, each on its share of the CPUs.", lower_bound=1
)
_KEEP = flags.DEFINE_enum(
    "keep",
    "all",
    list(KEEP),
    "What stays of a finished run: all; best: no checkpoints; results: no weights that nothing starts from.",
)


def main() -> None:
    """Read the flags and the stages, train what remains, say where things are."""
    body = read_body(cli.file_of_several_runs("configs/recipes/mt_dnn_minilm.yaml"))
    refuse_unknown_keys(body, ("config", "set", "stages"))
    stages = read_stages(body, "stages")
    model_dir = cli.model_dir_from_flags()
    tasks = cli.tasks_from_flags()
    grid = Grid(tasks=tuple(tasks) if tasks else None)
    runs = plan_runs(stages, model_dir, overrides=cli.overrides_from_flags(), grid=grid)
    if _DRY_RUN.value:
        ledger = Ledger(model_dir)
        print(summary(runs, states_of(runs, ledger), ledger, _JOBS.value))
        return
    with DirectoryLock(model_dir) as lock:
        lock.acquire()
        run_all(runs, model_dir, keep=_KEEP.value, jobs=_JOBS.value)
    print("\nruns, each with report.html and scores.json:")
    for run in runs:
        print(f"  {run.directory}")
    words = [f"--model_dir={runs[-1].directory}", f"--output_dir=served/{model_dir.name}"]
    print(f"next:\n  {command_line('export', *words)}")


if __name__ == "__main__":
    cli.run(main)
