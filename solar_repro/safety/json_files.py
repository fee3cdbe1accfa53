"""Reads JSON files of others strictly and within bounds, and writes our own as transformers does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from solar_repro.errors import UserError
from solar_repro.safety.regular_files import open_regular

MAX_JSON_BYTES = 100_000_000


def read_json(file: Path, constants: bool = False) -> dict[str, Any]:
    """Read a JSON object from an untrusted file; `constants` is that of `strict_json`.

    Raises UserError, which names the file, if it cannot be read, is too large or is not valid.
    """
    try:
        with open(file, "rb", opener=open_regular) as stream:
            raw = stream.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise UserError(
                f"{file}: larger than {MAX_JSON_BYTES:,} bytes; no JSON file of a checkpoint is so large"
            )
        return strict_json(raw, constants)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); a checkpoint folder needs it") from error
    except ValueError as error:
        raise UserError(f"{file}: not a valid JSON object ({error}); download or save it again") from error


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON as transformers does: UTF-8, indented by two spaces, with a newline at the end."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def strict_json(raw: bytes, constants: bool = False) -> dict[str, Any]:
    """Parse an untrusted JSON object; raises ValueError if it is not UTF-8, or has a duplicate key or a `-0`.

    `constants` accepts `Infinity` and `NaN`, which Python writes although JSON does not have them.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=float if constants else _refuse_constant,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for name, value in pairs:
        if name in unique:
            raise ValueError(f"duplicate name {name!r}")
        unique[name] = value
    return unique


def _integer(digits: str) -> int:
    if digits == "-0":
        raise ValueError("-0 is no integer")
    return int(digits)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
