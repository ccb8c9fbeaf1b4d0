"""Where a run goes on: the newest intact checkpoint, a best model that is whole, and no silent start from scratch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mtdnn_tf.errors import UserError
from mtdnn_tf.evaluation.runs import Run, find_weights
from mtdnn_tf.modeling.model import restart_first_tokens
from mtdnn_tf.run_files import BEST_FOLDER, CHECKPOINTS_FOLDER, METRICS_FILE, SCORES_FILE
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.callbacks import is_patience_spent
from mtdnn_tf.training.checkpoints import State
from mtdnn_tf.training.manifest import DamagedCheckpointError, verify
from mtdnn_tf.training.trainer import MultiTaskTrainer


def restore(run: Run, trainer: MultiTaskTrainer) -> State | None:
    """Load the newest intact checkpoint of a run.

    Returns:
        Where to go on; None: at the first step.

    Raises:
        UserError: checkpoints are there and none is intact, or the run had some and they are gone.
    """
    found = checkpoints.latest(run.model_dir / CHECKPOINTS_FOLDER)
    if found is None:
        _refuse_lost_progress(run)
        return None
    checkpoints.check_meaning(found, checkpoints.read_state(found), run.tasks)
    state = _with_best_model(run, found, checkpoints.read_state(found))
    checkpoints.load(found, trainer.parts())
    trainer.weighting.restore(state.loss_weighting)
    trainer.epoch_means.restore(state.epoch_means)
    print(f"going on from {found}: epoch {state.epoch + 1}, step {state.step}", flush=True)
    return state


def take_over(run: Run, fresh: bool) -> None:
    """Load the weights that `training.init_from` names, unless the run has checkpoints of its own to go on from.

    Args:
        run: whose directory is not touched.
        fresh: whether what its directory holds will be thrown away.

    Raises:
        UserError: there are no such weights, or they do not fit.
    """
    init_from = run.config.training.init_from
    if not init_from or (not fresh and checkpoints.steps_saved(run.model_dir / CHECKPOINTS_FOLDER)):
        return
    try:
        if Path(init_from).resolve() == run.model_dir.resolve():
            raise UserError(f"{init_from}: is the directory of this run itself; name another --model_dir")
        told = _take_over(run, find_weights(init_from))
    except UserError as error:
        raise UserError(f"training.init_from: {error}") from None
    print(told, flush=True)


def _take_over(run: Run, weights: Path) -> str:
    """Load the weights of another run as `training.init_heads` says, and tell what was loaded.

    Task tokens that are not taken over start from the encoder that is.
    """
    training = run.config.training
    if training.init_heads == "stripped":
        report = checkpoints.load_shared(weights, run.model)
        told = f"loaded {', '.join(report.loaded)}; what belongs to tasks is stripped (training.init_heads)"
    else:
        report = checkpoints.load_model(weights, run.model, run.tasks, partial=True)
        told = str(report)
    restart_first_tokens(run.model, run.encoder, report.loaded, training.seed)
    return f"{weights}: {told}"


def _refuse_lost_progress(run: Run) -> None:
    """Tell a run that was cut off before its first checkpoint from one whose checkpoints were taken away."""
    model_dir, best = run.model_dir, run.model_dir / BEST_FOLDER
    # The best model of the first epoch that is scored is saved a moment before its checkpoint.
    first = min(run.config.training.score_every, run.config.training.epochs)
    if (model_dir / SCORES_FILE).is_file() or (best.is_dir() and checkpoints.read_state(best).epoch > first):
        raise UserError(
            f"{model_dir}: this run has been trained, but {model_dir / 'checkpoints'} holds no checkpoint to go on from. "
            "Put one back from a copy, or start over with --fresh"
        )
    if (model_dir / METRICS_FILE).is_file():
        print(f"{model_dir}: cut off before its first checkpoint; starting from the first step", flush=True)


def _with_best_model(run: Run, newest: Path, state: State) -> State:
    """Return the state, after making sure that `best/` is whole where the state says that there is one.

    A damaged one is made again from the checkpoint of its step where that is kept. Else the best of the epochs to come takes its
    place, which is told.
    """
    best = run.model_dir / BEST_FOLDER
    if state.best_score is None:
        return state
    try:
        verify(best)
    except DamagedCheckpointError as fault:
        twin = _checkpoint_of_step(newest.parent, state.best_step)
        if twin is not None:
            checkpoints.load_model(twin, run.model, run.tasks)  # with an average of the weights, that
            remade = replace(checkpoints.read_state(twin), score=state.best_score)
            checkpoints.save(best, checkpoints.model_parts(run.model, run.tasks), remade, replace=True)
            print(f"{fault}; made again from {twin.name}, which holds the same model", file=sys.stderr, flush=True)
            return state
        training = run.config.training
        if state.epoch < training.epochs and not is_patience_spent(training.patience, state.stale_epochs):
            print(f"{fault}; the best model is chosen among the epochs to come", file=sys.stderr, flush=True)
            return replace(state, best_score=None, best_step=None)
        raise UserError(
            f"{fault}; the checkpoint of its step {state.best_step} is not kept, so it can't be made again. "
            "Put it back from a copy, or start over with --fresh"
        ) from None
    return state


def _checkpoint_of_step(folder: Path, step: int | None) -> Path | None:
    """Return the intact checkpoint of a global step, or None."""
    for path in checkpoints.steps_saved(folder):
        try:
            verify(path)
        except DamagedCheckpointError:
            continue
        if checkpoints.read_state(path).global_step == step:
            return path
    return None
