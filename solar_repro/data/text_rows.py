"""Rows of json lines, JSON arrays and plain text, read one after the other, past lines that are damaged."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

ARRAY_CHARACTERS = 1 << 16
BROKEN = "broken UTF-8"


@dataclass(frozen=True)
class Fault:
    """What stands in the place of a line that cannot be read."""

    what: str


def json_rows(file: Path) -> Iterator[Any]:
    """Rows of a JSON array or of json lines; a `Fault` for a line that cannot be read."""
    with file.open("rb") as lines:
        if lines.read(64).lstrip()[:1] == b"[":
            yield from _array_rows(file)
            return
        lines.seek(0)
        for line in lines:
            if not line.strip():
                continue
            text = _decode(line)
            if text is None:
                yield Fault(BROKEN)
                continue
            try:
                yield json.loads(text)
            except ValueError:
                yield Fault("no valid JSON")


def _array_rows(file: Path) -> Iterator[Any]:
    """Elements of a JSON array, one after the other: a set's array may be larger than the memory."""
    decoder, text, end = json.JSONDecoder(), "", False
    # Bytes that are no UTF-8 become lone surrogates, which the row is dropped for.
    with file.open(encoding="utf-8", errors="surrogateescape") as source:
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
    with file.open("rb") as lines:
        for line in lines:
            text = _decode(line)
            if text is None:
                yield Fault(BROKEN)
            elif text := text.strip():
                yield {"text": text}


def _decode(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None
