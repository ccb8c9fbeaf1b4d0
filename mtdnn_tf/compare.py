"""Trains and compares the arms of a study: `python -m mtdnn_tf.compare --config=configs/studies/X.yaml --output_dir=runs/X`.

The same command goes on where it was cut off, and trains nothing twice; `--arms`, `--tasks` and `--seeds` train a part of it, and
another part later adds to it. results.json, report.html and table.md tell of all that is finished.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mtdnn_tf import cli
from mtdnn_tf.errors import UserError
from mtdnn_tf.locks import DirectoryLock
from mtdnn_tf.studies.archive import Archive
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.progress import FINISHED, Ledger, states_of, summary
from mtdnn_tf.studies.running import run_all, with_ancestors
from mtdnn_tf.studies.study import Study, read_study, restricted
from mtdnn_tf.studies.writing import write_study

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "The folder of runs and report. Default: runs/<name of the file>."
)
_ARMS = flags.DEFINE_list("arms", None, "Trains only these arms, and what they start from.")
_SEEDS = flags.DEFINE_list("seeds", None, "Trains only these seeds of the study.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Says what remains to be trained, and trains nothing.")
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "So many runs are trained at once, each on its share of the CPUs.",
    lower_bound=1,
)
_FINISHED = flags.DEFINE_string(
    "finished",
    None,
    "An archive (.zip) of finished runs without their weights, for going on with a study on another machine: what it holds is not "
    "trained again, and at the end it holds all that is finished.",
)
_PLAN = flags.DEFINE_bool("plan", False, "Takes a few real steps of every kind of run to estimate how long all take.")


def main() -> None:
    """Read the flags and the study, train what remains, write and show the tables."""
    cli.refuse_flags("a study has many runs; --output_dir names their folder", ["model_dir"])
    path = cli.file_of_several_runs("configs/studies/multi_against_single.yaml")
    study = read_study(path)
    split = study.options.split
    folder = Path(_OUTPUT_DIR.value or Path("runs") / Path(path).stem)
    runs = study.plan(folder, cli.overrides_from_flags())
    wanted = with_ancestors(runs, restricted(study, runs, _ARMS.value, cli.tasks_from_flags(), _seeds()))
    archive = Archive(_FINISHED.value, folder, Path(path)) if _FINISHED.value else None
    trains_nothing = _DRY_RUN.value or _PLAN.value
    with DirectoryLock(folder, "--output_dir") as lock:
        if archive or not trains_nothing:
            lock.acquire()
        if archive:
            restored = archive.restore(runs, Ledger(folder / "runs"), wanted)
            print(f"{archive.path}: {len(restored)} finished runs were put into {folder}", flush=True)
        if trains_nothing:
            ledger = Ledger(folder / "runs")
            states = states_of(runs, ledger, split)
            print(summary(wanted, states, ledger, _JOBS.value))
            if _PLAN.value:
                _plan([run for run in wanted if states[run.name] != FINISHED])
            return
        try:
            run_all(runs, folder / "runs", split=split, keep=study.options.keep, wanted=wanted, jobs=_JOBS.value)
        except BaseException:
            # What is finished is told whatever stopped the rest, and that is what the program ends with.
            try:
                _write(study, runs, folder, path, archive)
            except Exception as error:
                print(f"what is finished could not be told: {error}", file=sys.stderr)
            raise
        _write(study, runs, folder, path, archive)
    print(f"study: {folder}  (report.html, results.json, table.md; runs/ with a report of each)")


def _write(study: Study, runs: Sequence[PlannedRun], folder: Path, path: str, archive: Archive | None) -> None:
    """Write and show the tables of what is finished, and keep it in the archive."""
    ledger = Ledger(folder / "runs")
    states = states_of(runs, ledger, study.options.split)
    if study.options.without_train_rows:
        cli.start_tensorflow()  # which reading rows takes
    print(f"\n{write_study(study, runs, states, folder, _command(path, folder))}")
    if archive:
        count = archive.write(runs, states, ledger, study.options.split)
        print(f"{archive.path}: holds {count} finished runs")


def _command(path: str, folder: Path) -> str:
    """Return what makes all runs of the study, whichever were trained now."""
    words = [f"--config={path}", f"--output_dir={folder}", *(f"--set={each}" for each in cli.overrides_from_flags())]
    jobs = [f"--jobs={_JOBS.value}"] if _JOBS.value > 1 else []
    return shlex.join(["python", "-m", "mtdnn_tf.compare", *words, *jobs])


def _seeds() -> list[int] | None:
    if "training.seed" in "".join(cli.overrides_from_flags()):
        raise UserError(
            "--seed: a study has seeds of its own; restrict them with --seeds, or change `seeds` in its file"
        )
    if _SEEDS.value is None:
        return None
    if not all(seed.isdecimal() for seed in _SEEDS.value):
        raise UserError(f"--seeds: must be whole numbers, as in --seeds=2018,2019; received {','.join(_SEEDS.value)}")
    return [int(seed) for seed in _SEEDS.value]


def _plan(runs: list[PlannedRun]) -> None:
    """Print what one run of each kind takes by a few steps of it, and all of them together."""
    cli.start_tensorflow()
    import keras

    from mtdnn_tf.experiment import prepare_runtime
    from mtdnn_tf.planning import make_plan

    kinds: dict[tuple[object, ...], list[PlannedRun]] = {}
    for run in runs:
        kinds.setdefault((run.stage.name, run.task, run.x), []).append(run)
    total = 0.0
    for first, *others in kinds.values():
        prepare_runtime(first.config)
        minutes = make_plan(first.config)["minutes"]
        total += minutes * (1 + len(others))
        print(f"  {first.name}: {minutes:.1f} minutes; {1 + len(others)} runs", flush=True)
        keras.backend.clear_session()
    print(f"training, estimated: {total:.0f} minutes; start-up, scoring and saving not included")


if __name__ == "__main__":
    cli.run(main)
