"""What the runner does when things go wrong, and with a real tracking server."""

import functools
import json
import os
import re
import shutil
import threading
from types import SimpleNamespace

import pytest

from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from solar_repro.plan.provenance import made_in
from solar_repro.running.runner import Runner
from solar_repro.scales.load import load_scale
from solar_repro.store.lock import locked
from solar_repro.store.manifest import verify_manifest
from solar_repro.tracking import metric_log
from solar_repro.tracking.metric_log import MetricLog, read_metrics, send_metrics
from solar_repro.tracking.reader import FinishedRun
from solar_repro.tracking.tracker import Tracker
from tests.proxy import Proxy
from tests.runs import Workplace, copy_of, serving
from tests.steps import BY_REFERENCE, bare_step


def one_line(done):
    """The error line of a failed entry point; asserts that there was nothing like a traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_an_unreachable_server_is_said_before_any_work(tmp_path, here):
    place = Workplace(tmp_path / "store", "http://user:secret@127.0.0.1:9")
    line = one_line(here(place, "upscale", "--scale", "check"))
    assert re.match(r"error: tracking server http://127\.0\.0\.1:9 does not answer", line)
    assert "secret" not in line
    assert not place.store.exists()


def test_a_failed_stage_is_marked_and_what_finished_is_kept(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    before = {run.info.run_id for run in place.runs()}
    variant = ("--scale", "check", "--variant", "sft_v1", "--continue_pretrain.tokens", "8192")
    too_large = ("--sft.global_batch_size", "4096", "--sft.per_device_batch_size", "4096")
    line = one_line(here(place, "sft", *variant, *too_large))
    assert "training rows for a global_batch_size of 4096" in line
    new = {run.info.run_name: run for run in place.runs() if run.info.run_id not in before}
    made = {"corpus.packed": "FINISHED", "solar": "FINISHED"}
    assert {name: run.info.status for name, run in new.items()} == {**made, "sft_v1": "FAILED"}
    assert "global_batch_size of 4096" in new["sft_v1"].data.tags["solar.error"]
    assert len(list(place.store.glob("sft_v1-*"))) == 1  # only the one that was there
    done = here(place, "sft", *variant)
    assert done.returncode == 0, done.stderr
    assert re.search(r"solar +cached", done.stderr)


def test_a_damaged_result_comes_back_from_the_server(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    weights = place.folder("upscaled") / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = here(place, "upscale", "--scale", "check")
    assert done.returncode == 0, done.stderr
    assert "its content is not what manifest.json says" in done.stderr
    assert re.search(r"upscaled +downloaded", done.stderr)
    assert weights.read_bytes() == good


@pytest.mark.parametrize(
    ("entry", "arguments", "message"),
    [
        ("dpo", ("--variant", "dpo_2"), "variant 'dpo_2' does not exist; did you mean 'dpo_v2'?"),
        ("dpo", ("--variant", "sft_v1"), "variant 'sft_v1' is made by stage 'sft'; run: mlflow run . -e sft"),
        ("main", ("--sft.lerning_rate", "1"), "did you mean 'sft.learning_rate'?"),
        ("main", ("--scale", "chek"), "did you mean 'check'?"),
        ("main", ("check",), "argument 'check': not understood; write options as --name value"),
        ("ablation", ("--table", "8"), "no such table; choose 2, 3, 4"),
        (
            "ablation",
            ("--study", "sem"),
            "--study sem: no such study; choose untrained, depth, seam or seeds",
        ),
        (
            "compare",
            ("--runs", "a", "--parent", "b"),
            "--parent and --runs: these options exclude each other; give only one",
        ),
        (
            "plan",
            ("--scale", "laptop", "--data.mirror", "/nowhere"),
            "data.mirror: /nowhere is not a folder",
        ),
        ("main", ("--upscale.m", "2"), "upscale.m: dus: m must lie between 1 and 1 for a base of 4 layers"),
        ("upscale", ("--variant", "upscaled_m2"), "variant upscaled_m2: dus: m must lie between 1 and 1"),
        ("ablation", ("--study", "seam", "--upscale.m", "2"), "upscale.m: dus: m must lie between 1 and 1"),
        ("ablation", ("--table", "3", "--upscale.m", "2"), "upscale.m: dus: m must lie between 1 and 1"),
        ("regression", ("--upscale.m", "2"), "upscale.m: dus: m must lie between 1 and 1"),
        ("compare", ("--upscale.m", "2"), "upscale.m: dus: m must lie between 1 and 1"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, here, entry, arguments, message):
    place = Workplace(tmp_path / "store", f"sqlite:///{tmp_path}/mlflow.db")
    assert message in one_line(here(place, entry, *arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_ends_so_too(tmp_path):
    place = Workplace(tmp_path / "store", f"sqlite:///{tmp_path}/mlflow.db")
    assert "did you mean 'check'?" in one_line(place.entry_point("main", "--scale", "chek"))


@pytest.mark.parametrize(
    ("damage", "entry", "variant", "message"),
    [
        ("pickle", "base", "base", "pickle"),
        ("no eos", "continue_pretrain", "solar", "tokenizer has no eos_token"),
    ],
)
def test_bases_that_are_refused(finished, tmp_path, here, damage, entry, variant, message):
    place = copy_of(finished, tmp_path)
    folder = tmp_path / "base"
    shutil.copytree(place.folder("base"), folder, ignore=shutil.ignore_patterns("solar", "manifest.json"))
    if damage == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    else:
        settings = folder / "tokenizer_config.json"
        settings.write_text(settings.read_text().replace('"eos_token"', '"no_token"'))
    arguments = ("--data.mirror", str(place.folder("microworld")), "--base.model", str(folder))
    assert message in one_line(here(place, entry, "--scale", "check", *arguments))
    assert len(list(place.store.glob(f"{variant}-*"))) == 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a real `mlflow server`, and the folder with all that it writes."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, f"sqlite:///{folder}/server.db") as port:
        yield port, folder


@pytest.mark.slow
def test_results_go_to_a_server_and_come_back(finished, server, tmp_path, here):
    # The server has never heard of these results: they are registered, not made again.
    place = Workplace(tmp_path / "store", f"http://127.0.0.1:{server[0]}")
    shutil.copytree(finished.store, place.store)
    done = here(place, "upscale", "--scale", "check")
    assert done.returncode == 0, done.stderr
    states = re.findall(r"^(\w+) +(\w+)$", done.stderr, re.MULTILINE)
    assert states == [("microworld", "registered"), ("base", "registered"), ("upscaled", "registered")]
    weights = (place.folder("upscaled") / "model.safetensors").read_bytes()
    shutil.rmtree(place.store)
    elsewhere = {"solar.key": Plan(load_scale("check")).model("solar").key, "solar.host": "elsewhere"}
    place.client().create_run("0", tags=elsewhere)
    done = here(place, "continue_pretrain", "--scale", "check")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^solar +running \(as another run does, on elsewhere\)$", done.stderr, re.MULTILINE)
    assert re.search(r"upscaled +downloaded", done.stderr)
    assert (place.folder("upscaled") / "model.safetensors").read_bytes() == weights
    made = sorted(path.name.rpartition("-")[0] for path in place.store.iterdir())
    # The base gives its tokenizer to the packing of the text.
    assert made == ["base", "corpus.packed", "microworld", "solar", "upscaled"]
    (solar,) = place.runs("tags.`solar.variant` = 'solar'")
    assert solar.info.status == "FINISHED"
    assert solar.data.metrics["recovery/held_out_loss"] > 0


SECRETS = {
    "HF_TOKEN": "hf_planted1",
    "OPENAI_API_KEY": "sk-planted2",
    "MLFLOW_TRACKING_TOKEN": "planted3",
}


NO_PATIENCE = {
    f"MLFLOW_HTTP_REQUEST_{name}": "0" for name in ("MAX_RETRIES", "BACKOFF_FACTOR", "BACKOFF_JITTER")
}


@pytest.mark.slow
def test_a_server_lost_in_the_middle_costs_nothing_and_tells_no_secret(finished, server, tmp_path, here):
    port, written = server
    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    command = ("upscale", "--scale", "check", "--upscale.shard_bytes", "70000")  # not made yet
    with Proxy(port) as proxy:
        place = Workplace(store, f"http://user:planted4@127.0.0.1:{proxy.port}")
        proxy.lose_at = b"seam_distance"  # the first metrics of the stage
        lost = here(place, *command, **NO_PATIENCE, **SECRETS)
        assert re.fullmatch(
            rf"error: tracking server http://127.0.0.1:{proxy.port} failed \(.+\); finished results are "
            rf"kept in {store}, and the same command registers them and continues from there",
            one_line(lost),
        )
        assert re.search(r"^metrics cannot be delivered .* the work goes on$", lost.stderr, re.MULTILINE)
        (made,) = set(store.glob("upscaled-*")) - set(store.glob(finished.folder("upscaled").name))
        verify_manifest(made)
        proxy.mode, proxy.lose_at = "pass", None
        back = here(place, *command, **SECRETS)
        assert back.returncode == 0, back.stderr
        assert re.search(r"^upscaled +registered$", back.stderr, re.MULTILINE)
    key = json.loads((made / "solar" / "provenance.json").read_text())["key"]
    (run,) = Workplace(store, f"http://127.0.0.1:{port}").runs(f"tags.`solar.key` = '{key}'")
    assert run.info.status == "FINISHED"  # the run that was cut off, continued
    rows = read_metrics(made / "solar" / "metrics.jsonl")
    assert run.data.metrics == {row["key"]: row["value"] for row in rows}
    for text in (*(done.stdout + done.stderr for done in (lost, back)), *everything(store, written)):
        assert "planted" not in text, text[-2000:]


def everything(*folders):
    """What all files of the folders hold, as text."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "server.db" for path in files)
    return [path.read_bytes().decode("latin-1") for path in files]


def test_metrics_survive_connections_that_are_refused_cut_held_up_and_slow(server, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(metric_log, "SECONDS_BETWEEN_DELIVERIES", 0.02)
    monkeypatch.setattr(metric_log, "MAX_SECONDS_BETWEEN_DELIVERIES", 0.05)
    with Proxy(server[0]) as proxy:
        client = MlflowClient(f"http://127.0.0.1:{proxy.port}")
        run_id = client.create_run("0").info.run_id
        log = MetricLog(functools.partial(send_metrics, client, run_id), tmp_path / "metrics.jsonl")
        for step, mode in enumerate(("pass", "refuse", "cut", "hang", "cut", "pass", "refuse")):
            proxy.switch(mode)
            log({"loss": 1 / (1 + step), "loss_again": step}, step)
            proxy.wait_for_a_request()
        proxy.mode, proxy.delay = "pass", 0.1
        log.close()
        assert log.undelivered == []
        history = client.get_metric_history(run_id, "loss")
    assert [(found.step, found.value) for found in history] == [(step, 1 / (1 + step)) for step in range(7)]


class OtherTracker:
    """Knows one finished run, whose artifacts are another step's result."""

    client = None

    def __init__(self, artifacts=None, run_id="run"):
        self.artifacts = artifacts
        self.run_id = run_id

    def candidates(self, key):
        return [FinishedRun(self.run_id, "0", None, None)]

    def download(self, found, work, stage):
        shutil.copytree(self.artifacts, work, dirs_exist_ok=True)
        return True

    def unfinished(self, key, output):
        return [], []

    def describe(self, *arguments):
        pass


def test_of_two_that_ask_for_the_same_step_one_waits_and_finds_it_made(finished, tmp_path, capsys):
    made = OtherTracker(run_id=made_in(finished.folder("upscaled")))
    runner = Runner(tmp_path / "store", made, BY_REFERENCE)
    step = Plan(load_scale("check")).model("upscaled")
    folder = runner.store / step.folder
    with locked(folder, None):
        other = threading.Thread(target=runner.get, args=(step,))
        other.start()
        while "waiting" not in (said := capsys.readouterr().err):
            assert other.is_alive()
        assert re.fullmatch(rf"upscaled +waiting for process {os.getpid()} on .+\n", said)
        shutil.copytree(finished.folder("upscaled"), folder)
    other.join()
    assert re.fullmatch(r"upscaled +cached\n", capsys.readouterr().err)


def test_what_is_downloaded_must_be_what_was_asked_for(finished, tmp_path):
    plan = Plan(load_scale("check"))
    runner = Runner(tmp_path / "store", OtherTracker(finished.folder("upscaled_repeat")), BY_REFERENCE)
    step = plan.model("upscaled")
    assert not runner._download(runner.tracker.candidates(""), runner.store / step.folder, step)
    assert not list(runner.store.iterdir())
    step = plan.model("upscaled_repeat")
    assert runner._download(runner.tracker.candidates(""), runner.store / step.folder, step)


def test_space_is_looked_for_before_a_training_stage(finished, tmp_path, monkeypatch):
    step = Plan(load_scale("check", {"sft.learning_rate": "1e-5"})).model("sft_v1")
    runner = Runner(tmp_path, OtherTracker(), BY_REFERENCE)
    parents = {"model": FinishedRun("run", "0", None, finished.folder("solar"))}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"[\d,]{6,} bytes are needed, 1,000 are free; free some"):
        runner._run(step, parents, "run")
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_said_before_a_run_is_opened(tmp_path):
    (tmp_path / "file").write_text("")
    runner = Runner(tmp_path / "file", OtherTracker(), BY_REFERENCE)
    with pytest.raises(
        UserError, match=r"store .*/file: cannot be written \(File exists\); set -P store= to"
    ):
        runner._run(bare_step("base", "base"), {}, None)


def test_gc_deletes_what_no_run_refers_to(finished, tmp_path, here):
    place = copy_of(finished, tmp_path)
    shutil.copytree(place.folder("sft_v1"), place.store / "sft_v1-0123abcd")  # as of a run that was deleted
    before = set(place.store.iterdir())
    done = here(place, "gc", "--scale", "check", "--delete", "true")
    assert re.search(r"deleted .* MB  no run +sft_v1-0123abcd\n1 folders and files, ", done.stdout), (
        done.stderr
    )
    assert before - set(place.store.iterdir()) == {place.store / "sft_v1-0123abcd"}


def test_the_dry_run_of_an_upscaling_writes_nothing(shared, tmp_path, here):
    place = Workplace(tmp_path / "store", f"sqlite:///{tmp_path}/mlflow.db")
    model = str(shared / "models" / "stories260K")
    done = here(
        place, "upscale", "--scale", "laptop", "--base.model", model, "--upscale.m", "1", "--dry_run", "true"
    )
    assert done.returncode == 0, done.stderr
    assert "5 → 8 layers; seams: 3→1 (distance 2)" in done.stdout
    assert "396,352 parameters" in done.stdout  # 5 layers have 260,032, a layer 45,440
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit_memory_is_refused_before_it_is_loaded(own_place, monkeypatch):
    monkeypatch.setattr("solar_repro.running.runner.free_memory", lambda: 100_000)
    step = Plan(load_scale("check", {"sft.learning_rate": "1e-4"})).model("sft_v1")
    with pytest.raises(
        UserError, match=r"sft_v1: its models take \S+ GB of memory at least, and 0\.0 GB are"
    ):
        Runner(own_place.store, Tracker("memory", "check")).get(step)
    assert not list(own_place.store.glob(f"{step.folder}*"))


def test_a_step_gives_the_memory_of_its_gpu_back(own_place, monkeypatch):
    emptied = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(True))
    runner = Runner(own_place.store, Tracker("memory", "check"))
    runner.get(Plan(load_scale("check", {"merge.slerp_t": "0.3"})).model("merge_v4"))
    assert emptied == [True]
