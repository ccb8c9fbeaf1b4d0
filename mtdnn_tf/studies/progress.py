"""What of a plan is done: the state of each run's directory, what is known of it beside that, what remains and how long."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mtdnn_tf.config import config_differences, load_config
from mtdnn_tf.data.hashes import other_data, source_hashes
from mtdnn_tf.errors import UserError
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.run_files import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    SCORES_FILE,
    attention_files,
    split_scores_file,
)
from mtdnn_tf.studies.planned import PlannedRun
from mtdnn_tf.studies.stages import STAGE_KINDS
from mtdnn_tf.training.manifest import MANIFEST, DamagedCheckpointError, verify

FINISHED, CUT_OFF, TO_DO = "finished", "cut off", "to do"


@dataclass(frozen=True)
class Record:
    """What is known of a run beside its directory."""

    seconds: float = 0.0  # of all the processes that trained it, start-up and scoring included
    started_from: str = ""  # fingerprint of the weights of the run before
    data: Mapping[str, str] = field(default_factory=dict)  # `file_hashes` as it began; empty: not known


class Ledger:
    """The records of all runs below a root, in `ledger.json`."""

    def __init__(self, root: Path) -> None:
        """Read what is there.

        Raises:
            UserError: the file is damaged.
        """
        self._path = root / "ledger.json"
        self._lock = threading.Lock()  # several runs may be at work
        self._records: dict[str, Record] = {}
        self._began: dict[str, float] = {}  # of the runs at work
        if self._path.is_file():
            try:
                content = json.loads(self._path.read_text(encoding="utf-8"))
                self._records = {name: Record(**record) for name, record in content.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self._path}: damaged: {error}; remove it: what is finished is known without it"
                ) from None

    def __getitem__(self, name: str) -> Record:
        """Return what is known of a run, if only that nothing is."""
        return self._records.get(name, Record())

    def write(self, name: str, record: Record) -> None:
        """Keep a record of a run, on the disk."""
        with self._lock:
            self._records[name] = record
            plain = {known: asdict(kept) for known, kept in self._records.items()}
            write_text_atomically(self._path, json.dumps(plain, indent=1) + "\n")

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """Count the time until its end to what a run has taken."""
        self._began[name] = time.monotonic()
        try:
            yield
        finally:
            seconds = self.seconds(name)
            del self._began[name]
            self.write(name, replace(self[name], seconds=seconds))

    def seconds(self, name: str) -> float:
        """Return what a run has taken by now."""
        began = self._began.get(name)
        return self[name].seconds + (0.0 if began is None else time.monotonic() - began)


def fingerprint(directory: Path) -> str:
    """Return 12 hexadecimal digits of the weights that a run directory holds; empty where they were removed or never kept."""
    path = directory / BEST_FOLDER / MANIFEST
    if not path.is_file():
        return ""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "  weights" in line]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def file_hashes(run: PlannedRun) -> dict[str, str]:
    """Return the hashes of the files that a run reads examples from, as they are now; of those that TensorFlow is not needed to find."""
    return source_hashes(run.specs, with_datasets=False)


def states_of(runs: Sequence[PlannedRun], ledger: Ledger, split: str = "dev") -> dict[str, str]:
    """Return the state of every run by name.

    Args:
        runs: of `plan_runs`.
        ledger: of their root.
        split: what scored runs are scored on.

    Raises:
        UserError: a run was trained with another configuration, on other data, or from other weights than the run before it now
            has; the stage is named.
    """
    for run in runs:
        if is_begun(run):
            _refuse_other_config(run)
            _refuse_other_data(run, ledger)
    parents = {run.parent.name for run in runs if run.parent}
    needed: set[str] = set()  # runs whose weights those that are not finished start from
    states = {run.name: TO_DO for run in runs}
    for run in reversed(runs):  # those that start from a run come after it
        is_kept = run.name in parents and (run.directory / BEST_FOLDER).is_dir()
        # Without checkpoints nothing can make them again: what was scored is finished, and what needs them is refused.
        with_weights = (is_kept or run.name in needed) and _has_checkpoints(run)
        states[run.name] = _state(run, split, with_weights)
        if run.parent and states[run.name] != FINISHED and needs_start(run):
            needed.add(run.parent.name)
    for run in runs:
        refuse_other_start(run, states, ledger)
    return states


def is_begun(run: PlannedRun) -> bool:
    """Return whether a run's directory holds anything of its training: a checkpoint may be there before the first line of metrics."""
    return (run.directory / METRICS_FILE).is_file() or _has_checkpoints(run)


def _state(run: PlannedRun, split: str, with_weights: bool) -> str:
    if not is_begun(run):
        return TO_DO
    return FINISHED if is_scored(run, split) and is_trained(run, with_weights) else CUT_OFF


def _has_checkpoints(run: PlannedRun) -> bool:
    return any((run.directory / CHECKPOINTS_FOLDER).glob("step-*"))


def needs_start(run: PlannedRun) -> bool:
    """Return whether a run begins, or would begin anew, with the weights of the run before: nothing of its own is there to go on from."""
    return not _has_checkpoints(run) and not is_trained(run, with_weights=False)


def is_scored(run: PlannedRun, split: str) -> bool:
    """Return whether all is written that a run is asked on a split."""
    if not run.stage.options.scored:
        return True
    return all((run.directory / name).is_file() for name in (scores_file(split), *answered_files(run, split)))


def answered_files(run: PlannedRun, split: str) -> list[str]:
    """Return the names of the files that a run is to have besides what training writes: its answers to what it is asked on a split."""
    attention = [attention_files(split)[0]] if run.stage.options.task_attention else []
    return attention if split == "dev" else [scores_file(split), *attention]


def is_trained(run: PlannedRun, with_weights: bool) -> bool:
    """Return whether a run has written its last file and, where that matters, its best model is whole."""
    last = STAGE_KINDS[run.stage.options.kind].last_file
    if not all((run.directory / name).is_file() for name in (SCORES_FILE, last)):
        return False
    try:
        if with_weights:
            verify(run.directory / BEST_FOLDER)
    except DamagedCheckpointError:
        return False
    return True


def scores_file(split: str) -> str:
    """Return the name of the file that holds a run's scores on a split."""
    return SCORES_FILE if split == "dev" else split_scores_file(split)


def _refuse_other_config(run: PlannedRun) -> None:
    if not (run.directory / CONFIG_FILE).is_file():
        return
    differences = config_differences(load_config(run.directory / CONFIG_FILE), run.config)
    if differences:
        raise UserError(
            f"{run.stage.where}: {run.directory} was trained with another configuration: {'; '.join(differences)}. "
            "Name another folder for the changed one, or remove this run and those that start from it"
        )


def _refuse_other_data(run: PlannedRun, ledger: Ledger) -> None:
    known = ledger[run.name].data
    if known and (difference := other_data(known, file_hashes(run))):
        raise UserError(
            f"{run.stage.where}: {run.directory} was trained on other data: {difference}. Put the file back, name another folder for "
            "what is trained on the changed one, or remove this run and those that start from it"
        )


def refuse_other_start(run: PlannedRun, states: Mapping[str, str], ledger: Ledger) -> None:
    """Refuse a run that started from other weights than the finished run before it now has, and has gone on from there.

    Raises:
        UserError: it did; the stage is named.
    """
    started_from = ledger[run.name].started_from
    if run.parent is None or not started_from or needs_start(run) or states[run.parent.name] != FINISHED:
        return
    weights = fingerprint(run.parent.directory)
    if weights and weights != started_from:
        raise UserError(
            f"{run.stage.where}: {run.directory} started from other weights than {run.parent.directory} holds now; "
            "remove it, so that it is trained again, or put the other weights back"
        )


def refuse_lost_weights(runs: Sequence[PlannedRun], states: Mapping[str, str]) -> None:
    """Refuse runs that would have to start from weights which are gone; the run that had them is finished all the same.

    Raises:
        UserError: one of them would; the stage is named.
    """
    first = {run.parent.name: run for run in reversed(runs) if run.parent and needs_start(run)}
    for run in first.values():  # one for each of those before, whose weights are read as a whole
        if run.parent and states[run.parent.name] == FINISHED and not is_trained(run.parent, with_weights=True):
            raise UserError(
                f"{run.stage.where}: {run.name} starts from {run.parent.directory}, whose weights are gone or damaged: put them back, "
                "or remove that folder and those of the runs that started from it, so that they are trained again"
            )


def remaining(runs: Sequence[PlannedRun], states: Mapping[str, str], ledger: Ledger, jobs: int = 1) -> str:
    """Return how many runs remain, and how long they take where so many are trained at once."""
    left = [run for run in runs if states[run.name] != FINISHED]
    remains = f"{len(left)} of {len(runs)} runs remain" if left else f"all {len(runs)} runs are finished"
    return f"{remains}{_time_left(left, runs, states, ledger, jobs)}"


def summary(runs: Sequence[PlannedRun], states: Mapping[str, str], ledger: Ledger, jobs: int = 1) -> str:
    """Return what remains, and a line for each stage: how many of its runs are in which state."""
    by_stage: dict[str, Counter[str]] = {}
    for run in runs:
        by_stage.setdefault(run.stage.name, Counter())[states[run.name]] += 1
    width = max(map(len, by_stage))
    lines = [
        f"  {name.ljust(width)}  {', '.join(f'{counts[s]} {s}' for s in (FINISHED, CUT_OFF, TO_DO) if counts[s])}"
        for name, counts in by_stage.items()
    ]
    return "\n".join([remaining(runs, states, ledger, jobs), *lines])


def _time_left(
    left: Sequence[PlannedRun], runs: Sequence[PlannedRun], states: Mapping[str, str], ledger: Ledger, jobs: int
) -> str:
    if not left:
        return ""
    done = [run for run in runs if states[run.name] == FINISHED and ledger[run.name].seconds > 0]
    if not done:
        return "; how long they take is known after the first one (or by --plan)"
    each = [expected_seconds(run, done, ledger) for run in left]
    seconds = max(sum(each) / jobs, *each)  # no sooner than the longest of them
    return f", about {told_seconds(seconds)} by the {len(done)} that are finished"


def expected_seconds(run: PlannedRun, done: Sequence[PlannedRun], ledger: Ledger) -> float:
    """Return what a run should take by the most alike of those that are done, for as many tasks and epochs as it has.

    Another arm's run of the same task at the same point has as many rows; another point of the same arm has not. What the run has
    taken already is taken off.
    """
    alike = [
        [other for other in done if all(getattr(other, name) == getattr(run, name) for name in names)]
        for names in (("stage", "task", "x"), ("task", "x"), ("stage", "task"), ("stage",), ())
    ]
    nearest = next(found for found in alike if found)
    rate = sum(ledger[other.name].seconds for other in nearest) / sum(map(_task_epochs, nearest))
    return max(rate * _task_epochs(run) - ledger.seconds(run.name), 0.0)


def _task_epochs(run: PlannedRun) -> int:
    return len(run.specs) * run.config.training.epochs


def told_seconds(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
