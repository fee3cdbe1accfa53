import pytest

from tests.runs import EXPERIMENT, copy_of


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of the finished workplace, which this process tracks to."""
    place = copy_of(finished, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return place


@pytest.fixture
def tracker(place):
    from solar_repro.tracking.tracker import Tracker

    return Tracker("test", "check")
