"""Pairs of segments from documents: what follows and what does not, new in every pass, the same whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtdnn_tf.config import PretrainingConfig, SourceConfig
from mtdnn_tf.data.batches import TrainingBatches, evaluation_batches
from mtdnn_tf.data.pretraining import tokenize_documents
from mtdnn_tf.data.segments import cut_documents, without_long_sentences
from mtdnn_tf.data.text import Tokenizer
from mtdnn_tf.errors import UserError
from mtdnn_tf.tasks import TaskSpec

DOCUMENTS, SENTENCES, WORDS = 6, 30, 5
# Every token says where it stands: document, sentence, word.
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."),
    *(f"w{d}x{s}x{w}" for d in range(DOCUMENTS) for s in range(SENTENCES) for w in range(WORDS)),
]
TOKENIZER = Tokenizer(VOCABULARY)
PAD, _, CLS, SEP, MASK, STOP = range(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for d in range(DOCUMENTS):
        sentences = (" ".join(f"W{d}x{s}x{w}" for w in range(1 + (d + s) % WORDS)) + "." for s in range(SENTENCES))
        (folder / f"{d}.txt").write_text(" ".join(sentences))
    return folder


def _split(folder, split="train", max_length=32, **options):
    source = SourceConfig(str(folder / "*.txt"))
    options = PretrainingConfig(**options)
    task = TaskSpec("text", "pretraining", (), pretraining=options, sources={"train": source, "dev": source})
    return tokenize_documents(task, split, TOKENIZER, max_length)


def _pass(split, epoch=0, batch_size=4, seed=1, start=0):
    batches = TrainingBatches(split, batch_size, (16, 32), seed)(epoch, start)
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def _unmasked(batch):
    """Return the tokens as they were before masking."""
    ids = batch["token_ids"].copy()
    rows, places = np.nonzero(batch["masked_ids"] >= 0)
    ids[rows, batch["masked_positions"][rows, places]] = batch["masked_ids"][rows, places]
    return ids


def _segments(batches):
    """Yield label, tokens of the first and of the second segment of every row."""
    for batch in batches:
        for ids, segments, mask, label in zip(
            _unmasked(batch), batch["segment_ids"], batch["padding_mask"], batch["label"], strict=True
        ):
            real = ids[mask == 1]
            first, second = real[segments[mask == 1] == 0], real[segments[mask == 1] == 1]
            assert (first[0], first[-1], second[-1]) == (CLS, SEP, SEP)
            assert not set(first[1:-1]) & {CLS, SEP, PAD, MASK}
            assert (ids[mask == 0] == PAD).all()
            yield int(label), first[1:-1], second[:-1]


def _place(split, tokens):
    """Return where tokens stand in the documents: their position; the text repeats nothing but full stops."""
    stream = split.token_ids
    starts = np.flatnonzero(stream[: len(stream) - len(tokens) + 1] == tokens[0])
    [start] = [start for start in starts if np.array_equal(stream[start : start + len(tokens)], tokens)]
    return int(start)


def test_a_second_segment_follows_or_is_of_another_document(folder):
    split = _split(folder)
    labels = []
    for epoch in range(5):
        for label, first, second in _segments(_pass(split, epoch)):
            if len(set(second) - {STOP}) == 0 or len(set(first) - {STOP}) == 0:
                continue
            begin, other = _place(split, first), _place(split, second)
            documents = np.searchsorted(split.ends, [begin, other], side="right")
            assert (other == begin + len(first)) == (label == 0)
            assert (documents[0] == documents[1]) == (label == 0)
            labels.append(label)
    assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


def test_length_does_not_tell_whether_the_second_segment_follows(folder):
    lengths = {0: [], 1: []}
    for epoch in range(10):
        for label, first, second in _segments(_pass(_split(folder, short_share=0.0), epoch)):
            lengths[label].append(len(first) + len(second))
    means = [np.mean(lengths[label]) for label in (0, 1)]
    deviation = np.std([*lengths[0], *lengths[1]]) * np.sqrt(sum(1 / len(found) for found in lengths.values()))
    assert abs(means[0] - means[1]) < 4 * deviation


def test_other_documents_are_drawn_evenly(folder):
    split = _split(folder)
    items = split.num_items
    rows = split.rows((32,), 0, 1)
    counts, expected = np.zeros(len(split.ends)), np.zeros(len(split.ends))
    sizes = np.bincount(split.documents)
    for epoch in range(20):
        chosen = tf.range(items, dtype=tf.int64)
        draws = rows._draw(chosen, tf.constant(epoch, tf.int64))
        is_other, begin, _ = (value.numpy() for value in rows._second_segments(chosen, draws[:, :2]))
        found = np.searchsorted(split.ends, begin[is_other], side="right")
        counts += np.bincount(found, minlength=len(counts))
        for own in split.documents[is_other]:
            expected += np.where(np.arange(len(sizes)) == own, 0, sizes) / (items - sizes[own])
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_masks_and_pairs_are_new_in_every_pass_and_the_same_in_every_run(folder):
    split = _split(folder)
    first, again, second, other = (_pass(split, *args) for args in ((0,), (0,), (1,), (0, 4, 2)))
    for one, same in zip(first, again, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], same[name])

    def facts(batches):
        return {tuple(first): (label, tuple(second)) for label, first, second in _segments(batches)}

    mine, next_pass, other_seed = facts(first), facts(second), facts(other)
    assert mine.keys() == next_pass.keys() == other_seed.keys()  # the first segments are the documents' own
    for theirs in (next_pass, other_seed):
        labels = np.array([(mine[key][0], theirs[key][0]) for key in mine])
        assert 0.3 < np.mean(labels[:, 0] == labels[:, 1]) < 0.7
    masks = [np.concatenate([np.sort(batch["masked_positions"][:, 0]) for batch in found]) for found in (first, second)]
    assert not np.array_equal(*masks)


def test_a_row_is_the_same_in_whatever_batch_it_comes(folder):
    split = _split(folder)

    def rows(batches):
        found = {}
        for batch in batches:
            for ids, mask, label, was in zip(
                batch["token_ids"], batch["padding_mask"], batch["label"], _unmasked(batch), strict=True
            ):
                real = mask == 1
                found[tuple(was[real])] = (tuple(ids[real]), label)
        return found

    assert rows(_pass(split, 3, 4)) == rows(_pass(split, 3, 16))
    assert rows(_pass(split, 3, 4, start=5)).items() <= rows(_pass(split, 3, 4)).items()


@pytest.mark.parametrize("batch_size", [4, 64])
def test_development_rows_are_always_the_same_and_have_the_labels_of_the_split(folder, batch_size):
    split = _split(folder, "dev")
    dataset, order = evaluation_batches(split, batch_size, (16, 32))
    labels = np.concatenate([batch["label"].numpy() for batch in dataset])
    np.testing.assert_array_equal(labels, split.known_labels[order])
    predicted = {int(label): sorted(b["masked_ids"].numpy().ravel().tolist()) for b in dataset for label in (0,)}
    assert predicted


def test_labels_alone_are_those_of_the_rows_and_keep_one_number_of_each(folder):
    split = _split(folder)
    rows, items, epoch = split.rows((32,), 0, 1), tf.range(split.num_items, dtype=tf.int64), tf.constant(3, tf.int64)
    labels = tf.function(rows.labels, autograph=False).get_concrete_function(items, epoch)
    np.testing.assert_array_equal(labels(items, epoch), rows.batch(items, epoch)["label"])
    kept = [op.outputs[0].shape[1] for op in labels.graph.get_operations() if op.type == "TensorListStack"]
    assert kept == [1]


def test_the_golden_cut():
    """Sentences of 4, 3, 5, 2 | 9, 9 tokens, room for 8: full rows, and first segments that end where the second begins."""
    random = np.random.default_rng(0)
    cut = cut_documents([np.array([4, 3, 5, 2]), np.array([1]), np.array([9, 9])], 11, 0.0, random)
    assert cut.ends.tolist() == [14, 33]
    assert cut.starts.tolist() == [0, 15]
    assert cut.documents.tolist() == [0, 1]
    assert cut.room.tolist() == [8, 8]
    assert cut.seconds[1] == 24
    assert cut.first_counts[1] == 4  # of 9 and 9 tokens each gets half the room
    assert (cut.seconds[0], cut.first_counts[0]) in ((4, 4), (7, 4))  # 4 | 8, or 7 | 5: the first loses its beginning


def test_a_sentence_longer_than_a_row_is_cut():
    """A row of 11 holds 8 tokens; parts have half of that."""
    assert without_long_sentences(np.array([3, 8, 9, 20, 1]), 11).tolist() == [3, 8, 4, 4, 1, 4, 4, 4, 4, 4, 1]
    assert without_long_sentences(np.array([16]), 11).tolist() == [4, 4, 4, 4]
    assert without_long_sentences(np.array([], np.int64), 11).tolist() == []


def test_a_text_without_sentences_is_trained_on_from_end_to_end(tmp_path):
    for d in range(2):
        words = [f"w{d}x{s}x{w}" for s in range(SENTENCES) for w in range(WORDS)]
        (tmp_path / f"{d}.txt").write_text(" ".join(words))
    split = _split(tmp_path, max_length=23, short_share=0.0)
    counts = np.minimum(np.diff(split.row_splits), split.item_lengths - 3)
    assert len(split.token_ids) == 2 * SENTENCES * WORDS
    assert counts.sum() >= len(split.token_ids) - 2 * 10  # a document's last part alone makes no pair


def test_segments_cover_documents_in_order(folder):
    split = _split(folder, max_length=24, short_share=0.5)
    assert (np.diff(split.row_splits) > 0).all()
    assert (split.seconds - (split.first_lengths - 2) >= split.row_splits[:-1]).all()
    assert (split.lengths <= 24).all()
    short = np.mean(split.lengths < 24)
    assert abs(short - 0.5) < 4 * 0.5 / np.sqrt(split.num_items)


def test_one_document_is_too_few(folder, tmp_path):
    (tmp_path / "a.txt").write_text("One. Two. Three.")
    (tmp_path / "b.txt").write_text("One.")
    with pytest.raises(UserError, match=r"\*\.txt: 1 of 2 documents have two sentences or more; two such documents"):
        _split(tmp_path)
