"""Algorithm 1: every batch of every task once an epoch, in an order that all who know seed and epoch agree on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.data.mixing import MIXING_STRATEGIES


@pytest.fixture
def parts(experiment):
    config = mtdnn.load_config(experiment)
    return config, mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source)


def _task_ids(dataset):
    return [int(batch["task_id"][0]) for batch in dataset]


def test_counts_are_exact(parts):
    config, tasks, encoder = parts
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    assert mixture.example_counts == {"mood": 12, "follows": 9, "close": 9, "pick": 4}
    assert mixture.batch_counts == {"mood": 3, "follows": 3, "close": 3, "pick": 2}
    assert mixture.steps_per_epoch == 11


@pytest.mark.parametrize("strategy", MIXING_STRATEGIES)
def test_the_dataset_follows_the_schedule(parts, strategy):
    config, tasks, encoder = parts
    config = dataclasses.replace(config, mixing=dataclasses.replace(config.mixing, strategy=strategy))
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    for epoch in range(3):
        schedule = mixture.schedule(epoch)
        dataset = mixture.epoch_dataset(epoch)
        assert int(dataset.cardinality()) == len(schedule) == mixture.steps_per_epoch
        assert _task_ids(dataset) == schedule.tolist()
        assert np.bincount(schedule).tolist() == list(mixture.batch_counts.values())


def test_orders_depend_on_seed_and_epoch_alone(parts):
    config, tasks, encoder = parts
    one, same, other = (mtdnn.build_mixture(tasks, encoder, config, seed) for seed in (1, 1, 2))
    assert one.schedule(4).tolist() == same.schedule(4).tolist()
    assert one.schedule(4).tolist() != one.schedule(5).tolist()
    assert one.schedule(4).tolist() != other.schedule(4).tolist()


@pytest.mark.parametrize("start", [0, 1, 5, 10, 11])
def test_an_epoch_goes_on_from_any_step(parts, start):
    config, tasks, encoder = parts
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    whole, rest = list(mixture.epoch_dataset(1)), list(mixture.epoch_dataset(1, start))
    assert len(rest) == 11 - start
    for expected, found in zip(whole[start:], rest, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_the_endless_dataset_is_epoch_after_epoch(parts):
    config, tasks, encoder = parts
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    endless = _task_ids(mixture.dataset.take(22))
    assert endless == [*mixture.schedule(0), *mixture.schedule(1)]


def test_a_task_without_training_rows_is_told_by_its_key(parts):
    config, tasks, encoder = parts
    sources = {split: source for split, source in tasks[0].sources.items() if split != "train"}
    with pytest.raises(mtdnn.UserError, match=r"tasks\.mood\.train: is missing"):
        mtdnn.build_mixture([dataclasses.replace(tasks[0], sources=sources), *tasks[1:]], encoder, config)


def test_an_unknown_strategy_is_told_with_the_closest(experiment):
    config = mtdnn.load_config(experiment, ["mixing.strategy=proportionate"])
    encoder = mtdnn.load_encoder(config.encoder.source)
    with pytest.raises(mtdnn.UserError, match=r"mixing\.strategy: .*Did you mean 'proportional'"):
        mtdnn.build_mixture(mtdnn.load_tasks(config), encoder, config)


def test_a_task_that_borrows_a_head_is_not_trained(parts):
    config, tasks, encoder = parts
    borrower = dataclasses.replace(tasks[0], name="mood_elsewhere", head_of="mood", sources={})
    assert "mood_elsewhere" not in mtdnn.build_mixture([*tasks, borrower], encoder, config).task_names
