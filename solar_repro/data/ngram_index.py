"""Which texts share an n-gram with which collection of texts, for millions of n-grams in bounded memory."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from solar_repro.data.ngrams import N, hash_ngrams, hash_spans, span_stride

BITS_PER_SPAN = 4
"""log2 of the table's places per span."""


class NgramIndex:
    """The n-grams of at most 63 named collections of texts, in about 32 bytes per n-gram.

    A text is looked up in two steps. A few of its spans are sought in a table of bytes, which the first bits
    of a hash address, and then among sorted hashes. Only if one of them is found, all n-grams of the text are
    compared.
    """

    def __init__(self, collections: dict[str, Iterable[pa.Array]], n: int = N) -> None:
        if len(collections) > 63:
            raise ValueError("an n-gram index holds at most 63 collections")
        self.names, self.n = tuple(collections), n
        nothing = np.zeros(0, np.uint64)
        hashes, owners, spans = [nothing], [nothing], [nothing]
        for number, arrays in enumerate(collections.values()):
            found = [nothing]
            for texts in arrays:
                found += [grams.hashes for grams in hash_ngrams(texts, n)]
                spans += [grams.hashes for grams in hash_spans(texts, n, stride=1)]
            own = np.unique(np.concatenate(found))
            hashes.append(own)
            owners.append(np.full(len(own), 1 << number, np.uint64))
        self._hashes, places = np.unique(np.concatenate(hashes), return_inverse=True)
        self._owners = np.zeros(len(self._hashes), np.uint64)
        np.bitwise_or.at(self._owners, places, np.concatenate(owners))
        self._spans = np.unique(np.concatenate(spans))
        bits = max(len(self._spans), 1).bit_length() + BITS_PER_SPAN
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self._spans >> self._shift] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def owners(self, texts: pa.Array) -> np.ndarray:
        """For each text a uint64 whose bit i is set if the text shares an n-gram with collection i."""
        found = np.zeros(len(texts), np.uint64)
        likely = self._likely(texts)
        if not len(likely):
            return found
        for grams in hash_ngrams(texts.take(pa.array(likely)), self.n):
            places, hit = _among(self._hashes, grams.hashes)
            np.bitwise_or.at(found, likely[grams.rows[hit]], self._owners[places[hit]])
        return found

    def _likely(self, texts: pa.Array) -> np.ndarray:
        """Places of the texts that share a span with any collection."""
        rows = [np.zeros(0, np.int64)]
        for spans in hash_spans(texts, self.n, span_stride(self.n)) if len(self) else ():
            places = np.flatnonzero(self._table[spans.hashes >> self._shift])
            _, hit = _among(self._spans, spans.hashes[places])
            rows.append(spans.rows[places[hit]])
        return np.unique(np.concatenate(rows))

    def owner_names(self, owners: int) -> Sequence[str]:
        """The collections whose bits are set in one of `owners`' results."""
        return [name for number, name in enumerate(self.names) if int(owners) >> number & 1]


def _among(known: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each hash its place among the sorted `known` ones, and whether it is one of them."""
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return places, known[places] == hashes
