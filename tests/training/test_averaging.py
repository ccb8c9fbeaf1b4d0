"""The average of the weights follows its closed form, is what is scored and kept, and leaves training untouched."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import select_tasks
from mtdnn_tf.evaluation.runs import build_run_model, load_run
from mtdnn_tf.experiment import compile_trainer, run_experiment
from mtdnn_tf.plan_costs import memory_bytes
from mtdnn_tf.training import checkpoints
from mtdnn_tf.training.averaging import WeightAverage, horizon

DECAY = 0.75  # reached at update 26


def _closed_form(values, decay=DECAY):
    """The products of d_n = min(decay, (1 + n) / (10 + n)): w_0 d_1 ... d_N + sum_k w_k (1 - d_k) d_(k+1) ... d_N, for w_0 to w_N."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, len(values))]
    shares = [1.0, *(1 - d for d in decays)]
    return sum(share * np.prod(decays[k:]) * value for k, (share, value) in enumerate(zip(shares, values, strict=True)))


def _average(variable, decay, updates=0):
    """An average, and the function that counts an update and makes it."""
    count = keras.Variable(updates, dtype="int64", trainable=False)
    average = WeightAverage([variable], decay, count)
    return average, lambda: (count.assign_add(1), average.update())


@pytest.mark.parametrize("updates", [1, 4, 60])
def test_a_known_sequence_gives_the_closed_form(updates):
    values = np.random.default_rng(1).normal(size=[updates + 1, 3]).astype(np.float32)
    variable = keras.Variable(values[0])
    average, update = _average(variable, DECAY)
    for value in values[1:]:
        variable.assign(value)
        update()
    with average.swapped_in():
        np.testing.assert_allclose(variable.numpy(), _closed_form(values), rtol=1e-5, atol=1e-6)
    assert np.array_equal(variable.numpy(), values[-1])


@pytest.mark.parametrize(("updates", "left"), [(6, 1e-3), (234, 1e-8)])
def test_little_is_left_of_the_start_after_a_short_run(updates, left):
    """The weights jump from 1 to 0 at the first update: without ramp-up 0.999^234 = 79 % of the start would be left."""
    variable = keras.Variable(np.ones(1, np.float32))
    average, update = _average(variable, 0.999)
    variable.assign(np.zeros(1))
    for _ in range(updates):
        update()
    with average.swapped_in():
        assert 0 < float(variable[0]) < left


@pytest.mark.parametrize(
    ("decay", "updates", "expected"), [(0.999, 234, 244 / 9), (0.999, 100_000, 1000), (0.5, 50, 2)]
)
def test_the_horizon_is_the_inverse_of_what_an_update_counts(decay, updates, expected):
    assert horizon(decay, updates) == pytest.approx(expected)
    variable = keras.Variable(np.zeros(1, np.float32))
    average, update = _average(variable, decay, updates - 1)
    variable.assign(np.ones(1))
    update()
    with average.swapped_in():
        assert 1 / float(variable[0]) == pytest.approx(expected, rel=1e-3)


def test_weights_that_rest_are_their_own_average_bit_for_bit():
    value = np.random.default_rng(0).normal(size=50).astype(np.float32)
    variable = keras.Variable(value)
    average, update = _average(variable, 0.999)
    for _ in range(20):
        update()
    with average.swapped_in():
        assert np.array_equal(variable.numpy(), value)


def test_the_weights_come_back_where_scoring_fails():
    variable = keras.Variable(np.ones(3, np.float32))
    average, _ = _average(variable, DECAY)
    variable.assign(np.full(3, 5.0))
    with pytest.raises(RuntimeError, match="scoring"), average.swapped_in():
        raise RuntimeError("scoring")
    assert np.array_equal(variable.numpy(), np.full(3, 5.0))


def _weights(trainer):
    return [weight.numpy().copy() for weight in trainer.model.trainable_variables]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_update_moves_the_average_of_every_weight_once(experiment, accumulate):
    options = [f"training.ema={DECAY}", f"training.accumulate={accumulate}", "optimizer.warmup=0"]
    config = select_tasks(mtdnn.load_config(experiment, options), ["mood", "pick"])
    model, tasks, encoder = build_run_model(config)
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    trainer = mtdnn.MultiTaskTrainer(model, tasks)
    compile_trainer(trainer, config, mixture)
    model.trainable_variables[0].assign_add(np.ones(model.trainable_variables[0].shape))  # weights loaded after compile
    seen = [_weights(trainer)]
    watcher = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(_weights(trainer)))
    trainer.fit(mixture, epochs=1, callbacks=[watcher], verbose=0)
    with trainer.scored_weights():
        averages = _weights(trainer)
    for index, average in enumerate(averages):
        np.testing.assert_allclose(average, _closed_form([weights[index] for weights in seen]), atol=2e-6)
    assert all(np.array_equal(now, last) for now, last in zip(_weights(trainer), seen[-1], strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same experiment with an average that follows slowly, and without one."""
    from tests.small import write_experiment

    folder = tmp_path_factory.mktemp("averages")
    path = write_experiment(folder)
    outcomes = {}
    for name, options in (("with", ["training.ema=0.95"]), ("without", [])):
        config = select_tasks(mtdnn.load_config(path, options), ["mood", "pick"])
        outcomes[name] = run_experiment(config, folder / name, verbose=0)
    return outcomes


def _stored(folder):
    reader = checkpoints._open(folder)
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return {
        key.removesuffix(suffix): reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key.endswith(suffix)
    }


def test_scoring_the_average_changes_nothing_in_training(runs):
    latest = {name: _stored(checkpoints.latest(run.run.model_dir / "checkpoints")) for name, run in runs.items()}
    added = {key for key in latest["with"] if key.startswith("average/")}
    assert latest["with"].keys() - added == latest["without"].keys()
    assert {"average/encoder", "average/heads/mood", "average/heads/pick"} <= {key.rsplit("/", 1)[0] for key in added}
    assert all(np.array_equal(latest["with"][key], value) for key, value in latest["without"].items())


def test_the_average_is_what_best_holds_and_what_is_scored(runs):
    outcome = runs["with"]
    epoch = checkpoints.read_state(outcome.run.model_dir / "best").epoch
    [of_epoch] = [
        path
        for path in (outcome.run.model_dir / "checkpoints").iterdir()
        if checkpoints.read_state(path).epoch == epoch
    ]
    best, checkpoint = _stored(outcome.run.model_dir / "best"), _stored(of_epoch)
    averaged = [key for key in checkpoint if f"average/{key}" in checkpoint]
    assert averaged
    assert all(np.array_equal(best[key], checkpoint[f"average/{key}"]) for key in averaged)
    assert any(np.any(best[key] != checkpoint[key]) for key in averaged)
    scores = mtdnn.evaluate_tasks(outcome.run.model, outcome.run.tasks, outcome.run.encoder, config=outcome.run.config)
    for task, expected in json.loads((outcome.run.model_dir / "scores.json").read_text())["tasks"].items():
        assert scores[task] == pytest.approx(expected), task


def test_a_run_without_a_best_model_yet_opens_with_its_average(runs, tmp_path):
    shutil.copytree(runs["with"].run.model_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    stored = _stored(checkpoints.latest(tmp_path / "run" / "checkpoints"))
    kernel = load_run(tmp_path / "run").model.get_layer("mood").dense.kernel.numpy()
    assert np.array_equal(kernel, stored["average/heads/mood/logits:kernel"])
    assert np.any(kernel != stored["heads/mood/logits:kernel"])


def test_a_plan_says_how_far_the_average_looks_back(experiment):
    from mtdnn_tf.planning import make_plan, plan_table

    plan = make_plan(select_tasks(mtdnn.load_config(experiment, ["training.ema=0.999"]), ["mood"]), timed=False)
    assert plan["average"] == {"decay": 0.999, "horizon": round((10 + plan["updates"]) / 9)}
    assert "training.ema 0.999): looks back over about 2 updates at the end" in plan_table(plan)


def test_a_plan_counts_one_more_copy_of_the_weights(experiment):
    from tests.test_planning import _bucket

    estimates = []
    for options in ([], ["training.ema=0.999"]):
        config = mtdnn.load_config(experiment, options)
        encoder = mtdnn.load_encoder(config.encoder.source)
        estimates.append(memory_bytes(config, encoder, {"mood": {16: _bucket(4, 16)}}, 1000))
    assert estimates[1] - estimates[0] == 4 * 1000


@pytest.mark.parametrize("decay", ["1", "-0.1", "nan"])
def test_a_decay_that_is_none_is_refused(experiment, decay):
    with pytest.raises(mtdnn.UserError, match=r"training\.ema: must be"):
        mtdnn.load_config(experiment, [f"training.ema={decay}"])
