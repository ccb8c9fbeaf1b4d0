"""Masked tokens: how many, which, and what stands in their place."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.config import PretrainingConfig
from mtdnn_tf.data.masking import Masking
from mtdnn_tf.data.text import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*(f"word{number}" for number in range(995)), *(f"##piece{number}" for number in range(1000)))
TOKENIZER = Tokenizer([*SPECIAL, *WORDS])
PAD, UNK, CLS, SEP, MASK = range(5)
FIRST_PIECE = 1000


def _masking(**keys):
    return Masking(TOKENIZER, PretrainingConfig(**keys))


def _rows(rows=2000, length=64, seed=0):
    """Return rows of two segments, some of them padded, which of their tokens are ordinary, and draws."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, TOKENIZER.vocab_size, [rows, length]).astype(np.int32)
    ordinary = np.ones([rows, length], bool)
    ends = random.integers(length // 2, length + 1, rows)
    for row, end in enumerate(ends):
        for place, token in ((0, CLS), (end // 2, SEP), (end - 1, SEP)):
            ids[row, place], ordinary[row, place] = token, False
        ids[row, end:], ordinary[row, end:] = PAD, False
    return ids, ordinary, random.random([rows, 3, length])


def _within(count, total, share):
    """Return whether a count is within four standard deviations of a binomial's mean."""
    return abs(count - share * total) < 4 * np.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_share_of_each_row_is_chosen(share):
    ids, ordinary, draws = _rows()
    found = _masking(masked_share=share)(ids, ordinary, draws)
    counts = (found["masked_ids"].numpy() >= 0).sum(axis=1)
    np.testing.assert_array_equal(counts, np.round(share * ordinary.sum(axis=1).astype(np.float32)))
    assert found["masked_ids"].shape[1] == np.ceil(share * 64)


def test_every_position_is_chosen_as_often_as_any_other():
    ids, _, draws = _rows(4000, 40)
    ordinary = np.ones_like(ids, bool)
    chosen = _masking().choose(ids, ordinary, draws[:, 0]).numpy()
    assert chosen.sum() == 4000 * 6
    assert all(_within(count, 4000, 0.15) for count in chosen.sum(axis=0))


def test_special_tokens_and_padding_are_never_chosen_nor_changed():
    ids, ordinary, draws = _rows()
    found = _masking(masked_share=0.9)(ids, ordinary, draws)
    np.testing.assert_array_equal(found["token_ids"].numpy()[~ordinary], ids[~ordinary])
    real = found["masked_ids"].numpy() >= 0
    rows = np.nonzero(real)[0]
    assert ordinary[rows, found["masked_positions"].numpy()[real]].all()


def test_eight_of_ten_are_masked_one_replaced_one_kept():
    ids, ordinary, draws = _rows()
    found = _masking()(ids, ordinary, draws)
    real = found["masked_ids"].numpy() >= 0
    rows, positions = np.nonzero(real)[0], found["masked_positions"].numpy()[real]
    shown, were = found["token_ids"].numpy()[rows, positions], ids[rows, positions]
    np.testing.assert_array_equal(found["masked_ids"].numpy()[real], were)
    kept, masked = shown == were, shown == MASK
    replaced = shown[~kept & ~masked]
    assert _within(masked.sum(), len(shown), 0.8)
    assert _within(kept.sum(), len(shown), 0.1 + 0.1 / len(WORDS))
    assert _within(len(replaced), len(shown), 0.1)
    assert replaced.min() > MASK
    assert _within((replaced >= FIRST_PIECE).sum(), len(replaced), 1000 / len(WORDS))


def test_what_is_not_chosen_stays():
    ids, ordinary, draws = _rows(50)
    found = _masking()(ids, ordinary, draws)
    changed = found["token_ids"].numpy() != ids
    positions = np.where(found["masked_ids"] >= 0, found["masked_positions"], -1)
    for row, column in np.argwhere(changed):
        assert column in positions[row]


def test_the_golden_row():
    """Six of ten tokens: those with the smallest draws; the second number of each tells what it becomes."""
    ids = np.array([[CLS, 10, 11, 12, 13, 14, SEP, 15, 16, 17, 18, 19, SEP, PAD]], np.int32)
    ordinary = (ids != CLS) & (ids != SEP) & (ids != PAD)
    order = [0, 0.9, 0.1, 0.8, 0.2, 0.7, 0, 0.3, 0.6, 0.4, 0.5, 0.95, 0, 0]
    fate = [0, 0, 0.79, 0, 0.81, 0, 0, 0.91, 0.0, 0.5, 0.89, 0, 0, 0]
    which = [0, 0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0.9999, 0, 0, 0]
    found = _masking(masked_share=0.6)(ids, ordinary, np.array([[order, fate, which]]))
    assert found["token_ids"].numpy().tolist() == [
        [CLS, 10, MASK, 12, 5, 14, SEP, 15, MASK, MASK, TOKENIZER.vocab_size - 1, 19, SEP, PAD]
    ]
    assert found["masked_ids"].numpy().tolist() == [[11, 13, 15, 16, 17, 18, -1, -1, -1]]
    assert found["masked_positions"].numpy()[0, :6].tolist() == [2, 4, 7, 8, 9, 10]


def test_whole_words_are_chosen_with_all_their_pieces():
    ids, ordinary, draws = _rows()
    chosen = _masking(whole_words=True).choose(ids, ordinary, draws[:, 0]).numpy()
    # A piece is chosen as the token before it is; the first one of a segment has none.
    continues = (ids[:, 1:] >= FIRST_PIECE) & ordinary[:, 1:] & ordinary[:, :-1]
    np.testing.assert_array_equal(chosen[:, 1:][continues], chosen[:, :-1][continues])
    assert continues.sum() > 10_000
    limits = np.round(0.15 * ordinary.sum(axis=1).astype(np.float32))
    assert (chosen.sum(axis=1) <= limits).all()
    assert not (chosen & ~ordinary).any()
    assert chosen.sum() > 0.95 * limits.sum()


def test_a_word_that_does_not_fit_is_passed_over():
    """Words of 3, 1 and 2 tokens, room for 3."""
    ids = np.array([[CLS, 10, 1001, 1002, 11, 12, 1003, SEP]], np.int32)
    draws = {  # of words: the first numbers, in the order [CLS], 10.., 11, 12.., [SEP]
        (0.5, 0.9, 0.2, 0.1, 0.3): [4, 5, 6],  # 12 and 11 fill the row
        (0.5, 0.8, 0.2, 0.9, 0.3): [4, 5, 6],  # after 11, 10 has no room, 12 has
        (0.5, 0.1, 0.2, 0.3, 0.3): [1, 2, 3],
    }
    for order, expected in draws.items():
        order = np.array([[*order, 0.6, 0.7, 0.8]])
        chosen = _masking(whole_words=True, masked_share=0.5).choose(ids, ids > MASK, order).numpy()
        assert np.flatnonzero(chosen[0]).tolist() == expected


def _chosen_one_by_one(ids, ordinary, order, limit):
    """BERT's own procedure, on one row: `create_masked_lm_predictions` with whole words."""
    words = []
    for place, token in enumerate(ids):
        if not (ordinary[place] and token >= FIRST_PIECE):
            words.append([])
        if ordinary[place]:
            words[-1].append(place)
    chosen = []
    for number in np.argsort(order[: len(words)], kind="stable"):
        if len(chosen) + len(words[number]) <= limit:
            chosen += words[number]
    return sorted(chosen)


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_words_are_chosen_as_one_by_one(share):
    ids, ordinary, draws = _rows(200, 48)
    ids = np.where(ordinary & (np.random.default_rng(3).random(ids.shape) < 0.6), FIRST_PIECE + ids // 2, ids)
    chosen = _masking(whole_words=True, masked_share=share).choose(ids, ordinary, draws[:, 0]).numpy()
    limits = np.round(share * ordinary.sum(axis=1).astype(np.float32)).astype(int)
    for row, limit in enumerate(limits):
        expected = _chosen_one_by_one(ids[row], ordinary[row], draws[row, 0], limit)
        assert np.flatnonzero(chosen[row]).tolist() == expected
    alone = _masking(whole_words=True, masked_share=share).choose(ids[:1], ordinary[:1], draws[:1, 0])
    np.testing.assert_array_equal(alone[0], chosen[0])


def test_a_row_with_a_word_that_fits_has_a_prediction():
    """Room for one token: the words of three pieces are drawn first and have none."""
    ids = np.array([[CLS, 10, 1001, 1002, 13, 1001, 1002, 11, SEP]], np.int32)
    order = np.array([[0.5, 0.1, 0.2, 0.9, 0.3, 0.6, 0.7, 0.8, 0.4]])
    chosen = _masking(whole_words=True).choose(ids, ids > MASK, order).numpy()
    assert np.flatnonzero(chosen[0]).tolist() == [7]


def test_no_more_than_the_maximum_is_predicted():
    ids, ordinary, draws = _rows(100)
    found = _masking(max_predictions=3)(ids, ordinary, draws)
    assert found["masked_ids"].shape == (100, 3)
    assert (found["masked_ids"].numpy() >= 0).all()


def test_a_row_with_few_tokens_has_one_prediction():
    ids = np.array([[CLS, 10, SEP, 11, SEP, PAD]], np.int32)
    found = _masking()(ids, ids > MASK, tf.random.stateless_uniform([1, 3, 6], [0, 1], dtype=tf.float64))
    assert (found["masked_ids"].numpy() >= 0).sum() == 1
