"""The embedded world: a mirror of the hub with the corpus, Table 1's sets and the six benchmarks."""

from pathlib import Path

from solar_repro.contract import MicroworldSettings
from solar_repro.microworld.write import write_mirror
from solar_repro.store.result import Log


def run(out: Path, log: Log, settings: MicroworldSettings) -> None:
    """Write the world's mirror to `out`; the log gets the rows of each set."""
    counts = write_mirror(out, settings.world)
    for name, splits in counts.items():
        log({f"rows/{name}/{split}": rows for split, rows in splits.items()})
