"""A table of texts, which is built once and written as Markdown here, or as HTML by the report's template."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """Column names, and rows of as many cells. A line break in a name is kept in HTML alone."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown. The cells must be escaped already."""
        names = [name.replace("\n", " ") for name in self.head]
        return "\n".join([_line(names), "|---" * len(names) + "|", *map(_line, self.rows)])


def text_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> TextTable:
    """Build a table from any iterables."""
    return TextTable(tuple(head), tuple(tuple(row) for row in rows))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
