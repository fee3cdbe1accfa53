"""Running entry points as a user does: in a process of their own, against a store and a tracking server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

EXPERIMENT = "solar-check"


@dataclass(frozen=True)
class Workplace:
    """A store and a tracking server that belong together."""

    store: Path
    tracking_uri: str

    def variables(self) -> dict[str, str | None]:
        """Environment variables of a command that works here; None unsets one."""
        return {
            **dict.fromkeys(("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SOLAR_MIRROR")),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
            "SOLAR_STORE": str(self.store),
        }

    def environment(self) -> dict[str, str]:
        changed = {**os.environ, **self.variables()}
        return {name: value for name, value in changed.items() if value is not None}

    def entry_point(self, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """`python -m entry_points.<name> …` with these variables, at scale `check` unless one is named."""
        return self._run([sys.executable, "-m", f"entry_points.{name}", *at_check(arguments)], **variables)

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        """The same without waiting for its end; stderr can be read line by line."""
        command = [sys.executable, "-m", f"entry_points.{name}", *at_check(arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment(), **pipes)

    def mlflow(self, *arguments: str) -> subprocess.CompletedProcess:
        """`mlflow …`."""
        return self._run([str(Path(sys.executable).with_name("mlflow")), *arguments])

    def _run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess:
        # mlflow runs `python`: it must be this one.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment(), "PATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def client(self):
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.tracking_uri)

    def runs(self, query: str = "") -> list:
        """All runs that match an MLflow filter, in any experiment."""
        client = self.client()
        experiments = [found.experiment_id for found in client.search_experiments()]
        return list(client.search_runs(experiments, query, max_results=1000))

    def folder(self, label: str) -> Path:
        """The one result of that label in the store."""
        (found,) = [path for path in self.store.glob(f"{label}-????????") if path.is_dir()]
        return found


def at_check(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of an entry point, with the smallest scale where none is named."""
    return arguments if "--scale" in arguments else ("--scale", "check", *arguments)


def workplace_in(folder: Path) -> Workplace:
    """The one that lies in a folder."""
    return Workplace(folder / "store", f"sqlite:///{folder}/mlflow.db")


def workplace(folder: Path) -> Workplace:
    """A fresh one, whose artifacts lie in the folder too."""
    place = workplace_in(folder)
    place.client().create_experiment(EXPERIMENT, artifact_location=str(folder / "artifacts"))
    return place


def for_servers() -> dict[str, str]:
    """The environment of an `mlflow server` without its jobs, whose two processes take long to start."""
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def serving(folder: Path, backend: str) -> Iterator[int]:
    """A real `mlflow server` with an artifact proxy, its log and artifacts in `folder`; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    command = [mlflow, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w") as log:
        # A session of its own: the server's workers must go with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=for_servers(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            while process.poll() is None:
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                time.sleep(0.1)
            assert process.poll() is None, (folder / "server.log").read_text()
            yield port
        finally:
            # At once: asked kindly, it would wait for connections that a test has left open.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def copy_of(place: Workplace, folder: Path) -> Workplace:
    """A workplace with the same results and runs, to do damage in."""
    shutil.copytree(place.store, folder / "store")
    shutil.copy(place.tracking_uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    return workplace_in(folder)


def forget(place: Workplace, label: str) -> None:
    """Remove a result, and its run, so that it is made again."""
    shutil.rmtree(place.folder(label))
    for run in place.runs():
        if run.info.run_name == label:
            place.client().delete_run(run.info.run_id)
