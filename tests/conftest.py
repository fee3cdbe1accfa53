"""Places that tests share. A fresh machine has no folder `shared` beside the project: those tests skip."""

import gc
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# No test is about time.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# Tests never reach for the hub: what is missing is an error, not a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# Several test processes share the cores: threads that outnumber them do nothing but wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


MAKES_FINISHED = "tests/test_end_to_end.py"
LONGEST = (
    "tests/running/test_launch.py",
    "tests/terminal/test_stopping.py",
    "tests/running/test_runner.py",
    "tests/running/test_resume.py",
)
"""Files that end last where they begin late."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """While one process makes what is `finished`, the other runs what needs none; short files come last.

    xdist hands out whole files, in this order.
    """
    needing = {item.path for item in items if "finished" in item.fixturenames}

    def turn(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT).as_posix()
        if name == MAKES_FINISHED:
            return 0
        if item.path not in needing:
            return 1
        return 2 + LONGEST.index(name) if name in LONGEST else 2 + len(LONGEST)

    items.sort(key=turn)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU before any fixture is made."""
    if item.get_closest_marker("gpu"):
        from solar_repro.device import device

        if device() != "cuda":
            pytest.skip("no GPU")


def pytest_collection_finish() -> None:
    """Trainers collect garbage often: what is imported by now is left out of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the mirror of real data sets, a real small model and the paper's text."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder 'shared' beside the project (real data and a real model)")
    return SHARED


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str):
    """What `mlflow run .` has made of the whole paper at scale `check`, once; a copy for each process.

    `SOLAR_TESTS_MADE` names a folder that keeps it for the next pytest, as long as no code changes.
    """
    from solar_repro.store.lock import locked
    from tests.runs import EXPERIMENT, copy_of, workplace, workplace_in

    own = tmp_path_factory.getbasetemp()
    kept = os.environ.get("SOLAR_TESTS_MADE") or (own if worker_id == "master" else own.parent) / "made"
    made = Path(kept)
    with locked(made, lambda owner: None):
        if (made / "whole").is_file():
            place = workplace_in(made)
        else:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            place = workplace(made)
            command = ("run", ".", "--env-manager", "local", "--experiment-name", EXPERIMENT)
            done = place.mlflow(*command, "-P", "scale=check")
            assert done.returncode == 0, done.stderr[-3000:]
            assert "compare.html" in done.stdout
            assert "mlflow ui --backend-store-uri" in done.stdout
            (made / "whole").touch()
    return copy_of(place, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def own_place(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of what is finished, and this process's environment set to it."""
    from tests.runs import copy_of

    place = copy_of(finished, tmp_path)
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    return place


@pytest.fixture
def entry_point(finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Call an entry point's `main` in this process, on a copy of what is finished; gives the workplace."""
    from tests.runs import at_check, copy_of

    place = copy_of(finished, tmp_path)
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_RUN_ID", "SOLAR_MIRROR"):
        monkeypatch.delenv(name, raising=False)

    def call(module, *arguments: str):
        monkeypatch.setattr(sys, "argv", [module.__name__, *at_check(arguments)])
        module.main()
        return place

    return call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """`Workplace.entry_point` in this process, which saves its start: what it wrote and its exit code."""
    from entry_points.command import run_main
    from tests.runs import at_check

    def run(place, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        module = importlib.import_module(f"entry_points.{name}")
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "SOLAR_MIRROR"):
                patch.delenv(variable, raising=False)
            for variable, value in {**place.environment(), **variables}.items():
                patch.setenv(variable, value)
            patch.setattr(sys, "argv", [module.__file__, *at_check(arguments)])
            code = 0
            try:
                run_main(module.main)
            except SystemExit as end:
                code = end.code
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return run
