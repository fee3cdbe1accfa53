"""Runs a fault campaign: a plan is stopped again and again, and compared with the same plan undisturbed.

    python -m benchmarks.reliability --scale check --kills 50 --others 5 --out build/reliability

The plan is started. After a random time (seeded) everything is killed, or the plan is asked to stop
(SIGTERM), or its tracking server is killed and started again. This is repeated until everything was killed
`--kills` times and each other fault was tried `--others` times; a plan that reaches its end starts again in
a fresh store. At the end, every result must have the bytes of the undisturbed run, and every step must have
one finished run and no open one. The figures are written to reliability.json; the exit code is 1 if
something differs.

With `--sharing users`, two users with umask 022 work on the plan at the same time, in one store that belongs
to their group. With `--sharing containers`, two containers with the same host name do so, each with its own
process numbers. A fault hits one of the two. Both need root; where the machine does not allow it, one line
says so, and the exit code is 2.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fault_processes import PlanProcess, Server, Worker, workers, workplace
from benchmarks.text_table import text_table
from solar_repro.safety.json_files import read_json
from solar_repro.store.manifest import MANIFEST_FILE, verify_manifest
from solar_repro.store.publish import write_atomically
from solar_repro.store.result import NOTES
from solar_repro.tracking.server import experiments

FAULTS = ("SIGKILL", "SIGTERM", "server")
LABELS = {
    "SIGKILL": "the plan's processes killed (SIGKILL)",
    "SIGTERM": "the plan asked to end (SIGTERM)",
    "server": "the tracking server killed for two seconds",
}
SHORTEST, LONGEST = 4.0, 20.0
"""Seconds between a start and its fault: from before the first step to the middle of a later one."""
SHARING = ("none", "users", "containers")


def campaign(scale: str, times: dict[str, int], seed: int, sharing: str = "none") -> dict[str, Any]:
    """Try every fault so many times. Returns what was tried and lost, and the differences at the ends."""
    stream = random.Random(seed)
    group = workers(sharing)
    with workplace() as (folder, server):
        started = time.monotonic()
        undisturbed = PlanProcess.start(scale, folder, server.uri, Worker())
        if undisturbed.process.wait():
            raise SystemExit("the undisturbed run failed:\n" + "".join(undisturbed.said[-20:]))
        alone = time.monotonic() - started
        expected = contents(undisturbed.store)
        lost: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        differences: list[str] = []
        rounds = 0
        while any(len(tried) < times[fault] for fault, tried in lost.items()):
            rounds += 1
            with workplace(sharing) as (scratch, other):
                differences += disturbed(scale, scratch, other, stream, lost, times, group)
                differences += compared(expected, contents(scratch / "store"))
                differences += left_open(other.uri, len(expected))
            print(f"round {rounds}: {({name: len(tried) for name, tried in lost.items()})}, "
                  f"{len(differences)} differences", file=sys.stderr, flush=True)  # fmt: skip
    faults = {
        name: {"tried": len(tried), "median_lost_s": statistics.median(tried), "most_lost_s": max(tried)}
        for name, tried in lost.items()
    }
    return {"scale": scale, "seed": seed, "sharing": sharing, "undisturbed_s": alone,
            "results": len(expected), "rounds": rounds, "faults": faults,
            "differences": differences}  # fmt: skip


def disturbed(
    scale: str,
    folder: Path,
    server: Server,
    stream: random.Random,
    lost: dict[str, list[float]],
    times: dict[str, int],
    group: list[Worker],
) -> list[str]:
    """Let the workers bring the plan to its end, with a fault that is still to be tried every few seconds."""
    plans = [PlanProcess.start(scale, folder, server.uri, worker) for worker in group]
    try:
        while True:
            open_faults = [fault for fault in FAULTS if len(lost[fault]) < times[fault]]
            all_went_on = undisturbed_for(plans, stream.uniform(SHORTEST, LONGEST) if open_faults else None)
            for number, plan in enumerate(plans):
                if plan.process.poll():
                    if plan.undisturbed:
                        return ["a start without a fault failed: " + "".join(plan.said[-5:])]
                    # Its server was not back in time: the same again.
                    plans[number] = PlanProcess.start(scale, folder, server.uri, plan.worker)
            running = [plan for plan in plans if plan.process.poll() is None]
            if not running:
                return []
            if all_went_on:
                meet(stream.choice(open_faults), stream.choice(running), plans, server, lost)
                plans = [
                    PlanProcess.start(scale, folder, server.uri, plan.worker) if plan.process.poll() else plan
                    for plan in plans
                ]
    finally:
        for plan in plans:
            if plan.process.poll() is None:
                plan.signal(signal.SIGKILL)


def undisturbed_for(plans: list[PlanProcess], seconds: float | None) -> bool:
    """Wait so long. Returns True if all plans at work go on, and False as soon as one of them ends."""
    working = [plan for plan in plans if plan.process.poll() is None]
    until = time.monotonic() + (seconds or float("inf"))
    while all(plan.process.poll() is None for plan in working):
        if time.monotonic() >= until:
            return True
        time.sleep(0.05)
    return False


def meet(
    fault: str, plan: PlanProcess, plans: list[PlanProcess], server: Server, lost: dict[str, list[float]]
) -> None:
    """Let a plan meet a fault, or all of them that of the server; what was lost is added to `lost`."""
    if fault == "server":
        for other in plans:
            other.undisturbed = False
        server.kill()
        time.sleep(2.0)
        server.start()
        time.sleep(1.0)
        lost[fault].append(sum(other.lost() for other in plans if other.process.poll()))
        return
    plan.undisturbed = False
    lost[fault].append(plan.lost() if fault == "SIGKILL" else 0.0)
    plan.signal(signal.Signals[fault])
    end_workers(plan)


def end_workers(plan: PlanProcess) -> None:
    """Wait for what is left of the plan's process group: workers that still save their state."""
    while True:
        try:
            os.killpg(plan.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def contents(store: Path) -> dict[str, dict[str, str]]:
    """Map each result's folder to the sha256 of its files, without its notes."""
    found = {}
    for manifest in sorted(store.glob(f"*/{MANIFEST_FILE}")):
        verify_manifest(manifest.parent)
        files = read_json(manifest)["files"]
        found[manifest.parent.name] = {
            entry["name"]: entry["sha256"] for entry in files if not entry["name"].startswith(f"{NOTES}/")
        }
    return found


def compared(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Name the results that differ between two stores."""
    names = sorted(expected.keys() | found.keys())
    return [f"{name}: differs" for name in names if expected.get(name) != found.get(name)]


def left_open(uri: str, results: int) -> list[str]:
    """Describe runs that nobody closed, and steps that do not have exactly one finished run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    ids = [number for page in experiments(client) for number in page]
    runs = client.search_runs(ids, "tags.`solar.key` != ''", max_results=5000)
    finished = [run.data.tags["solar.key"] for run in runs if run.info.status == "FINISHED"]
    problems = [f"{run.info.run_name}: left open" for run in runs if run.info.status == "RUNNING"]
    if len(finished) != len(set(finished)) or len(finished) != results:
        problems.append(f"{len(finished)} finished runs of {len(set(finished))} steps, {results} results")
    return problems


def table(results: dict[str, Any]) -> str:
    """Return the campaign as Markdown."""
    rows = [
        (LABELS[name], str(row["tried"]), f"{row['median_lost_s']:.1f} s", f"{row['most_lost_s']:.1f} s")
        for name, row in results["faults"].items()
    ]
    return text_table(("fault", "tried", "work lost: median", "most"), rows).markdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", default="check")
    parser.add_argument("--kills", type=int, default=50, help="how many times everything is killed")
    parser.add_argument("--others", type=int, default=5, help="how many times each other fault is tried")
    parser.add_argument(
        "--sharing", choices=SHARING, default="none", help="who works on the store at the same time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/reliability"))
    arguments = parser.parse_args()
    times = {fault: arguments.kills if fault == "SIGKILL" else arguments.others for fault in FAULTS}
    results = campaign(arguments.scale, times, arguments.seed, arguments.sharing)
    write_atomically(arguments.out / "reliability.json", json.dumps(results, indent=2) + "\n")
    print(table(results))
    print("\n".join(results["differences"]) or "every run ended like the undisturbed run")
    raise SystemExit(1 if results["differences"] else 0)


if __name__ == "__main__":
    main()
