"""What buckets are used for adds up to the epoch."""

from __future__ import annotations

import numpy as np
import pytest

import mtdnn_tf as mtdnn
from mtdnn_tf.data.batches import TokenizedTask
from mtdnn_tf.data.bucket_use import bucket_summary, bucket_use, padding_unsorted
from mtdnn_tf.tasks import TaskSpec


def _split(lengths, groups=None):
    return TokenizedTask(
        task=TaskSpec("mood", "classification", ("text",), ("bad", "good")),
        token_ids=np.zeros(sum(lengths), np.int32),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        first_lengths=np.array(lengths, np.int32),
        labels=np.zeros(len(lengths)),
        groups=None if groups is None else np.array(groups, np.int32),
        max_length=16,
        pad_id=0,
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    from tests.small import write_experiment

    config = mtdnn.load_config(write_experiment(tmp_path_factory.mktemp("buckets")))
    return mtdnn.build_mixture(mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source), config)


def test_batches_and_tokens_add_up(mixture):
    use = bucket_use(mixture)
    for name, split in mixture.tokenized.items():
        assert sum(bucket.batches for bucket in use[name].values()) == mixture.step_counts(0)[name]
        assert sum(bucket.tokens for bucket in use[name].values()) == split.lengths.sum()
        assert all(length in (16, 32) for length in use[name])


def test_a_sample_stops_early(mixture):
    use = bucket_use(mixture, max_batches=4)
    assert sum(bucket.batches for buckets in use.values() for bucket in buckets.values()) == 4


def test_padding_is_what_the_batches_hold(mixture):
    # mood: 12 rows padded to 16, of 9 to 11 tokens.
    split = mixture.tokenized["mood"]
    summary = bucket_summary(bucket_use(mixture)["mood"], split, 4)
    assert summary["batches"] == {"16": 3}
    assert summary["padding"] == pytest.approx(1 - split.lengths.sum() / (12 * 16), abs=1e-4)


def test_padding_without_buckets():
    assert padding_unsorted(_split([4, 4, 4, 4]), 2) == 0
    assert padding_unsorted(_split([2, 8]), 2) == pytest.approx(6 / 16)


def test_padding_without_buckets_keeps_queries_whole():
    # One batch of both queries: three rows padded to 8.
    assert padding_unsorted(_split([2, 4, 8], groups=[0, 0, 1]), 2) == pytest.approx(1 - 14 / 24)
