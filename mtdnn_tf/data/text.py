"""WordPiece tokens of raw texts, in the TensorFlow graph: the same function in training and in exported models."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from mtdnn_tf.errors import UserError

MAX_WORD_LENGTH = 100  # characters; longer words are [UNK], as in BERT's own tokenizer
PAIR_ORDERS = ("premise_first", "hypothesis_first")

# In RE2's syntax. Private-use characters are among those removed, so no text can hold the sentinel.
_SPACE = r"[\t\n\r\p{Z}]"
_REMOVED = r"[\p{C}\x{FFFD}]"
_ACCENT = r"\p{Mn}"
_IDEOGRAPH = (
    r"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}"
    r"\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}])"
)
_PUNCTUATION = r"([!-/:-@\[-`{-~\p{P}])"
_LONG_WORD = "\ue000"
_MARK = "\ue002"  # put on both sides of added tokens
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class AddedToken:
    """A token that a text spells out and that is never split: `<url>`, say."""

    content: str
    id: int
    normalized: bool = (
        True  # False: found in texts as they are; True: in cleaned and lower-cased ones, itself treated so
    )


class Tokenizer:
    """BERT's tokenizer: clean, split into words and punctuation, then greedy longest-match WordPiece (Devlin et al., 2019).

    Special tokens that stand in a text, such as "[SEP]", are text like any other.
    """

    _inside = "##"  # what tokens inside a word start with

    def __init__(
        self,
        vocab: Sequence[str],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_ideographs: bool = True,
        added_tokens: Sequence[AddedToken] = (),
    ) -> None:
        """Take the vocabulary in id order.

        Args:
            vocab: tokens; those inside a word start with ##.
            lowercase: whether texts are lower-cased.
            strip_accents: whether combining marks are removed; None: as `lowercase`.
            split_ideographs: whether each Chinese character is a word.
            added_tokens: those whose ids are beyond `vocab` follow it without gaps.

        Raises:
            UserError: a special token is missing, a token is there twice, or an added token does not fit.
        """
        self.pieces = tuple(vocab)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.split_ideographs = split_ideographs
        self.vocab = _with_added(self.pieces, added_tokens)
        self.added_tokens = tuple(token for token in added_tokens if token.content not in SPECIAL_TOKENS)
        ids = {token: index for index, token in enumerate(self.vocab)}
        missing = [token for token in SPECIAL_TOKENS if token not in self.pieces]
        if missing:
            raise UserError(
                f"vocabulary: {', '.join(missing)} must be in it; received {len(self.pieces)} tokens without"
            )
        if len(ids) < len(self.vocab):
            first = next(index for index, token in enumerate(self.vocab) if ids[token] != index)
            token = self.vocab[first]
            raise UserError(
                f"vocabulary: every token must be in it once; {token!r} is there twice (ids {first} and {ids[token]})"
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self._raw, self._normal, matched = self._matchers()
        # The id of each entry of the WordPiece model, which knows added tokens by their marked form.
        self._rows = np.array([*range(len(self.pieces)), *matched.values()], np.int32) if matched else None
        entries = [*self.pieces, *matched]
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            entries,
            suffix_indicator=self._inside,
            # The limit is never reached: words of more than MAX_WORD_LENGTH characters are replaced before.
            max_bytes_per_word=max([4 * MAX_WORD_LENGTH + 4, *(len(form.encode()) for form in matched)]),
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            no_pretokenization=True,
        )

    def _matchers(self) -> tuple[str, str, dict[str, int]]:
        """Return the patterns of added tokens in texts as they are and in normalised ones (empty: none), and ids by marked form."""
        raw = {token.content: token.id for token in self.added_tokens if not token.normalized}
        normal: dict[str, int] = {}
        for token in self.added_tokens:
            if token.normalized:
                form = self._normalised(tf.constant([token.content])).numpy()[0].decode()
                normal.setdefault(form, token.id)
        normal.pop("", None)  # nothing is left of it in a cleaned text
        matched = {_MARK + form: number for form, number in raw.items()}
        matched |= {2 * _MARK + form: number for form, number in normal.items()}
        return _any_of(raw), _any_of(normal), matched

    @classmethod
    def from_file(cls, path: str | Path, lowercase: bool = True, strip_accents: bool | None = None) -> Tokenizer:
        """Read a vocabulary file; see `read_vocabulary`.

        Raises:
            UserError: the file is missing, no UTF-8 text, or no BERT vocabulary.
        """
        vocab = read_vocabulary(path)
        try:
            return cls(vocab, lowercase, strip_accents)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_vocabulary(cls, path: str | Path) -> Tokenizer:
        """Read a vocabulary file that comes without settings; see `casing_of`.

        Raises:
            UserError: see `from_file`.
        """
        return cls.from_file(path, *casing_of(read_vocabulary(path)))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments but the vocabulary, as JSON has them."""
        return {
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "split_ideographs": self.split_ideographs,
            "added_tokens": [asdict(token) for token in self.added_tokens],
        }

    @classmethod
    def from_config(cls, vocab: Sequence[str], config: Mapping[str, Any]) -> Tokenizer:
        """Return the tokenizer whose `pieces` and `get_config` these are."""
        settings = dict(config)
        if "added_tokens" in settings:
            settings["added_tokens"] = [AddedToken(**token) for token in settings["added_tokens"]]
        return cls(vocab, **settings)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text gets."""
        parts = [str(tf_text.__version__), str(self.lowercase), str(self.strip_accents), *self.vocab]
        if self.added_tokens or not self.split_ideographs:
            parts.append(json.dumps([self.split_ideographs, *map(asdict, self.added_tokens)]))
        return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:20]

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.vocab)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Return the tokens of texts, without special tokens.

        Args:
            texts: `[batch] string`, UTF-8; invalid bytes are left out.

        Returns:
            `[batch, (tokens)] int32`.
        """
        if self._raw:
            texts = tf.strings.regex_replace(_valid(texts), _MARK, _LONG_WORD)  # cleaning removes either
        words = _around(texts, self._raw, _MARK, self._plain_words)
        tokens: tf.RaggedTensor = self._wordpiece.tokenize(words).merge_dims(1, 2)
        return tokens if self._rows is None else tokens.with_values(tf.gather(self._rows, tokens.values))

    def _plain_words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Return the words `[batch, (words)]` of texts without added tokens of the kind that is found in texts as they are."""
        return _around(self._normalised(texts), self._normal, 2 * _MARK, self._short_words)

    def _short_words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = self._split(texts)
        too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > MAX_WORD_LENGTH
        return words.with_values(tf.where(too_long, _LONG_WORD, words.values))

    def _normalised(self, texts: tf.Tensor) -> tf.Tensor:
        """Return the texts cleaned, with spaces around ideographs."""
        texts = clean(texts, self.lowercase, self.strip_accents)
        return tf.strings.regex_replace(texts, _IDEOGRAPH, r" \1 ") if self.split_ideographs else texts

    def _split(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Return the words and punctuation marks of normalised texts."""
        return tf.strings.split(tf.strings.regex_replace(texts, _PUNCTUATION, r" \1 "))


def read_vocabulary(path: str | Path) -> list[str]:
    """Return the tokens of a vocabulary file, one a line; a byte order mark and empty lines at the end are no tokens.

    Raises:
        UserError: the file is missing, or no UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            vocab = [line.rstrip("\r\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as a UTF-8 vocabulary: {error}") from None
    while vocab and not vocab[-1].strip(" \t"):
        vocab.pop()
    return vocab


def casing_of(vocab: Sequence[str]) -> tuple[bool, bool | None]:
    """Return `lowercase` and `strip_accents` that a vocabulary shows: texts keep capitals and accents where its tokens have any."""
    words = [word for word in vocab if not word.startswith("[")]  # [CLS], [unused1]
    cased = any(word != word.lower() for word in words)
    accented = any("Mn" in map(unicodedata.category, unicodedata.normalize("NFD", word)) for word in words)
    return not cased, False if cased or accented else None


def _with_added(pieces: tuple[str, ...], added_tokens: Sequence[AddedToken]) -> tuple[str, ...]:
    """Return the tokens by id, added ones included."""
    vocab = list(pieces)
    for token in sorted(added_tokens, key=lambda token: token.id):
        where = f"added token {token.content!r} of id {token.id}"
        if not token.content:
            raise UserError(f"{where}: must not be empty")
        if not 0 <= token.id <= len(vocab):
            raise UserError(f"{where}: ids must follow the vocabulary without gaps; the next one is {len(vocab)}")
        if token.id == len(vocab):
            vocab.append(token.content)
        elif vocab[token.id] != token.content:
            raise UserError(f"{where}: the vocabulary has {vocab[token.id]!r} there")
    for index, piece in enumerate(vocab):
        try:
            piece.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"vocabulary: token {piece!r} of id {index} is no Unicode text: {error.reason}") from None
    return tuple(vocab)


def _any_of(forms: Mapping[str, int]) -> str:
    """Return a pattern of these strings, the longest that fits."""
    return "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))


def _around(
    texts: tf.Tensor, pattern: str, mark: str, words_of: Callable[[tf.Tensor], tf.RaggedTensor]
) -> tf.RaggedTensor:
    """Return words `[batch, (words)]`: what a pattern matches in texts is one word, marked; the rest goes to `words_of`."""
    if not pattern:
        return words_of(texts)
    marked = tf.strings.regex_replace(texts, f"({pattern})", rf"{_MARK}\1{_MARK}")
    parts = tf.strings.split(marked, _MARK)  # [batch, (parts)], every other one a match
    is_match = tf.ragged.range(parts.row_lengths()).values % 2 == 1
    words = words_of(tf.where(is_match, "", parts.values))  # [parts, (words)]
    matches = tf.RaggedTensor.from_row_lengths(
        mark + tf.boolean_mask(parts.values, is_match), tf.cast(is_match, tf.int64)
    )  # [parts, (0 or 1)]
    return parts.with_values(tf.concat([words, matches], axis=1)).merge_dims(1, 2)


def clean(texts: tf.Tensor, lowercase: bool, strip_accents: bool) -> tf.Tensor:
    """Return texts `[batch] string` as valid UTF-8, any white space as a space, without control characters."""
    texts = tf.strings.regex_replace(_valid(texts), _SPACE, " ")
    texts = tf.strings.regex_replace(texts, _REMOVED, "")
    if strip_accents:
        texts = tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFD"), _ACCENT, "")
    if lowercase:
        # ICU would make a sigma at the end of a word final; the reference lower-cases each character by itself.
        texts = tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")
    return texts


def _valid(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def pack(
    tokens: Sequence[tf.RaggedTensor], tokenizer: Tokenizer, max_length: int, pair_order: str = "premise_first"
) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Join one or two texts to `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to `max_length` tokens.

    Of two texts the longer one is shortened first, token by token from its end; equally long, the second.

    Args:
        tokens: one or two `[batch, (tokens)] int32`, premise first.
        tokenizer: gives the special tokens.
        max_length: tokens, special ones included.
        pair_order: of `PAIR_ORDERS`: which text is `a` (the first release of MT-DNN put the hypothesis first).

    Returns:
        Ids `[batch, (length)] int32`, and the number of leading positions with segment id 0, `[batch] int32`.
    """
    batch = tokens[0].nrows()
    opening = tf.fill([batch, 1], tokenizer.cls_id)
    closing = tf.fill([batch, 1], tokenizer.sep_id)
    if len(tokens) == 1:
        ids = tf.concat([opening, tokens[0][:, : max_length - 2], closing], axis=1)
        return ids, tf.cast(ids.row_lengths(), tf.int32)
    first, second = tokens if pair_order == "premise_first" else reversed(tokens)
    kept_first, kept_second = longest_first(first.row_lengths(), second.row_lengths(), max_length - 3)
    first, second = _leading(first, kept_first), _leading(second, kept_second)
    ids = tf.concat([opening, first, closing, second, closing], axis=1)
    return ids, tf.cast(kept_first + 2, tf.int32)


def longest_first(first: tf.Tensor, second: tf.Tensor, room: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return how many tokens of each text are kept where `room` is left for both (lengths and results `[batch] int64`)."""
    kept_second = tf.minimum(second, tf.maximum(room - first, room // 2))
    return tf.minimum(first, room - kept_second), kept_second


def _leading(tokens: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """Return the first `counts[i]` tokens of row i."""
    rows = tokens.value_rowids()
    kept = tf.ragged.range(tokens.row_lengths()).values < tf.gather(counts, rows)
    return tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(tokens.values, kept), tf.boolean_mask(rows, kept), nrows=tokens.nrows(), validate=False
    )


def encode_texts(
    texts: Sequence[tf.Tensor], tokenizer: Tokenizer, max_length: int, pair_order: str = "premise_first"
) -> dict[str, tf.Tensor]:
    """Turn raw texts into the model's inputs, padded to the longest of the batch.

    Args:
        texts: one or two `[batch] string`, premise first.
        tokenizer: of the encoder.
        max_length: tokens; see `pack`.
        pair_order: see `pack`.

    Returns:
        `token_ids`, `segment_ids`, `padding_mask` (1 on real tokens), each `[batch, length] int32`.
    """
    ids, first_lengths = pack([tokenizer(text) for text in texts], tokenizer, max_length, pair_order)
    token_ids = ids.to_tensor(tokenizer.pad_id)
    return with_masks(token_ids, tf.cast(ids.row_lengths(), tf.int32), first_lengths)


def with_masks(token_ids: tf.Tensor, lengths: tf.Tensor, first_lengths: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return padded ids `[batch, length] int32` with the segment ids and the padding mask that the lengths give."""
    positions = tf.range(tf.shape(token_ids)[1])[tf.newaxis, :]
    real = positions < lengths[:, tf.newaxis]
    second = positions >= first_lengths[:, tf.newaxis]
    return {
        "token_ids": token_ids,
        "segment_ids": tf.cast(real & second, tf.int32),
        "padding_mask": tf.cast(real, tf.int32),
    }
