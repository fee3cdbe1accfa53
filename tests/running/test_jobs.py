"""Independent steps side by side, in processes of their own."""

import os
import re
import signal
import threading
import time

import pytest

from solar_repro.errors import UserError
from solar_repro.plan.plan import Plan
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
    targets = [plan.model("sft_v1"), plan.model("sft_v2")]

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
