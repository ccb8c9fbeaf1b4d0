"""One run from configuration to scores: sets up, trains or goes on, keeps the best, writes what people read."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.commands import changed, command_line, free_directory, is_command, setting
from mtdnn_tf.config import ExperimentConfig, OptimizerConfig, config_differences, config_to_dict, dump_config
from mtdnn_tf.data.inspection import facts_of
from mtdnn_tf.data.mixing import Mixture, build_mixture
from mtdnn_tf.errors import NotFiniteError, UserError
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.model_card import write_model_card
from mtdnn_tf.evaluation.predictions import write_predictions
from mtdnn_tf.evaluation.report import write_report, write_scores
from mtdnn_tf.evaluation.runs import (
    Run,
    build_run_model,
    find_weights,
    kept_encoder,
    read_run_config,
    vocabulary_now,
)
from mtdnn_tf.files import clear_leftovers, write_text_atomically
from mtdnn_tf.locks import LOCK_FILE, DirectoryLock
from mtdnn_tf.modeling.saving import write_description
from mtdnn_tf.plan_warnings import find_warnings, step_shares
from mtdnn_tf.provenance import header
from mtdnn_tf.resuming import restore, take_over
from mtdnn_tf.run_files import (
    CARD_FILE,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    ENCODER_FILE,
    FILES,
    FOLDERS,
    LOGS_FOLDER,
    METRICS_FILE,
    PREDICTIONS_FOLDER,
    REPORT_FILE,
    SCORES_FILE,
    SKIPPED_FILE,
    TASKS_FILE,
    VOCABULARY_FILE,
)
from mtdnn_tf.task_types import DOCUMENT_TYPES
from mtdnn_tf.tasks import TaskSpec, dump_tasks
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.callbacks import Keeper, MetricsLog, StepLog, check_best_metric, is_patience_spent
from mtdnn_tf.training.distribution import Distribution, build_distribution
from mtdnn_tf.training.event_files import EventFiles
from mtdnn_tf.training.optimizers import build_optimizer
from mtdnn_tf.training.profiling import StepProfiler, Steps, check_steps
from mtdnn_tf.training.stopping import StopSignals
from mtdnn_tf.training.trainer import MultiTaskTrainer, updates_per_epoch


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    run: Run
    scores: dict[str, Any]
    mixture: Mixture
    seconds: float  # of training, in this process
    is_chief: bool = True  # False: another worker wrote the run directory


def prepare_runtime(config: ExperimentConfig) -> None:
    """Set seeds, precision and determinism of this process.

    Raises:
        UserError: float16 on several devices.
    """
    runtime = config.runtime
    if runtime.precision == "mixed_float16" and runtime.strategy != "none":
        raise UserError(
            f"runtime.precision: 'mixed_float16' is not supported by this version on several devices (runtime.strategy: "
            f"{runtime.strategy}): its loss scale lives on one; use 'mixed_bfloat16' or 'float32'"
        )
    keras.config.set_dtype_policy(runtime.precision)
    keras.utils.set_random_seed(config.training.seed)
    if runtime.deterministic:
        tf.config.experimental.enable_op_determinism()
        # Grappler rewrites the same graph differently from process to process; without it runs agree bit for bit.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def prepare_directory(
    config: ExperimentConfig, model_dir: Path, fresh: bool, lock: DirectoryLock, command: str = ""
) -> None:
    """Make the run directory and lock it, or check that the one there belongs to the same configuration.

    What killed processes left half-written is cleared. `command` is what runs, for the advice of a refusal.

    Raises:
        UserError: it holds another configuration (the keys are named), is a folder of something else, or another process
            trains in it.
    """
    if model_dir.exists() and not (model_dir / CONFIG_FILE).is_file() and not _holds_nothing_else(model_dir):
        raise UserError(f"{model_dir}: is there, but is no run directory; name another --model_dir")
    lock.acquire()
    clear_leftovers(model_dir, "|".join(map(re.escape, (*FILES, *FOLDERS))))
    clear_leftovers(model_dir / CHECKPOINTS_FOLDER, r"step-\d+")
    if (model_dir / CONFIG_FILE).is_file():
        if fresh:
            _clear(model_dir)
        else:
            _refuse_other_config(config, model_dir, command)
    write_text_atomically(model_dir / CONFIG_FILE, header(config) + dump_config(config))


def _holds_nothing_else(model_dir: Path) -> bool:
    """Return whether a folder without configuration is empty but for what a run killed at its start leaves."""
    return model_dir.is_dir() and all(
        path.name == LOCK_FILE or path.name.startswith(f".{CONFIG_FILE}.") for path in model_dir.iterdir()
    )


def _refuse_other_config(config: ExperimentConfig, model_dir: Path, command: str) -> None:
    old = read_run_config(model_dir)
    differences = config_differences(old, config)
    if not differences:
        return
    advice = "Name another --model_dir, or start this one over with --fresh"
    if (model_dir / SCORES_FILE).is_file():
        more = config.training.epochs - old.training.epochs
        epochs = more if more > 0 and len(differences) == 1 else config.training.epochs
        finished = "The run is finished: its learning rate has followed its schedule to the end"
        advice = f"{finished}. {_advice_to_go_further(model_dir, epochs, command)}. {advice}"
    elif command:
        module = shlex.split(command)[2].removeprefix("mtdnn_tf.")  # train or pretrain
        resumed = command_line(module, f"--config={model_dir / CONFIG_FILE}", f"--model_dir={model_dir}")
        advice = f"To resume it as it was: `{resumed}`. {advice}"
    raise UserError(f"{model_dir}: holds a run of another configuration: {'; '.join(differences)}. {advice}")


def _advice_to_go_further(model_dir: Path, epochs: int, command: str) -> str:
    """Say how a finished run's model is trained for so many more epochs.

    Not by more epochs of the same run: its learning rate followed a schedule over its own number of steps. What a longer run of that
    configuration would have been it can no longer become, and its configuration and hash would claim that it had.
    """
    how = (
        f"`{_new_run_from(model_dir, command, setting('training.epochs', epochs))}`"
        if command
        else f"set training.init_from to {model_dir} and train in another directory"
    )
    return f"To train its best model for {epochs} more epoch{'' if epochs == 1 else 's'} with a new schedule: {how}"


def _new_run_from(model_dir: Path, command: str, *arguments: str) -> str:
    """Return the command that starts from a run's weights in a new directory beside it."""
    start = setting("training.init_from", model_dir)
    return changed(command, start, *arguments, f"--model_dir={free_directory(model_dir)}", without=["fresh"])


def _clear(model_dir: Path) -> None:
    for name in FOLDERS:
        shutil.rmtree(model_dir / name, ignore_errors=True)
    for name in reversed(FILES):  # the configuration goes last: until then this is a run directory
        (model_dir / name).unlink(missing_ok=True)


def run_experiment(
    config: ExperimentConfig,
    model_dir: str | Path,
    *,
    fresh: bool = False,
    command: str = "",
    verbose: int | str = "auto",
    profile: Steps | None = None,
) -> Outcome:
    """Train a configuration in a run directory, from the start or from where it was cut off, and score the best model.

    Of several workers (`runtime.strategy: multi_worker`) only the chief touches the directory: the others need not see it.

    Args:
        config: the experiment.
        model_dir: the run directory; see WORKSPACE.md for its layout.
        fresh: throw away what the directory holds of a run.
        command: how the run was started, for the report.
        verbose: as in `MultiTaskTrainer.fit`.
        profile: the first and the last step, from 1, of which a profiler's trace is written into logs/.

    Raises:
        UserError: bad configuration, data, weights, directory or devices, or numbers that are not finite while training.
        Interrupted: SIGTERM or SIGINT came while training, in the main thread; a checkpoint was saved first. The handlers that
            were there before are back.
    """
    model_dir = Path(model_dir)
    if config.runtime.strategy == "tpu" and config.data.bucketing != "length":
        raise UserError(
            f"runtime.strategy: 'tpu' needs batches of few lengths: set data.bucketing to 'length'. Received: {config.data.bucketing!r}"
        )
    distribution = build_distribution(config.runtime.strategy)
    prepare_runtime(config)
    with DirectoryLock(model_dir) as lock:
        # An old run's is taken at once, before the minutes that the data may take.
        distribution.on_chief(lambda: lock.acquire() if (model_dir / CONFIG_FILE).is_file() else None)
        run, mixture, scorer, trainer = _assemble(config, model_dir, distribution, fresh)
        if profile:
            check_steps(profile, _total_updates(config, mixture))
        distribution.on_chief(lambda: take_over(run, fresh))
        shell = command if is_command(command) else ""  # what advice can be made of
        distribution.on_chief(lambda: _open_directory(run, mixture, scorer, fresh, lock, shell))

        started = time.perf_counter()
        try:
            with StopSignals() as stop:
                _train(run, mixture, scorer, trainer, verbose, profile, stop, shell)
        except NotFiniteError as error:
            if not distribution.is_chief:
                raise
            raise UserError(f"{error}. {_advice_after_divergence(run, shell)}") from error
        seconds = time.perf_counter() - started

        scores = _best_scores(run, scorer, distribution)
        if distribution.is_chief:
            write_scores(model_dir / SCORES_FILE, "dev", scores)
            write_predictions(model_dir / PREDICTIONS_FOLDER, scorer, "dev")
            write_pages(run, mixture, scores, command)
        return Outcome(run, scores, mixture, seconds, distribution.is_chief)


def write_pages(
    run: Run,
    mixture: Mixture,
    scores: Mapping[str, Any],
    command: str,
    beside: Sequence[tuple[str, str, float]] = (),
) -> None:
    """Write report and model card; where one of them fails, a trained run is not lost: a line on standard error says so."""
    pages: dict[str, Callable[[], Any]] = {
        REPORT_FILE: lambda: write_report(run, mixture, scores, command=command, beside=beside),
        CARD_FILE: lambda: write_model_card(run, mixture, scores, command=command),
    }
    for name, write in pages.items():
        try:
            write()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"warning: {run.model_dir / name}: could not be written ({reason}); the run is complete: its scores are in "
                f"{run.model_dir / SCORES_FILE}, its best model in {find_weights(run.model_dir)}",
                file=sys.stderr,
                flush=True,
            )


def _advice_after_divergence(run: Run, command: str) -> str:
    """Say which checkpoint a run holds whose numbers are no longer finite, and how to go on."""
    optimizer, model_dir = run.config.optimizer, run.model_dir
    lower = min(optimizer.learning_rate / 10, OptimizerConfig.learning_rate)
    changes = [setting("optimizer.learning_rate", lower)]
    if optimizer.clip_norm == 0:
        changes.append(setting("optimizer.clip_norm", OptimizerConfig.clip_norm))
    saved = checkpoints.latest(model_dir / CHECKPOINTS_FOLDER)
    over = f"`{changed(command, *changes, '--fresh')}`" if command else f"with {' '.join(changes)} and fresh=True"
    if saved is None:
        return f"No checkpoint was saved. To start over with a lower rate: {over}"
    state = checkpoints.read_state(saved)
    onward = (
        f"`{_new_run_from(model_dir, command, *changes)}`"
        if command
        else f"with {' '.join(changes)} in another directory"
    )
    return (
        f"The last checkpoint is {saved} (epoch {state.epoch + 1}, step {state.step}); resumed as it is, the run takes the same "
        f"steps again. To continue from {find_weights(model_dir)} with a lower rate: {onward}. To start over: {over}"
    )


def _assemble(
    config: ExperimentConfig, model_dir: Path, distribution: Distribution, fresh: bool
) -> tuple[Run, Mixture, SplitScorer, MultiTaskTrainer]:
    """Build model, data and trainer: everything that can be wrong with the input is found before the directory is touched.

    A run that has checkpoints needs the source of its encoder no more.
    """
    with distribution.scope():
        kept = None if fresh or not _has_checkpoints(model_dir) else kept_encoder(model_dir, config)
        model, tasks, encoder = build_run_model(config, kept)
    distribution.prepare_model(model)
    mixture = build_mixture(tasks, encoder, config)
    scorer = SplitScorer(model, tasks, encoder.tokenizer, config.data, distribution=distribution)
    if distribution.share[1] > 1:
        distribution.check_agreement(what_workers_share(config, tasks, mixture, scorer))
    check_best_metric(config.training.best_metric, [task for task, _ in scorer.splits])
    trainer = MultiTaskTrainer(model, tasks, distribution)
    compile_trainer(trainer, config, mixture)
    return Run(model, tasks, encoder, config, model_dir), mixture, scorer, trainer


def _open_directory(
    run: Run, mixture: Mixture, scorer: SplitScorer, fresh: bool, lock: DirectoryLock, command: str
) -> None:
    prepare_directory(run.config, run.model_dir, fresh, lock, command)
    resumes = _has_checkpoints(run.model_dir)
    if resumes:
        _refuse_other_words(run)
    write_description(run.encoder, run.model_dir / ENCODER_FILE, run.model_dir / VOCABULARY_FILE)
    write_text_atomically(run.model_dir / TASKS_FILE, dump_tasks(run.tasks))
    _tell_skipped(run.model_dir / SKIPPED_FILE, mixture, scorer)
    if not resumes:  # a run that resumes has said it
        _warn_of_data(run.tasks, mixture, scorer)


def _warn_of_data(tasks: Sequence[TaskSpec], mixture: Mixture, scorer: SplitScorer) -> None:
    """Print what a plan would warn of, as far as the tokenised splits tell it; rows left out are reported on their own."""
    splits = [("train", split) for split in mixture.tokenized.values()]
    splits += [(scorer.split, split) for _, split in scorer.splits]
    facts = [facts_of(*each) for each in splits if each[1].task.type not in DOCUMENT_TYPES]
    for warning in find_warnings(tasks, facts, step_shares(mixture)):
        if warning.kind != "skipped":
            print(f"warning: {warning.message}", file=sys.stderr, flush=True)


def _has_checkpoints(model_dir: Path) -> bool:
    return bool(checkpoints.steps_saved(model_dir / CHECKPOINTS_FOLDER))


def _refuse_other_words(run: Run) -> None:
    """Make sure that the words of an encoder that reads words are still those that the run was begun with."""
    words = vocabulary_now(run.config, run.tasks)
    if words is not None and tuple(words) != run.encoder.tokenizer.vocab:
        raise UserError(
            f"{run.model_dir / VOCABULARY_FILE}: the texts, or the run that this one started from, hold other words now than when it "
            "began; put them back, or start over with --fresh"
        )


def what_workers_share(
    config: ExperimentConfig, tasks: Iterable[TaskSpec], mixture: Mixture, scorer: SplitScorer
) -> dict[str, str]:
    """Return hashes of what decides every step: paths may differ from machine to machine, what they hold may not.

    Args:
        config: the experiment; of `encoder` only the dropout is compared, of `data` neither folders nor service, and not
            `training.init_from`, whose weights the chief alone reads.
        tasks: as completed, compared but for their sources.
        mixture: the training rows.
        scorer: the development rows.
    """
    plain = config_to_dict(config)
    sections = {name: plain.get(name) for name in ("mixing", "model", "optimizer", "runtime")}
    for section, own in (("data", ("root", "cache_dir", "service")), ("training", ("init_from",))):
        sections[section] = {name: value for name, value in plain.get(section, {}).items() if name not in own}
    sections["encoder"] = {"dropout": config.encoder.dropout}
    sections["tasks"] = [asdict(replace(task, sources={})) for task in tasks]
    rows = hashlib.sha256()
    for split in [*mixture.tokenized.values(), *(split for _, split in scorer.splits)]:
        for array in (split.token_ids, split.row_splits, split.labels):
            rows.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return {
        "configuration": hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest(),
        "data": rows.hexdigest(),
    }


def _tell_skipped(path: Path, mixture: Mixture, scorer: SplitScorer) -> None:
    """Say how many rows were dropped on purpose (`on_error: skip`), and list them in a file."""
    splits = [(f"{name}.train", split) for name, split in mixture.tokenized.items()]
    splits += [(f"{task.name}.{scorer.split}", split) for task, split in scorer.splits]
    lines = [f"{name}\t{message}" for name, split in splits for message in split.skipped]
    path.unlink(missing_ok=True)
    if lines:
        write_text_atomically(path, "\n".join(lines) + "\n")
        counts = ", ".join(f"{name} {len(split.skipped)}" for name, split in splits if split.skipped)
        print(f"rows left out because of on_error: skip: {counts}; listed in {path}", flush=True)


def _train(
    run: Run,
    mixture: Mixture,
    scorer: SplitScorer,
    trainer: MultiTaskTrainer,
    verbose: int | str,
    profile: Steps | None,
    stop: StopSignals,
    command: str,
) -> None:
    training, distribution = run.config.training, trainer.distribution
    state = _restore_from_chief(run, trainer)
    if state is not None and (
        state.epoch >= training.epochs or is_patience_spent(training.patience, state.stale_epochs)
    ):
        if distribution.is_chief:
            advice = _advice_to_go_further(run.model_dir, training.epochs, command)
            print(f"{run.model_dir}: this run is already trained; nothing is repeated. {advice}", flush=True)
        return
    writes = distribution.is_chief
    log = MetricsLog(run.model_dir / METRICS_FILE if writes else None, state.metrics_lines if state else 0)
    logs = run.model_dir / LOGS_FOLDER
    events = EventFiles(logs if writes else None)
    profilers = [StepProfiler(trainer, logs, profile)] if profile and writes else []
    lines = writes and not sys.stdout.isatty() and verbose != 0
    step_log = StepLog(trainer, mixture, log, events, training.log_every, lines)
    if state is not None:
        step_log.means.restore(state.log_means)
    keeper = Keeper(
        trainer,
        run.tasks,
        run.model_dir,
        scorer,
        training.best_metric,
        step_log,
        training.checkpoint_every,
        training.keep_checkpoints,
        training.score_every,
        training.patience,
        state,
        stop,
        writes,
        f"to resume: `{changed(command, without=['fresh'])}`" if command else "the same call resumes from there",
    )
    start = (state.epoch, state.step) if state else (0, 0)
    try:
        trainer.fit(mixture, training.epochs, [*profilers, step_log, keeper], start, verbose if writes else 0)
    finally:
        events.close()
        for profiler in profilers:
            profiler.close()


def _total_updates(config: ExperimentConfig, mixture: Mixture) -> int:
    return config.training.epochs * updates_per_epoch(mixture, config.training.accumulate)


def compile_trainer(trainer: MultiTaskTrainer, config: ExperimentConfig, mixture: Mixture) -> None:
    """Set up a trainer as `optimizer` and `training` of a configuration say.

    Raises:
        UserError: an unknown optimizer, schedule or rule, or options that do not go together.
    """
    if _total_updates(config, mixture) == 1 and config.optimizer.warmup:
        print(
            "warning: this run is one update, and a warm-up starts at rate 0: nothing is learned; set optimizer.warmup to 0, or train "
            "for more epochs",
            file=sys.stderr,
            flush=True,
        )
    trainer.weigh_classes(mixture)
    with trainer.distribution.scope():
        optimizer = build_optimizer(config.optimizer, _total_updates(config, mixture))
    trainer.compile(optimizer, config=config)


def _best_scores(run: Run, scorer: SplitScorer, distribution: Distribution) -> dict[str, Any]:
    """Load the best model, and score it unless it is the one that the last epoch ended with, scored a moment ago."""

    def load() -> bool:
        best = find_weights(run.model_dir)
        checkpoints.load_model(best, run.model, run.tasks)
        return scorer.scores is None or checkpoints.read_state(best).epoch != run.config.training.epochs

    is_stale = distribution.on_chief(load)
    distribution.copy_from_chief([variable.value for variable in run.model.variables])
    if is_stale or scorer.scores is None:
        return scorer()
    return scorer.scores


def _restore_from_chief(run: Run, trainer: MultiTaskTrainer) -> checkpoints.State | None:
    """Restore on the chief, and give every worker what it found."""
    distribution = trainer.distribution

    def found_by_chief() -> dict[str, Any] | None:
        found = restore(run, trainer)
        return asdict(found) if found else None

    state = distribution.on_chief(found_by_chief)
    distribution.copy_from_chief([variable for part in trainer.parts().values() for variable in part.values()])
    if state is None:
        return None
    if not distribution.is_chief:
        trainer.weighting.restore(state["loss_weighting"])
        trainer.epoch_means.restore(state["epoch_means"])
    return checkpoints.State(**state)
