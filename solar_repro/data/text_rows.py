"""Rows of json lines, JSON arrays and plain text, read one after the other, past lines that are damaged.

A row that is too long or nested too deeply is passed over too, and a compressed file that unfolds to far more
than texts do is refused: what others wrote may have been written to fill the memory.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from solar_repro.errors import UserError
from solar_repro.safety.regular_files import open_regular

ARRAY_CHARACTERS = 1 << 16
LONGEST_ROW = 1 << 26
"""Bytes."""
BROKEN = "broken UTF-8"
LONG = f"longer than {LONGEST_ROW:,} bytes"
DEEP = "nested too deeply"
BOM = b"\xef\xbb\xbf"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """What stands in the place of a line that cannot be read."""

    what: str


def most_unfolded(file: Path) -> int:
    """Bytes that a file may unfold to: a thousand times its size, and what a small one may take besides."""
    return 1000 * file.stat().st_size + LONGEST_ROW


def unfolds(file: Path) -> UserError:
    return UserError(
        f"data file {file} unfolds to more than {most_unfolded(file):,} bytes, which no text does; if you "
        "trust it, write it anew without compression"
    )


class _Unfolded(io.RawIOBase):
    """A compressed file's content, up to what is believed of it."""

    def __init__(self, file: Path, compression: str) -> None:
        import pyarrow as pa

        self._file, self._left = file, most_unfolded(file)
        self._source = pa.input_stream(str(file), compression=compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._source.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise unfolds(self._file)
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


@contextmanager
def open_bytes(file: Path) -> Iterator[BinaryIO]:
    """A text file's bytes, uncompressed where its name says so; what cannot be read: UserError."""
    compression = COMPRESSIONS.get(file.suffix)
    try:
        if compression is None:
            with open(file, "rb", opener=open_regular) as source:
                yield source
        else:
            with io.BufferedReader(_Unfolded(file, compression)) as source:
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
        for line in _lines(lines):
            if isinstance(line, bytes) and not line.strip():
                continue
            text = _decode(line)
            if isinstance(text, Fault):
                yield text
                continue
            try:
                yield json.loads(text, parse_constant=_nothing)
            except RecursionError:
                yield Fault(DEEP)
            except ValueError:
                yield Fault("is not valid JSON")


def _lines(source: BinaryIO) -> Iterator[bytes | Fault]:
    """Lines of a file, and for one that is too long its fault."""
    while line := source.readline(LONGEST_ROW):
        is_long = False
        while line and not line.endswith(b"\n") and len(line) == LONGEST_ROW:
            is_long, line = True, source.readline(LONGEST_ROW)
        yield Fault(LONG) if is_long else line


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
            except RecursionError:
                row, used, error = Fault(DEEP), _end(text), "it ends within a row"
            except ValueError as said:
                used, error = 0, str(said)
            if used:
                yield row
                text = text[used:]
                continue
            if end or len(text) > LONGEST_ROW:
                error = error if end else f"a row {LONG}"
                raise UserError(f"data file {file} is not valid JSON ({error}); fetch it again")
            more = source.read(max(ARRAY_CHARACTERS, len(text)))
            text, end = text + more, not more


def _end(text: str) -> int:
    """Where the value that a text begins with, which opens a bracket, has closed it; 0: not in this text."""
    depth = 0
    for found in _BRACKET.finditer(text):
        if found[0] == '"':  # a text that is not closed here
            return 0
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return 0


def text_rows(file: Path) -> Iterator[Any]:
    with open_bytes(file) as lines:
        for line in _lines(lines):
            text = _decode(line)
            if isinstance(text, Fault):
                yield text
            elif text := text.strip():
                yield {"text": text}


def _nothing(constant: str) -> None:
    """NaN is what pandas has for a missing value, and Python writes it so."""


def _decode(line: bytes | Fault) -> str | Fault:
    if isinstance(line, Fault):
        return line
    try:
        # Files that were joined have the mark in their middle too.
        return line.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError:
        return Fault(BROKEN)
