"""Names and texts of runs, made safe for where they are shown."""

import re
from collections.abc import Mapping
from typing import Any

from solar_repro.safety.redact import one_line

_MARKS = re.compile(r"[\\`*\[\]<>&|~]")
_FORMULA = ("=", "+", "-", "@")


def markdown(text: str) -> str:
    """One line that Markdown, with the HTML that may stand in it, shows as it is."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", one_line(text))


def code(text: str) -> str:
    """One line for between Markdown's backticks."""
    return one_line(text).replace("`", "'").replace("|", "/")


def cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a CSV file, of whose texts no spreadsheet makes a formula."""
    return {name: _cell(one_line(value)) if isinstance(value, str) else value for name, value in row.items()}


def drawn(text: str) -> str:
    """One line for a picture, where dollar signs begin no formula."""
    return one_line(text).replace("$", r"\$")


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
