"""The texts of a mirror that the base and its tokenizer are trained on, and a digest of the corpus."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from solar_repro.errors import UserError

CORPUS = "solar-repro/microworld"
"""The corpus's id in the mirror."""
FIRST_DOCUMENTS = 2_000
"""Documents that distinguish one corpus from another; all are drawn from one stream."""


def stored_texts(mirror: Path, hub_id: str, split: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield some columns of all rows of a split in a mirror, in order; UserError if there are none."""
    files = sorted((mirror / hub_id / "data").glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(
            f"no {split} rows in {mirror / hub_id}: write the embedded world's mirror there first"
        )
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            yield from zip(*(batch[column].to_pylist() for column in columns), strict=True)


def corpus_digest(documents: Iterable[str], count: int) -> str:
    """sha256 over a corpus's number of training documents and the first of them."""
    digest = hashlib.sha256(f"{count} documents".encode())
    for text in islice(documents, FIRST_DOCUMENTS):
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def stored_corpus_digest(mirror: Path) -> str:
    """The `corpus_digest` of a mirror's corpus; UserError where it has none."""
    documents = (text for (text,) in stored_texts(mirror, CORPUS, "train", ["text"]))
    files = (mirror / CORPUS / "data").glob("train-*.parquet")
    return corpus_digest(documents, sum(pq.read_metadata(file).num_rows for file in files))
