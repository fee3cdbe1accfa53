"""The vectorised n-grams against a plain reading of their definition."""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solar_repro.data import ngrams
from solar_repro.data.ngram_index import NgramIndex
from solar_repro.data.ngrams import hash_ngrams, hash_texts

TEXTS = st.lists(
    st.text(st.sampled_from("abAB 1,.é’É\n\u0301ﬁ日ß_"), max_size=40) | st.none() | st.text(max_size=20),
    max_size=8,
)


def words(text: str | None) -> list[str]:
    """Runs of letters and digits in lower case."""
    normal = unicodedata.normalize("NFKC", text or "").lower()
    return "".join(sign if sign.isalnum() else " " for sign in normal).split()


def grams(text: str | None, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    if len(found) < n:
        return [tuple(found)] if found else []
    return [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]


@given(TEXTS, st.integers(1, 4))
def test_equal_hashes_mean_equal_ngrams(texts, n):
    array = pa.array(texts, pa.string())
    hashed = [
        (row, value)
        for part in hash_ngrams(array, n)
        for row, value in zip(part.rows, part.hashes, strict=True)
    ]
    plain = [(row, gram) for row, text in enumerate(texts) for gram in grams(text, n)]
    assert sorted(row for row, _ in hashed) == [row for row, _ in plain]
    by_row = {
        row: ({h for r, h in hashed if r == row}, {g for r, g in plain if r == row}) for row, _ in plain
    }
    assert all(len(values) == len(gram_set) for values, gram_set in by_row.values())
    assert len({value for _, value in hashed}) == len({gram for _, gram in plain})


@given(st.lists(TEXTS, max_size=3), TEXTS, st.integers(1, 3))
def test_index_finds_what_sets_find(collections, texts, n):
    arrays = {f"set {number}": [pa.array(rows, pa.string())] for number, rows in enumerate(collections)}
    index = NgramIndex(arrays, n)
    known = [{gram for text in rows for gram in grams(text, n)} for rows in collections]
    owners = index.owners(pa.array(texts, pa.string()))
    assert [index.owner_names(found) for found in owners] == [
        [f"set {number}" for number, have in enumerate(known) if have & set(grams(text, n))] for text in texts
    ]
    assert len(index) == len(set().union(*known)) if known else True


@given(TEXTS)
def test_whole_texts(texts):
    hashes = hash_texts(pa.array(texts, pa.string()))
    for first, one in zip(texts, hashes, strict=True):
        assert (one == 0) == (words(first) == [])
        for second, other in zip(texts, hashes, strict=True):
            assert (one == other) == (words(first) == words(second))


def test_long_texts_and_many_chunks():
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{number}" for number in range(500)])
    texts = [" ".join(rng.choice(vocabulary, size)) for size in (200_000, 3, 50_000, 14, 13, 12, 0, 100)] * 2
    array = pa.array(texts)
    hashes = [set() for _ in texts]
    for part in hash_ngrams(array):
        for row, value in zip(part.rows.tolist(), part.hashes.tolist(), strict=True):
            hashes[row].add(value)
    assert [len(found) for found in hashes] == [len(set(grams(text, 13))) for text in texts]
    assert hashes[:8] == hashes[8:]
    # A slice of an array begins in the middle of its buffers.
    sliced = np.concatenate([part.hashes for part in hash_ngrams(array.slice(3, 2))])
    assert set(sliced.tolist()) == hashes[3] | hashes[4]


def test_hashes_are_the_same_on_every_machine():
    (part,) = hash_ngrams(pa.array(["The quick, brown FOX"]), 2)
    assert [f"{value:016x}" for value in part.hashes] == [
        "bcf8455e1d9c50db",
        "8acf6ca66fcb8f9a",
        "47aca7b806ec9a16",
    ]


def test_borders_of_texts_are_borders_of_words():
    one, two = (
        np.concatenate([part.hashes for part in hash_ngrams(pa.array(texts), 1)])
        for texts in (["ab", "cd"], ["abcd"])
    )
    assert (len(one), len(two)) == (2, 1)
    assert re.findall(r"\w+", "ab cd") == ["ab", "cd"]


def test_too_many_collections():
    with pytest.raises(ValueError, match="at most 63"):
        NgramIndex({str(number): [] for number in range(64)})
    assert ngrams.N == 13


@given(
    TEXTS,
    st.lists(st.sampled_from(["one", "two", "six", "TEN"]), min_size=1, max_size=40),
    st.integers(0, 30),
)
def test_thirteen_words_in_a_row_are_found_wherever_they_stand(texts, known, start):
    """Spans of seven words at every seventh word cover any thirteen in a row."""
    index = NgramIndex({"known": [pa.array([" ".join(known)])]})
    part = known[start : start + 13]
    texts = [f"{before or ''} {' '.join(part)} {before or ''}" for before in [*texts, None]]
    have = set(grams(" ".join(known), 13))
    assert (index.owners(pa.array(texts)) != 0).tolist() == [
        bool(have & set(grams(text, 13))) for text in texts
    ]
