"""Trainings in two processes (gloo, CPU) against the same training in one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from solar_repro.errors import Stopped, UserError
from solar_repro.plan.plan import Plan
from solar_repro.running.launch import CONFIGS, Job, follow, launch, read_job
from solar_repro.running.runner import Runner
from solar_repro.scales.execution import Execution
from solar_repro.scales.load import load_scale
from solar_repro.stages.table import STAGES
from solar_repro.store.publish import publish
from solar_repro.store.resume import ResumeFolder, job_file
from tests.conftest import ROOT
from tests.runs import Workplace
from tests.steps import run_step

SMALLER = {
    **{f"{section}.per_device_batch_size": "2" for section in ("continue_pretrain", "sft", "dpo")},
    **{f"{section}.max_steps": "4" for section in ("continue_pretrain", "sft", "dpo")},
}


@pytest.fixture(autouse=True)
def sharding_on_cpu(monkeypatch):
    """Launched processes shard as on accelerators."""
    folder = str(ROOT / "tests" / "sharding_on_cpu")
    monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)


@pytest.fixture
def launchable(monkeypatch):
    """Skips a test of a launcher that is not installed."""

    def check(launcher: str) -> None:
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        if launcher == "deepspeed" and not find_spec("deepspeed"):
            pytest.skip("DeepSpeed is not installed")

    return check


class Curve:
    """A stage's log: values by metric, in order."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def __call__(self, metrics: dict[str, float], step: int = 0) -> None:
        for name, value in metrics.items():
            self.values[name].append(value)


def training(finished: Workplace, variant: str, **changes: str):
    """A short training at scale check, and the folders of its inputs."""
    step = Plan(load_scale("check", SMALLER | changes)).model(variant)
    inputs = {role: finished.folder(parent.label) for role, parent in step.inputs.items()}
    return step, inputs


def two(launcher: str) -> Execution:
    return Execution(launcher=launcher, num_processes=2)


REPLICATED = Execution(launcher="fsdp2", num_processes=4, fsdp2_replicas=2)
"""Two copies of the model, each sharded over two processes."""


def job(step, inputs, out: Path, saving=None) -> Job:
    return Job(step.stage, out, step.settings, STAGES[step.stage].inputs(**inputs, **step.places), saving)


def in_one_process(step, out: Path, inputs) -> Curve:
    """The stage's curve without a launcher."""
    out.mkdir()
    curve = Curve()
    run_step(step, out, curve, inputs)
    return curve


@pytest.mark.parametrize(
    ("variant", "launcher"),
    [
        ("sft_v1", "fsdp2"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("sft_v1", "deepspeed"),
                ("solar", "fsdp2"),
                ("solar", "deepspeed"),
                ("dpo_v1", "fsdp2"),
                ("dpo_v1", "deepspeed"),
            ]
        ),
        *(
            pytest.param(variant, "ddp", marks=[pytest.mark.slow, pytest.mark.rare])
            for variant in ("sft_v1", "solar", "dpo_v1")
        ),
    ],
)
def test_two_processes_end_as_one_does(finished, tmp_path, launchable, variant, launcher):
    launchable(launcher)
    step, inputs = training(finished, variant)
    alone = in_one_process(step, tmp_path / "one", inputs)
    weights = load_file(tmp_path / "one" / "model.safetensors")
    curve, out = Curve(), tmp_path / launcher
    out.mkdir()
    assert launch(tmp_path / "job.json", job(step, inputs, out), curve, two(launcher)) == {}
    assert not (tmp_path / "job.json").exists()
    assert curve.values["loss"] == pytest.approx(alone.values["loss"], abs=1e-4)
    held_out = "recovery/held_out_loss"  # of the documents each process scores its share
    assert curve.values[held_out] == pytest.approx(alone.values[held_out], abs=1e-4)
    if variant == "solar":  # before the first step nothing but the order of sums differs
        assert curve.values[held_out][0] == pytest.approx(alone.values[held_out][0], rel=1e-6)
    found = load_file(out / "model.safetensors")
    assert {name: (w.shape, w.dtype) for name, w in found.items()} == {
        name: (w.shape, w.dtype) for name, w in weights.items()
    }
    # Adam's step has the learning rate's size even where a gradient is a rounding error.
    assert max(float((found[name] - weights[name]).abs().max()) for name in weights) < 5e-3
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert names == {path.name for path in (tmp_path / "one").iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "launcher"),
    [
        ("sft_v1", "fsdp2"),
        *(
            pytest.param(variant, launcher, marks=pytest.mark.rare)
            for variant, launcher in (
                ("sft_v1", "ddp"),
                ("dpo_v1", "ddp"),
                ("dpo_v1", "fsdp2"),
            )
        ),
    ],
)
def test_adapters_of_two_processes_are_merged_as_those_of_one(
    finished, tmp_path, launchable, variant, launcher
):
    pytest.importorskip("peft")
    launchable(launcher)
    section = variant.partition("_")[0]
    adapters = {f"{section}.lora.rank": "4", f"{section}.learning_rate": "1e-3"}
    step, inputs = training(finished, variant, **adapters)
    alone = in_one_process(step, tmp_path / "one", inputs)
    curve, out = Curve(), tmp_path / launcher
    out.mkdir()
    launch(tmp_path / "job.json", job(step, inputs, out), curve, two(launcher))
    assert curve.values["loss"] == pytest.approx(alone.values["loss"], abs=1e-4)
    before, one, both = (
        load_file(folder / "model.safetensors") for folder in (inputs["model"], tmp_path / "one", out)
    )
    moved = {name for name in before if not before[name].equal(one[name])}
    assert moved == {name for name in before if "_proj" in name}
    assert {name for name in before if not before[name].equal(both[name])} == moved
    # What the adapters add is small beside the weights: it is the updates that have to be equal.
    difference, update = (
        sum(float((a[name] - b[name]).square().sum()) for name in moved) ** 0.5
        for a, b in ((both, one), (one, before))
    )
    assert difference < 0.02 * update


@pytest.mark.slow
def test_of_ranks_that_shard_one_reads_the_weights(finished, tmp_path, monkeypatch):
    readers, out = tmp_path / "readers", tmp_path / "out"
    readers.mkdir()
    out.mkdir()
    monkeypatch.setenv("READERS_OF_WEIGHTS", str(readers))
    step, inputs = training(finished, "sft_v1")
    launch(tmp_path / "job.json", job(step, inputs, out), Curve(), two("fsdp2"))
    assert [path.name for path in readers.iterdir()] == ["0"]


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("launcher", ["fsdp2", "deepspeed"])
@pytest.mark.parametrize("variant", ["sft_v1", "dpo_v1"])
def test_in_bfloat16_sharded_sums_keep_their_digits(finished, tmp_path, launchable, variant, launcher):
    launchable(launcher)
    section = variant.partition("_")[0]
    step, inputs = training(finished, variant, **{f"{section}.precision": "bfloat16"})
    if variant == "dpo_v1":
        of_reference = step.inputs["reference"]  # what is finished is of another precision
        folders = {role: finished.folder(parent.label) for role, parent in of_reference.inputs.items()}
        inputs["reference"] = tmp_path / "reference"
        inputs["reference"].mkdir()
        run_step(of_reference, inputs["reference"], Curve(), folders)
    alone = in_one_process(step, tmp_path / "one", inputs)
    curve, out = Curve(), tmp_path / "sharded"
    out.mkdir()
    launch(tmp_path / "job.json", job(step, inputs, out), curve, two(launcher))
    assert curve.values["loss"] == pytest.approx(alone.values["loss"], rel=1e-3)
    assert curve.values["grad_norm"] == pytest.approx(alone.values["grad_norm"], rel=0.01)
    if variant == "dpo_v1":
        found = curve.values["logps/chosen"]  # of bfloat16 the last digit is 0.5 here
        assert found == pytest.approx(alone.values["logps/chosen"], rel=5e-4)
        assert abs(curve.values["rewards/margins"][0]) < 1e-3  # it is its own reference yet
    # The digits that bfloat16 lacks are kept: of the weights before, and of the updates.
    found, expected = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "one"))
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "section"),
    [("solar", "continue_pretrain"), pytest.param("dpo_v1", "dpo", marks=pytest.mark.rare)],
)
def test_copies_that_are_sharded_end_as_one_process_does(finished, tmp_path, monkeypatch, variant, section):
    shapes = tmp_path / "shapes"
    shapes.mkdir()
    monkeypatch.setenv("SHAPES_OF_MESHES", str(shapes))
    step, inputs = training(finished, variant, **{f"{section}.per_device_batch_size": "1"})
    alone = in_one_process(step, tmp_path / "one", inputs)
    curve, out = Curve(), tmp_path / "replicated"
    out.mkdir()
    launch(tmp_path / "job.json", job(step, inputs, out), curve, REPLICATED)
    assert [path.name for path in shapes.iterdir()] == ["2x2"]
    for name in ("loss", "grad_norm", "recovery/held_out_loss"):
        assert curve.values[name] == pytest.approx(alone.values[name], rel=1e-4), name
    found, expected = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "one"))
    assert {name: (w.shape, w.dtype) for name, w in found.items()} == {
        name: (w.shape, w.dtype) for name, w in expected.items()
    }
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "changes"),
    [
        (two("fsdp2"), {}),
        pytest.param(REPLICATED, {"continue_pretrain.per_device_batch_size": "1"}, marks=pytest.mark.rare),
    ],
    ids=["two", "replicated"],
)
def test_processes_that_are_asked_to_end_save_their_state_and_go_on(finished, tmp_path, capfd, how, changes):
    step, inputs = training(finished, "solar", **changes)
    alone = in_one_process(step, tmp_path / "one", inputs)
    resume = ResumeFolder(tmp_path / "saved", minutes=10)
    out = tmp_path / "out"
    (out / "solar").mkdir(parents=True)
    (out / "solar" / "metrics.jsonl").touch()

    class Asked(Curve):
        def __call__(self, metrics, step=0):
            super().__call__(metrics, step)
            if "loss" in metrics and step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(2)  # rank 0 waits for this log, and is told meanwhile

    curve = Asked()
    with pytest.raises(Stopped, match=r"stopped at step [23] of 4; its state is saved"):
        launch(tmp_path / "job.json", job(step, inputs, out, resume), curve, how)
    assert list(resume.newest_checkpoint().glob("pytorch_model_fsdp*"))  # in shards
    assert "Traceback" not in capfd.readouterr().err
    launch(tmp_path / "job.json", job(step, inputs, out, resume), curve, how)
    assert curve.values["loss"] == pytest.approx(alone.values["loss"], abs=1e-4)
    held_out = "recovery/held_out_loss"
    assert curve.values[held_out][-1] == pytest.approx(alone.values[held_out][-1], abs=1e-4)


RANKS = """
import os, subprocess, sys
if len(sys.argv) == 2:  # the launcher: rank 1 hears of rank 0 by a pipe
    read, write = os.pipe()
    end = {0: write, 1: read}
    ranks = []
    for rank in (0, 1):
        told = {**os.environ, "RANK": str(rank), "GROUP_WORLD_SIZE": "1"}
        command = [sys.executable, __file__, sys.argv[1], str(end[rank])]
        ranks.append(subprocess.Popen(command, env=told, pass_fds=[end[rank]]))
        os.close(end[rank])
    sys.exit(max(rank.wait() for rank in ranks))
if os.environ["RANK"] == "1":
    os.read(int(sys.argv[2]), 1)
    raise RuntimeError("Connection closed by peer")
import signal
from dataclasses import replace
from pathlib import Path
from solar_repro.running import launched
from solar_repro.stages.table import STAGES
def tokenise(out, log, *rest):
    log({"begun": 1.0})
    signal.pause()
launched.PartialState = lambda **_: None
launched.STAGES = {"sft": replace(STAGES["sft"], run=tokenise)}
try:
    launched.main(Path(sys.argv[1]))
finally:
    os.close(int(sys.argv[2]))
"""


def test_ranks_that_do_not_know_yet_that_it_ends_say_nothing(tmp_path, monkeypatch, capfd):
    """As where rank 0 tokenises rows, and the others wait for it."""
    step = Plan(load_scale("check", SMALLER)).model("sft_v1")
    ranks = tmp_path / "ranks.py"
    ranks.write_text(RANKS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    command = [sys.executable, str(ranks)]
    monkeypatch.setattr("solar_repro.running.launch._command", lambda job, *rest: [*command, str(job)])
    inputs = dict.fromkeys(step.inputs, tmp_path)

    def ask(metrics, step=0):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"\Astopped\Z"):
        launch(tmp_path / "job.json", job(step, inputs, tmp_path), ask, two("ddp"))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_what_the_stage_complains_of_comes_back_as_one_line(finished, tmp_path, capfd):
    step, inputs = training(finished, "solar")
    too_large = step.settings.training.model_copy(update={"global_batch_size": 4096})
    step = replace(step, settings=step.settings.model_copy(update={"continue_pretrain": too_large}))
    with pytest.raises(UserError, match="training rows for a global_batch_size of 4096"):
        launch(tmp_path / "job.json", job(step, inputs, tmp_path), Curve(), two("ddp"))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_second_machine_joins_the_training_of_the_first(finished, tmp_path):
    step, inputs = training(finished, "dpo_v1")
    for parent in step.inputs.values():
        (tmp_path / parent.folder).symlink_to(finished.folder(parent.label))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [
        Execution(launcher="ddp", num_processes=2, num_machines=2, machine_rank=rank, main_process_port=port)
        for rank in (0, 1)
    ]
    second = threading.Thread(target=follow, args=(tmp_path, [step], machines[1]), daemon=True)
    curve = Curve()
    with publish(tmp_path / step.folder) as work:
        second.start()
        launch(job_file(tmp_path / step.folder), job(step, inputs, work), curve, machines[0])
    second.join(60)
    assert not second.is_alive()
    assert len(curve.values["loss"]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_processes": "2"}, "num_processes: more than one process needs a launcher"),
        (
            {"launcher": "ddp", "num_processes": "3", "num_machines": "2"},
            "3 cannot be divided evenly among 2",
        ),
        ({"launcher": "ddp", "machine_rank": "1"}, "machine_rank: 1, but the machines are numbered 0 … 0"),
        (
            {"launcher": "ddp", "jobs": "1", "num_processes": "3"},
            "is not a multiple of per_device_batch_size",
        ),
        (
            {"launcher": "ddp", "num_processes": "2", "fsdp2_replicas": "2"},
            "fsdp2_replicas: 2 copies of the model need launcher: fsdp2",
        ),
        (
            {"launcher": "fsdp2", "num_processes": "4", "fsdp2_replicas": "3"},
            "fsdp2_replicas: 4 processes cannot be divided evenly among 3 copies",
        ),
        (
            {"launcher": "fsdp2", "num_processes": "2", "fsdp2_replicas": "2"},
            "fsdp2_replicas: with 2 copies on as many processes nothing is sharded; use launcher: ddp",
        ),
        ({"launcher": "mpi"}, "launcher = 'mpi'"),
        (
            {"launcher": "deepspeed", "num_processes": "2", "sft.lora.rank": "4"},
            "launcher: deepspeed cannot train adapters",
        ),
    ],
)
def test_a_launch_that_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_scale("check", SMALLER | settings)


def test_deepspeed_that_is_missing_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("solar_repro.running.runner.find_spec", lambda name: None)
    with pytest.raises(UserError, match="launcher: deepspeed is not installed; pip install"):
        Runner(tmp_path / "store", None, two("deepspeed"))
    assert not list(tmp_path.iterdir())


def test_the_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(CONFIGS / "slurm.sh")], check=True)


JOB = {
    "id": "1",
    "stage": "dpo",
    "out": "/out",
    "settings": {},
    "inputs": {},
    "data": {},
    "address": "/socket",
}


def put(file, content):
    if isinstance(content, str):
        file.write_text(content)
    else:
        content(file)


@pytest.mark.parametrize(
    "content",
    [
        lambda file: file.symlink_to("/etc/passwd"),
        lambda file: file.symlink_to("/nowhere"),
        lambda file: os.mkfifo(file),
        lambda file: file.mkdir(),
        lambda file: file.write_text(json.dumps({**JOB, "out": "x" * (2 << 20)})),
        "",
        "[1]",
        "[" * 100_000,
        json.dumps({**JOB, "stage": "../../other"}),
        json.dumps({**JOB, "stage": "evaluate"}),
        json.dumps({**JOB, "settings": []}),
        json.dumps({"id": "1"}),
    ],
    ids=[
        "link",
        "dangling",
        "fifo",
        "folder",
        "huge",
        "empty",
        "list",
        "deep",
        "path",
        "untrained",
        "settings",
        "short",
    ],
)
def test_a_job_in_a_shared_store_is_a_small_file_of_the_right_shape(tmp_path, content):
    file = tmp_path / ".dpo_v1-01234567.job.json"
    put(file, content)
    with pytest.raises(UserError, match=f"^{file}: ") as refused:
        read_job(file)
    assert "\n" not in str(refused.value)


def test_a_job_is_read_or_is_gone(tmp_path):
    file = tmp_path / ".dpo_v1-01234567.job.json"
    assert read_job(file) is None
    put(file, json.dumps(JOB))
    assert read_job(file) == JOB
