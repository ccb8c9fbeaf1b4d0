"""One run from configuration to scores: sets up, trains or goes on, keeps the best, writes what people read."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtdnn_tf.config import ExperimentConfig, config_differences, config_to_dict, dump_config
from mtdnn_tf.data.mixing import Mixture, build_mixture
from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.evaluate import SplitScorer
from mtdnn_tf.evaluation.model_card import write_model_card
from mtdnn_tf.evaluation.predictions import write_predictions
from mtdnn_tf.evaluation.report import write_report, write_scores
from mtdnn_tf.evaluation.runs import Run, build_run_model, find_weights, read_run_config
from mtdnn_tf.files import write_text_atomically
from mtdnn_tf.provenance import header
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import dump_tasks
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.callbacks import Keeper, MetricsLog, StepLog, check_best_metric, is_patience_spent
from mtdnn_tf.training.distribution import Distribution, build_distribution
from mtdnn_tf.training.event_files import EventFiles
from mtdnn_tf.training.loss_weighting import build_loss_weighting
from mtdnn_tf.training.optimizers import build_optimizer
from mtdnn_tf.training.profiling import StepProfiler, Steps, check_steps
from mtdnn_tf.training.trainer import MultiTaskTrainer, updates_per_epoch

_RUN_FILES = (
    "config.yaml",
    "tasks.yaml",
    "metrics.jsonl",
    "scores.json",
    "report.html",
    "MODEL_CARD.md",
    "skipped_rows.txt",
)
_RUN_FOLDERS = ("checkpoints", "best", "logs", "predictions")


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


def prepare_directory(config: ExperimentConfig, model_dir: Path, fresh: bool) -> None:
    """Make the run directory, or check that the one there belongs to the same configuration.

    Raises:
        UserError: it holds another configuration (the keys are named), or is a folder of something else.
    """
    if (model_dir / "config.yaml").is_file():
        if fresh:
            _clear(model_dir)
        else:
            _refuse_other_config(config, model_dir)
    elif model_dir.exists() and (not model_dir.is_dir() or any(model_dir.iterdir())):
        raise UserError(f"{model_dir}: is there, but is no run directory; name another --model_dir")
    model_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomically(model_dir / "config.yaml", header(config) + dump_config(config))


def _refuse_other_config(config: ExperimentConfig, model_dir: Path) -> None:
    differences = config_differences(read_run_config(model_dir), config)
    if differences:
        raise UserError(
            f"{model_dir}: holds a run of another configuration: {'; '.join(differences)}. "
            "Name another --model_dir, or start this one over with --fresh"
        )


def _clear(model_dir: Path) -> None:
    for name in _RUN_FILES:
        (model_dir / name).unlink(missing_ok=True)
    for name in _RUN_FOLDERS:
        shutil.rmtree(model_dir / name, ignore_errors=True)


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
    """
    model_dir = Path(model_dir)
    if config.runtime.strategy == "tpu" and config.data.bucketing != "length":
        raise UserError(
            f"runtime.strategy: 'tpu' needs batches of few lengths: set data.bucketing to 'length'. Received: {config.data.bucketing!r}"
        )
    distribution = build_distribution(config.runtime.strategy)
    prepare_runtime(config)
    # Everything that can be wrong with the input is found before the directory is touched.
    with distribution.scope():
        model, tasks, encoder = build_run_model(config)
    distribution.prepare_model(model)
    mixture = build_mixture(tasks, encoder, config)
    scorer = SplitScorer(model, tasks, encoder.tokenizer, config.data, distribution=distribution)
    if distribution.share[1] > 1:
        distribution.check_agreement(_what_workers_share(config, mixture, scorer))
    check_best_metric(config.training.best_metric, [task for task, _ in scorer.splits])
    if profile:
        check_steps(profile, _total_updates(config, mixture))
    run = Run(model, tasks, encoder, config, model_dir)
    distribution.on_chief(lambda: _open_directory(run, mixture, scorer, fresh))

    started = time.perf_counter()
    _train(run, mixture, scorer, distribution, verbose, profile)
    seconds = time.perf_counter() - started

    scores = _best_scores(run, scorer, distribution)
    if not distribution.is_chief:
        return Outcome(run, scores, mixture, seconds, is_chief=False)
    write_scores(model_dir / "scores.json", "dev", scores)
    write_predictions(model_dir / "predictions", scorer, "dev")
    write_report(run, mixture, scores, command=command)
    write_model_card(run, mixture, scores, command=command)
    return Outcome(run, scores, mixture, seconds)


def _open_directory(run: Run, mixture: Mixture, scorer: SplitScorer, fresh: bool) -> None:
    prepare_directory(run.config, run.model_dir, fresh)
    write_text_atomically(run.model_dir / "tasks.yaml", dump_tasks(run.tasks))
    _tell_skipped(run.model_dir / "skipped_rows.txt", mixture, scorer)


def _what_workers_share(config: ExperimentConfig, mixture: Mixture, scorer: SplitScorer) -> dict[str, str]:
    """Return hashes of what decides every step: paths may differ from machine to machine, what they hold may not."""
    plain = config_to_dict(config)
    sections = {name: plain.get(name) for name in ("mixing", "model", "optimizer", "training", "runtime")}
    sections["data"] = {
        name: value for name, value in plain.get("data", {}).items() if name not in ("root", "cache_dir", "service")
    }
    rows = hashlib.sha256()
    for split in [*mixture.tokenized.values(), *(split for _, split in scorer.splits)]:
        for array in (split.token_ids, split.row_splits, split.known_labels):
            rows.update(np.ascontiguousarray(array).tobytes())
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
    distribution: Distribution,
    verbose: int | str,
    profile: Steps | None,
) -> None:
    config, training = run.config, run.config.training
    trainer = MultiTaskTrainer(run.model, run.tasks, distribution)
    compile_trainer(trainer, config, mixture)
    state = _restore_from_chief(run, trainer)
    if state is not None and (
        state.epoch >= training.epochs or is_patience_spent(training.patience, state.stale_epochs)
    ):
        if distribution.is_chief:
            print(f"{run.model_dir}: this run is already trained; nothing is repeated", flush=True)
        return
    writes = distribution.is_chief
    log = MetricsLog(run.model_dir / "metrics.jsonl" if writes else None, state.global_step if state else 0)
    logs = run.model_dir / "logs"
    events = EventFiles(logs) if writes else None
    callbacks: list[keras.callbacks.Callback] = []
    profilers = [StepProfiler(trainer, logs, profile)] if profile and writes else []
    if events is not None:
        lines = not sys.stdout.isatty() and verbose != 0
        callbacks = [StepLog(trainer, mixture, log, events, training.log_every, training.checkpoint_every, lines)]
    keeper = Keeper(
        trainer,
        run.tasks,
        run.model_dir,
        scorer,
        training.best_metric,
        log,
        training.checkpoint_every,
        training.keep_checkpoints,
        state.best_score if state else None,
        training.patience,
        state.stale_epochs if state else 0,
        events,
        writes,
    )
    start = (state.epoch, state.step) if state else (0, 0)
    try:
        trainer.fit(mixture, training.epochs, [*profilers, *callbacks, keeper], start, verbose if writes else 0)
    finally:
        if events is not None:
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
    training = config.training
    surgery = training.gradient_surgery == "pcgrad"
    if surgery and training.accumulate == 1:
        raise UserError(
            "training.gradient_surgery: 'pcgrad' compares the gradients of several batches; set training.accumulate to 2 or more"
        )
    with trainer.distribution.scope():
        optimizer = build_optimizer(config.optimizer, _total_updates(config, mixture))
    trainer.compile(
        optimizer,
        config.optimizer.clip_norm,
        weighting=build_loss_weighting(list(trainer.tasks.values()), training),
        accumulate=training.accumulate,
        surgery_seed=derive_seed(training.seed, "surgery") if surgery else None,
        ema=training.ema,
    )


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

    def restore() -> dict[str, Any] | None:
        found = _restore(run, trainer)
        return asdict(found) if found else None

    state = distribution.on_chief(restore)
    parts = [variable for part in trainer.parts().values() for variable in part.values()]
    every = [*(variable.value for variable in (*run.model.variables, *trainer.optimizer.variables)), *parts]
    distribution.copy_from_chief(list({id(variable): variable for variable in every}.values()))
    if state is None:
        return None
    if not distribution.is_chief:
        trainer.weighting.restore(state["loss_weighting"])
    return checkpoints.State(**state)


def _restore(run: Run, trainer: MultiTaskTrainer) -> checkpoints.State | None:
    """Load the latest checkpoint of the run, or the weights that `training.init_from` names; return where to go on."""
    found = checkpoints.latest(run.model_dir / "checkpoints")
    if found is not None:
        checkpoints.load(found, trainer.parts())
        state = checkpoints.read_state(found)
        trainer.weighting.restore(state.loss_weighting)
        print(f"going on from {found}: epoch {state.epoch + 1}, step {state.step}", flush=True)
        return state
    init_from = run.config.training.init_from
    if init_from:
        weights = find_weights(init_from)
        print(f"{weights}: {checkpoints.load_model(weights, run.model, run.tasks, partial=True)}", flush=True)
    return None
