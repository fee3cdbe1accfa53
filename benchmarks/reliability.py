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
import shutil
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
from typing import Any

from solar_repro.safety.json_files import read_json
from solar_repro.store.manifest import MANIFEST_FILE, verify_manifest
from solar_repro.store.publish import write_atomically
from solar_repro.store.result import NOTES
from solar_repro.tracking.server import experiments

ROOT = Path(__file__).parents[1]
FAULTS = ("SIGKILL", "SIGTERM", "server")
LABELS = {
    "SIGKILL": "the plan's processes killed (SIGKILL)",
    "SIGTERM": "the plan asked to end (SIGTERM)",
    "server": "the tracking server killed for two seconds",
}
SHORTEST, LONGEST = 4.0, 20.0
"""Seconds between a start and its fault: from before the first step to the middle of a later one."""
SHARING = ("none", "users", "containers")
GROUP, USERS = 60_000, (60_001, 60_002)
"""Numbers that nobody needs to have an account for."""
CONTAINER = ("unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class Worker:
    """Who starts the plan, and from where."""

    user: int | None = None
    prefix: tuple[str, ...] = ()
    """What stands before the command."""

    def popen(self, command: list[str], home: Path, **settings: Any) -> subprocess.Popen:
        """Start a command as this worker, whose caches lie below `home`."""
        environment = {**os.environ, **settings.pop("env", {})}
        if self.user is not None:
            environment |= {"HOME": str(home), "HF_HOME": str(home / "hub"), "USER": str(self.user)}
            settings |= {"user": self.user, "group": GROUP, "extra_groups": [], "umask": 0o022}
        return subprocess.Popen([*self.prefix, *command], cwd=ROOT, env=environment, **settings)


def workers(sharing: str) -> list[Worker]:
    """The workers of one store, which are found to be possible here (else SystemExit says why not)."""
    if sharing == "none":
        return [Worker()]
    if sharing == "users":
        found = [Worker(user=user) for user in USERS]
    else:
        found = [Worker(prefix=CONTAINER), Worker(prefix=CONTAINER)]
    try:
        tried = found[0].popen(
            [sys.executable, "-c", "import mlflow"], Path("/"), stderr=subprocess.PIPE, text=True
        )
        said = tried.communicate()[1].strip()
    except OSError as error:
        said = str(error)
    else:
        if tried.returncode == 0:
            return found
    print(f"--sharing {sharing} cannot be tried here: {said.splitlines()[-1] if said else 'no reason given'}",
          file=sys.stderr)  # fmt: skip
    raise SystemExit(2)


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
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)  # noqa: S310 # our own server
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
    worker: Worker
    process: subprocess.Popen
    safe: float = field(default_factory=time.monotonic)
    said: list[str] = field(default_factory=list)
    undisturbed: bool = True
    """Whether no fault has met this start."""
    waits: bool = False
    """Whether it waits for another worker's step."""

    @classmethod
    def start(cls, scale: str, folder: Path, uri: str, worker: Worker) -> "Plan":
        store = folder / "store"
        process = worker.popen(
            [sys.executable, "-m", "entry_points.main", "--scale", scale, "--save.steps", "1"],
            folder / f"home-{worker.user}", env={"MLFLOW_TRACKING_URI": uri, "SOLAR_STORE": str(store)},
            start_new_session=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        plan = cls(store, worker, process)
        threading.Thread(target=plan._listen, daemon=True).start()
        return plan

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)
            if not line.startswith("["):
                continue
            waited, self.waits = self.waits, " waiting for " in line
            if waited or " done " in line or " running" in line or " going on" in line:
                self.safe = time.monotonic()

    def lost(self) -> float:
        """Seconds of work that are not kept: since a step began or ended, or a state was saved."""
        if self.waits:
            return 0.0
        saved = [path.stat().st_mtime for path in self.store.glob(".*.saved/checkpoint-*/metrics.jsonl")]
        since_saved = time.time() - max(saved, default=0.0)
        return min(time.monotonic() - self.safe, since_saved)

    def signal(self, number: signal.Signals) -> None:
        """Kill all its processes, or ask the one that works on the plan to end; wait until it has ended."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            inside = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            for child in inside.read_text().split() if self.worker.prefix else [self.process.pid]:
                os.kill(int(child), number)
        self.process.wait()


@contextmanager
def place(sharing: str = "none") -> Iterator[tuple[Path, Server]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sharing == "users":
            folder.chmod(0o755)
            for user, home in ((0, "store"), *((user, f"home-{user}") for user in USERS)):
                (folder / home).mkdir()
                shutil.chown(folder / home, user, GROUP)
            (folder / "store").chmod(0o2775)
        server = Server(folder)
        server.start()
        try:
            yield folder, server
        finally:
            server.kill()


def campaign(scale: str, times: dict[str, int], seed: int, sharing: str = "none") -> dict:
    """Try every fault so many times; what was tried, survived and lost, and the differences at the ends."""
    stream = random.Random(seed)
    group = workers(sharing)
    with place() as (folder, server):
        started = time.monotonic()
        undisturbed = Plan.start(scale, folder, server.uri, Worker())
        if undisturbed.process.wait():
            raise SystemExit("the undisturbed run failed:\n" + "".join(undisturbed.said[-20:]))
        alone = time.monotonic() - started
        expected = contents(undisturbed.store)
        lost: dict[str, list[float]] = {fault: [] for fault in FAULTS}
        differences: list[str] = []
        rounds = 0
        while any(len(tried) < times[fault] for fault, tried in lost.items()):
            rounds += 1
            with place(sharing) as (scratch, other):
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
    plans = [Plan.start(scale, folder, server.uri, worker) for worker in group]
    try:
        while True:
            open_faults = [fault for fault in FAULTS if len(lost[fault]) < times[fault]]
            all_went_on = undisturbed_for(plans, stream.uniform(SHORTEST, LONGEST) if open_faults else None)
            for number, plan in enumerate(plans):
                if plan.process.poll():
                    if plan.undisturbed:
                        return ["a start without a fault failed: " + "".join(plan.said[-5:])]
                    # Its server was not back in time: the same again.
                    plans[number] = Plan.start(scale, folder, server.uri, plan.worker)
            running = [plan for plan in plans if plan.process.poll() is None]
            if not running:
                return []
            if all_went_on:
                meet(stream.choice(open_faults), stream.choice(running), plans, server, lost)
                plans = [
                    Plan.start(scale, folder, server.uri, plan.worker) if plan.process.poll() else plan
                    for plan in plans
                ]
    finally:
        for plan in plans:
            if plan.process.poll() is None:
                plan.signal(signal.SIGKILL)


def undisturbed_for(plans: list[Plan], seconds: float | None) -> bool:
    """Whether all plans at work go on for so long; False as soon as one of them ends."""
    working = [plan for plan in plans if plan.process.poll() is None]
    until = time.monotonic() + (seconds or float("inf"))
    while all(plan.process.poll() is None for plan in working):
        if time.monotonic() >= until:
            return True
        time.sleep(0.05)
    return False


def meet(fault: str, plan: Plan, plans: list[Plan], server: Server, lost: dict[str, list[float]]) -> None:
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
