"""Words as tokens: lower-cased, split at white space, with a vocabulary that is a function of the texts."""

from __future__ import annotations

import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.data.text import SPECIAL_TOKENS, Tokenizer, encode_texts
from mtdnn_tf.data.words import WordTokenizer, build_vocabulary, vocabulary_of_tasks

WORDS = ("the", "dog", "##s", "don't", "it", "中国", "café", "[sep]", "x" * 100)


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer((*SPECIAL_TOKENS, *WORDS))


TEXTS = {
    "The DOG": ["the", "dog"],
    "  the\tdog\n": ["the", "dog"],
    "dogs": ["[UNK]"],  # no parts of words
    "dog##s ##s": ["[UNK]", "##s"],  # a word like any other
    "don't don 't": ["don't", "[UNK]", "[UNK]"],  # punctuation is part of a word
    "中国 中 国": ["中国", "[UNK]", "[UNK]"],
    "Café cafe": ["café", "[UNK]"],
    "[SEP] [CLS]": ["[sep]", "[UNK]"],  # never a special token
    "it\u00a0it\u0000": ["it", "it"],
    "": [],
    "x" * 100: ["x" * 100],
    "x" * 101: ["[UNK]"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_a_text(tokenizer, text):
    [ids] = tokenizer(tf.constant([text])).to_list()
    assert [tokenizer.vocab[number] for number in ids] == TEXTS[text]


def test_texts_become_inputs_as_those_of_wordpiece_do(tokenizer):
    inputs = encode_texts([tf.constant(["the dog it"]), tf.constant(["it"])], tokenizer, max_length=6)
    assert inputs["token_ids"].numpy().tolist() == [[2, 5, 6, 3, 9, 3]]
    assert inputs["segment_ids"].numpy().tolist() == [[0, 0, 0, 0, 1, 1]]
    assert inputs["padding_mask"].numpy().tolist() == [[1] * 6]


def test_a_vocabulary_holds_frequent_words_first_and_each_once():
    batches = [["b a b", "C"], ["b A [PAD] ###", "y" * 101]]
    assert build_vocabulary(batches) == (*SPECIAL_TOKENS, "b", "a", "###", "[pad]", "c")
    assert build_vocabulary(batches, min_count=2) == (*SPECIAL_TOKENS, "b", "a")
    assert build_vocabulary([]) == SPECIAL_TOKENS


def test_every_word_of_a_vocabulary_is_known_to_its_tokenizer():
    text = "a ##b [CLS] ' -- é \ue001 \u200b x\u0301"
    tokenizer = WordTokenizer(build_vocabulary([[text]]))
    assert tokenizer.unk_id not in tokenizer(tf.constant([text])).values.numpy()


def test_tokenizers_of_one_vocabulary_but_different_rules_are_told_apart():
    vocab = (*SPECIAL_TOKENS, "a")
    assert WordTokenizer(vocab).fingerprint != Tokenizer(vocab, strip_accents=False).fingerprint


def test_the_vocabulary_of_tasks_is_that_of_training_and_development_texts(experiment, tmp_path):
    (tmp_path / "more.tsv").write_text("text\tlabel\nonly here\tpositive\n")
    config = mtdnn.load_config(experiment, [f"tasks.mood.test={tmp_path / 'more.tsv'}"])
    words = set(vocabulary_of_tasks(mtdnn.load_tasks(config)))
    assert {"bread", "hypothesis", "hound", "baker"} - words == {"hypothesis"}
    assert not {"only", "here"} & words
