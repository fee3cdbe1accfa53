"""The card of a data set in hub layout: the YAML at the top of its README.md, which names its files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from solar_repro.errors import UserError
from solar_repro.safety.plain_yaml import read_yaml, yaml_error_text
from solar_repro.safety.regular_files import open_regular

MOST_BYTES = 1 << 20
_METADATA = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\n|$)", re.DOTALL)
_HIDDEN = ".huggingface.yaml"


def read_card(folder: Path) -> dict[str, Any]:
    """The card's metadata; empty where there is no card.

    Raises UserError for metadata that is no YAML, or too large as it is or once its aliases are unfolded; for
    files that are named by an address or lie outside the folder, which `datasets` would fetch; and for hidden
    files and a hidden card, which no fingerprint sees.
    """
    if (folder / _HIDDEN).exists():
        raise UserError(f"{folder / _HIDDEN}: would be read in place of README.md; move its content there")
    card = folder / "README.md"
    try:
        with open(card, "rb", opener=open_regular) as source:
            raw = source.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{card}: cannot be read ({error.strerror})") from None
    if len(raw) > MOST_BYTES:
        raise UserError(f"{card}: larger than {MOST_BYTES:,} bytes; shorten it")
    try:
        found = _METADATA.match(raw.decode("utf-8-sig"))
        metadata = read_yaml(found[1], MOST_BYTES) if found else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{card}: its metadata is not YAML: {yaml_error_text(error)}") from None
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise UserError(f"{card}: its metadata must be keys and values, such as 'configs:'")
    for name in _named_files(metadata.get("configs")):
        if any(part.startswith(".") and part not in (".", "..") for part in re.split(r"[/\\]", name)):
            raise UserError(f"{card}: `configs` names {name[:200]!r}, which is hidden; rename the file")
        if "://" in name or "::" in name or name.startswith(("/", "~")) or ".." in re.split(r"[/\\]", name):
            raise UserError(
                f"{card}: `configs` names {name[:200]!r}, outside the folder; copy the file there"
            )
    return metadata


def _named_files(configs: Any) -> Iterator[str]:
    """Every text below `data_files` and `data_dir` of the configurations, in whatever form it is written."""
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict):
            yield from _texts([config.get("data_files"), config.get("data_dir")])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
