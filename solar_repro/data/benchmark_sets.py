"""Where the benchmarks are that training rows are compared with, and what names their content."""

import sys
from collections.abc import Callable
from pathlib import Path

from solar_repro.data.locate import Location, fingerprint, is_left_out, locate
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import BENCHMARKS, TABLE_8_BENCHMARKS
from solar_repro.store.hub import NotOnHub


def benchmark_location(name: str, mirror: Path | None) -> Location:
    """Where a benchmark of `BENCHMARKS` is found; UserError where neither mirror nor hub has it."""
    return locate(BENCHMARKS[name].hub_id, mirror)


def table_8_fingerprints(
    mirror: Path | None, cache_dir: Path | None = None, find: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Fingerprints by hub id of those benchmarks of Table 8 that the mirror or the hub has, or else `find`.

    One that the hub does not have is left out, and with a mirror also one that the hub cannot be asked for: a
    line on stderr names it. Without a mirror that is a UserError, for nothing else would have it. A step that
    is made reads those that its key names.
    """
    find = find or (lambda hub_id: fingerprint(locate(hub_id, mirror), cache_dir))
    found = {}
    for name in TABLE_8_BENCHMARKS:
        hub_id = BENCHMARKS[name].hub_id
        if is_left_out(hub_id):
            continue
        try:
            found[hub_id] = find(hub_id)
        except UserError as error:
            if mirror is None and not isinstance(error, NotOnHub):
                raise
            print(f"the filter of Table 8 does without {name}: {error}", file=sys.stderr, flush=True)
    return found
