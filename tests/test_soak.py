"""A training command that is killed again and again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import secrets

import pytest

from tests.killing import STATEFUL, WAYS, Command, assert_same_run, places


@pytest.fixture
def seed() -> int:
    """Of the places where runs are killed: drawn anew each time, printed, and repeated by MTDNN_SOAK_SEED."""
    chosen = int(os.environ.get("MTDNN_SOAK_SEED", secrets.randbelow(10**6)))
    print(f"MTDNN_SOAK_SEED={chosen}")
    return chosen


def _soak(experiment, tmp_path, seed, ways, steps, overrides, tasks):
    chance = random.Random(seed)
    options = (*STATEFUL, f"data.cache_dir={tmp_path / 'cache'}", *overrides)
    whole, cut = (Command(experiment, tmp_path / name, options, tasks) for name in ("whole", "cut"))
    whole.finish()
    for way, step in places(steps, ways, chance):
        cut.kill(way, step, chance)
    cut.finish()
    assert whole.logged_step() == steps
    assert_same_run(whole.model_dir, cut.model_dir)


@pytest.mark.slow
def test_a_run_killed_while_it_writes_a_checkpoint_ends_the_same(experiment, tmp_path, seed):
    options = ("mixing.steps_per_epoch=40", "training.epochs=2")
    _soak(experiment, tmp_path, seed, ("kill while writing",), 40, options, "mood,close")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_twenty_places_ends_the_same(experiment, tmp_path, seed):
    options = ("mixing.steps_per_epoch=32", "training.epochs=10")
    _soak(experiment, tmp_path, seed, WAYS * 4, 160, options, "mood,close")


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(3600)
def test_a_run_of_a_real_encoder_ends_the_same(experiment, tmp_path, seed, minilm):
    """A tiny model is reproducible whatever is done; at MiniLM's size arithmetic in another order would show."""
    options = (f"encoder.source={minilm}", "training.epochs=1", "data.batch_size=4", "mixing.steps_per_epoch=32")
    _soak(experiment, tmp_path, seed, WAYS[1:3], 16, options, "mood,follows")
