"""Refuses numbers in a config that no model has: building such a model would not end."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError

_MOST_LAYERS = 10_000
_RANGES = (
    (re.compile(r"n_layers?|num_(hidden_)?layers"), 1, _MOST_LAYERS),
    (re.compile(r"(n|num)_\w*(layers?|heads?|experts|beams?|sequences|groups)"), 0, _MOST_LAYERS),
    (re.compile(r"\w*(size|dim|rank)|n_(embd|inner|positions|ctx)|\w+_token_id"), -(1 << 28), 1 << 28),
)
"""Names of keys with their least and most value; today's largest models have a hundredth of the most."""


def refuse_absurd_config(file: Path, value: Any, place: str = "") -> None:
    """Raise UserError if a config, or a part of it, has layers, heads or sizes that no model has.

    `place` is the dotted path of the part, ending in a dot.
    """
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            refuse_absurd_config(file, item, place)
    for name, item in value.items() if isinstance(value, dict) else ():
        _refuse(file, place + name, name, item)
        refuse_absurd_config(file, item, f"{place}{name}.")


def _refuse(file: Path, place: str, name: str, item: Any) -> None:
    if name == "attention_types" and max(_numbers(item), default=0) > _MOST_LAYERS:
        raise UserError(f"{file}: {place[-80:]} names more layers than a model has; correct the file")
    _, least, most = next((bounds for bounds in _RANGES if bounds[0].fullmatch(name)), (None, None, None))
    if most is not None and type(item) in (int, float) and not least <= item <= most:
        raise UserError(
            f"{file}: {place[-80:]} = {str(item)[:40]}, which no model has ({least:,} to {most:,}); "
            "correct the file"
        )
    if name.endswith("_token_id") and isinstance(item, str):
        raise UserError(f"{file}: {place[-80:]} = {item[:40]!r}, but a number is needed; correct the file")


def _numbers(value: Any) -> Iterator[float]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, int | float):
            yield item
        yield from _numbers(item)
