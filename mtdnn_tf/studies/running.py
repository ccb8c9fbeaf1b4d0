"""Trains what of a plan remains, each run in a process of its own: memory, devices and seeds start afresh."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtdnn_tf.config import dump_config
from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import header
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.progress import (
    CUT_OFF,
    FINISHED,
    Ledger,
    fingerprint,
    is_trained,
    refuse_other_start,
    scores_file,
    states_of,
    summary,
)

Runner = Callable[[Sequence[str]], None]
"""Runs `python -m` with these words; raises `UserError` where that fails."""

KEEP = ("all", "best", "results")
_LOOK_EVERY = 0.1  # seconds
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_child(words: Sequence[str]) -> None:
    """Run `python -m` with these words, in the foreground; signals are passed on, so that it can save where it stands.

    Raises:
        UserError: it failed; it has said why itself.
        Interrupted: a signal stopped it.
    """
    received: list[int] = []
    handlers = {number: signal.signal(number, lambda got, _: received.append(got)) for number in _SIGNALS}
    try:
        # A session of its own: Ctrl-C reaches it from here, once.
        process = subprocess.Popen([sys.executable, "-m", *words], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status, asked = _wait(process, received)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked is not None:
        raise Interrupted(signal.Signals(asked), "stopped; the same command goes on")
    if status:
        said = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        raise UserError(
            f"python -m {' '.join(words)}: ended with {said}; what is finished is kept, the same command goes on"
        )


def _wait(process: subprocess.Popen[bytes], received: list[int]) -> tuple[int, int | None]:
    """Wait for a process; return its status, and the first signal that was passed on to it."""
    asked = None
    while (status := process.poll()) is None:
        if received:
            number = received.pop(0)
            process.send_signal(number)
            asked = asked or number
        time.sleep(_LOOK_EVERY)
    return status, asked or (received[0] if received else None)


def run_all(
    runs: Sequence[PlannedRun],
    root: Path,
    *,
    split: str = "dev",
    keep: str = "all",
    wanted: Sequence[PlannedRun] | None = None,
    runner: Runner = run_child,
) -> dict[str, str]:
    """Train the runs that are not finished, one after the other; finished ones are not touched.

    Args:
        runs: of `plan_runs`, all of the study or recipe.
        root: their common folder; it keeps `ledger.json`.
        split: what scored runs are scored on.
        keep: of finished runs: `all`; `best`, no checkpoints to go on from; `results`, no weights either, but those that other
            runs start from.
        wanted: the runs to train now, with those that they build on; None: all.
        runner: how commands are run.

    Returns:
        The state of every run by name.

    Raises:
        UserError: a run of another configuration is in the way (before anything is trained), or a run failed.
        Interrupted: a signal came; the run at work has saved where it stands.
    """
    ledger = Ledger(root)
    states = states_of(runs, ledger, split)
    chosen = with_ancestors(runs, runs if wanted is None else wanted)
    print(summary(chosen, states, ledger), flush=True)
    parents = {run.parent.name for run in runs if run.parent}
    for number, run in enumerate(chosen, 1):
        if states[run.name] == FINISHED:
            refuse_other_start(run, states, ledger)  # the run before may have been trained again just now
            continue
        goes_on = ", goes on" if states[run.name] == CUT_OFF else ""
        print(f"\n== run {number} of {len(chosen)}: {run.name}{goes_on}", flush=True)
        is_parent = run.name in parents
        _train(run, ledger, split, runner, is_parent)
        states |= {run.name: FINISHED}
        _clear(run, keep, is_parent)
    return states


def with_ancestors(runs: Sequence[PlannedRun], wanted: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return some runs with those that they build on, in the order of the plan."""
    names = {run.name for run in wanted}
    names |= {ancestor.name for run in wanted for ancestor in run.ancestors}
    return [run for run in runs if run.name in names]


def _train(run: PlannedRun, ledger: Ledger, split: str, runner: Runner, is_parent: bool) -> None:
    """Train a run, or go on with it, and score it on a split other than dev; one that lacks only that is not trained again."""
    write_text_atomically(run.directory / "config.yaml", header(run.config) + dump_config(run.config))
    record = ledger[run.name]
    if run.parent and not (run.directory / "metrics.jsonl").is_file():
        record = replace(record, started_from=fingerprint(run.parent.directory))
    ledger.write(run.name, record)
    started = time.monotonic()
    try:
        if not is_trained(run, is_parent):
            runner(run.command)
        if run.stage.options.scored and split != "dev" and not (run.directory / scores_file(split)).is_file():
            runner(["mtdnn_tf.evaluate", f"--model_dir={run.directory}", f"--split={split}"])
    except UserError as error:
        raise UserError(f"{run.stage.where}: {run.name}: {error}") from error
    finally:
        ledger.write(run.name, replace(record, seconds=record.seconds + time.monotonic() - started))


def _clear(run: PlannedRun, keep: str, is_parent: bool) -> None:
    """Take away what of a finished run is not to be kept."""
    removed: Mapping[str, tuple[str, ...]] = {"all": (), "best": ("checkpoints",), "results": ("checkpoints", "best")}
    for name in removed[keep]:
        if name != "best" or not is_parent:
            shutil.rmtree(run.directory / name, ignore_errors=True)
