"""Pre-training rows made of running text: pairs of segments; second segments and masks are new in every pass over the data.

Which segment follows and which tokens are masked is a function of (seed, pass, number of the pair) alone, whatever the batches:
a run that goes on, or is spread over workers, sees the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from mtdnn_tf.config import PretrainingConfig
from mtdnn_tf.data.batches import EVALUATION_SEED, TokenizedTask, padded_lengths, smallest_length
from mtdnn_tf.data.documents import Document, read_documents
from mtdnn_tf.data.masking import DRAWS, Masking
from mtdnn_tf.data.pipelines import PARALLEL_CALLS, without_tuner
from mtdnn_tf.data.segments import SPECIAL, cut_documents, without_long_sentences
from mtdnn_tf.data.text import Tokenizer, with_masks
from mtdnn_tf.errors import UserError
from mtdnn_tf.seeds import derive_seed
from mtdnn_tf.tasks import TaskSpec

_CHUNK = 4096  # sentences tokenised at once
_NOT_NEXT = 0.5  # share of rows whose second segment is of another document
_OF_PAIR = 2  # numbers drawn for a pair: whether the second segment follows, and which one stands in its place


@dataclass(frozen=True, kw_only=True)
class TokenizedDocuments(TokenizedTask):
    """A split of running text. An item is a pair of segments; `token_ids` are the documents' tokens, special ones left out.

    `row_splits` tells where the text of each item begins. `labels` are those of a development split's rows, which are the same
    in every run: 0 where the second segment follows, else 1.
    """

    item_lengths: np.ndarray  # [items] int64: of a row at most
    seconds: np.ndarray  # [items] int64: where the second segment begins
    documents: np.ndarray  # [items] int32
    ends: np.ndarray  # [documents] int64
    options: PretrainingConfig
    tokenizer: Tokenizer = field(repr=False)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row at most, `[items] int64`: a document may end before."""
        return self.item_lengths

    def with_labels(self) -> TokenizedDocuments:
        """Return the split with the labels that the rows of `evaluation_batches` have."""
        rows = self.rows(None, 0, EVALUATION_SEED)
        labels = tf.function(rows.labels, autograph=False)(tf.range(self.num_items, dtype=tf.int64), tf.constant(0))
        return replace(self, labels=labels.numpy())

    def rows(self, buckets: Sequence[int] | None, task_id: int, seed: int) -> DocumentRows:
        """See `TokenizedTask`."""
        return DocumentRows(self, buckets, task_id, seed)


def tokenize_documents(task: TaskSpec, split: str, tokenizer: Tokenizer, max_length: int) -> TokenizedDocuments:
    """Read and tokenise a split of a task of the type `pretraining`, and cut it into pairs of segments.

    All of it is kept in memory: 4 bytes a token. Segments are cut in the same way in every run.

    Raises:
        UserError: the split has no source, the source is bad (see `read_documents`), or has no two documents of two sentences.
    """
    if split not in task.sources or task.pretraining is None:
        raise UserError(f"tasks.{task.name}.{split}: is missing; name files of running text, as in wiki/*.txt")
    source, options = task.sources[split], task.pretraining
    documents, skipped = read_documents(source)
    token_ids, lengths = _tokenize(documents, tokenizer)
    random = np.random.default_rng(derive_seed(0, task.name, "segments"))
    lengths = [without_long_sentences(of_document, max_length) for of_document in lengths]
    segments = cut_documents(lengths, max_length, options.short_share, random)
    if len(segments.ends) < 2:
        raise UserError(
            f"{source.path}: {len(segments.ends)} of {len(documents)} documents have two sentences or more; two such documents are "
            "needed, for a segment that does not follow is taken from another one"
        )
    tokenized = TokenizedDocuments(
        task=task,
        token_ids=token_ids,
        row_splits=np.append(segments.starts, len(token_ids)),
        first_lengths=segments.first_counts + 2,
        labels=None,
        groups=None,
        max_length=max_length,
        pad_id=tokenizer.pad_id,
        skipped=skipped,
        item_lengths=segments.room.astype(np.int64) + SPECIAL,
        seconds=segments.seconds,
        documents=segments.documents,
        ends=segments.ends,
        options=options,
        tokenizer=tokenizer,
    )
    return tokenized if split == "train" else tokenized.with_labels()


def _tokenize(documents: Sequence[Document], tokenizer: Tokenizer) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return all tokens, `[tokens] int32`, and of each document the tokens of its sentences; empty ones are left out."""
    sentences = tf.data.Dataset.from_tensor_slices([text for document in documents for text in document])
    chunks = sentences.batch(_CHUNK).map(tokenizer, num_parallel_calls=PARALLEL_CALLS)
    tokens, counts = zip(
        *((chunk.values.numpy(), chunk.row_lengths().numpy()) for chunk in without_tuner(chunks)), strict=True
    )
    bounds = np.cumsum([len(document) for document in documents])[:-1]
    lengths = [of_document[of_document > 0] for of_document in np.split(np.concatenate(counts), bounds)]
    return np.concatenate(tokens), lengths


class DocumentRows:
    """Batches of a split of running text; see `TokenizedTask.rows`."""

    def __init__(self, split: TokenizedDocuments, buckets: Sequence[int] | None, task_id: int, seed: int) -> None:
        """Take the split, the padded lengths, the task's number, and the seed of pairs and masks."""
        self.buckets = padded_lengths(split.max_length, buckets)
        self._masking = Masking(split.tokenizer, split.options)
        self._tokenizer, self._task_id, self._max_length = split.tokenizer, task_id, split.max_length
        self._seed = derive_seed(seed, split.task.name, "masks")
        self._ids = tf.constant(split.token_ids)
        self._seconds = tf.constant(split.seconds)
        self._first_counts = tf.constant(split.first_lengths - 2)
        self._room = tf.constant((split.item_lengths - SPECIAL).astype(np.int32))
        self._documents = tf.constant(split.documents)
        self._ends = tf.constant(split.ends)
        self._items = split.num_items
        counts = np.bincount(split.documents)
        self._of_document = tf.constant(counts)
        self._before_document = tf.constant(np.cumsum(counts) - counts)

    def batch_of_items(self, items: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """See `batch`: a row is an item."""
        return self.batch(items, epoch)

    def batch(self, items: tf.Tensor, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return a batch of pairs `[CLS] A [SEP] B [SEP]`, masked.

        Args:
            items: `[rows] int64`.
            epoch: `[] int64`, the pass over the data.

        Returns:
            What `TrainingBatches.batch` says, `label` 0 where B follows A and 1 where it is of another document; and
            `masked_positions`, `masked_ids`, see `Masking`.
        """
        draws = self._draw(items, epoch)
        is_other, seconds, second_counts = self._second_segments(items, draws[:, :_OF_PAIR])
        firsts = tf.gather(self._first_counts, items)
        lengths = firsts + second_counts + SPECIAL
        length = tf.cast(smallest_length(self.buckets, tf.reduce_max(lengths)), tf.int32)
        token_ids, ordinary = self._filled(length, tf.gather(self._seconds, items), firsts, seconds, second_counts)
        of_positions = tf.reshape(draws[:, _OF_PAIR:], [-1, DRAWS, self._max_length])[:, :, :length]
        count = tf.shape(items)[0]
        return (
            with_masks(token_ids, lengths, firsts + 2)
            | self._masking(token_ids, ordinary, of_positions)
            | {
                "label": tf.cast(is_other, tf.float32),
                "group": tf.range(count),
                "task_id": tf.fill([count], self._task_id),
            }
        )

    def labels(self, items: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """Return the labels of `batch` alone, `[rows] float32`."""
        return tf.cast(self._draw(items, epoch, kept=1)[:, 0] < _NOT_NEXT, tf.float32)

    def _draw(self, items: tf.Tensor, epoch: tf.Tensor, kept: int | None = None) -> tf.Tensor:
        """Return each item's numbers in [0, 1), `[rows, kept] float64`: the first ones; None: all `_OF_PAIR + DRAWS max_length`."""
        count = _OF_PAIR + DRAWS * self._max_length
        run_and_pass = tf.constant(self._seed, tf.int64) * 2**31 + tf.cast(epoch, tf.int64)

        def of_item(item: tf.Tensor) -> tf.Tensor:
            # All are drawn: the first of fewer may be others.
            drawn = tf.random.stateless_uniform([count], tf.stack([run_and_pass, item]), dtype=tf.float64)
            return drawn[:kept]

        return tf.map_fn(
            of_item, tf.cast(items, tf.int64), fn_output_signature=tf.TensorSpec([kept or count], tf.float64)
        )

    def _second_segments(self, items: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return whether the second segment is of another document, where it begins, and its number of tokens.

        It fills the row up in both cases, or goes to its document's end: its length does not tell which case it is.
        """
        document = tf.gather(self._documents, items)
        own = tf.gather(self._of_document, document)
        others = tf.cast(self._items - own, tf.float64)
        place = tf.cast(tf.floor(draws[:, 1] * others), tf.int64)
        other = tf.where(place < tf.gather(self._before_document, document), place, place + own)
        is_other = draws[:, 0] < _NOT_NEXT
        chosen = tf.where(is_other, other, tf.cast(items, tf.int64))
        begin = tf.gather(self._seconds, chosen)
        there = tf.cast(tf.gather(self._ends, tf.gather(self._documents, chosen)) - begin, tf.int32)
        free = tf.gather(self._room, items) - tf.gather(self._first_counts, items)
        return is_other, begin, tf.minimum(free, there)

    def _filled(
        self, length: tf.Tensor, first_ends: tf.Tensor, firsts: tf.Tensor, seconds: tf.Tensor, second_counts: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the padded rows, and which of their tokens are ordinary ones, both `[rows, length]`."""
        position = tf.range(length)[tf.newaxis]
        first, last = firsts[:, tf.newaxis] + 1, (firsts + second_counts)[:, tf.newaxis] + 2  # the two [SEP]
        in_first = (position > 0) & (position < first)
        in_second = (position > first) & (position < last)
        from_first = tf.cast(position - first, tf.int64) + first_ends[:, tf.newaxis]
        from_second = tf.cast(position - first - 1, tf.int64) + seconds[:, tf.newaxis]
        ordinary = in_first | in_second
        source = tf.where(ordinary, tf.where(in_first, from_first, from_second), 0)
        token_ids = tf.where(ordinary, tf.gather(self._ids, source), self._tokenizer.pad_id)
        token_ids = tf.where((position == first) | (position == last), self._tokenizer.sep_id, token_ids)
        return tf.where(position == 0, self._tokenizer.cls_id, token_ids), ordinary
