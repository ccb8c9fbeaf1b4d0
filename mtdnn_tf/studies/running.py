"""Trains what of a plan remains, each run in a process of its own: memory, devices and seeds start afresh."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from mtdnn_tf.config import dump_config
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import header
from mtdnn_tf.run_files import BEST_FOLDER, CHECKPOINTS_FOLDER, CONFIG_FILE, OUTPUT_FILE
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.processes import Processes, take_share_of_cpus
from mtdnn_tf.studies.progress import (
    CUT_OFF,
    FINISHED,
    Ledger,
    answered_files,
    file_hashes,
    fingerprint,
    is_scored,
    is_trained,
    needs_start,
    refuse_lost_weights,
    refuse_other_start,
    remaining,
    states_of,
    summary,
)

Runner = Callable[[Sequence[str]], None]
"""Runs `python -m` with these words; raises `UserError` where that fails."""

KEEP = ("all", "best", "results")
_LOOK_EVERY = 0.1  # seconds


def run_all(
    runs: Sequence[PlannedRun],
    root: Path,
    *,
    split: str = "dev",
    keep: str = "all",
    wanted: Sequence[PlannedRun] | None = None,
    jobs: int = 1,
    runner: Runner | None = None,
) -> dict[str, str]:
    """Train the runs that are not finished; finished ones are not touched.

    Args:
        runs: of `plan_runs`, all of the study or recipe.
        root: their common folder; it keeps `ledger.json`.
        split: what scored runs are scored on.
        keep: of finished runs: `all`; `best`, no checkpoints to go on from; `results`, no weights either, but those that other
            runs start from.
        wanted: the runs to train now, with those that they build on; None: all.
        jobs: how many are trained at once, each on its share of the CPUs; of more than one, each run's output is in its `output.txt`.
        runner: how commands are run; None: in processes of their own.

    Returns:
        The state of every run by name.

    Raises:
        UserError: a run of another configuration, of other data or from other weights is in the way, or one without the weights that
            others start from (before anything is trained), or a run failed; others that are at work have saved where they stand.
        Interrupted: a signal came; the runs at work have saved where they stand.
    """
    ledger = Ledger(root)
    states = states_of(runs, ledger, split)
    chosen = with_ancestors(runs, runs if wanted is None else wanted)
    refuse_lost_weights(chosen, states)
    print(summary(chosen, states, ledger, jobs), flush=True)
    parents = {run.parent.name for run in runs if run.parent}
    with Processes() as processes:
        work = _Work(ledger, states, split, keep, parents, {run.name: n for n, run in enumerate(chosen, 1)})
        if jobs == 1:
            for run in chosen:
                work.one(run, runner or processes.run)
        else:
            _several_at_once(work, chosen, jobs, processes)
    return states


@dataclass
class _Work:
    ledger: Ledger
    states: dict[str, str]
    split: str
    keep: str
    parents: set[str]
    numbers: Mapping[str, int]  # of the chosen runs, from 1

    def one(self, run: PlannedRun, runner: Runner) -> bool:
        """Train a run, if it is not finished, and return whether that was to be done."""
        refuse_other_start(run, self.states, self.ledger)  # the run before may have been trained again just now
        if self.states[run.name] == FINISHED:
            return False
        goes_on = ", goes on" if self.states[run.name] == CUT_OFF else ""
        print(f"\n== run {self.numbers[run.name]} of {len(self.numbers)}: {run.name}{goes_on}", flush=True)
        is_parent = run.name in self.parents
        _train(run, self.ledger, self.split, runner, is_parent)
        self.states[run.name] = FINISHED
        _clear(run, self.keep, is_parent)
        return True


def _several_at_once(work: _Work, chosen: Sequence[PlannedRun], jobs: int, processes: Processes) -> None:
    """Train runs as soon as a share of the CPUs is free and what they start from is finished; first those that others start from."""
    waiting, at_work = sorted(chosen, key=lambda run: run.name not in work.parents), dict[Future[bool], PlannedRun]()
    shares = iter(range(jobs))
    lock = threading.Lock()

    def take_share() -> None:
        with lock:
            take_share_of_cpus(next(shares), jobs)

    def train(run: PlannedRun) -> bool:
        return work.one(run, lambda words: processes.run(words, run.directory / OUTPUT_FILE))

    failed: BaseException | None = None
    with ThreadPoolExecutor(jobs, initializer=take_share) as pool:
        while at_work or (waiting and not failed):
            ready = [run for run in waiting if run.parent is None or work.states[run.parent.name] == FINISHED]
            for run in ready[: 0 if failed else jobs - len(at_work)]:
                waiting.remove(run)
                at_work[pool.submit(train, run)] = run
            for future in wait(at_work, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED).done:
                run = at_work.pop(future)
                if error := future.exception():
                    failed = failed or error
                    processes.stop()
                elif future.result():
                    left = remaining(chosen, work.states, work.ledger, jobs)
                    print(f"== finished: {run.name}; {left}", flush=True)
    if failed:
        raise failed


def with_ancestors(runs: Sequence[PlannedRun], wanted: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return some runs with those that they build on, in the order of the plan."""
    names = {run.name for run in wanted}
    names |= {ancestor.name for run in wanted for ancestor in run.ancestors}
    return [run for run in runs if run.name in names]


def _train(run: PlannedRun, ledger: Ledger, split: str, runner: Runner, is_parent: bool) -> None:
    """Train a run, or go on with it, and score it on a split other than dev; one that lacks only that is not trained again."""
    write_text_atomically(run.directory / CONFIG_FILE, header(run.config) + dump_config(run.config))
    record = ledger[run.name]
    if needs_start(run):
        started_from = fingerprint(run.parent.directory) if run.parent else ""
        record = replace(record, started_from=started_from, data=file_hashes(run))
    ledger.write(run.name, record)
    try:
        with ledger.at_work(run.name):
            if not is_trained(run, is_parent):
                for name in answered_files(run, split):  # of an earlier model
                    (run.directory / name).unlink(missing_ok=True)
                runner(run.command)
            if not is_scored(run, split):
                attention = ["--task_attention"] if run.stage.options.task_attention else []
                runner(["mtdnn_tf.evaluate", f"--model_dir={run.directory}", f"--split={split}", *attention])
    except UserError as error:
        raise UserError(f"{run.stage.where}: {run.name}: {error}") from error


def _clear(run: PlannedRun, keep: str, is_parent: bool) -> None:
    """Take away what of a finished run is not to be kept."""
    removed: Mapping[str, tuple[str, ...]] = {
        "all": (),
        "best": (CHECKPOINTS_FOLDER,),
        "results": (CHECKPOINTS_FOLDER, BEST_FOLDER),
    }
    for name in removed[keep]:
        if name != BEST_FOLDER or not is_parent:
            shutil.rmtree(run.directory / name, ignore_errors=True)
