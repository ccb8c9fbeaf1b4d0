"""The runs that a run started from: their weights and their data are in it as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtdnn_tf.config import ExperimentConfig
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.runs import read_run_config
from mtdnn_tf.run_files import CONFIG_FILE, ENCODER_FOLDER
from mtdnn_tf.tasks import TaskSpec, load_tasks


@dataclass(frozen=True)
class EarlierRun:
    """A run that another one started from."""

    folder: Path
    taken: str  # what of it was taken over
    config: ExperimentConfig | None  # None: it can't be read any more
    tasks: tuple[TaskSpec, ...] = ()


def earlier_runs(config: ExperimentConfig) -> list[EarlierRun]:
    """Return the runs that a run of this configuration started from, directly and by others: the latest first."""
    found: list[EarlierRun] = []
    start = _start(config)
    while start is not None and start[0] not in [run.folder for run in found]:
        earlier = _opened(*start)
        found.append(earlier)
        start = None if earlier.config is None else _start(earlier.config)
    return found


def encoder_sources(config: ExperimentConfig, earlier: Sequence[EarlierRun]) -> list[str]:
    """Return the sources of all encoders whose weights went into a run, but for folders of those earlier runs."""
    sources = [config.encoder.source, *(run.config.encoder.source for run in earlier if run.config is not None)]
    own = {str(run.folder / ENCODER_FOLDER) for run in earlier}
    return [source for source in dict.fromkeys(sources) if str(Path(source).absolute()) not in own]


def _start(config: ExperimentConfig) -> tuple[Path, str] | None:
    """Return the run directory that a configuration names, and what is taken over from it."""
    if config.training.init_from is not None:
        heads = "and its heads" if config.training.init_heads == "kept" else "without its heads"
        return Path(config.training.init_from).absolute(), f"its encoder {heads}"
    source = Path(config.encoder.source).absolute()
    is_of_run = source.name == ENCODER_FOLDER and (source.parent / CONFIG_FILE).is_file()
    return (source.parent, "its encoder") if is_of_run else None


def _opened(folder: Path, taken: str) -> EarlierRun:
    try:
        config = read_run_config(folder)
        return EarlierRun(folder, taken, config, load_tasks(config))
    except UserError:
        return EarlierRun(folder, taken, None)
