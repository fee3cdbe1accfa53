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
