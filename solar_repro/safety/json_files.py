"""JSON files: those of others are read strictly and in bounds, our own are written as transformers does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from solar_repro.errors import UserError
from solar_repro.safety.regular import regular

MAX_JSON_BYTES = 100_000_000


def read_json(file: Path, constants: bool = False) -> dict[str, Any]:
    """Read a JSON object from an untrusted file; UserError names it. `constants` as for `strict_json`."""
    try:
        with open(file, "rb", opener=regular) as stream:
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
    """Write JSON the way transformers does: two spaces, a newline at the end."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def strict_json(raw: bytes, constants: bool = False) -> dict[str, Any]:
    """Parse an untrusted JSON object: UTF-8, no duplicate key, no negative zero (ValueError otherwise).

    `Infinity` and `NaN`, which Python writes though JSON has none, are taken with `constants`.
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
