"""Loss scaling: exact where nothing overflows, a skipped step where something does, float16 trains on padded batches."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.data.batches import INPUTS
from mtdnn_tf.evaluation.runs import build_run_model
from mtdnn_tf.experiment import compile_trainer, prepare_runtime, run_experiment
from mtdnn_tf.training.loss_scale import FIRST_SCALE, HIGHEST_SCALE, LossScale
from mtdnn_tf.training.losses import LOSSES

TOGETHER = ["training.accumulate=2", "training.gradient_surgery=pcgrad"]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_halves_at_a_bad_step_and_doubles_after_good_ones(compiled):
    scale, applied = LossScale(first=8.0, growth_steps=3), tf.Variable(0)

    def step(value):
        scale.apply_if_finite(value, lambda: applied.assign_add(1))

    take = tf.function(step) if compiled else step
    seen = []
    for value in (1.0, np.inf, 1.0, 1.0, np.nan, 1.0, 1.0, 1.0, 1.0):
        take(tf.constant([0.5, value]))
        seen.append(float(scale.value))
    assert seen == [8, 4, 4, 4, 2, 2, 2, 4, 4]
    assert (int(applied), scale.skipped) == (7, 2)


def test_it_stays_within_its_bounds():
    low, high = LossScale(first=1.0), LossScale(first=HIGHEST_SCALE, growth_steps=1)
    low.apply_if_finite(tf.constant(np.inf), lambda: None)
    high.apply_if_finite(tf.constant(1.0), lambda: None)
    assert (float(low.value), float(high.value)) == (1.0, HIGHEST_SCALE)


def _trainer(experiment, *overrides, scale=None, names=()):
    config = mtdnn.load_config(experiment, ["optimizer.warmup=0", "runtime.encoder=reference", *overrides])
    config = select_tasks(config, names) if names else config
    model, tasks, encoder = build_run_model(config)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(model, tasks)
    compile_trainer(trainer, config, mixture)
    if scale is not None:  # in float32 there is none of its own
        again = {"accumulate": config.training.accumulate}
        again["surgery_seed"] = 1 if config.training.gradient_surgery == "pcgrad" else None
        trainer.compile(mtdnn.build_optimizer(config.optimizer, 100), 0.1, loss_scale=scale, **again)
    return trainer, mixture, tasks


def _values(trainer):
    parts = trainer.parts()
    names = [part for part in parts if part != "loss_scale"]
    return {(part, name): value.numpy() for part in names for name, value in parts[part].items() if "seed" not in name}


def _batches(mixture, *names):
    found = {}
    for task_id, batch in zip(mixture.schedule(0), mixture.epoch_dataset(0), strict=True):
        found.setdefault(mixture.task_names[task_id], batch)
    return [(name, found[name]) for name in names]


def _inputs(batch):
    return {name: batch[name] for name in INPUTS}


@pytest.mark.parametrize("options", [[], TOGETHER], ids=["one batch", "several"])
def test_scaling_by_a_power_of_two_changes_no_bit_of_an_update(experiment, options):
    """Were clipping to see scaled gradients, or the norm to be told scaled, this would differ."""
    results = []
    for scale in (LossScale(first=1.0), LossScale(first=1024.0)):
        trainer, mixture, _ = _trainer(experiment, *options, scale=scale)
        given = trainer._update(_batches(mixture, *(("close", "pick") if options else ("close",))))
        results.append((_values(trainer), given[0].gradient_norm, given[0].shared_norm, given[0].loss))
    assert results[0][1:] == pytest.approx(results[1][1:], rel=1e-6)
    assert results[0][1] > 0.1  # clipped
    for key, value in results[0][0].items():
        np.testing.assert_allclose(results[1][0][key], value, rtol=1e-6, atol=1e-9, err_msg=str(key))


@pytest.mark.parametrize("options", [[], TOGETHER], ids=["one batch", "several"])
def test_a_step_that_overflows_is_left_out_whole(experiment, options):
    scale = LossScale(first=2.0**127)
    trainer, mixture, _ = _trainer(experiment, *options, "tasks.close.loss_weight=1e6", scale=scale)
    names = ("close", "pick") if options else ("close",)
    before = _values(trainer)
    results = trainer._update(_batches(mixture, *names))
    assert not np.isfinite(results[0].gradient_norm)
    after = _values(trainer)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert (float(scale.value), scale.skipped) == (2.0**126, 1)
    scale.value.assign(1.0)
    assert np.isfinite(trainer._update(_batches(mixture, *names))[0].gradient_norm)
    assert any(np.any(before[key] != value) for key, value in _values(trainer).items())


@pytest.mark.parametrize("options", [[], TOGETHER], ids=["one batch", "several"])
def test_training_goes_on_until_the_scale_can_sink_no_further(experiment, options):
    scale = LossScale(first=4.0)
    trainer, mixture, _ = _trainer(experiment, *options, scale=scale, names=("close", "pick"))
    head = trainer.model.get_layer("close")
    head.weights[0].assign(np.full(head.weights[0].shape, np.nan))
    with pytest.raises(mtdnn.UserError, match="task 'close' gave loss nan"):
        trainer.fit(mixture, epochs=2, verbose=0)
    assert (scale.skipped, float(scale.value)) == (3, 1.0)  # at 4, at 2, at 1
    assert np.isfinite(_values(trainer)["encoder", "transformer_layer_0:feedforward_output_dense:kernel"]).all()


@pytest.fixture
def float16(experiment):
    """The experiment's options, with the process in mixed_float16."""
    options = ["runtime.precision=mixed_float16", "runtime.encoder=auto"]
    prepare_runtime(mtdnn.load_config(experiment, options))
    yield options
    keras.config.set_dtype_policy("float32")


def test_losses_of_padded_batches_are_finite_float32_in_float16(experiment, float16):
    trainer, mixture, tasks = _trainer(experiment, *float16)
    assert trainer.model.get_layer("encoder").compute_dtype == "float16"
    assert not trainer.model.get_layer("encoder").fused
    assert float(trainer.loss_scale.value) == FIRST_SCALE
    batches = dict(_batches(mixture, *mixture.task_names))
    assert all(np.any(batch["padding_mask"].numpy() == 0) for batch in batches.values())
    for task in tasks:
        logits = trainer.model(_inputs(batches[task.name]))[task.name]
        loss = LOSSES[task.loss](logits, batches[task.name])
        assert (logits.dtype, loss.dtype) == (tf.float32, tf.float32)
        assert np.isfinite(float(loss))


def test_float16_gradients_are_close_to_those_of_float32(experiment, float16):
    options = ["encoder.dropout=0", "model.dropout=0", "model.san_prediction_dropout=0"]
    names = ("follows", "pick")
    half, mixture, _ = _trainer(experiment, *options, *float16, names=names)
    half.loss_scale.value.assign(4096.0)
    keras.config.set_dtype_policy("float32")
    whole, _, _ = _trainer(experiment, *options, names=names)
    for pair in _batches(mixture, *names):
        [one], [other] = half._update([pair]), whole._update([pair])
        assert one.loss == pytest.approx(other.loss, abs=5e-3)
        # Of a batch that is nearly learnt already, what is left of the gradient is of the size of the rounding.
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=0.03, abs=2e-4)


def test_more_padding_changes_nothing_in_float16(experiment, float16):
    trainer, mixture, _ = _trainer(experiment, *float16)
    [(_, batch)] = _batches(mixture, "follows")
    inputs = _inputs(batch)
    wider = {name: tf.pad(values, [[0, 0], [0, 9]]) for name, values in inputs.items()}
    for name, logits in trainer.model(inputs).items():
        np.testing.assert_allclose(trainer.model(wider)[name], logits, atol=5e-3)


def test_a_run_in_float16_trains_every_task_and_tells_its_scale(experiment, tmp_path, float16):
    config = mtdnn.load_config(experiment, ["training.epochs=1", *float16])
    run_experiment(config, tmp_path / "run", verbose=0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["event"] == "train"]
    assert {task for line in train for task in line["losses"]} == {"mood", "follows", "close", "pick"}
    assert all(np.isfinite([*line["losses"].values(), line["gradient_norm"]]).all() for line in train)
    assert train[-1]["skipped_steps"] < 5  # of 11
    assert all(line["loss_scale"] == FIRST_SCALE / 2 ** line["skipped_steps"] for line in train)


def test_the_fused_pass_is_refused_in_float16(experiment):
    config = mtdnn.load_config(experiment, ["runtime.precision=mixed_float16", "runtime.encoder=fused"])
    with pytest.raises(mtdnn.UserError, match=r"runtime\.encoder: 'fused' does not compute in float16; use 'auto'"):
        build_run_model(config)
