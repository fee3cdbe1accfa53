"""Places that tests share. A fresh machine has no folder `shared` beside the project: those tests skip."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# Tests never reach for the hub: what is missing is an error, not a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the mirror of real data sets, a real small model and the paper's text."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder 'shared' beside the project (real data and a real model)")
    return SHARED


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A workplace in which `mlflow run .` has made the whole paper at scale `check`, once a session."""
    from tests.runs import EXPERIMENT, workplace

    place = workplace(tmp_path_factory.mktemp("finished"))
    done = place.mlflow(
        *("run", ".", "--env-manager", "local", "--experiment-name", EXPERIMENT, "-P", "scale=check")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "compare.html" in done.stdout
    assert "mlflow ui --backend-store-uri" in done.stdout
    return place
