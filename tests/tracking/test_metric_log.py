"""Metrics wait for a server that is lost, and training does not."""

import threading

import pytest

from solar_repro.tracking import metric_log
from solar_repro.tracking.metric_log import MetricLog, read_metrics


class Server:
    """Takes rows as MLflow does (the same row twice counts once), unless it is lost."""

    def __init__(self):
        self.rows, self.lost, self.confirms = {}, False, True
        self.asked = threading.Semaphore(0)

    def __call__(self, rows):
        self.asked.release()
        if self.lost:
            raise ConnectionError("refused by http://user:planted@host")
        self.rows |= {tuple(row.items()): row for row in rows}
        if not self.confirms:
            raise ConnectionError("answer lost")

    def taken(self):
        return [(row["key"], row["step"], row["value"]) for row in self.rows.values()]

    def wait_asked(self, times):
        for _ in range(times):
            assert self.asked.acquire(timeout=60)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(metric_log, "SECONDS_BETWEEN_DELIVERIES", 0.01)
    monkeypatch.setattr(metric_log, "MAX_SECONDS_BETWEEN_DELIVERIES", 0.02)
    return Server()


def test_metrics_arrive_while_the_work_goes_on_and_are_kept_in_the_file(server, tmp_path):
    log = MetricLog(server, tmp_path / "notes" / "metrics.jsonl")
    log({"loss": 2.0, "speed": 7}, 1)
    server.wait_asked(1)
    log({"loss": 1.0}, 2)
    log.close()
    assert server.taken() == [("loss", 1, 2.0), ("speed", 1, 7.0), ("loss", 2, 1.0)]
    assert log.undelivered == []
    assert read_metrics(tmp_path / "notes" / "metrics.jsonl") == list(server.rows.values())


def test_a_lost_server_gets_everything_in_order_when_it_is_back(server, tmp_path, capsys):
    log = MetricLog(server, tmp_path / "metrics.jsonl")
    log({"loss": 1.0}, 1)
    server.wait_asked(1)
    server.lost = True
    for step in range(2, 50):
        log({"loss": 1.0 / step}, step)
    server.wait_asked(3)
    server.lost = False
    log.close()
    assert [step for _, step, _ in server.taken()] == list(range(1, 50))
    assert log.undelivered == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # once that it is lost, once that it is back
    assert "kept" in said[0]
    assert "planted" not in said[0]
    assert "back, 48 metrics" in said[1] or "back, 49 metrics" in said[1]


def test_what_cannot_be_delivered_is_kept_for_later(server, tmp_path):
    server.lost = True
    log = MetricLog(server, tmp_path / "metrics.jsonl")
    log({"loss": 1.0}, 1)
    log.close()
    assert [row["step"] for row in log.undelivered] == [1]
    assert read_metrics(tmp_path / "metrics.jsonl") == log.undelivered


def test_rows_whose_answer_was_lost_are_sent_again(server, tmp_path):
    server.confirms = False
    log = MetricLog(server, tmp_path / "metrics.jsonl")
    log({"loss": 1.0}, 1)
    server.wait_asked(2)
    server.confirms = True
    log.close()
    assert server.taken() == [("loss", 1, 1.0)]
    assert log.undelivered == []


def test_work_does_not_wait_for_a_server_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_log, "SECONDS_BETWEEN_DELIVERIES", 0.01)
    asked, answer = threading.Event(), threading.Event()

    def send(rows):
        asked.set()
        answer.wait()

    log = MetricLog(send, tmp_path / "metrics.jsonl")
    log({"loss": 1.0}, 1)
    assert asked.wait(60)
    log({"loss": 0.5}, 2)  # returns, though nothing has been answered
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    answer.set()
    log.close()
    assert log.undelivered == []
