"""Measures speed and memory of up-scaling and merging, and compares them with `cp`, `dd` and mergekit.

    python -m benchmarks.performance.checkpoint --size small --folder /tmp
    python -m benchmarks.performance.checkpoint --size full --folder /data --mergekit ~/mergekit/bin/python

Every contender runs in its own process with an empty page cache, in rounds whose order rotates. Its time ends
when its output is on the disk. mergekit 0.1.5 comes from an environment of its own (`pip
install mergekit==0.1.5`). Up-scaled tensors are checked bit for bit, merged ones against float64. What was
written is removed at the end.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.performance.checkpoint_contenders import child, merging, upscaling
from benchmarks.performance.checkpoint_models import SHAPES, Shape
from benchmarks.performance.checkpoint_results import plot, summarise, table
from benchmarks.performance.processes import Contender, Run, bytes_below, drop_from_page_cache, measure
from solar_repro.errors import UserError
from solar_repro.store.publish import write_atomically

MARGIN = 1_000_000_000  # bytes that must stay free


def main(arguments: Sequence[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--size",
        choices=SHAPES,
        default="small",
        help="size of the model: small (0.3 GB) or full (Mistral 7B)",
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder to write to; size full needs 60 GB of free space"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mergekit", type=Path, metavar="PYTHON", help="path of a Python that has mergekit 0.1.5"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("checkpoint.json"), help="file to write the figures to"
    )
    parser.add_argument(
        "--plot", type=Path, default=Path("checkpoint.png"), help="file to write the bar plot to"
    )
    parser.add_argument("--keep-inputs", action="store_true", help="keep the random models for another run")
    options = parser.parse_args(arguments)
    work = options.folder.absolute() / f"checkpoint-benchmark-{options.size}"
    try:
        runs, checks, cache = run(options.size, work, options.rounds, options.mergekit, options.keep_inputs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = {"size": options.size, "cold_by": cache, "machine": _machine(options.folder)}
    results |= summarise(runs, checks)
    write_atomically(options.json, json.dumps(results, indent=2) + "\n")
    plot(results, options.plot)
    print(table(results))
    return 0 if all(check["passed"] for check in checks) else 1


def run(
    size: str, work: Path, rounds: int, mergekit: Path | None, keep_inputs: bool
) -> tuple[list[tuple[Contender, list[Run]]], list[dict[str, Any]], str]:
    """Measure all contenders in `work`, the benchmark's own folder: their runs, checks, how it was cold."""
    shape = SHAPES[size]
    a, b, reference, out = (work / name for name in ("a", "b", "reference", "out"))
    _remove(reference, out)  # of a run that was killed
    _require_space(work, shape)
    work.mkdir(exist_ok=True)
    checks: list[dict[str, Any]] = []
    try:
        child("write", size, a, 0)
        contenders = upscaling(size, work, mergekit)
        ours = next(contender for contender in contenders if contender.name == "solar_repro")
        measure(ours.command, work / "log", out)
        out.rename(reference)  # what cp copies
        runs, cache = _rounds(contenders, rounds, work / "log", checks)
        _remove(reference)
        child("write", size, b, 1)
        merges, _ = _rounds(merging(size, work, mergekit), rounds, work / "log", checks)
        if mergekit is not None:
            checks += _compare_errors(checks)
        return runs + merges, checks, cache
    finally:
        kept = (a, b) if keep_inputs else ()
        _remove(*(path for path in work.iterdir() if path not in kept))
        if not keep_inputs:
            work.rmdir()


def _rounds(
    contenders: list[Contender], rounds: int, log: Path, checks: list[dict[str, Any]]
) -> tuple[list[tuple[Contender, list[Run]]], str]:
    """Run all contenders in every round, beginning with another one each time; check outputs in the first."""
    runs: dict[str, list[Run]] = {contender.task + contender.name: [] for contender in contenders}
    cache = ""
    for number in range(rounds):
        start = number % len(contenders)
        for contender in contenders[start:] + contenders[:start]:
            cache = drop_from_page_cache(contender.reads)
            measured = measure(contender.command, log, contender.out)
            runs[contender.task + contender.name].append(measured)
            print(
                f"round {number + 1}: {contender.task}, {contender.name}: {measured.seconds_on_disk:.2f} s, "
                f"{measured.peak_resident_bytes / 1e6:,.0f} MB",
                file=sys.stderr,
                flush=True,
            )
            if number == 0 and contender.check is not None:
                checks.append(contender.check())
            if contender.out is not None:
                _remove(contender.out)
    return [(contender, runs[contender.task + contender.name]) for contender in contenders], cache


def _compare_errors(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our merges must be as near to float64 as mergekit's, or nearer."""
    compared = []
    for method in ("average", "slerp"):
        errors = {
            name: next(check["error"] for check in checks if check["what"].startswith(f"{method}, {name}:"))
            for name in ("solar_repro", "mergekit")
        }
        what = f"{method}: our distance at most mergekit's"
        compared.append({"what": what, "passed": errors["solar_repro"] <= errors["mergekit"]})
    return compared


def _require_space(work: Path, shape: Shape) -> None:
    if not work.parent.is_dir():
        raise UserError(f"{work.parent}: no such folder; choose another --folder")
    upscaling = shape.bytes * (2 if (work / "b").exists() else 1) + 2 * shape.upscaled_bytes
    needed = max(upscaling, 3 * shape.bytes) + MARGIN
    free = shutil.disk_usage(work.parent).free + bytes_below(work)
    if free < needed:
        raise UserError(f"{work}: {needed:,} bytes are needed, {free:,} are free; choose another --folder")


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _machine(folder: Path) -> dict[str, Any]:
    command = ["stat", "-f", "-c", "%T", str(folder)]
    file_system = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processors": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "file_system": file_system.strip(),
    }


if __name__ == "__main__":
    sys.exit(main())
