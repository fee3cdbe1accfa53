"""What is logged of the machine while a step is made, and that nothing of it stays or breaks."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient

from solar_repro.plan.plan import Plan
from solar_repro.running.runner import Runner
from solar_repro.scales.load import load_scale
from solar_repro.tracking.system_metrics import log_system_metrics, process_usage
from tests.steps import bare_step

NAMES = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/disk_usage_percentage",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a tracking data base, and a client of that."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    return client, client.create_run("0").info.run_id


def threads():
    return {thread.name for thread in threading.enumerate()}


def test_a_short_step_has_one_sample_and_leaves_no_thread(run):
    client, run_id = run
    with log_system_metrics(run_id):
        assert "system metrics" in threads()
    assert "system metrics" not in threads()
    metrics = client.get_run(run_id).data.metrics
    assert metrics.keys() >= NAMES
    assert metrics["system/system_memory_usage_megabytes"] > 10


def test_a_step_that_goes_on_counts_its_samples_on(run, monkeypatch):
    client, run_id = run
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    name = "system/disk_usage_percentage"

    def stopped():
        with log_system_metrics(run_id):
            while not client.get_metric_history(run_id, name):
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert "system metrics" not in threads()
    before = [point.step for point in client.get_metric_history(run_id, name)]
    with log_system_metrics(run_id, goes_on=True):
        pass
    steps = [point.step for point in client.get_metric_history(run_id, name)]
    assert sorted(steps) == list(range(len(steps)))
    assert len(steps) > len(before)


def test_a_lost_server_ends_nothing_and_what_was_measured_is_sent_later(run, monkeypatch):
    client, run_id = run
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    log_batch, lost, sent = MlflowClient.log_batch, threading.Event(), threading.Event()

    def first_lost(self, *given, **named):
        if not lost.is_set():
            lost.set()
            raise ConnectionError("lost")
        log_batch(self, *given, **named)
        sent.set()

    monkeypatch.setattr(MlflowClient, "log_batch", first_lost)
    with log_system_metrics(run_id):
        sent.wait()
    # The lost sample, that which was sent with it, and one at the end.
    assert len(client.get_metric_history(run_id, "system/disk_usage_percentage")) >= 3


def test_a_machine_that_cannot_be_measured_ends_nothing(run, monkeypatch, capsys):
    monkeypatch.setattr("psutil.net_io_counters", lambda: None)
    with log_system_metrics(run[1]):
        pass
    assert "no system metrics: " in capsys.readouterr().err
    assert "system metrics" not in threads()


@pytest.mark.parametrize(("setting", "expected"), [("true", True), ("false", False)])
def test_every_stage_that_trains_or_evaluates_is_watched_unless_left_out(setting, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "solar_repro.running.runner.log_system_metrics", lambda run_id, goes_on: seen.append(run_id)
    )
    scale = load_scale("check", {"tracking.system_metrics": setting})
    runner = Runner.__new__(Runner)
    runner.execution = scale.execution
    stages = {step.stage for step in Plan(scale).main()}
    for stage in stages:
        runner._watched(bare_step(stage, stage), stage, goes_on=False)
    trained = {"base", "packed", "continue_pretrain", "sft", "dpo", "contaminate"}
    assert set(seen) == ({*trained, "evaluate", "contamination"} if expected else set())


def test_what_a_command_has_taken():
    found = process_usage()
    assert found["seconds"] > 0
    assert 10 < found["peak_memory_megabytes"] < 1e6


def test_gpus_are_measured_where_nvidia_ml_py_finds_one(run, monkeypatch):
    from mlflow.system_metrics.metrics import gpu_monitor

    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=97),
        nvmlDeviceGetPowerUsage=lambda gpu: 350_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda gpu: 700_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(gpu_monitor, "pynvml", library, raising=False)
    client, run_id = run
    with log_system_metrics(run_id):
        pass
    metrics = client.get_run(run_id).data.metrics
    assert metrics["system/gpu_0_utilization_percentage"] == 97
    assert metrics["system/gpu_0_memory_usage_percentage"] == 25
