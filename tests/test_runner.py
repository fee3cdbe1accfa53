"""What the runner does when things go wrong, and with a real tracking server."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.runs import Workplace, copy_of


def one_line(done):
    """The error line of a failed entry point; asserts that there was nothing like a traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_an_unreachable_server_is_said_before_any_work(tmp_path):
    place = Workplace(tmp_path / "store", "http://user:secret@127.0.0.1:9")
    line = one_line(place.entry_point("upscale", "--scale", "check"))
    assert re.match(r"error: tracking server 127\.0\.0\.1:9 does not answer", line)
    assert "secret" not in line
    assert not place.store.exists()


def test_a_failed_stage_is_marked_and_what_finished_is_kept(finished, tmp_path):
    place = copy_of(finished, tmp_path)
    before = {run.info.run_id for run in place.runs()}
    variant = ("--scale", "check", "--variant", "sft_v1", "--continue_pretrain.tokens", "8192")
    too_large = ("--sft.global_batch_size", "4096", "--sft.per_device_batch_size", "4096")
    line = one_line(place.entry_point("sft", *variant, *too_large))
    assert "training rows for a global_batch_size of 4096" in line
    new = {run.info.run_name: run for run in place.runs() if run.info.run_id not in before}
    assert {name: run.info.status for name, run in new.items()} == {"solar": "FINISHED", "sft_v1": "FAILED"}
    assert "global_batch_size of 4096" in new["sft_v1"].data.tags["solar.error"]
    assert len(list(place.store.glob("sft_v1-*"))) == 1  # only the one that was there
    done = place.entry_point("sft", *variant)
    assert done.returncode == 0, done.stderr
    assert re.search(r"solar +cached", done.stderr)


def test_a_damaged_result_comes_back_from_the_server(finished, tmp_path):
    place = copy_of(finished, tmp_path)
    weights = place.folder("upscaled") / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = place.entry_point("upscale", "--scale", "check")
    assert done.returncode == 0, done.stderr
    assert "its content is not what manifest.json says" in done.stderr
    assert re.search(r"upscaled +downloaded", done.stderr)
    assert weights.read_bytes() == good


@pytest.mark.parametrize(
    ("entry", "arguments", "message"),
    [
        ("dpo", ("--variant", "dpo_2"), "variant 'dpo_2' does not exist; did you mean 'dpo_v2'?"),
        ("dpo", ("--variant", "sft_v1"), "variant 'sft_v1' is made by stage 'sft': mlflow run . -e sft"),
        ("main", ("--sft.lerning_rate", "1"), "did you mean 'sft.learning_rate'?"),
        ("main", ("--scale", "chek"), "did you mean 'check'?"),
        ("main", ("check",), "argument 'check': expected --name value"),
        ("ablation", ("--table", "8"), "the ablations are Tables 3 to 7"),
        ("ablation", ("--study", "sem"), "--study sem: there are depth, seam and seeds"),
        ("compare", ("--runs", "a", "--parent", "b"), "--parent and --runs: give one of them"),
        ("plan", ("--scale", "stories", "--data.mirror", "/nowhere"), "data.mirror: /nowhere is no folder"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, entry, arguments, message):
    place = Workplace(tmp_path / "store", f"sqlite:///{tmp_path}/mlflow.db")
    assert message in one_line(place.entry_point(entry, *arguments))
    assert not place.store.exists()


def test_m_beyond_half_the_layers(finished, tmp_path):
    place = copy_of(finished, tmp_path)
    line = one_line(place.entry_point("upscale", "--scale", "check", "--upscale.m", "2"))
    assert "m must lie between 1 and 1 for a base of 4 layers, not 2" in line
    assert len(list(place.store.glob("upscaled-*"))) == 1


@pytest.mark.parametrize(
    ("damage", "message"), [("pickle", "pickle"), ("no eos", "tokenizer has no eos_token")]
)
def test_bases_that_are_refused(finished, tmp_path, damage, message):
    place = copy_of(finished, tmp_path)
    folder = tmp_path / "base"
    shutil.copytree(place.folder("base"), folder, ignore=shutil.ignore_patterns("solar", "manifest.json"))
    if damage == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        settings = folder / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"eos_token"', '"no_token"'))
    arguments = ("--data.mirror", str(place.folder("microworld")), "--base.model", str(folder))
    assert message in one_line(place.entry_point("base", "--scale", "check", *arguments))
    assert len(list(place.store.glob("base-*"))) == 1


@pytest.fixture
def server(tmp_path):
    """A real `mlflow server` with an artifact proxy, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(
            str(Path(sys.executable).with_name("mlflow")),
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db"),
        *("--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1"),
    ]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5)
            break
        except OSError:
            time.sleep(0.1)
    yield Workplace(tmp_path / "store", uri)
    process.terminate()
    process.wait()


def test_results_go_to_a_server_and_come_back(finished, server):
    # The server has never heard of these results: they are registered, not made again.
    shutil.copytree(finished.store, server.store)
    done = server.entry_point("upscale", "--scale", "check")
    assert done.returncode == 0, done.stderr
    states = re.findall(r"^(\w+) +(\w+)$", done.stderr, re.MULTILINE)
    assert states == [("microworld", "registered"), ("base", "registered"), ("upscaled", "registered")]
    weights = (server.folder("upscaled") / "model.safetensors").read_bytes()
    shutil.rmtree(server.store)
    done = server.entry_point("continue_pretrain", "--scale", "check")
    assert done.returncode == 0, done.stderr
    assert re.search(r"upscaled +downloaded", done.stderr)
    assert (server.folder("upscaled") / "model.safetensors").read_bytes() == weights
    made = sorted(path.name.rpartition("-")[0] for path in server.store.iterdir())
    assert made == ["microworld", "solar", "upscaled"]  # the base was not needed
    (solar,) = server.runs("tags.`solar.variant` = 'solar'")
    assert solar.info.status == "FINISHED"
    assert solar.data.metrics["recovery/held_out_loss"] > 0


def test_the_dry_run_of_an_upscaling_writes_nothing(shared, tmp_path):
    place = Workplace(tmp_path / "store", f"sqlite:///{tmp_path}/mlflow.db")
    model = str(shared / "models" / "stories260K")
    done = place.entry_point("upscale", "--scale", "stories", "--base.model", model, "--dry_run", "true")
    assert done.returncode == 0, done.stderr
    assert "5 → 8 layers; seams: 3→1 (distance 2)" in done.stdout
    assert "396,352 parameters" in done.stdout  # 5 layers have 260,032, a layer 45,440
    assert not list(tmp_path.iterdir())
