"""Rows of json lines, JSON arrays and plain text, read one after the other; damaged lines are skipped.

Somebody may have written a file to fill the memory of its reader. A row that is too long or nested too deeply
is therefore skipped too, and a compressed file that unfolds to far more than texts do is refused.
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
"""Characters of a JSON array that are read at once."""
LONGEST_ROW = 1 << 26
"""Bytes of a row at most."""
BROKEN = "broken UTF-8"
LONG = f"longer than {LONGEST_ROW:,} bytes"
DEEP = "nested too deeply"
BOM = b"\xef\xbb\xbf"
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """Stands in the place of a row that cannot be read, and says why."""

    what: str


def most_unfolded(file: Path) -> int:
    """Bytes that a file may unfold to: a thousand times its size, and one longest row besides."""
    return 1000 * file.stat().st_size + LONGEST_ROW


def unfolds(file: Path) -> UserError:
    """The error of a file that unfolds to more than `most_unfolded`."""
    return UserError(
        f"data file {file} unfolds to more than {most_unfolded(file):,} bytes, which no text does; if you "
        "trust it, write it anew without compression"
    )


class _Unfolded(io.RawIOBase):
    """A compressed file's content; it raises UserError once that is more than `most_unfolded`."""

    def __init__(self, file: Path, compression: str) -> None:
        import pyarrow as pa  # here, for the plan of a run reads text files and shall not wait for it

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
    """A text file's bytes, uncompressed where its name says so; UserError where they cannot be read."""
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
    """The rows of a JSON array or of json lines, with a `Fault` for each one that cannot be read."""
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
    """The lines of a file, with a `Fault` for each one that is too long."""
    while line := source.readline(LONGEST_ROW):
        is_long = False
        while line and not line.endswith(b"\n") and len(line) == LONGEST_ROW:
            is_long, line = True, source.readline(LONGEST_ROW)
        yield Fault(LONG) if is_long else line


def _array_rows(file: Path, source: BinaryIO) -> Iterator[Any]:
    """The elements of a JSON array, one after the other, for the array may be larger than the memory."""
    decoder, text, end = json.JSONDecoder(parse_constant=_nothing), "", False
    # Bytes that are no UTF-8 become lone surrogates, which the row is dropped for.
    with io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape") as source:
        text = source.read(ARRAY_CHARACTERS).lstrip().removeprefix("[")
        start = 0  # nothing is cut off for each row: that would copy the rest of a long text every time
        while True:
            start = _BETWEEN.match(text, start).end()
            if text.startswith("]", start):
                return
            try:
                row, used = decoder.raw_decode(text, start)
            except RecursionError:
                row, used, error = Fault(DEEP), _end(text, start), "it ends within a row"
            except ValueError as said:
                used, error = 0, str(said)
            if used:
                yield row
                start = used
                continue
            if end or len(text) - start > LONGEST_ROW:
                error = error if end else f"a row {LONG}"
                raise UserError(f"data file {file} is not valid JSON ({error}); fetch it again")
            more = source.read(max(ARRAY_CHARACTERS, len(text) - start))
            text, start, end = text[start:] + more, 0, not more


def _end(text: str, start: int) -> int:
    """Where the JSON array or object that begins at `start` ends; 0 where it does not end in this text."""
    depth = 0
    for found in _BRACKET.finditer(text, start):
        if found[0] == '"':  # a string that does not end here
            return 0
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return 0


def text_rows(file: Path) -> Iterator[Any]:
    """The lines of a text file that are not blank, as rows {text}, with a `Fault` for each unreadable one."""
    with open_bytes(file) as lines:
        for line in _lines(lines):
            text = _decode(line)
            if isinstance(text, Fault):
                yield text
            elif text := text.strip():
                yield {"text": text}


def _nothing(constant: str) -> None:
    """Read NaN as null: pandas has it for a missing value, and Python's writer lets it through."""


def _decode(line: bytes | Fault) -> str | Fault:
    if isinstance(line, Fault):
        return line
    try:
        # In files that were joined the mark may begin any line.
        return line.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError:
        return Fault(BROKEN)
