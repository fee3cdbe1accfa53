"""Rows of json lines, JSON arrays and plain text, read one after the other, past lines that are damaged."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from solar_repro.checkpoint.regular import regular
from solar_repro.errors import UserError

ARRAY_CHARACTERS = 1 << 16
BROKEN = "broken UTF-8"
BOM = b"\xef\xbb\xbf"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


@dataclass(frozen=True)
class Fault:
    """What stands in the place of a line that cannot be read."""

    what: str


@contextmanager
def open_bytes(file: Path) -> Iterator[BinaryIO]:
    """A text file's bytes, uncompressed where its name says so; what cannot be read: UserError."""
    compression = COMPRESSIONS.get(file.suffix)
    try:
        if compression is None:
            with open(file, "rb", opener=regular) as source:
                yield source
        else:
            import pyarrow as pa

            with io.BufferedReader(pa.input_stream(str(file), compression=compression)) as source:
                yield source
    except OSError as error:
        what = f"no readable {compression} file" if compression else "not readable"
        raise UserError(
            f"data file {file} is {what} ({str(error).splitlines()[0]}); fetch it again"
        ) from None


def json_rows(file: Path) -> Iterator[Any]:
    """Rows of a JSON array or of json lines; a `Fault` for a line that cannot be read."""
    with open_bytes(file) as lines:
        if lines.peek(64).removeprefix(BOM).lstrip()[:1] == b"[":
            yield from _array_rows(file, lines)
            return
        for line in lines:
            if not line.strip():
                continue
            text = _decode(line)
            if text is None:
                yield Fault(BROKEN)
                continue
            try:
                yield json.loads(text, parse_constant=_nothing)
            except ValueError:
                yield Fault("no valid JSON")


def _array_rows(file: Path, source: BinaryIO) -> Iterator[Any]:
    """Elements of a JSON array, one after the other: a set's array may be larger than the memory."""
    decoder, text, end = json.JSONDecoder(parse_constant=_nothing), "", False
    # Bytes that are no UTF-8 become lone surrogates, which the row is dropped for.
    with io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape") as source:
        text = source.read(ARRAY_CHARACTERS).lstrip().removeprefix("[")
        while True:
            text = text.lstrip(" \t\r\n,")
            if text.startswith("]"):
                return
            try:
                row, used = decoder.raw_decode(text)
            except ValueError as error:
                if end:
                    raise UserError(f"data file {file} is no valid JSON ({error}); fetch it again") from None
                more = source.read(max(ARRAY_CHARACTERS, len(text)))
                text, end = text + more, not more
            else:
                yield row
                text = text[used:]


def text_rows(file: Path) -> Iterator[Any]:
    with open_bytes(file) as lines:
        for line in lines:
            text = _decode(line)
            if text is None:
                yield Fault(BROKEN)
            elif text := text.strip():
                yield {"text": text}


def _nothing(constant: str) -> None:
    """NaN is what pandas has for a missing value, and Python writes it so."""


def _decode(line: bytes) -> str | None:
    try:
        # Files that were joined have the mark in their middle too.
        return line.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError:
        return None
