"""A tracking server on a real PostgreSQL."""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from solar_repro.store.manifest import verify_manifest
from solar_repro.tracking.metric_log import MetricLog, send_metrics
from tests.runs import Workplace, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def postgres():
    """URI of a fresh data base that listens on a socket in a folder of its own."""
    pytest.importorskip("psycopg2")
    postgres = shutil.which("postgres") or next(
        iter(Path("/usr/lib/postgresql").glob("*/bin/postgres")), None
    )
    if postgres is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    programs = Path(postgres).resolve().parent
    # It refuses to run as root; a short path, as a socket's may have a hundred characters.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        shutil.chown(folder, user)
    control = [str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    run = functools.partial(subprocess.run, check=True, user=user, stdout=subprocess.DEVNULL, cwd="/")
    run([str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"])
    run([*control, "-o", f"-k {folder} -c listen_addresses=", "-l", str(folder / "log"), "start"])
    yield f"postgresql+psycopg2://postgres:planted@/postgres?host={folder}"
    run([*control, "-m", "immediate", "stop"])
    shutil.rmtree(folder)


def test_results_and_metrics_go_to_postgresql_and_come_back(finished, postgres, tmp_path):
    with serving(tmp_path, postgres) as port:
        place = Workplace(tmp_path / "store", f"http://127.0.0.1:{port}")
        shutil.copytree(finished.store, place.store)
        done = place.entry_point("upscale", "--scale", "check")
        assert done.returncode == 0, done.stderr
        assert re.findall(r"^(\w+) +registered$", done.stderr, re.MULTILINE) == [
            "microworld",
            "base",
            "upscaled",
        ]
        shutil.rmtree(place.folder("upscaled"))
        done = place.entry_point("upscale", "--scale", "check")
        assert re.search(r"^upscaled +downloaded: run ", done.stderr, re.MULTILINE), done.stderr
        verify_manifest(place.folder("upscaled"))
        listed = place.entry_point("gc", "--scale", "check")
        assert listed.stdout.startswith("0 folders"), listed.stderr
        client = place.client()
        run_id = client.create_run("0").info.run_id
        log = MetricLog(functools.partial(send_metrics, client, run_id), tmp_path / "metrics.jsonl")
        for step in range(2500):  # more than one request takes
            log({"loss": 1 / (1 + step)}, step)
        rows = list(log.undelivered)
        log.close()
        send_metrics(client, run_id, rows[:1500])  # as after an answer that was lost
        history = client.get_metric_history(run_id, "loss")
        assert [found.step for found in sorted(history, key=lambda found: found.step)] == list(range(2500))
