"""Algorithm 1: every batch of every task once an epoch, in an order that all who know seed and epoch agree on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.config import MixingConfig
from mtdnn_tf.data.batches import evaluation_batches
from mtdnn_tf.data.schedules import MIXING_STRATEGIES


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


OPTIONS = {
    "temperature": {"temperature": 2.0},
    "ratio": {"ratio": 1.2},
    "uniform": {"steps_per_epoch": 17},
    "explicit": {"steps": {"mood": 4, "follows": 1, "close": 2, "pick": 7}},
}


@pytest.fixture(params=MIXING_STRATEGIES)
def mixture(request, parts):
    config, tasks, encoder = parts
    mixing = MixingConfig(strategy=request.param, **OPTIONS.get(request.param, {}))
    return mtdnn.build_mixture(tasks, encoder, dataclasses.replace(config, mixing=mixing))


def test_the_dataset_follows_the_schedule(mixture):
    schedules = [mixture.schedule(epoch) for epoch in range(3)]
    assert _task_ids(mixture.batches(3)) == np.concatenate(schedules).tolist()
    dataset = mixture.epoch_dataset(1)
    assert int(dataset.cardinality()) == mixture.steps_per_epoch
    assert _task_ids(dataset) == schedules[1].tolist()
    for epoch, schedule in enumerate(schedules):
        assert len(schedule) == mixture.steps_per_epoch
        assert list(mixture.step_counts(epoch).values()) == np.bincount(schedule, minlength=4).tolist()


def test_no_epoch_waits_for_the_tuner_of_pipelines(parts):
    """An iterator's end may wait a minute for the tuner to wake up (see `mtdnn_tf.data.pipelines`)."""
    config, tasks, encoder = parts
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    tokenized = next(iter(mixture.tokenized.values()))
    scored, _ = evaluation_batches(tokenized, 4, [8, 16])
    for dataset in (mixture.epoch_dataset(0), mixture.epoch_dataset(1, 3), mixture.dataset, scored):
        assert dataset.options().autotune.enabled is False


def test_no_example_comes_again_before_all_have_come(mixture):
    """Of every task, over epochs: batch after batch, each pass holds every example once, the smaller batch included."""
    streams = {name: [] for name in mixture.task_names}
    for batch in mixture.batches(4):
        streams[mixture.task_names[int(batch["task_id"][0])]].append(batch)
    for name, batches in streams.items():
        of_pass, tokenized = mixture.batch_counts[name], mixture.tokenized[name]
        everything = sorted(_rows_of(tokenized))
        for start in range(0, len(batches) - of_pass + 1, of_pass):
            seen = [row for batch in batches[start : start + of_pass] for row in _rows_in(batch)]
            assert sorted(seen) == everything


def _rows_of(tokenized):
    splits = zip(tokenized.row_splits[:-1], tokenized.row_splits[1:], tokenized.labels, strict=True)
    return [(*tokenized.token_ids[start:end].tolist(), float(label)) for start, end, label in splits]


def _rows_in(batch):
    rows = zip(batch["token_ids"].numpy(), batch["padding_mask"].numpy(), batch["label"].numpy(), strict=True)
    return [(*ids[mask == 1].tolist(), float(label)) for ids, mask, label in rows]


def test_an_epoch_goes_on_from_any_step_of_any_strategy(mixture):
    steps = mixture.steps_per_epoch
    whole, rest, epoch = list(mixture.batches(4)), list(mixture.batches(4, (2, 3))), list(mixture.epoch_dataset(2, 3))
    assert (len(whole), len(rest), len(epoch)) == (4 * steps, 2 * steps - 3, steps - 3)
    for expected, found in [*zip(whole[2 * steps + 3 :], rest, strict=True), *zip(rest, epoch, strict=False)]:
        np.testing.assert_array_equal(found["token_ids"], expected["token_ids"])


def test_orders_depend_on_seed_and_epoch_alone(parts):
    config, tasks, encoder = parts
    one, same, other = (mtdnn.build_mixture(tasks, encoder, config, seed) for seed in (1, 1, 2))
    assert one.schedule(4).tolist() == same.schedule(4).tolist()
    assert one.schedule(4).tolist() != one.schedule(5).tolist()
    assert one.schedule(4).tolist() != other.schedule(4).tolist()


@pytest.mark.parametrize("start", [0, 1, 5, 10, 11, 12])
def test_a_run_goes_on_from_any_step(parts, start):
    """Batches that are accumulated may reach beyond an epoch's end, where the next one begins."""
    config, tasks, encoder = parts
    mixture = mtdnn.build_mixture(tasks, encoder, config)
    whole, rest = list(mixture.batches(3)), list(mixture.batches(3, (1, start)))
    assert len(rest) == max(11 - start, 0) + 11
    for expected, found in zip(whole[-len(rest) :], rest, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_the_dataset_is_epoch_after_epoch(mixture):
    assert int(mixture.dataset.cardinality()) == 2 * mixture.steps_per_epoch
    assert _task_ids(mixture.dataset) == [*mixture.schedule(0), *mixture.schedule(1)]


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
