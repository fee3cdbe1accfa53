"""The processes that a fault campaign starts and stops: those of the plan, and a tracking server."""

import os
import shutil
import signal
import socket
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

ROOT = Path(__file__).parents[1]
GROUP, USERS = 60_000, (60_001, 60_002)
"""Numbers of a group and of users; none of them needs an account."""
CONTAINER = ("unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class Worker:
    """A user or container that starts the plan; without both, this process's own user does."""

    user: int | None = None
    prefix: tuple[str, ...] = ()
    """Stands before the command, and runs it in a container."""

    def popen(self, command: list[str], home: Path, **settings: Any) -> subprocess.Popen[Any]:
        """Start a command as this worker, whose caches lie below `home`."""
        environment = {**os.environ, **settings.pop("env", {})}
        if self.user is not None:
            environment |= {"HOME": str(home), "HF_HOME": str(home / "hub"), "USER": str(self.user)}
            settings |= {"user": self.user, "group": GROUP, "extra_groups": [], "umask": 0o022}
        return subprocess.Popen([*self.prefix, *command], cwd=ROOT, env=environment, **settings)


def workers(sharing: str) -> list[Worker]:
    """Return the workers of one store; where they cannot start here, print why and raise SystemExit."""
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
    """A tracking server of the campaign's own, which can be killed and comes back with what it had."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[Any] | None = None

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
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class PlanProcess:
    """One process group that works on the plan, and the time at which its work was last safe."""

    store: Path
    worker: Worker
    process: subprocess.Popen[Any]
    safe: float = field(default_factory=time.monotonic)
    said: list[str] = field(default_factory=list)
    undisturbed: bool = True
    """Whether no fault has met this start."""
    waits: bool = False
    """Whether it waits for another worker's step."""

    @classmethod
    def start(cls, scale: str, folder: Path, uri: str, worker: Worker) -> "PlanProcess":
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
        for line in self.process.stderr or ():
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
def workplace(sharing: str = "none") -> Iterator[tuple[Path, Server]]:
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
