"""The multi-task step moves what it should and nothing else; the loop keeps count, tells Keras, stops at NaN."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import OptimizerConfig, select_tasks
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.experiment import compile_trainer
from mtdnn_tf.training.checkpoints import model_parts
from mtdnn_tf.training.loss_weighting import LOSS_WEIGHTINGS
from tests.small import TINY, write_experiment


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    config = mtdnn.load_config(write_experiment(tmp_path_factory.mktemp("experiment")))
    tasks = mtdnn.load_tasks(config)
    encoder = mtdnn.load_encoder(config.encoder.source, seed=1)
    model = mtdnn.build_model(encoder, tasks, seed=1)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(model, tasks)
    optimizer = mtdnn.build_optimizer(OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup=0.0), 100)
    trainer.compile(optimizer)
    return trainer, mixture, tasks


@pytest.fixture
def parts(compiled):
    """A trainer whose steps are compiled once for this file; it is given back as it was."""
    trainer, _, _ = compiled
    variables = [variable for part in trainer.parts().values() for variable in part.values()]
    before = [variable.numpy() for variable in variables]
    yield compiled
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def _values(trainer, tasks):
    return {
        part: {name: variable.numpy().copy() for name, variable in variables.items() if not name.startswith("seed")}
        for part, variables in model_parts(trainer.model, tasks).items()
    }


def _moved(before, after):
    return {part for part in before if any(np.any(before[part][n] != after[part][n]) for n in before[part])}


def _batch_of(mixture, name):
    for task_id, batch in zip(mixture.schedule(0), mixture.epoch_dataset(0), strict=True):
        if mixture.task_names[task_id] == name:
            return batch
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["mood", "follows", "close", "pick"])
def test_a_step_moves_the_encoder_and_its_own_head_only(parts, name):
    trainer, mixture, tasks = parts
    others = {task.name for task in tasks} - {name}
    for other in others:  # momentum of the other heads must not be spent on this task's step
        trainer.step(other, _batch_of(mixture, other))
    before = _values(trainer, tasks)
    trainer.step(name, _batch_of(mixture, name))
    assert _moved(before, _values(trainer, tasks)) == {"encoder", f"heads/{name}"}


def test_a_san_step_leaves_the_unused_pooler_alone(parts):
    trainer, mixture, tasks = parts
    trainer.step("mood", _batch_of(mixture, "mood"))
    before = _values(trainer, tasks)["encoder"]
    trainer.step("follows", _batch_of(mixture, "follows"))
    after = _values(trainer, tasks)["encoder"]
    pooler = [name for name in before if "pooled_dense" in name]
    assert pooler
    assert all(np.array_equal(before[name], after[name]) for name in pooler)


def test_loss_weight_scales_the_gradient_but_not_the_reported_loss(experiment):
    results = {}
    for weight in (1.0, 0.5):
        keras.utils.set_random_seed(3)
        config = mtdnn.load_config(
            experiment, [f"tasks.close.loss_weight={weight}", "encoder.dropout=0", "model.dropout=0"]
        )
        tasks = mtdnn.load_tasks(config)
        encoder = mtdnn.load_encoder(config.encoder.source, dropout=0.0, seed=1)
        model = mtdnn.build_model(encoder, tasks, dropout=0.0, seed=1)
        mixture = mtdnn.build_mixture(tasks, encoder, config)
        trainer = mtdnn.MultiTaskTrainer(model, tasks)
        trainer.compile(mtdnn.build_optimizer(config.optimizer, 10))
        results[weight] = trainer.step("close", _batch_of(mixture, "close"))
    assert results[0.5][0] == pytest.approx(results[1.0][0], rel=1e-5)
    assert results[0.5][1] == pytest.approx(results[1.0][1] / 2, rel=1e-4)


class Watcher(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, dict(logs)))


def test_fit_is_what_keras_callbacks_expect(parts):
    trainer, mixture, _ = parts
    watcher = Watcher()
    history = trainer.fit(mixture, epochs=2, callbacks=[watcher], verbose=0)
    assert watcher.batches == [*range(mixture.steps_per_epoch)] * 2
    assert [epoch for epoch, _ in watcher.epochs] == [0, 1]
    assert {"loss", "mood_loss", "follows_loss", "close_loss", "pick_loss"} == set(history.history)
    assert watcher.model is trainer.model
    assert trainer.progress.global_step == trainer.progress.total_steps == 2 * mixture.steps_per_epoch


def test_a_callback_can_stop_training(parts):
    trainer, mixture, _ = parts
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(trainer.model, "stop_training", True)
    )
    trainer.fit(mixture, epochs=2, callbacks=[stop], verbose=0)
    assert trainer.progress.global_step == 1


def test_the_progress_bar_knows_its_total(parts, capsys):
    trainer, mixture, _ = parts
    trainer.fit(mixture, epochs=1, verbose=1)
    assert f"{mixture.steps_per_epoch}/{mixture.steps_per_epoch}" in capsys.readouterr().out


def test_training_lowers_every_task_loss(parts):
    trainer, mixture, tasks = parts
    encoder = mtdnn.load_encoder(TINY, seed=1, dropout=0.0)
    trainer = mtdnn.MultiTaskTrainer(mtdnn.build_model(encoder, tasks, dropout=0.0, seed=1), tasks)
    options = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup=0.0)
    trainer.compile(mtdnn.build_optimizer(options, 100))
    history = trainer.fit(mixture, epochs=20, verbose=0).history
    for name in ("mood", "follows", "close", "pick"):
        losses = history[f"{name}_loss"]
        assert losses[-1] < 0.7 * losses[0], (name, losses)


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_task(parts):
    trainer, mixture, _ = parts
    head = trainer.model.get_layer("close")
    head.weights[0].assign(np.full(head.weights[0].shape, np.nan))
    with pytest.raises(mtdnn.UserError, match="task 'close' gave loss nan"):
        trainer.fit(mixture, epochs=1, verbose=0)


def _everything(trainer):
    return {f"{part}/{name}": value.numpy() for part, own in trainer.parts().items() for name, value in own.items()}


@pytest.mark.parametrize(("rule", "fault"), [("paper", "loss"), ("lamb", "one gradient"), ("keras", "loss")])
def test_a_step_that_is_not_finite_touches_nothing_and_raises(experiment, rule, fault):
    """Bad labels give a bad loss; a weight at the largest float gives a finite loss of a few rows, and gradients that overflow."""
    trainer, mixture, _ = _dropout_free(experiment, "optimizer.warmup=0", "training.ema=0.9", names=["mood", "close"])
    optimizers = {
        "paper": lambda: mtdnn.build_optimizer(OptimizerConfig(schedule="constant", warmup=0.0), 10),
        "lamb": lambda: mtdnn.build_optimizer(OptimizerConfig(name="lamb", schedule="constant", warmup=0.0), 10),
        "keras": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    }
    trainer.compile(optimizers[rule](), ema=0.9)
    good = _batch_of(mixture, "close")
    trainer.step("close", good)
    bad = good | {"label": tf.constant([math.inf] + [1.0] * (good["label"].shape[0] - 1))}
    if fault == "one gradient":
        bad = good | {
            "label": tf.fill(good["label"].shape, 1e18)
        }  # the loss is 1e36; the norm squares gradients of 1e18 and more
        trainer.model.get_layer("close").dense.kernel.assign_add(np.full([32, 1], 1e3))
    before = {name: value for name, value in _everything(trainer).items() if "seed" not in name}
    with pytest.raises(mtdnn.UserError, match=r"task 'close' gave loss .*finite numbers are needed"):
        trainer.step("close", bad)
    after = _everything(trainer)
    assert {name for name, value in before.items() if not np.array_equal(value, after[name])} == set()
    loss, norm = trainer.step("close", good)  # nothing is lost: training continues
    assert np.isfinite([loss, norm]).all()
    assert _moved_at_all(before, _everything(trainer))


def _moved_at_all(before, after):
    return any(not np.array_equal(value, after[name]) for name, value in before.items())


def test_accumulated_batches_of_which_one_is_not_finite_touch_nothing(experiment):
    trainer, mixture, _ = _dropout_free(experiment, "training.accumulate=2", names=["mood", "close"])
    good = _batch_of(mixture, "mood")
    bad = _batch_of(mixture, "close")
    bad |= {"label": tf.fill(bad["label"].shape, math.inf)}
    before = {name: value for name, value in _everything(trainer).items() if "seed" not in name}
    results = trainer._update([("mood", good), ("close", bad)])
    assert [result.is_finite for result in results] == [False, False]
    after = _everything(trainer)
    assert {name for name, value in before.items() if not np.array_equal(value, after[name])} == set()


def _dropout_free(experiment, *overrides, names=()):
    config = mtdnn.load_config(experiment, ["encoder.dropout=0", "model.dropout=0", *overrides])
    config = select_tasks(config, names) if names else config
    tasks = mtdnn.load_tasks(config)
    encoder = mtdnn.load_encoder(config.encoder.source, dropout=0.0, seed=1)
    model = mtdnn.build_model(encoder, tasks, dropout=0.0, san_prediction_dropout=0.0, seed=1)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(model, tasks)
    compile_trainer(trainer, config, mixture)
    return trainer, mixture, tasks


def test_accumulated_batches_of_one_task_equal_one_large_batch(experiment):
    """12 rows of one task in 4 batches of 3 give the update of one batch of 12: the mean of means of equal batches."""
    options = ["optimizer.schedule=constant", "optimizer.warmup=0", "tasks.mood.class_weights={positive: 4}"]
    small = _dropout_free(experiment, "data.batch_size=3", "training.accumulate=4", *options)
    large = _dropout_free(experiment, "data.batch_size=12", *options)
    for trainer, mixture, _ in (small, large):
        batches = [batch for batch in mixture.epoch_dataset(0) if int(batch["task_id"][0]) == 0]
        trainer._update([("mood", batch) for batch in batches])
    one, other = (_values(trainer, tasks) for trainer, _, tasks in (small, large))
    for part in ("encoder", "heads/mood"):
        for name, value in one[part].items():
            np.testing.assert_allclose(value, other[part][name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("name", "rare"), [("mood", "negative"), ("follows", "no")])
def test_balanced_classes_count_alike_whatever_the_head(experiment, name, rare):
    """Linear and SAN head: the loss of a batch is the mean of w(label) * cross-entropy, w by the rows of the whole split."""
    trainer, mixture, _ = _dropout_free(
        experiment, f"tasks.{name}.class_weights=balanced", "data.batch_size=12", "optimizer.warmup=0", names=[name]
    )
    [batch] = mixture.epoch_dataset(0)
    labels = batch["label"].numpy().astype(int)
    weights = len(labels) / (2 * np.bincount(labels))
    logits = trainer.model({key: batch[key] for key in trainer.model.input})[name].numpy()
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    assert trainer.step(name, batch)[0] == pytest.approx(np.mean(weights[labels] * losses), abs=1e-5)


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_an_update_of_several_tasks_moves_their_heads_and_no_other(experiment, surgery):
    trainer, mixture, tasks = _dropout_free(
        experiment, "training.accumulate=2", f"training.gradient_surgery={surgery}", "optimizer.warmup=0"
    )
    before = _values(trainer, tasks)
    results = trainer._update([(name, _batch_of(mixture, name)) for name in ("mood", "pick")])
    assert _moved(before, _values(trainer, tasks)) == {"encoder", "heads/mood", "heads/pick"}
    assert len(results) == 2
    assert int(trainer.optimizer.iterations) == 1


def test_accumulation_counts_updates_and_reports_every_batch(experiment):
    trainer, mixture, _ = _dropout_free(experiment, "training.accumulate=4")
    history = trainer.fit(mixture, epochs=2, verbose=0)
    assert mixture.steps_per_epoch == 11
    assert trainer.progress.global_step == trainer.progress.total_steps == int(trainer.optimizer.iterations) == 6
    assert len(trainer.progress.losses) == 3  # 4 + 4 + 3
    assert {"mood_loss", "follows_loss", "close_loss", "pick_loss"} < set(history.history)


def test_pcgrad_needs_several_batches(experiment):
    with pytest.raises(mtdnn.UserError, match=r"training\.gradient_surgery: .*training\.accumulate"):
        _dropout_free(experiment, "training.gradient_surgery=pcgrad")


def test_the_norm_at_the_shared_layer_is_of_the_unweighted_gradient(experiment):
    norms = []
    for weight in (1.0, 0.25):
        trainer, mixture, _ = _dropout_free(experiment, f"tasks.close.loss_weight={weight}")
        [result] = trainer._update([("close", _batch_of(mixture, "close"))])
        norms.append(result.shared_norm)
        assert 0 < result.shared_norm < result.gradient_norm / weight
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("rule", LOSS_WEIGHTINGS)
def test_every_rule_for_loss_weights_trains(experiment, rule):
    options = [f"training.loss_weighting={rule}", "training.epochs=3"]
    trainer, mixture, _ = _dropout_free(experiment, *options, names=["mood", "close"])
    trainer.fit(mixture, epochs=3, verbose=0)
    weights = [trainer.weighting.weight(name) for name in mixture.task_names]
    assert all(np.isfinite(weights))
    assert (weights == [1.0] * 2) == (rule == "fixed")


def test_gradnorm_needs_a_shared_layer_that_learns(experiment):
    with pytest.raises(mtdnn.UserError, match=r"model\.freeze_layers freezes all 2"):
        _dropout_free(experiment, "training.loss_weighting=gradnorm", "model.freeze_layers=2")


def test_a_ranking_batch_without_a_relevant_candidate_says_nothing_of_its_task(experiment):
    trainer, mixture, _ = _dropout_free(experiment, "training.loss_weighting=uncertainty", names=["pick"])
    batch = next(iter(mixture.epoch_dataset(0)))
    trainer._take_step(trainer.progress, [("pick", batch | {"label": tf.zeros_like(batch["label"])})])
    assert trainer.progress.losses == (("pick", 0.0),)
    assert trainer.weighting.weight("pick") == 1.0
    trainer._take_step(trainer.progress, [("pick", batch)])
    assert trainer.weighting.weight("pick") != 1.0


def test_one_update_at_the_start_of_a_warm_up_is_warned_of(experiment, capsys):
    _dropout_free(experiment, "data.batch_size=64", "training.epochs=1", names=["mood"])
    assert "warning: this run is one update" in capsys.readouterr().err
    _dropout_free(experiment, "data.batch_size=64", "training.epochs=1", "optimizer.warmup=0", names=["mood"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("runtime", ["fused", "reference"])
def test_frozen_layers_stay_as_they_are(experiment, runtime):
    config = mtdnn.load_config(
        experiment, ["model.freeze_layers=1", f"runtime.encoder={runtime}", "optimizer.warmup=0"]
    )
    model, tasks, encoder = build_run_model(config)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(model, tasks)
    compile_trainer(trainer, config, mixture)
    before = _values(trainer, tasks)["encoder"]
    trainer.step("mood", _batch_of(mixture, "mood"))
    after = _values(trainer, tasks)["encoder"]
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert moved
    assert not [name for name in moved if "embedding" in name or "transformer_layer_0" in name]
    assert [name for name in moved if "transformer_layer_1" in name]


def test_more_frozen_layers_than_there_are_is_told(experiment):
    with pytest.raises(mtdnn.UserError, match=r"model\.freeze_layers: the encoder has 2 layers; received 3"):
        build_run_model(mtdnn.load_config(experiment, ["model.freeze_layers=3"]))


@pytest.mark.parametrize(
    "rule", ["adamax", "adamax, corrected", "adamw", pytest.param("adam", marks=pytest.mark.slow), "lamb"]
)
def test_every_optimizer_trains(experiment, rule):
    name, _, corrected = rule.partition(", ")
    trainer, mixture, tasks = _dropout_free(
        experiment,
        f"optimizer.name={name}",
        f"optimizer.bias_correction={bool(corrected)}".lower(),
        "optimizer.warmup=0",
    )
    before, batch = _values(trainer, tasks), _batch_of(mixture, "mood")
    loss, _ = trainer.step("mood", batch)
    assert _moved(before, _values(trainer, tasks)) == {"encoder", "heads/mood"}
    for _ in range(20):
        last, _ = trainer.step("mood", batch)
    assert last < loss
