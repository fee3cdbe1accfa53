"""Fault campaign: a plan that is cut off again and again, beside the same plan left alone.

    python -m benchmarks.reliability --scale check --kills 50 --others 5 --out build/reliability

The plan is started, and after a random time (seeded) it is killed, asked to end (SIGTERM), or its tracking
server is killed and started again, until all was killed `--kills` times and each other fault was tried
`--others` times; a plan that comes to its end begins anew in a fresh store. In the end every result must have
the bytes that the undisturbed run gave, and every step one finished run and none left open. Writes
reliability.json; exit 1 where something differs.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from solar_repro.checkpoint.folder import read_json
from solar_repro.checkpoint.manifest import MANIFEST_FILE, verify_manifest
from solar_repro.checkpoint.publish import write_whole
from solar_repro.stages import NOTES
from solar_repro.tracking_server import experiments

ROOT = Path(__file__).parents[1]
FAULTS = ("SIGKILL", "SIGTERM", "server")
LABELS = {
    "SIGKILL": "the plan's processes killed (SIGKILL)",
    "SIGTERM": "the plan asked to end (SIGTERM)",
    "server": "the tracking server killed for two seconds",
}
SHORTEST, LONGEST = 4.0, 20.0
"""Seconds between a start and its fault: from before the first step to the middle of a later one."""


@dataclass
class Server:
    """A tracking server of its own, which can be killed and comes back with what it had."""

    folder: Path
    port: int = 0
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Plan:
    """One process group that works on the plan, and when it last came to something that is kept."""

    store: Path
    process: subprocess.Popen
    safe: float = field(default_factory=time.monotonic)
    said: list[str] = field(default_factory=list)
    undisturbed: bool = True
    """Whether no fault has met this start."""

    @classmethod
    def start(cls, scale: str, folder: Path, uri: str) -> "Plan":
        store = folder / "store"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "SOLAR_STORE": str(store)}
        process = subprocess.Popen(
            [sys.executable, "-m", "entry_points.main", "--scale", scale, "--save.steps", "1"],
            cwd=ROOT, env=environment, start_new_session=True, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        plan = cls(store, process)
        threading.Thread(target=plan._listen, daemon=True).start()
        return plan

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("[") and (" done " in line or " running" in line or " going on" in line):
                self.safe = time.monotonic()

    def lost(self) -> float:
        """Seconds of work that are not kept: since a step began or ended, or a state was saved."""
        saved = [path.stat().st_mtime for path in self.store.glob(".*.saved/checkpoint-*/metrics.jsonl")]
        since_saved = time.time() - max(saved, default=0.0)
        return min(time.monotonic() - self.safe, since_saved)

    def ended_within(self, seconds: float | None) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def place() -> Iterator[tuple[Path, Server]]:
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name))
        server.start()
        try:
            yield Path(name), server
        finally:
            server.kill()


def campaign(scale: str, times: dict[str, int], seed: int) -> dict:
    """Try every fault so many times; what was tried, survived and lost, and the differences at the ends."""
    stream = random.Random(seed)
    with place() as (folder, server):
        started = time.monotonic()
        undisturbed = Plan.start(scale, folder, server.uri)
        if undisturbed.process.wait():
            raise SystemExit("the undisturbed run failed:\n" + "".join(undisturbed.said[-20:]))
        alone = time.monotonic() - started
        expected = contents(undisturbed.store)
        lost: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        differences: list[str] = []
        rounds = 0
        while any(len(tried) < times[fault] for fault, tried in lost.items()):
            rounds += 1
            with place() as (scratch, other):
                differences += disturbed(scale, scratch, other, stream, lost, times)
                differences += compared(expected, contents(scratch / "store"))
                differences += left_open(other.uri, len(expected))
            print(f"round {rounds}: {({name: len(tried) for name, tried in lost.items()})}, "
                  f"{len(differences)} differences", file=sys.stderr, flush=True)  # fmt: skip
    faults = {
        name: {"tried": len(tried), "median_lost_s": statistics.median(tried), "most_lost_s": max(tried)}
        for name, tried in lost.items()
    }
    return {"scale": scale, "seed": seed, "undisturbed_s": alone, "results": len(expected), "rounds": rounds,
            "faults": faults, "differences": differences}  # fmt: skip


def disturbed(
    scale: str,
    folder: Path,
    server: Server,
    stream: random.Random,
    lost: dict[str, list[float]],
    times: dict[str, int],
) -> list[str]:
    """Start the plan until it comes to its end, with a fault that is still to be tried every few seconds."""
    plan = Plan.start(scale, folder, server.uri)
    while True:
        open_faults = [fault for fault in FAULTS if len(lost[fault]) < times[fault]]
        seconds = stream.uniform(SHORTEST, LONGEST) if open_faults else None
        if plan.ended_within(seconds):
            if plan.process.returncode == 0:
                return []
            if plan.undisturbed:
                return ["a start without a fault failed: " + "".join(plan.said[-5:])]
            plan = Plan.start(scale, folder, server.uri)  # its server was not back in time: the same again
            continue
        fault = stream.choice(open_faults)
        plan.undisturbed = False
        if fault == "server":
            server.kill()
            time.sleep(2.0)
            server.start()
            lost[fault].append(plan.lost() if plan.ended_within(1.0) else 0.0)
        else:
            lost[fault].append(plan.lost() if fault == "SIGKILL" else 0.0)
            number = signal.Signals[fault]
            (os.killpg if number == signal.SIGKILL else os.kill)(plan.process.pid, number)
            plan.process.wait()
            end_workers(plan)
            plan = Plan.start(scale, folder, server.uri)


def end_workers(plan: Plan) -> None:
    """Wait for what is left of the plan's process group: workers that still save their state."""
    while True:
        try:
            os.killpg(plan.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def contents(store: Path) -> dict[str, dict[str, str]]:
    """Result's folder → file → sha256, of what is the result and not the story of its making."""
    found = {}
    for manifest in sorted(store.glob(f"*/{MANIFEST_FILE}")):
        verify_manifest(manifest.parent)
        files = read_json(manifest)["files"]
        found[manifest.parent.name] = {
            entry["name"]: entry["sha256"] for entry in files if not entry["name"].startswith(f"{NOTES}/")
        }
    return found


def compared(expected: dict, found: dict) -> list[str]:
    """What the second store has otherwise than the first."""
    names = sorted(expected.keys() | found.keys())
    return [f"{name}: differs" for name in names if expected.get(name) != found.get(name)]


def left_open(uri: str, results: int) -> list[str]:
    """Steps with more or fewer finished runs than one, and runs that nobody closed."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    ids = [number for page in experiments(client) for number in page]
    runs = client.search_runs(ids, "tags.`solar.key` != ''", max_results=5000)
    finished = [run.data.tags["solar.key"] for run in runs if run.info.status == "FINISHED"]
    problems = [f"{run.info.run_name}: left open" for run in runs if run.info.status == "RUNNING"]
    if len(finished) != len(set(finished)) or len(finished) != results:
        problems.append(f"{len(finished)} finished runs of {len(set(finished))} steps, {results} results")
    return problems


def table(results: dict) -> str:
    """The campaign as Markdown."""
    lines = ["| fault | tried | work lost: median | most |", "|---|---|---|---|"]
    for name, row in results["faults"].items():
        lines.append(
            f"| {LABELS[name]} | {row['tried']} | {row['median_lost_s']:.1f} s | {row['most_lost_s']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", default="check")
    parser.add_argument("--kills", type=int, default=50, help="times that everything is killed")
    parser.add_argument("--others", type=int, default=5, help="times that each other fault is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/reliability"))
    arguments = parser.parse_args()
    times = {fault: arguments.kills if fault == "SIGKILL" else arguments.others for fault in FAULTS}
    results = campaign(arguments.scale, times, arguments.seed)
    write_whole(arguments.out / "reliability.json", json.dumps(results, indent=2) + "\n")
    print(table(results))
    print("\n".join(results["differences"]) or "every end is that of the undisturbed run")
    raise SystemExit(1 if results["differences"] else 0)


if __name__ == "__main__":
    main()
