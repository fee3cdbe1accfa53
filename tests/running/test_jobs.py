"""Independent steps side by side, in processes of their own."""

import os
import re
import signal
import threading
import time

import pytest

from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
from solar_repro.running import jobs
from solar_repro.running.launch import with_all_gpus
from solar_repro.running.runner import Runner
from solar_repro.running.whole_plan import make_all
from solar_repro.scales.execution import Execution
from solar_repro.scales.load import load_scale
from solar_repro.store.leftovers import final_place, process_of, working_folders
from solar_repro.tracking.tracker import Tracker


def test_steps_are_made_side_by_side_under_one_run_and_then_found(own_place, capfd):
    plan = Plan(load_scale("check", {"upscale.shard_bytes": "4000000000"}))
    targets = [plan.model("upscaled"), plan.model("upscaled_repeat")]
    tracker = Tracker("two", "check")
    make_all(Runner(own_place.store, tracker, Execution(jobs=2)), targets)
    told = capfd.readouterr().err
    assert "[1/4] microworld" in told
    assert "[2/4] base" in told
    for number in ("[3/4]", "[4/4]"):
        assert told.count(number) == 2  # running, done
    made = {
        run.info.run_name: run for run in own_place.runs(f"tags.`mlflow.parentRunId` = '{tracker.run_id}'")
    }
    assert {name: run.info.status for name, run in made.items()} == dict.fromkeys(
        ("upscaled", "upscaled_repeat"), "FINISHED"
    )
    make_all(Runner(own_place.store, tracker, Execution(jobs=2)), targets)
    assert capfd.readouterr().err.count("cached") == 4


@pytest.mark.slow
def test_an_error_in_one_process_reaches_the_caller_and_the_other_step_is_kept(own_place, capfd):
    # Each on what is finished, so that nothing else is made.
    other_shards = Plan(load_scale("check", {"upscale.shard_bytes": "4100000000"}))
    too_large = {
        f"continue_pretrain.{name}": "4096" for name in ("global_batch_size", "per_device_batch_size")
    }
    targets = [
        other_shards.model("upscaled_repeat"),
        Plan(load_scale("check", too_large)).model("repeat_continued"),
    ]
    with pytest.raises(UserError, match="training rows for a global_batch_size of 4096"):
        make_all(Runner(own_place.store, Tracker("two", "check"), Execution(jobs=2)), targets)
    # It ends the whole: the caller does not try again itself.
    assert len(re.findall(r"repeat_continued +running", capfd.readouterr().err)) == 1
    assert (own_place.store / targets[0].folder / "manifest.json").is_file()
    assert not (own_place.store / targets[1].folder).exists()


@pytest.mark.slow
def test_a_process_that_is_killed_is_one_line_and_leaves_nothing_open(own_place):
    plan = Plan(load_scale("check", {"sft.learning_rate": "1.1e-5"}))
    # What waits for the one that is killed is not begun.
    targets = [plan.model("sft_v1"), plan.model("sft_v2"), plan.evaluation("sft_v1")]

    def kill():
        while True:
            for path in working_folders(own_place.store):
                if final_place(path).name == targets[0].folder:
                    os.kill(int(process_of(path).split(".")[-2]), signal.SIGKILL)
                    return
            time.sleep(0.05)

    threading.Thread(target=kill, daemon=True).start()
    tracker = Tracker("two", "check")
    with pytest.raises(
        UserError, match=r"^sft_v1( or sft_v2)?: its process has ended; .* -P jobs=1 needs less"
    ) as ended:
        make_all(Runner(own_place.store, tracker, Execution(jobs=2)), targets)
    assert "\n" not in str(ended.value)
    assert [run.info.run_id for run in own_place.runs("attributes.status = 'RUNNING'")] == [tracker.run_id]
    (killed,) = own_place.runs(f"tags.`solar.key` = '{targets[0].key}'")
    assert killed.info.status == "KILLED"


def test_of_several_gpus_each_process_sees_one_and_a_launcher_all(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    shares = jobs._shares_of_gpus(3)
    assert [shares.get() for _ in range(3)] == ["3", "5", "3"]
    assert with_all_gpus(os.environ)["CUDA_VISIBLE_DEVICES"] == "3,5"
    monkeypatch.setenv(jobs.ALL_GPUS, "")  # so that what is set here is gone after the test
    jobs._see_one_gpu("5")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert with_all_gpus(os.environ)["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_gpus_that_nobody_has_chosen_are_counted(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert jobs._shares_of_gpus(2) is None
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    shares = jobs._shares_of_gpus(2)
    assert [shares.get(), shares.get()] == ["0", "1"]
    monkeypatch.setenv(jobs.ALL_GPUS, "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "CUDA_VISIBLE_DEVICES" not in with_all_gpus(os.environ)


@pytest.mark.slow
def test_launched_trainings_and_steps_side_by_side_make_one_plan(own_place, capfd):
    sections = ("continue_pretrain", "sft", "dpo")
    changes = {f"{section}.per_device_batch_size": "2" for section in sections}
    changes |= {"sft.max_steps": "2", "launcher": "ddp", "num_processes": "2", "jobs": "2"}
    scale = load_scale("check", changes)
    plan = Plan(scale)
    targets = [plan.evaluation("sft_v1"), plan.evaluation("solar")]
    make_all(Runner(own_place.store, Tracker("two", "check"), scale.execution), targets)
    told = [line.split()[1:3] for line in capfd.readouterr().err.splitlines() if line.startswith("[")]
    told = [(label, what) for label, what in told if what in ("running", "done")]
    for launched in ("solar", "sft_v1"):  # nothing else is made meanwhile
        start = told.index((launched, "running"))
        assert told[start + 1] == (launched, "done")
    assert {("solar.evaluate", "done"), ("sft_v1.evaluate", "done")} <= set(told)
