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
from mtdnn_tf.training.averaging import WeightAverage

DECAY = 0.75


def _closed_form(values, decay=DECAY):
    """decay^n w_0 + (1 - decay) sum_k decay^(n - k) w_k, for weights w_0 to w_n."""
    n = len(values) - 1
    return decay**n * values[0] + (1 - decay) * sum(decay ** (n - k) * values[k] for k in range(1, n + 1))


def test_a_known_sequence_gives_the_closed_form():
    values = [np.array([4.0, -1.0, 0.5], np.float32) * k for k in (1, 3, -2, 7, 0)]
    variable = keras.Variable(values[0])
    average = WeightAverage([variable], DECAY)
    for value in values[1:]:
        variable.assign(value)
        average.update()
    with average.swapped_in():
        np.testing.assert_allclose(variable.numpy(), _closed_form(values), rtol=1e-6)
    assert np.array_equal(variable.numpy(), values[-1])


def test_weights_that_rest_are_their_own_average_bit_for_bit():
    value = np.random.default_rng(0).normal(size=50).astype(np.float32)
    variable = keras.Variable(value)
    average = WeightAverage([variable], 0.999)
    for _ in range(20):
        average.update()
    with average.swapped_in():
        assert np.array_equal(variable.numpy(), value)


def test_the_weights_come_back_where_scoring_fails():
    variable = keras.Variable(np.ones(3, np.float32))
    average = WeightAverage([variable], DECAY)
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
