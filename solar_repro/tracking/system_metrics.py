"""How busy the machine is while a step runs, measured and named by MLflow's own monitor."""

import contextlib
import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator

import psutil
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from solar_repro.safety.redact import short_reason


@contextlib.contextmanager
def log_system_metrics(run_id: str, goes_on: bool = False) -> Iterator[None]:
    """Log processor, memory, disk, network and GPUs of this machine to the run until the block ends.

    A sample is taken every ten seconds (MLflow's variable `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`) and one
    at the end, so that a step of a second has one too. `goes_on` says that the run has samples from before. A
    sample that cannot be taken or sent is skipped. MLflow's monitor measures, but this module loops: MLflow's
    own loop (`SystemMetricsMonitor.monitor`, 3.17) ends at the first failed request and takes no sample at
    the end.
    """
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    try:
        monitor = SystemMetricsMonitor(run_id, resume_logging=goes_on)
        monitor.collect_metrics()  # this begins the count of the processor's use
    except Exception as error:  # a container's /proc may lack anything
        print(f"no system metrics: {short_reason(error)}", file=sys.stderr, flush=True)
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_sample, args=(monitor, ended), name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sample(monitor: SystemMetricsMonitor, ended: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = ended.wait(monitor.sampling_interval)
        with contextlib.suppress(Exception):  # unsent metrics go with the next sample
            for one in monitor.monitors:
                one.clear_metrics()
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            if is_last:
                monitor.mlflow_logger.flush()


def process_usage() -> dict[str, float]:
    """Return this process's age in seconds, and its or its largest child's peak memory in megabytes.

    Children that still run are not counted.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # `ru_maxrss` counts these bytes
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.time() - psutil.Process().create_time()
    return {"seconds": round(seconds, 1), "peak_memory_megabytes": round(most * unit / 1e6, 1)}
