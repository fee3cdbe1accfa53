"""Escapes names and texts of runs for the formats that show them."""

import re
from collections.abc import Mapping
from typing import Any

from solar_repro.safety.redact import one_line

_MARKS = re.compile(r"[\\`*\[\]<>&|~]")
_FORMULA = ("=", "+", "-", "@")


def escape_markdown(text: str) -> str:
    """Return one line that Markdown, and HTML inside it, shows literally."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", one_line(text))


def escape_code(text: str) -> str:
    """Return one line to put between Markdown's backticks."""
    return one_line(text).replace("`", "'").replace("|", "/")


def escape_csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for a CSV file in which a spreadsheet takes no text for a formula."""
    return {name: _cell(one_line(value)) if isinstance(value, str) else value for name, value in row.items()}


def escape_plot_text(text: str) -> str:
    """Return one line for matplotlib, in which dollar signs begin no formula."""
    return one_line(text).replace("$", r"\$")


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
