"""Versions of installed libraries."""

import importlib.metadata
from functools import cache


@cache
def version(distribution: str) -> str | None:
    """Installed version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
