"""The tokenizer that a folder's files describe: which file decides what, and what is refused."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from tokenizers import Tokenizer as Reference

from mtdnn_tf.data.text import SPECIAL_TOKENS
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.tokenizer_files import read_tokenizer

PIECES = [
    *SPECIAL_TOKENS,
    *(
        "the",
        "dog",
        "The",
        "Dog",
        "日",
        "本",
        "##本",
        "日本",
        "caf",
        "cafe",
        "café",
        "##e",
        "u",
        "##r",
        "##l",
        "<",
        ">",
        "a",
        "b",
    ),
]
TEXT = "The dog 日本 Café a<url>b"
PLAIN = ["the", "dog", "日", "本", "cafe", "a", "<", "u", "##r", "##l", ">", "b"]


def _json(**changes):
    """tokenizer.json of a lower-casing BERT; `normalizer={...}` and others replace entries of these parts."""
    content = {
        "version": "1.0",
        "added_tokens": [_added(index, token, special=True) for index, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(PIECES)},
        },
    }
    for part, change in changes.items():
        content[part] = {**content[part], **change} if isinstance(change, dict) else change
    return content


def _added(number, content, special=False, **properties):
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": number, "content": content, **marks, **properties}


def _write(folder, files):
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")


def _tokens(folder, text=TEXT):
    tokenizer = read_tokenizer(folder)
    [ids] = tokenizer(tf.constant([text])).to_list()
    return [tokenizer.vocab[number] for number in ids]


LINES = "\n".join(PIECES) + "\n"
URL = len(PIECES)
LOWER, CASED = {"do_lower_case": True}, {"do_lower_case": False}
# Files of a folder, and the tokens of TEXT: by Hugging Face's rules, written out by hand.
FOLDERS = {
    "vocab.txt": ({"vocab.txt": LINES, "tokenizer_config.json": LOWER}, PLAIN),
    "byte order marks": ({"vocab.txt": "\ufeff" + LINES, "tokenizer_config.json": "\ufeff" + json.dumps(LOWER)}, PLAIN),
    "blank lines at the end": ({"vocab.txt": LINES + "\n \r\n\n", "tokenizer_config.json": LOWER}, PLAIN),
    "tokenizer.json": ({"tokenizer.json": _json()}, PLAIN),
    "cased by its normalizer": (
        {"tokenizer.json": _json(normalizer={"lowercase": False})},
        ["The", "dog", "日", "本", "[UNK]", *PLAIN[5:]],
    ),
    "settings overrule the normalizer": (
        {"tokenizer.json": _json(), "tokenizer_config.json": {**CASED, "tokenizer_class": "BertTokenizer"}},
        ["The", "dog", "日", "本", "[UNK]", *PLAIN[5:]],
    ),
    "but not for a general class": (
        {"tokenizer.json": _json(), "tokenizer_config.json": {**CASED, "tokenizer_class": "PreTrainedTokenizerFast"}},
        PLAIN,
    ),
    "accents by the normalizer": (
        {"tokenizer.json": _json(normalizer={"strip_accents": False})},
        ["the", "dog", "日", "本", "café", *PLAIN[5:]],
    ),
    "ideographs by the settings": (
        {"vocab.txt": LINES, "tokenizer_config.json": {**LOWER, "tokenize_chinese_chars": False}},
        ["the", "dog", "日本", *PLAIN[4:]],
    ),
    "ideographs by the normalizer": (
        {"tokenizer.json": _json(normalizer={"handle_chinese_chars": False})},
        ["the", "dog", "日本", *PLAIN[4:]],
    ),
    "no settings: by the vocabulary": ({"vocab.txt": LINES}, ["The", "dog", "日", "本", "[UNK]", *PLAIN[5:]]),
    "settings without capitals": (
        {"vocab.txt": LINES, "tokenizer_config.json": {"model_max_length": 64}},
        ["The", "dog", "日", "本", "[UNK]", *PLAIN[5:]],
    ),
    "added_tokens.json": (
        {"vocab.txt": LINES, "tokenizer_config.json": LOWER, "added_tokens.json": {"<url>": URL}},
        [*PLAIN[:6], "<url>", "b"],
    ),
    "added_tokens_decoder": (
        {
            "vocab.txt": LINES,
            "tokenizer_config.json": {**LOWER, "added_tokens_decoder": {"0": _added(0, "[PAD]"), str(URL): _added(0, "<url>")}},
        },
        [*PLAIN[:6], "<url>", "b"],
    ),
    "added_tokens of tokenizer.json": (
        {"tokenizer.json": _json(added_tokens=[_added(0, "[PAD]", special=True), _added(URL, "<url>", special=True)])},
        [*PLAIN[:6], "<url>", "b"],
    ),
    "special tokens without ids": (
        {"vocab.txt": LINES, "tokenizer_config.json": LOWER, "special_tokens_map.json": {"additional_special_tokens": ["<", "The"]}},
        ["The", *PLAIN[1:]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_the_files_of_a_folder_decide_the_tokens(tmp_path, case):
    files, expected = FOLDERS[case]
    _write(tmp_path, files)
    assert _tokens(tmp_path) == expected


@pytest.mark.parametrize(
    "normalizer", [{}, {"lowercase": False}, {"strip_accents": False}, {"handle_chinese_chars": False}]
)
@pytest.mark.parametrize("special", [True, False])
def test_tokenizer_json_gives_what_its_own_library_gives(tmp_path, normalizer, special):
    added = [
        _added(URL, "<url>", special=special),
        _added(PIECES.index("Dog"), "Dog", special=special),
        _added(PIECES.index("u"), "u"),
    ]
    content = _json(normalizer=normalizer, added_tokens=[*_json()["added_tokens"], *added])
    _write(tmp_path, {"tokenizer.json": content})
    reference = Reference.from_file(str(tmp_path / "tokenizer.json"))
    texts = [TEXT, "<URL> dogDog 日本<url>日", "DOG u ur\n<ur<url>l> cafe\u0301", "", "<url>"]
    ids = read_tokenizer(tmp_path)(tf.constant(texts)).to_list()
    assert ids == [reference.encode(text, add_special_tokens=False).ids for text in texts]


def _with(settings):
    return {"vocab.txt": LINES, "tokenizer_config.json": settings}


REFUSED = {
    "class": (_with({"tokenizer_class": "BertJapaneseTokenizer"}), "tokenizer_config.json: tokenizer_class must be"),
    "words of MeCab": (_with({**LOWER, "word_tokenizer_type": "mecab"}), "word_tokenizer_type must be 'basic'"),
    "general class": (_with({"tokenizer_class": "PreTrainedTokenizerFast"}), "tokenizer_class must be"),
    "no basic tokens": (_with({"do_basic_tokenize": False}), "do_basic_tokenize must be True"),
    "never split": (_with({"never_split": ["a"]}), "never_split is not supported"),
    "roles": (_with({"cls_token": {"content": "<s>"}}), r"cls_token must be '\[CLS\]'"),
    "a word for true": (_with({"do_lower_case": "true"}), "do_lower_case must be true or false"),
    "Unigram": (
        {"tokenizer.json": _json(model={"type": "Unigram"})},
        r"tokenizer\.json: model\.type must be 'WordPiece'",
    ),
    "normalizer": ({"tokenizer.json": _json(normalizer=None)}, "normalizer must be that of a BERT tokenizer"),
    "clean_text": ({"tokenizer.json": _json(normalizer={"clean_text": False})}, "normalizer.clean_text must be True"),
    "pre_tokenizer": ({"tokenizer.json": _json(pre_tokenizer={"type": "Whitespace"})}, "pre_tokenizer.type must be"),
    "vocab is a list": ({"tokenizer.json": _json(model={"vocab": PIECES})}, "model.vocab must give each token its id"),
    "a gap in the ids": (
        {"tokenizer.json": _json(model={"vocab": {**dict.fromkeys(["[PAD]"], 0), "a": 2}})},
        "'a' of id 2, not 1",
    ),
    "a line break": ({"tokenizer.json": _json(model={"vocab": {"a\nb": 0}})}, "must not hold a line break"),
    "half a character": (
        {"tokenizer.json": json.dumps(_json(model={"vocab": {**_json()["model"]["vocab"], "\ud800": URL}}))},
        "is no Unicode text",
    ),
    "deep": ({"tokenizer.json": "[" * 100_000}, r"tokenizer\.json: not readable as JSON"),
    "two vocabularies": (
        {"tokenizer.json": _json(), "vocab.txt": LINES.replace("dog", "cat", 1)},
        r"vocab\.txt:7: is 'cat', and tokenizer\.json has 'dog'",
    ),
    "ids that differ": (
        {
            "vocab.txt": LINES,
            "added_tokens.json": {"<x>": URL},
            "tokenizer_config.json": {"added_tokens_decoder": {str(URL + 1): _added(0, "<x>")}},
        },
        "in another file",
    ),
    "ids beyond": (
        {"vocab.txt": LINES, "added_tokens.json": {"<x>": URL + 3}},
        f"'<x>' of id {URL + 3}: ids must follow",
    ),
    "id of another": ({"vocab.txt": LINES, "added_tokens.json": {"<x>": 6}}, "the vocabulary has 'dog' there"),
    "id of a word": (
        {"vocab.txt": LINES, "added_tokens.json": {"<x>": "six"}},
        r"added_tokens\.json: '<x>': must have a text and an id",
    ),
    "whole words": ({"tokenizer.json": _json(added_tokens=[_added(URL, "covid", single_word=True)])}, "single_word"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_berts_or_damaged_is_refused_in_one_line(tmp_path, case):
    files, expected = REFUSED[case]
    _write(tmp_path, files)
    with pytest.raises(UserError, match=expected) as raised:
        read_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_the_class_may_be_named_by_the_configuration(tmp_path):
    _write(tmp_path, {"vocab.txt": LINES})
    with pytest.raises(UserError, match=r"config\.json: tokenizer_class must be BertTokenizer.*BertJapaneseTokenizer"):
        read_tokenizer(tmp_path, "BertJapaneseTokenizer")


def test_capitals_kept_by_a_guess_are_reported_with_what_overrules_it(tmp_path, caplog):
    _write(tmp_path, {"vocab.txt": LINES})
    read_tokenizer(tmp_path)
    assert "'The'" in caplog.text
    assert f'set "do_lower_case" to true in {tmp_path / "tokenizer_config.json"}' in caplog.text
    caplog.clear()
    _write(tmp_path, {"tokenizer_config.json": CASED})
    read_tokenizer(tmp_path)
    assert not caplog.text
