"""Hashes of word n-grams, computed by NumPy for many texts at once.

Words are runs of letters and digits, lower-cased; everything else separates them. This is the normalisation
of the GPT-3 paper (appendix C), as is n = 13. A text of fewer than n words counts as one n-gram.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

N = 13
CHUNK_BYTES = 1 << 16
"""Bytes of text that are hashed at once: arrays of 8 bytes per byte of it fit a second-level cache."""
SPAN_CHUNK_BYTES = 1 << 18
"""The same for spans, which take a byte per character and 8 per word."""
LONGEST_WORD = 31
"""Letters of the longest word: where lengths are compared, longer words count as this long."""
BYTE_BASE, WORD_BASE = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
"""Bases of the rolling hashes of bytes and of words; odd ones have inverses modulo 2**64."""
NO_WORD = re.compile(r"[^\w\x00-\x7f]+")
"""What separates words beyond ASCII."""


@dataclass(frozen=True)
class Grams:
    """Hashes of n-grams, or of spans, and the texts they are from."""

    hashes: np.ndarray
    """uint64, one for each n-gram, in the order of the text."""
    rows: np.ndarray
    """For each n-gram the place of its text in the array."""


def hash_ngrams(texts: pa.Array, n: int = N) -> Iterator[Grams]:
    """Hash all n-grams of texts, about `CHUNK_BYTES` of text at a time; a null text has none."""
    for letters, ends, first_text in _chunks(texts, CHUNK_BYTES):
        words, word_rows = _hash_words(letters, ends)
        yield _hash_grams(words, word_rows, first_text, n)


def _chunks(texts: pa.Array, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield chunks of about `size` bytes: the texts, each with a blank behind it, as one array of bytes; a 0
    and where each text ends in it; the place of the first text."""
    nothing, blank = (pa.scalar(text, pa.large_string()) for text in ("", " "))
    texts = pc.binary_join_element_wise(_normalised(texts), nothing, blank)
    if not len(texts):
        return
    ends, letters = np.frombuffer(texts.buffers()[1], np.int64), np.frombuffer(texts.buffers()[2], np.uint8)
    start = 0
    while start < len(texts):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + size, "right")) - 1)
        yield letters[ends[start] : ends[stop]], ends[start : stop + 1] - ends[start], start
        start = stop


def _normalised(texts: pa.Array) -> pa.Array:
    """The texts in lower case, without punctuation beyond ASCII: every byte above 127 is in a word."""
    texts = pc.fill_null(texts, "").cast(pa.large_string())
    others = pc.invert(pc.string_is_ascii(texts))
    if not pc.any(others).as_py():
        return texts
    changed = [
        NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).lower())
        for text in pc.filter(texts, others).to_pylist()
    ]
    return pc.replace_with_mask(texts, others, pa.array(changed, pa.large_string()))


def _hash_words(letters: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every word and the number of its text; text i is letters[ends[i]:ends[i + 1]]."""
    sums = np.empty(len(letters) + 1, np.uint64)
    sums[0] = 0
    # mode="clip" spares a copy: a byte is never outside a table of 256.
    np.take(_letter_values(), letters, out=sums[1:], mode="clip")
    first, last = _word_edges(letters)
    powers, inverses = _powers(BYTE_BASE, _rounded(len(letters)))
    sums[1:] *= powers[: len(letters)]
    np.cumsum(sums, out=sums)
    word_rows = np.repeat(np.arange(len(ends) - 1), np.diff(np.searchsorted(first, ends)))
    # The letters' values are random, so these need no mixing before they are summed up themselves.
    return (sums[last] - sums[first]) * inverses[first], word_rows


def _word_edges(letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end, in bytes of which the last is in no word."""
    in_word = np.zeros(len(letters) + 1, bool)
    in_word[1:] = _in_word(letters)
    edges = np.flatnonzero(in_word[1:] != in_word[:-1])
    return edges[::2], edges[1::2]


def _hash_grams(words: np.ndarray, word_rows: np.ndarray, first_row: int, n: int) -> Grams:
    """The hashes of every n words in a row of one text, and of whole texts that are shorter."""
    powers, inverses = _powers(WORD_BASE, _rounded(len(words)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words * powers[: len(words)])])
    row_begins = np.flatnonzero(np.diff(word_rows, prepend=-1))
    row_stops = np.append(row_begins[1:], len(words)).astype(np.int64)
    short = row_stops - row_begins < n
    most = max(len(words) - n + 1, 0)
    whole = np.flatnonzero(word_rows[:most] == word_rows[len(words) - most :])
    begins = np.concatenate([whole, row_begins[short]])
    stops = np.concatenate([whole + n, row_stops[short]])
    hashes = _mixed((sums[stops] - sums[begins]) * inverses[begins] + (stops - begins).astype(np.uint64))
    return Grams(hashes, word_rows[begins] + first_row)


def hash_spans(texts: pa.Array, n: int, stride: int) -> Iterator[Grams]:
    """Hash every `stride`-th span of `span_words(n)` words, and texts of fewer than n words whole.

    A span's hash is made of the lengths and first letters of its words. That takes a fraction of the work,
    and other words that agree in all of them are rare. Texts that share an n-gram share the span in it that
    begins at a multiple of `span_stride(n)`, so that a few spans show for nearly all texts that they share
    none.
    """
    size = span_words(n)
    for letters, ends, first_text in _chunks(texts, SPAN_CHUNK_BYTES):
        first, last = _word_edges(letters)
        powers, inverses = _powers(WORD_BASE, _rounded(len(first)))
        sums = np.zeros(len(first) + 1, np.uint64)
        np.cumsum(_outlines(letters, first, last) * powers[: len(first)], out=sums[1:])
        begins = np.searchsorted(first, ends)
        words, begins = np.diff(begins), begins[:-1]
        spans = np.where(words >= n, (words - size) // stride + 1, words > 0)
        rows = np.repeat(np.arange(len(words)), spans)
        start = begins[rows] + stride * (np.arange(len(rows)) - np.repeat(np.cumsum(spans) - spans, spans))
        stop = start + np.where(words >= n, size, words)[rows]
        yield Grams(_mixed((sums[stop] - sums[start]) * inverses[start]), rows + first_text)


def _in_word(letters: np.ndarray) -> np.ndarray:
    """Which bytes are part of a word. A few comparisons of bytes are faster than a table."""
    lower, byte = letters | np.uint8(32), np.uint8
    is_letter, is_digit = lower - byte(ord("a")) < byte(26), letters - byte(ord("0")) < byte(10)
    return is_letter | is_digit | (letters > byte(127))


def _outlines(letters: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """A random value for each word's length and first letter; both cases of a letter have the same."""
    lengths = np.minimum(last - first, LONGEST_WORD)
    return _outline_values()[lengths << 8 | letters[first] | 32]


@cache
def _outline_values() -> np.ndarray:
    return _mixed(np.arange(1, (LONGEST_WORD + 1) << 8 | 1, dtype=np.uint64))


def span_stride(n: int) -> int:
    """The distance, in words, between the spans of a text that are looked up."""
    return (n + 1) // 2


def span_words(n: int) -> int:
    """The words of a span: so many that any n words in a row hold a whole span that begins at a multiple of
    the stride."""
    return n - span_stride(n) + 1


def hash_texts(texts: pa.Array) -> np.ndarray:
    """One uint64 per text, over its normalised words; 0 for a text without words."""
    hashes = np.zeros(len(texts), np.uint64)
    for grams in hash_ngrams(texts, n=1 << 62):
        hashes[grams.rows] = grams.hashes
    return hashes


def _rounded(size: int) -> int:
    """The next power of two, so that few tables of powers are kept."""
    return 1 << max(size - 1, CHUNK_BYTES - 1).bit_length()


@cache
def _powers(base: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """base**i and base**−i modulo 2**64, for all i < size."""

    def powers(of: int) -> np.ndarray:
        steps = np.full(size, np.uint64(of))
        steps[0] = 1
        return np.cumprod(steps)

    return powers(base), powers(pow(base, -1, 1 << 64))


@cache
def _letter_values() -> np.ndarray:
    """A random value for each byte; both cases of a letter have the same, bytes outside words have 0."""
    byte = np.arange(256, dtype=np.uint8)
    lower = np.where((byte >= ord("A")) & (byte <= ord("Z")), byte + 32, byte)
    return np.where(_in_word(byte), _mixed(lower.astype(np.uint64) + np.uint64(1)), 0)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread each bit over all of its number: the finaliser of splitmix64, a bijection."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
