"""Where the benchmarks are that training rows are compared with, and what names their content."""

import contextlib
from pathlib import Path

from solar_repro.data.locate import Location, fingerprint, locate
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import BENCHMARKS, TABLE_8_BENCHMARKS


def benchmark_location(name: str, mirror: Path | None) -> Location:
    """Where a benchmark of `BENCHMARKS` is found; UserError where neither mirror nor hub has it."""
    return locate(BENCHMARKS[name].hub_id, mirror)


def table_8_fingerprints(mirror: Path | None, cache_dir: Path | None = None) -> dict[str, str]:
    """Fingerprints by hub id of those benchmarks of Table 8 that the mirror or the hub has."""
    found = {}
    for name in TABLE_8_BENCHMARKS:
        with contextlib.suppress(UserError):
            location = benchmark_location(name, mirror)
            found[location.hub_id] = fingerprint(location, cache_dir)
    return found
