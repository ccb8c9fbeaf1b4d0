"""What the entry points share: their common flags, and errors told in one line."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from absl import app, flags, logging

from mtdnn_tf.config import PRECISIONS, STRATEGIES, ExperimentConfig, load_config, select_tasks
from mtdnn_tf.errors import Interrupted, UserError
from mtdnn_tf.run_files import CONFIG_FILE
from mtdnn_tf.streams import resilient_streams

CHANGES = ("set", "tasks", "strategy", "precision", "seed", "deterministic")  # flags that change a configuration
FIXED = tuple(name for name in CHANGES if name != "precision")  # of a run that is opened again
PRECEDENCE = "Precedence: defaults < task files < include < file < --set from left to right < dedicated flags."

_CONFIG = flags.DEFINE_string("config", None, f"The experiment's YAML file. {PRECEDENCE}")
_TASK_FILES = flags.DEFINE_multi_string(
    "task_file",
    [],
    "A task-definition file of the original MT-DNN program and the folder of its data, as in "
    "--task_file=glue_task_def.yml:canonical_data (all it defines) or glue_task_def.yml:canonical_data:mnli,rte; may be repeated, "
    "and stand without --config.",
)
_SET = flags.DEFINE_multi_string("set", [], "Overrides one key, as in --set=training.epochs=1; may be repeated.")
MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "The run directory. Default for training: runs/<name of the config file, else of the first task file>.",
)
_TASKS = flags.DEFINE_list("tasks", None, "Only these tasks of the configuration, as in --tasks=rte,mrpc.")
_STRATEGY = flags.DEFINE_enum("strategy", None, STRATEGIES, "Sets runtime.strategy.")
_PRECISION = flags.DEFINE_enum("precision", None, PRECISIONS, "Sets runtime.precision.")
_SEED = flags.DEFINE_integer("seed", None, "Sets training.seed.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", None, "Sets runtime.deterministic.")
_DEBUG = flags.DEFINE_bool("debug", False, "Shows the traceback of an error.")


def config_from_flags() -> ExperimentConfig:
    """Return the configuration that --config, --set and the dedicated flags describe.

    Raises:
        UserError: there is neither --config nor --task_file, or one is bad.
    """
    if not has_config():
        raise UserError("--config is missing: name a YAML file, as in --config=configs/quickstart/quickstart.yaml")
    config = load_config(_CONFIG.value, overrides_from_flags(), _TASK_FILES.value)
    return select_tasks(config, _TASKS.value) if _TASKS.value else config


def refuse_flags(reason: str, names: Sequence[str] = CHANGES) -> None:
    """Refuse common flags that an entry point does not read.

    Raises:
        UserError: one of them is there.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: {reason}; remove the flag")


def tasks_from_flags() -> list[str] | None:
    """Return the names of --tasks, or None where it is missing."""
    names: list[str] | None = _TASKS.value
    return names


def overrides_from_flags() -> list[str]:
    """Return --set and the dedicated flags as overrides of a configuration, in rising precedence."""
    dedicated = {
        "runtime.strategy": _STRATEGY.value,
        "runtime.precision": _PRECISION.value,
        "training.seed": _SEED.value,
        "runtime.deterministic": _DETERMINISTIC.value,
    }
    return [*_SET.value, *(f"{key}={value}" for key, value in dedicated.items() if value is not None)]


def flags_of_config() -> list[str]:
    """Return the common flags of this command that another command takes to the same configuration and directory."""
    given = [flags.FLAGS[name] for name in ("config", "task_file", "model_dir", *CHANGES) if flags.FLAGS[name].present]
    return [word for flag in given for word in flag.serialize().split("\n")]


def file_of_several_runs(example: str) -> str:
    """Return --config of an entry point that trains several configurations.

    Raises:
        UserError: it is missing, or --task_file is there, which belongs to one configuration.
    """
    if _TASK_FILES.value:
        raise UserError("--task_file: belongs to one configuration; write `task_files:` into the file of the stage")
    if _CONFIG.value is None:
        raise UserError(f"--config is missing: name a YAML file, as in --config={example}")
    return str(_CONFIG.value)


def run_from_flags(reason: str) -> Path:
    """Return the directory of a run that is opened again; refuse a configuration beside it, which would not be read.

    Raises:
        UserError: it is missing, or there is a configuration, too.
    """
    if MODEL_DIR.value:
        refuse_flags(reason, ["config", "task_file"])
    return model_dir_from_flags()


def model_dir_from_flags() -> Path:
    """Return --model_dir, or runs/<name of the config file, or else of the first task file>.

    Raises:
        UserError: neither flag is there.
    """
    if MODEL_DIR.value:
        path = Path(MODEL_DIR.value)
        return path if path.name not in ("", "..") else path.resolve()  # its name names what is made of it
    if _CONFIG.value:
        return Path("runs") / Path(_CONFIG.value).stem
    if _TASK_FILES.value:
        return Path("runs") / Path(_TASK_FILES.value[0].partition(":")[0]).stem
    raise UserError("--model_dir is missing: name a run directory, as in --model_dir=runs/quickstart")


def has_config() -> bool:
    """Return whether the flags name a configuration, rather than a run that has one."""
    return _CONFIG.value is not None or bool(_TASK_FILES.value)


def tasks_config_from_flags() -> ExperimentConfig:
    """Return the configuration that names the tasks: of the flags, else of the run directory; of it --tasks only.

    Raises:
        UserError: there is none, or it is bad.
    """
    if has_config():
        return config_from_flags()
    from mtdnn_tf.evaluation.runs import read_run_config  # which imports TensorFlow

    refuse_flags("a run keeps its configuration", [name for name in CHANGES if name != "tasks"])
    config = read_run_config(model_dir_from_flags())
    return select_tasks(config, _TASKS.value) if _TASKS.value else config


@contextmanager
def sources_of_run(model_dir: Path) -> Iterator[None]:
    """Name the file to change in messages on the data of a run, whose configuration no flag changes."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error} (the sources of this run are in {model_dir / CONFIG_FILE}: change them there)"
        ) from error


def prepare_as_trained(model_dir: Path) -> None:
    """Set this process up to compute as a run's scores were computed, or in --precision.

    Raises:
        UserError: the directory is no run.
    """
    from mtdnn_tf.evaluation.runs import read_run_config  # which imports TensorFlow
    from mtdnn_tf.experiment import prepare_runtime

    config = read_run_config(model_dir)
    precision = _PRECISION.value or config.runtime.precision
    prepare_runtime(replace(config, runtime=replace(config.runtime, precision=precision, strategy="none")))


def start_tensorflow() -> None:
    """Import TensorFlow and look for devices without the pages of notes that its libraries print; `--debug` shows them.

    TF_CPP_MIN_LOG_LEVEL does not reach these notes: they are written before TensorFlow's own logging is set up. What fails is
    an exception, which is not hidden.
    """
    if _DEBUG.value:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf
            import tensorflow_text  # noqa: F401

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("WARNING")
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def run(main: Callable[[], None]) -> None:
    """Run an entry point under absl: an error becomes one line on standard error.

    The exit status is 1 after a `UserError` and where output was lost, and 128 + the signal's number after an interruption.
    """

    def wrapped(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # libraries' notes bury the one line that matters
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: every option is a flag, --name=value; see --help")
            main()
        except UserError as error:
            if _DEBUG.value:
                raise
            sys.exit(f"error: {error}")
        except Interrupted as stop:
            _leave(str(stop), stop.exit_status)
        except KeyboardInterrupt:
            _leave("interrupted", 128 + signal.SIGINT)  # training itself says what is saved: see `Interrupted`

    with resilient_streams():
        app.run(wrapped)


def _leave(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)
