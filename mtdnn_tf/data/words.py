"""Whole words as tokens: lower-cased texts split at white space, and the vocabulary that a run's own texts give."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from mtdnn_tf.data.sources import read_examples
from mtdnn_tf.data.text import MAX_WORD_LENGTH, SPECIAL_TOKENS, Tokenizer, clean
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

_SPLITS = ("train", "dev")
_ROWS = 4096  # that are split at a time


class WordTokenizer(Tokenizer):
    """Lower-cased texts split at white space; words that the vocabulary lacks, or of over 100 characters, are [UNK]."""

    # No text can hold this private-use character, so no word is taken for the inside of another.
    _inside = "\ue001"

    def __init__(self, vocab: Sequence[str], lowercase: bool = True, strip_accents: bool | None = None) -> None:
        """Take the vocabulary in id order, special tokens included; see `Tokenizer`. Accents stay by default."""
        super().__init__(vocab, lowercase, bool(strip_accents))

    def get_config(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"lowercase": self.lowercase, "strip_accents": self.strip_accents}

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text gets."""
        return hashlib.sha256(f"words\n{super().fingerprint}".encode()).hexdigest()[:20]

    def _normalised(self, texts: tf.Tensor) -> tf.Tensor:
        return clean(texts, self.lowercase, self.strip_accents)

    def _split(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return tf.strings.split(texts)


def build_vocabulary(texts: Iterable[Sequence[str]], min_count: int = 1) -> tuple[str, ...]:
    """Return the special tokens and all words that come at least `min_count` times, the most frequent first.

    Of equally frequent words the order is that of their characters.

    Args:
        texts: batches of texts.
        min_count: how often a word must come.
    """
    counts: Counter[bytes] = Counter()
    for batch in texts:
        cleaned = clean(tf.constant(list(batch), tf.string), lowercase=True, strip_accents=False)
        counts.update(tf.strings.split(cleaned).values.numpy().tolist())
    words = {word.decode("utf-8"): count for word, count in counts.items() if count >= min_count}
    kept = [word for word in words if len(word) <= MAX_WORD_LENGTH and word not in SPECIAL_TOKENS]
    return (*SPECIAL_TOKENS, *sorted(kept, key=lambda word: (-words[word], word)))


def vocabulary_of_tasks(tasks: Iterable[TaskSpec], min_count: int = 1) -> tuple[str, ...]:
    """Return the vocabulary of the training and development texts of tasks; see `build_vocabulary`.

    Raises:
        UserError: a source is bad, or holds token ids instead of texts.
    """

    def batches() -> Iterable[Sequence[str]]:
        for task in tasks:
            for split in _SPLITS:
                if split in task.sources:
                    yield from _texts_of(task, split)

    return build_vocabulary(batches(), min_count)


def _texts_of(task: TaskSpec, split: str) -> Iterable[Sequence[str]]:
    examples = read_examples(task, split)
    if examples.tokens is not None:
        raise UserError(
            f"tasks.{task.name}.{split}: {examples.origin} holds token ids of another encoder; a vocabulary of words is made of texts"
        )
    for column in examples.texts:
        for start in range(0, len(column), _ROWS):
            yield column[start : start + _ROWS]
