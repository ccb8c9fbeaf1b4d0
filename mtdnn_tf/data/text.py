"""WordPiece tokens of raw texts, in the TensorFlow graph: the same function in training and in exported models."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

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
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Tokenizer:
    """BERT's tokenizer: clean, split into words and punctuation, then greedy longest-match WordPiece (Devlin et al., 2019).

    Special tokens that stand in a text, such as "[SEP]", are text like any other.
    """

    _inside = "##"  # what tokens inside a word start with

    def __init__(self, vocab: Sequence[str], lowercase: bool = True, strip_accents: bool | None = None) -> None:
        """Take the vocabulary in id order.

        Args:
            vocab: tokens; those inside a word start with ##.
            lowercase: whether texts are lower-cased.
            strip_accents: whether combining marks are removed; None: as `lowercase`.

        Raises:
            UserError: a special token is missing, or a token is there twice.
        """
        self.vocab = tuple(vocab)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        ids = {token: index for index, token in enumerate(self.vocab)}
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise UserError(
                f"vocabulary: {', '.join(missing)} must be in it; received {len(self.vocab)} tokens without"
            )
        if len(ids) < len(self.vocab):
            twice = next(token for index, token in enumerate(self.vocab) if ids[token] != index)
            raise UserError(f"vocabulary: every token must stand in it once; {twice!r} is there twice")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        # The limit on bytes is never reached: words of more than MAX_WORD_LENGTH characters are replaced before.
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            list(self.vocab),
            suffix_indicator=self._inside,
            max_bytes_per_word=4 * MAX_WORD_LENGTH + 4,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            no_pretokenization=True,
        )

    @classmethod
    def from_file(cls, path: str | Path, lowercase: bool = True, strip_accents: bool | None = None) -> Tokenizer:
        """Read a vocabulary file, one token a line.

        Raises:
            UserError: the file is missing, no UTF-8 text, or no BERT vocabulary.
        """
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                vocab = [line.rstrip("\r\n") for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: can't be read as a UTF-8 vocabulary: {error}") from None
        try:
            return cls(vocab, lowercase, strip_accents)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_vocabulary(cls, path: str | Path) -> Tokenizer:
        """Read a vocabulary file that comes without settings: texts keep capitals and accents where its tokens have any.

        Raises:
            UserError: see `from_file`.
        """
        plain = cls.from_file(path)
        words = [word for word in plain.vocab if not word.startswith("[")]  # [CLS], [unused1]
        cased = any(word != word.lower() for word in words)
        accented = any("Mn" in map(unicodedata.category, unicodedata.normalize("NFD", word)) for word in words)
        return cls(plain.vocab, not cased, strip_accents=False) if cased or accented else plain

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text gets."""
        parts = (str(tf_text.__version__), str(self.lowercase), str(self.strip_accents), *self.vocab)
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
        words = tf.strings.split(self._normalised(texts))
        too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > MAX_WORD_LENGTH
        words = words.with_values(tf.where(too_long, _LONG_WORD, words.values))
        tokens: tf.RaggedTensor = self._wordpiece.tokenize(words).merge_dims(1, 2)
        return tokens

    def _normalised(self, texts: tf.Tensor) -> tf.Tensor:
        """Return the texts cleaned, with spaces around ideographs and punctuation."""
        texts = clean(texts, self.lowercase, self.strip_accents)
        texts = tf.strings.regex_replace(texts, _IDEOGRAPH, r" \1 ")
        return tf.strings.regex_replace(texts, _PUNCTUATION, r" \1 ")


def clean(texts: tf.Tensor, lowercase: bool, strip_accents: bool) -> tf.Tensor:
    """Return texts `[batch] string` as valid UTF-8, any white space as a space, without control characters."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    texts = tf.strings.regex_replace(texts, _SPACE, " ")
    texts = tf.strings.regex_replace(texts, _REMOVED, "")
    if strip_accents:
        texts = tf.strings.regex_replace(tf_text.normalize_utf8(texts, "NFD"), _ACCENT, "")
    if lowercase:
        # ICU would make a sigma at the end of a word final; the reference lower-cases each character by itself.
        texts = tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")
    return texts


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
