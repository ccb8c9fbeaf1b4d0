"""The tokenizer of an encoder's directory: vocab.txt or tokenizer.json, and the settings beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import logging

from mtdnn_tf.data.text import MAX_WORD_LENGTH, SPECIAL_TOKENS, AddedToken, Tokenizer, casing_of, read_vocabulary
from mtdnn_tf.errors import UserError
from mtdnn_tf.modeling.pretrained import read_json

_FAMILIES = ("Bert", "ConvBert", "DistilBert", "Electra", "LayoutLM", "MobileBert", "RetriBert", "SqueezeBert")
# Classes whose tokens are BERT's as tokenizer_config.json says; of the general ones tokenizer.json says everything.
_BERT_CLASSES = tuple(f"{family}Tokenizer{fast}" for family in _FAMILIES for fast in ("", "Fast"))
_GENERAL_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

# What the files may say of a tokenizer that is not the one computed here. Keys may be missing.
_FIXED_SETTINGS: dict[str, Any] = {
    "do_basic_tokenize": True,
    "clean_text": True,
    "wordpieces_prefix": "##",
    "word_tokenizer_type": "basic",
    "subword_tokenizer_type": "wordpiece",
    **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True)),
}
_FIXED_JSON: dict[str, dict[str, Any]] = {
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": MAX_WORD_LENGTH,
    },
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}
# Settings of `Tokenizer` by their names in tokenizer_config.json, which overrules, and in tokenizer.json's normalizer.
_OPTIONS = {
    "lowercase": ("do_lower_case", "lowercase"),
    "strip_accents": ("strip_accents", "strip_accents"),
    "split_ideographs": ("tokenize_chinese_chars", "handle_chinese_chars"),
}


@dataclass(frozen=True)
class _Json:
    """What tokenizer.json says."""

    pieces: list[str]
    normalizer: Mapping[str, Any]
    added: list[Any]


def read_tokenizer(directory: Path, tokenizer_class: object = None) -> Tokenizer:
    """Return the tokenizer that a directory's files describe.

    Settings are taken from tokenizer_config.json, else from tokenizer.json. Where neither says it, the vocabulary decides: texts
    keep capitals and accents where its tokens have any, which a warning says.

    Args:
        directory: holds vocab.txt, tokenizer.json or both, and perhaps tokenizer_config.json, added_tokens.json,
            special_tokens_map.json.
        tokenizer_class: what config.json calls it, where tokenizer_config.json does not.

    Raises:
        UserError: a file is damaged, files contradict each other, or the tokenizer is not BERT's.
    """
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    known = _read_tokenizer_json(directory / "tokenizer.json") if (directory / "tokenizer.json").is_file() else None
    name = settings.get("tokenizer_class") or tokenizer_class
    general = name in _GENERAL_CLASSES and known is not None
    if name is not None and name not in _BERT_CLASSES and not general:
        where = path if settings.get("tokenizer_class") else directory / "config.json"
        raise UserError(
            f"{where}: tokenizer_class must be BertTokenizer: other tokenizers are not supported. Received: {name!r}"
        )
    for key, expected in _FIXED_SETTINGS.items():
        value = _content(settings.get(key))
        if value not in (None, expected):
            raise UserError(
                f"{path}: {key} must be {expected!r}: only BERT's tokenizer is supported. Received: {value!r}"
            )
    if settings.get("never_split"):
        raise UserError(f"{path}: never_split is not supported; remove it. Received: {settings['never_split']!r}")
    pieces = _pieces(directory, known)
    options = _options(path, {} if general else settings, directory, known, pieces)
    try:
        return Tokenizer(pieces, **options, added_tokens=_added_tokens(directory, settings, known, pieces))
    except UserError as error:
        raise UserError(f"{_vocabulary_file(directory, known)}: {error}") from None


def _vocabulary_file(directory: Path, known: _Json | None) -> Path:
    return directory / ("vocab.txt" if known is None else "tokenizer.json")


def _content(token: object) -> object:
    """Return the text of a token that a file may write as an object with its properties."""
    return token.get("content") if isinstance(token, Mapping) else token


def _read_tokenizer_json(path: Path) -> _Json:
    content = read_json(path)
    for part, fixed in _FIXED_JSON.items():
        found = content.get(part)
        if not isinstance(found, dict):
            raise UserError(
                f"{path}: {part} must be that of a BERT tokenizer ({fixed['type']}). Received: {found!r:.60}"
            )
        for key, expected in fixed.items():
            if found.get(key, expected) != expected:
                raise UserError(
                    f"{path}: {part}.{key} must be {expected!r}: only BERT's tokenizer is supported. Received: {found[key]!r:.60}"
                )
    vocab = content["model"].get("vocab")
    if not isinstance(vocab, dict) or any(type(number) is not int for number in vocab.values()):
        raise UserError(f"{path}: model.vocab must give each token its id. Received: {vocab!r:.60}")
    pieces = sorted(vocab, key=vocab.__getitem__)
    for index, piece in enumerate(pieces):
        if vocab[piece] != index:
            raise UserError(
                f"{path}: model.vocab: ids must be 0, 1, 2, ... Received: {piece!r} of id {vocab[piece]}, not {index}"
            )
        if "\n" in piece or "\r" in piece:
            raise UserError(
                f"{path}: model.vocab: a token must not hold a line break. Received: {piece!r} of id {index}"
            )
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise UserError(f"{path}: added_tokens must be a list. Received: {added!r:.60}")
    return _Json(pieces, content["normalizer"], added)


def _pieces(directory: Path, known: _Json | None) -> list[str]:
    path = directory / "vocab.txt"
    if known is None:
        return read_vocabulary(path)
    if path.is_file():
        # Files of one tokenizer may differ in length: one of them, in the tokens that were added.
        for index, (ours, theirs) in enumerate(zip(read_vocabulary(path), known.pieces, strict=False)):
            if ours != theirs:
                raise UserError(
                    f"{path}:{index + 1}: is {ours!r}, and tokenizer.json has {theirs!r} of id {index}; remove the file that the "
                    "weights were not trained with"
                )
    return known.pieces


def _options(
    path: Path, settings: Mapping[str, Any], directory: Path, known: _Json | None, pieces: list[str]
) -> dict[str, Any]:
    """Return the settings of `Tokenizer` that files give, or the vocabulary."""
    options: dict[str, Any] = {}
    for name, (key, key_of_json) in _OPTIONS.items():
        found = [(path, key, settings)]
        if known is not None:
            found.append((directory / "tokenizer.json", key_of_json, known.normalizer))
        for where, its_key, values in found:
            if its_key in values:
                value = values[its_key]
                if not isinstance(value, bool) and not (value is None and name == "strip_accents"):
                    raise UserError(f"{where}: {its_key} must be true or false. Received: {value!r}")
                options[name] = value
                break
    if "lowercase" not in options:
        options["lowercase"], strip_accents = casing_of(pieces)
        options.setdefault("strip_accents", strip_accents)
        if not options["lowercase"]:
            capital = next(word for word in pieces if not word.startswith("[") and word != word.lower())
            logging.warning(
                "%s: no file says whether texts are lower-cased; the vocabulary has capitals (%r), so they are not. If that is "
                'wrong, set "do_lower_case" to true in %s',
                directory,
                capital,
                path,
            )
    return options


def _added_tokens(
    directory: Path, settings: Mapping[str, Any], known: _Json | None, pieces: list[str]
) -> list[AddedToken]:
    """Return the added tokens that any file of a directory lists."""
    found: dict[str, AddedToken] = {}
    ids = {piece: index for index, piece in enumerate(pieces)}
    for path, token in _listed_tokens(directory, settings, known):
        earlier = found.setdefault(token.content, token)
        if earlier.id != token.id:
            raise UserError(
                f"{path}: the added token {token.content!r} has the id {token.id}, in another file {earlier.id}; "
                "make them agree with the weights"
            )
    for path, content in _special_tokens(directory, settings):
        number = found[content].id if content in found else ids.get(content)
        if number is None:
            logging.warning("%s: %r has no id, so it is split like other text", path, content)
        elif content not in found:
            found[content] = AddedToken(content, number, normalized=False)
        elif not known or not any(_content(each) == content for each in known.added):
            found[content] = replace(found[content], normalized=False)
    return list(found.values())


def _listed_tokens(
    directory: Path, settings: Mapping[str, Any], known: _Json | None
) -> Iterator[tuple[Path, AddedToken]]:
    """Yield the added tokens that files list with their ids, from the file that knows most to the one that knows least."""
    if known is not None:
        path = directory / "tokenizer.json"
        for index, entry in enumerate(known.added):
            if not isinstance(entry, dict):
                raise UserError(f"{path}: added_tokens[{index}] must be an object. Received: {entry!r:.60}")
            yield path, _added_token(f"{path}: added_tokens[{index}]", entry.get("content"), entry.get("id"), entry)
    path = directory / "tokenizer_config.json"
    for number, entry in _object(path, "added_tokens_decoder", settings.get("added_tokens_decoder")).items():
        where = f"{path}: added_tokens_decoder.{number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: must be an object. Received: {entry!r:.60}")
        yield path, _added_token(where, entry.get("content"), int(number) if number.isdecimal() else number, entry)
    path = directory / "added_tokens.json"
    if path.is_file():
        for content, number in read_json(path).items():
            yield path, _added_token(f"{path}: {content!r}", content, number, {})


def _object(path: Path, key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict | None):
        raise UserError(f"{path}: {key} must be an object. Received: {value!r:.60}")
    return value or {}


def _added_token(where: str, content: object, number: object, properties: Mapping[str, Any]) -> AddedToken:
    if not isinstance(content, str) or type(number) is not int:
        raise UserError(f"{where}: must have a text and an id. Received: {content!r:.60} and {number!r:.60}")
    if properties.get("single_word"):
        raise UserError(
            f"{where}: {content!r} is a token only where it is a word of its own (single_word), which is not supported"
        )
    return AddedToken(content, number, bool(properties.get("normalized", True)))


def _special_tokens(directory: Path, settings: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the special tokens beyond BERT's own that files name without ids."""
    path = directory / "special_tokens_map.json"
    contents = {directory / "tokenizer_config.json": settings, path: read_json(path) if path.is_file() else {}}
    for path, content in contents.items():
        for key in ("additional_special_tokens", "extra_special_tokens"):
            tokens = content.get(key)
            for token in tokens if isinstance(tokens, list) else []:
                text = _content(token)
                if isinstance(text, str) and text and text not in SPECIAL_TOKENS:
                    yield path, text
