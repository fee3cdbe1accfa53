"""What a start of a plan reads of a finished result: all of it the first time and when asked to, else none.

python -m benchmarks.performance.second_start --folder DIR --gigabytes 2
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from solar_repro.store.fingerprint import SETTLED_NS, forget_digests, remembered_digests
from solar_repro.store.manifest import MANIFEST_FILE, read_manifest, verify_manifest, write_manifest

SHARDS = 4
PART = 1 << 24


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the result is written (default: TMPDIR)")
    parser.add_argument("--gigabytes", type=float, default=2, help="its size (default: %(default)s)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        result = Path(scratch, "result")
        _write(result, int(options.gigabytes * 1e9))
        size = sum(entry for entry, _ in read_manifest(result).values())
        cache = Path(scratch, "cache")
        print(f"a result of {size:,} bytes in {SHARDS} files; the manifest has {_bytes(result)} more")
        print("| start | bytes read |\n|---|--:|")
        for name in ("first", "second", "third", "with -P verify=full"):
            if "full" in name:
                forget_digests(cache)
            before = _read_so_far()
            verify_manifest(result, lambda files: remembered_digests(files, cache))
            print(f"| {name} | {_read_so_far() - before:,} |")


def _write(result: Path, size: int) -> None:
    """Write a result of random bytes, and wait until its files count as unchanged."""
    result.mkdir()
    for number in range(SHARDS):
        with (result / f"model-{number + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as out:
            while (left := size // SHARDS - out.tell()) > 0:
                out.write(os.urandom(min(left, PART)))
    write_manifest(result)
    time.sleep(SETTLED_NS / 1e9)


def _bytes(result: Path) -> int:
    return (result / MANIFEST_FILE).stat().st_size


def _read_so_far() -> int:
    """Bytes that this process has asked files for (Linux)."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


if __name__ == "__main__":
    main()
