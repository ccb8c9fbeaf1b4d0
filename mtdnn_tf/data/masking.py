"""Tokens chosen for prediction, and what stands in their place: BERT's masked language model, from numbers drawn elsewhere.

Devlin et al. 2019, section 3.1 and appendix A.1: of the tokens of a row 15 % are predicted; the model sees [MASK] for 80 % of
these, a random token for 10 %, and the token itself for 10 %.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import PretrainingConfig
from mtdnn_tf.data.text import Tokenizer

DRAWS = 3  # numbers that a position needs: its place in the order of choice, what it becomes, which random token
MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens
MASKED_FIELDS = ("masked_positions", "masked_ids")


class Masking:
    """Masks rows; a function of the rows and the draws alone."""

    def __init__(self, tokenizer: Tokenizer, options: PretrainingConfig) -> None:
        """Take the vocabulary, and how many tokens are chosen and by which unit."""
        special = {tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        ordinary = [index for index in range(tokenizer.vocab_size) if index not in special]
        self._ordinary = tf.constant(ordinary, tf.int32)
        self._continues = tf.constant(np.array([token.startswith("##") for token in tokenizer.vocab]))
        self._mask_id, self._options = tokenizer.mask_id, options

    def __call__(self, token_ids: tf.Tensor, ordinary: tf.Tensor, draws: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return rows as the model sees them, and what it is to find.

        Args:
            token_ids: `[rows, length] int32`.
            ordinary: `[rows, length] bool`: neither [CLS], [SEP] nor padding.
            draws: `[rows, DRAWS, length] float64` in [0, 1).

        Returns:
            `token_ids` `[rows, length] int32`; `masked_positions` `[rows, predictions] int32`, ascending, and `masked_ids`
            `[rows, predictions] int32`, the tokens that stood there; where a row has fewer, -1, at positions of no meaning.
        """
        order, fate, which = tf.unstack(draws, DRAWS, axis=1)
        chosen = self.choose(token_ids, ordinary, order)
        random = tf.gather(self._ordinary, self._scaled(which, tf.size(self._ordinary)))
        shown = tf.where(fate < MASKED, self._mask_id, tf.where(fate < MASKED + REPLACED, random, token_ids))
        length = tf.shape(token_ids)[1]
        width = self._width(length)
        positions = tf.argsort(tf.where(chosen, 0, 1), axis=1, stable=True)[:, :width]
        real = tf.gather(chosen, positions, batch_dims=1)
        return {
            "token_ids": tf.where(chosen, shown, token_ids),
            "masked_positions": positions,
            "masked_ids": tf.where(real, tf.gather(token_ids, positions, batch_dims=1), -1),
        }

    def choose(self, token_ids: tf.Tensor, ordinary: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        """Return which tokens are predicted, `[rows, length] bool`.

        Words (tokens, unless `whole_words`) are taken in the order of their draws; one whose tokens are more than are still to be
        predicted is passed over. To be predicted is the share of the row's ordinary tokens, rounded, at least 1. So a row has no
        prediction only where each of its words has more tokens than that.

        Args:
            token_ids: `[rows, length] int32`.
            ordinary: as in a call.
            order: `[rows, length] float64`.
        """
        rows, length = tf.unstack(tf.shape(token_ids))
        begins = tf.ones_like(ordinary)
        if self._options.whole_words:
            begins = ~(tf.gather(self._continues, token_ids) & ordinary)
        word = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # [rows, length]: the number of each token's word
        of_all = tf.reshape(word + tf.range(rows)[:, tf.newaxis] * length, [-1])
        counts = tf.math.unsorted_segment_sum(
            tf.reshape(tf.cast(ordinary, tf.int32), [-1]), of_all, rows * length
        )  # of ordinary tokens, by word
        sizes = tf.reshape(counts, [rows, length])
        # Words without an ordinary token come last; 2 is more than any draw.
        ranking = tf.argsort(tf.where(sizes > 0, order, 2.0), axis=1, stable=True)
        sorted_sizes = tf.gather(sizes, ranking, batch_dims=1)
        taken = _taken_in_order(sorted_sizes, self._limits(ordinary, length))
        words = tf.gather(taken, tf.argsort(ranking, axis=1), batch_dims=1)
        return tf.gather(words, word, batch_dims=1) & ordinary

    def _limits(self, ordinary: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
        count = tf.reduce_sum(tf.cast(ordinary, tf.float32), axis=1)
        wanted = tf.maximum(tf.cast(tf.round(self._options.masked_share * count), tf.int32), 1)
        return tf.minimum(wanted, self._width(length))

    def _width(self, length: tf.Tensor) -> tf.Tensor:
        """Return how many tokens of a row are predicted at most, where rows have this padded length."""
        most = tf.cast(tf.math.ceil(self._options.masked_share * tf.cast(length, tf.float32)), tf.int32)
        most = tf.minimum(tf.maximum(most, 1), length)
        limit = self._options.max_predictions
        return most if limit is None else tf.minimum(most, limit)

    @staticmethod
    def _scaled(draws: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.floor(draws * tf.cast(count, draws.dtype)), tf.int32)


def _taken_in_order(sizes: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """Return which of the words of each row are taken when each in turn is, if there is room for it, `[rows, words] bool`.

    Each round takes all words before the first that has no room, and drops those that will never have any. Rounds are few: after
    the first, less room is left than the longest word needs, and each leaves less.

    Args:
        sizes: `[rows, words] int32`; words of size 0 are not taken.
        room: `[rows] int32`.
    """

    def go_round(taken: tf.Tensor, waiting: tf.Tensor, room: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        ends = tf.cumsum(tf.where(waiting, sizes, 0), axis=1)
        fits = waiting & (ends <= room[:, tf.newaxis])
        room -= tf.reduce_sum(tf.where(fits, sizes, 0), axis=1)
        return taken | fits, waiting & ~fits & (sizes <= room[:, tf.newaxis]), room

    waiting = (sizes > 0) & (sizes <= room[:, tf.newaxis])
    start = (tf.zeros_like(waiting), waiting, room)
    taken, _, _ = tf.while_loop(lambda _, waiting, __: tf.reduce_any(waiting), go_round, start)
    return taken
