"""Stages of the paper: each a plain function from input folders to one output folder."""

from collections.abc import Callable

NOTES = "solar"
"""Subfolder of every result with what belongs to the run: metrics, data reports, pictures."""

Log = Callable[..., None]
"""`log(metrics, step)`: metrics by name, for a step."""
