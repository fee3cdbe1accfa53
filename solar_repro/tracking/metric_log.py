"""Metrics of a running step: written to a file of the result and sent to the server by a thread."""

import json
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from solar_repro.safety.redact import short_reason

MetricRow = dict[str, Any]
"""`key`, `value`, `timestamp` (ms), `step`."""

_BATCH = 1000  # metrics that MLflow takes in one request
SECONDS_BETWEEN_DELIVERIES = 5.0
MAX_SECONDS_BETWEEN_DELIVERIES = 60.0


class MetricLog:
    """Write each metric of a run to `file` at once, and `send` them in order every few seconds.

    Training never waits for the server. While `send` raises, rows are kept and sent again at growing
    intervals; rows that it accepted without confirming may be sent twice.

    When work resumes, `kept` are the rows up to its checkpoint, and `delivered` holds the (key, step) of what
    the server has, perhaps from after the checkpoint. Neither is written or sent a second time.
    """

    def __init__(
        self,
        send: Callable[[list[MetricRow]], None],
        file: Path,
        kept: Sequence[MetricRow] = (),
        delivered: Collection[tuple[str, int]] = (),
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._send = send
        self._file = file.open("a", encoding="utf-8", buffering=1)
        self._kept: frozenset[tuple[str, int]] = frozenset()
        self._delivered = frozenset(delivered)
        self._waiting: list[MetricRow] = []
        self._lost = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_often, name="metrics", daemon=True)
        self._add(kept)
        self._kept = frozenset(map(_place, kept))
        self._thread.start()

    def __call__(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        self._add(
            [
                {"key": name, "value": float(value), "timestamp": now, "step": step}
                for name, value in metrics.items()
            ]
        )

    def _add(self, rows: Iterable[MetricRow]) -> None:
        rows = [row for row in rows if _place(row) not in self._kept]
        self._file.writelines(json.dumps(row) + "\n" for row in rows)
        with self._lock:
            self._waiting += [row for row in rows if _place(row) not in self._delivered]

    def close(self) -> None:
        """Stop the thread and try once more to send the waiting rows."""
        self._closing.set()
        self._thread.join()
        self._file.close()
        self._deliver()

    @property
    def undelivered(self) -> list[MetricRow]:
        """Rows that `send` has not confirmed."""
        return self._waiting

    def _deliver_often(self) -> None:
        wait = SECONDS_BETWEEN_DELIVERIES
        while not self._closing.wait(wait):
            wait = (
                SECONDS_BETWEEN_DELIVERIES
                if self._deliver()
                else min(2 * wait, MAX_SECONDS_BETWEEN_DELIVERIES)
            )

    def _deliver(self) -> bool:
        with self._lock:
            rows = list(self._waiting)
        try:
            if rows:
                self._send(rows)
        except Exception as error:  # each kind of server raises its own client's errors
            if not self._lost:
                _say(f"metrics cannot be delivered ({short_reason(error)}); they are kept, the work goes on")
            self._lost = True
            return False
        with self._lock:
            del self._waiting[: len(rows)]
        if self._lost:
            _say(f"the tracking server is back, {len(rows)} metrics delivered")
        self._lost = False
        return True


def read_metrics(file: Path) -> list[MetricRow]:
    """Return the rows that a `MetricLog` wrote; none if there is no such file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def send_metrics(
    client: MlflowClient,
    run_id: str,
    rows: list[dict[str, Any]],
    model_id: str | None = None,
    datasets: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> None:
    """Send rows to the server; with `model_id` they count for that logged model too.

    `datasets` maps a metric's name to name and digest of the run's data set that it is measured on.
    """
    metrics = [
        Metric(*(row[part] for part in ("key", "value", "timestamp", "step")), model_id, *measured_on)
        for row in rows
        for measured_on in [datasets.get(row["key"], (None, None))]
    ]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _place(row: MetricRow) -> tuple[str, int]:
    return row["key"], row["step"]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
