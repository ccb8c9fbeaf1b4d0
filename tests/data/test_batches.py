"""Batches: every item once, padded to the bucket, and an order that seed, task and epoch alone decide."""

from __future__ import annotations

import numpy as np
import pytest

from mtdnn_tf.data.batches import BATCH_SPEC, TrainingBatches, evaluation_batches, num_batches, tokenize_task
from mtdnn_tf.data.sources import Examples
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.modeling.encoders import CHARACTER_VOCABULARY
from mtdnn_tf.tasks import TaskSpec

BUCKETS = (8, 16, 24, 64)
TOKENIZER = Tokenizer(CHARACTER_VOCABULARY)
SENTENCES = TaskSpec("mood", "classification", ("text",), ("no", "yes"))
RANKING = TaskSpec("pick", "ranking", ("question", "answer"), loss="list_softmax", metrics=("mrr",), main_metric="mrr")


def _sentences(count, max_length=32):
    # The label is the row's own number: it tells which row a batch holds.
    texts = ["x" * (1 + 7 * row % 40) for row in range(count)]
    lines = np.arange(1, count + 1, dtype=np.int32)
    examples = Examples((texts,), np.arange(count, dtype=np.int32), None, "rows", lines)
    return tokenize_task(examples, SENTENCES, TOKENIZER, max_length)


def _queries(sizes):
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    texts = ([f"q{group}" for group in groups], ["a" * (1 + row % 9) for row in range(len(groups))])
    labels = np.arange(len(groups), dtype=np.float32)
    examples = Examples(texts, labels, groups, "rows", np.arange(1, len(groups) + 1, dtype=np.int32))
    return tokenize_task(examples, RANKING, TOKENIZER, 32)


def _epoch(tokenized, batch_size, epoch=0, start=0, seed=1, buckets=BUCKETS):
    batches = TrainingBatches(tokenized, batch_size, buckets, seed, task_id=3)
    return list(batches(epoch, start))


def _rows(batches):
    return [batch["label"].numpy().astype(int).tolist() for batch in batches]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (4, 4), (5, 4), (131, 4), (7, 100), (403, 2)])
def test_every_item_comes_once_and_one_batch_at_most_is_smaller(count, batch_size):
    tokenized = _sentences(count)
    batches = _rows(_epoch(tokenized, batch_size))
    assert len(batches) == num_batches(tokenized, batch_size) == -(-count // batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert sum(len(batch) != batch_size for batch in batches) <= 1


def test_an_epoch_is_the_same_again_and_another_one_differs():
    tokenized = _sentences(90)
    first = _rows(_epoch(tokenized, 4))
    assert _rows(_epoch(tokenized, 4)) == first
    assert _rows(_epoch(tokenized, 4, epoch=1)) != first
    assert _rows(_epoch(tokenized, 4, seed=2)) != first
    # Other batches too, not the same ones in another order.
    assert not {frozenset(b) for b in first} & {
        frozenset(b) for b in _rows(_epoch(tokenized, 4, epoch=1)) if len(b) > 2
    }


@pytest.mark.parametrize("start", [1, 10, 22, 23])
def test_leaving_out_batches_gives_the_rest_of_the_same_epoch(start):
    tokenized = _sentences(90)
    assert _rows(_epoch(tokenized, 4, epoch=2, start=start)) == _rows(_epoch(tokenized, 4, epoch=2))[start:]


def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_it():
    tokenized = _sentences(131)
    allowed = [8, 16, 24, 32]  # those below max_length, and max_length
    for batch in _epoch(tokenized, 4):
        lengths = batch["padding_mask"].numpy().sum(axis=1)
        assert batch["token_ids"].shape[1] == min(size for size in allowed if size >= lengths.max())
        np.testing.assert_array_equal(lengths, tokenized.lengths[batch["label"].numpy().astype(int)])


def test_bucketing_spends_little_on_padding():
    tokenized = _sentences(2000)
    batches = _epoch(tokenized, 8)
    padded = sum(batch["token_ids"].shape.num_elements() for batch in batches)
    real = int(tokenized.lengths.sum())
    alone = np.array([min(size for size in (8, 16, 24, 32) if size >= length) for length in tokenized.lengths]).sum()
    assert padded <= 1.02 * alone
    assert padded < 1.35 * real


def test_without_buckets_batches_are_shuffled_and_padded_to_their_longest_row():
    tokenized = _sentences(403)
    batches = _epoch(tokenized, 8, buckets=None)
    assert sorted(row for batch in _rows(batches) for row in batch) == list(range(403))
    for batch in batches:
        assert batch["token_ids"].shape[1] == batch["padding_mask"].numpy().sum(axis=1).max()
    whole = [batch for batch in _rows(batches) if len(batch) == 8]
    assert np.mean([np.ptp(tokenized.lengths[rows]) for rows in whole]) > 15  # of lengths 3 to 32, in no order


def test_batches_hold_the_tokens_of_their_rows():
    tokenized = _sentences(50)
    for batch in _epoch(tokenized, 4):
        for ids, mask, row in zip(batch["token_ids"], batch["padding_mask"], batch["label"], strict=True):
            start, end = tokenized.row_splits[int(row)], tokenized.row_splits[int(row) + 1]
            np.testing.assert_array_equal(ids[: end - start], tokenized.token_ids[start:end])
            assert mask.numpy().sum() == end - start
            assert not ids[end - start :].numpy().any()


def test_a_batch_fits_the_signature_of_the_step():
    batch = _epoch(_sentences(5), 4)[0]
    assert batch.keys() == BATCH_SPEC.keys()
    for name, value in batch.items():
        assert BATCH_SPEC[name].is_compatible_with(value), name
    assert set(batch["task_id"].numpy()) == {3}


def test_ranking_keeps_the_candidates_of_a_query_together():
    sizes = [3, 1, 5, 2, 2, 7, 1]
    tokenized = _queries(sizes)
    seen = []
    for batch in _epoch(tokenized, 2):
        rows, groups = batch["label"].numpy().astype(int), batch["group"].numpy()
        assert groups.max() + 1 <= 2
        for query in range(groups.max() + 1):
            members = rows[groups == query]
            number = tokenized.groups[members[0]]
            assert members.tolist() == np.flatnonzero(tokenized.groups == number).tolist()
            seen.append(int(number))
    assert sorted(seen) == list(range(len(sizes)))


@pytest.mark.parametrize("tokenized", [_sentences(53), _queries([3, 1, 5, 2])], ids=["rows", "queries"])
def test_evaluation_gives_every_row_and_the_way_back(tokenized):
    dataset, order = evaluation_batches(tokenized, 8, BUCKETS)
    labels = np.concatenate([batch["label"].numpy() for batch in dataset])
    restored = np.empty_like(labels)
    restored[order] = labels
    np.testing.assert_array_equal(restored, tokenized.labels)
    lengths = [batch["token_ids"].shape[1] for batch in dataset]
    assert lengths == sorted(lengths)
