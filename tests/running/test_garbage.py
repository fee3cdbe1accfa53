"""What nothing refers to is found and removed; what is in use, elsewhere or linked is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from solar_repro.running.garbage import DAMAGED, ELSEWHERE, STRANGE, unneeded
from solar_repro.store import owner
from solar_repro.store.leftovers import set_aside_damaged
from solar_repro.store.lock import locked
from solar_repro.store.publish import publish


@pytest.fixture
def store(tmp_path):
    for name in ("solar-11111111", "sft_v1-22222222", "sft_v1-33333333", "report", "notes-44444444.txt"):
        with publish(tmp_path / "store" / name) as work:
            (work / "a.txt").write_text("abc")
            (work / "solar").mkdir()
            (work / "solar" / "provenance.json").write_text(json.dumps({"run": f"run of {name}"}))
    return tmp_path / "store"


class Server:
    """Knows keys by how they begin, and has every run but those that another server has."""

    def __init__(self, known=(), elsewhere=()):
        self.known, self.elsewhere = set(known), set(elsewhere)

    def knows(self, key):
        return key in self.known

    def has(self, run_id):
        return run_id.removeprefix("run of ") not in self.elsewhere


EVERYTHING = SimpleNamespace(knows=lambda key: True)


def found(store, planned=(), known=()):
    return {item.path.name: item for item in unneeded(store, set(planned), Server(known))}


def test_what_the_plan_names_or_a_run_knows_is_kept(store):
    listed = found(store, ["solar-11111111"], ["22222222"])
    assert list(listed) == ["sft_v1-33333333"]
    item = listed["sft_v1-33333333"]
    assert item.bytes == sum(path.stat().st_size for path in (store / item.path.name).rglob("*.*"))
    assert item.remove() is None
    assert sorted(path.name for path in store.iterdir()) == [
        "notes-44444444.txt",
        "report",
        "sft_v1-22222222",
        "solar-11111111",
    ]


def test_links_and_folders_that_were_not_published_are_left_alone(store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (store / "solar-11111111").rename(elsewhere)
    (store / "solar-11111111").symlink_to(elsewhere)
    (store / "mine-55555555").mkdir()
    assert set(found(store, known=["22222222"])) == {"sft_v1-33333333"}
    inside = store / "sft_v1-33333333" / "link"
    inside.symlink_to(elsewhere)
    assert found(store, known=["22222222"])["sft_v1-33333333"].remove() is None
    assert (elsewhere / "a.txt").read_text() == "abc"  # the link went, not what it points to


def test_what_a_process_works_on_is_left_alone(store):
    item = found(store, known=["22222222"])["solar-11111111"]
    with locked(item.path, None):
        assert item.remove() == "in use"
    assert item.path.is_dir()
    assert item.remove() is None


def test_what_dead_processes_left_is_found_and_that_of_living_ones_is_not(store):
    script = (
        "import os, sys; from pathlib import Path; from solar_repro.store.publish import publish\n"
        "with publish(Path(sys.argv[1])) as work:\n (work / 'x').write_text('x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(store / "dpo-66666666")], check=False)
    with publish(store / "other-77777777") as living:
        (living / "x").write_text("x")
        listed = unneeded(store, set(), EVERYTHING)
        assert [item.why for item in listed] == ["left by a dead process"]
        assert listed[0].path.name.startswith(".dpo-66666666.working.")
        assert listed[0].remove() is None
        assert living.is_dir()
    assert not list(store.glob(".*"))


def test_unfinished_work_is_found_unless_it_is_planned_or_under_way(store):
    for name in ("sft_v1-22222222", "base.evaluate-55555555", "other.evaluate-66666666"):
        (store / f".{name}.saved").mkdir()
    for name in ("solar-77777777", "sft_v2-88888888"):
        (store / f".{name}.saved").mkdir()
    server = Server([f"{digit}" * 8 for digit in (1, 2, 3, 7, 8)])
    listed = unneeded(store, {"sft_v1-22222222", "base.evaluate-55555555"}, server)
    # What the first was for is finished. The second is planned; of the last two, which are of another scale,
    # the runs are there, so that they may go on.
    assert [item.path.name for item in listed] == [".other.evaluate-66666666.saved", ".sft_v1-22222222.saved"]
    assert {item.why for item in listed} == {"unfinished work"}
    with locked(store / "other.evaluate-66666666", None):
        assert listed[0].remove() == "in use"
    assert [item.remove() for item in listed] == [None, None]
    left = {".base.evaluate-55555555.saved", ".solar-77777777.saved", ".sft_v2-88888888.saved"}
    assert {path.name for path in store.glob(".*")} == left


def test_results_that_another_server_registered_are_told_apart(store):
    others = ["sft_v1-22222222", "sft_v1-33333333"]
    listed = unneeded(store, set(), Server(elsewhere=others))
    assert {item.path.name: item.why for item in listed} == {
        "solar-11111111": "no run",
        **dict.fromkeys(others, ELSEWHERE),
    }


def test_a_result_that_does_not_say_which_run_made_it_may_be_another_servers(store):
    (store / "solar-11111111" / "solar" / "provenance.json").write_text('{"run": 1}')
    (store / "sft_v1-22222222" / "solar" / "provenance.json").unlink()
    whys = {name: item.why for name, item in found(store, known=["33333333"]).items()}
    assert whys == {"solar-11111111": ELSEWHERE, "sft_v1-22222222": ELSEWHERE}


def test_a_result_that_was_registered_since_it_was_listed_stays(store):
    server = Server(["22222222"])
    listed = {item.path.name: item for item in unneeded(store, set(), server)}
    server.known.add("33333333")
    assert listed["sft_v1-33333333"].remove() == "needed again"
    assert (store / "sft_v1-33333333").is_dir()
    assert listed["solar-11111111"].remove() is None


def test_what_is_removed_of_a_steps_work_takes_the_steps_lock(store):
    working = store / ".dpo-66666666.working.nobody.xyz"
    working.mkdir()
    working.rename(working := working.with_name(f".dpo-66666666.working.{dead_process()}.xyz"))
    (item,) = unneeded(store, set(), EVERYTHING)
    with locked(store / "dpo-66666666", None):
        assert item.remove() == "in use"
    assert working.is_dir()
    assert item.remove() is None


def dead_process():
    """Name of a process of this machine that is gone."""
    ask = "from solar_repro.store.owner import process_name; print(process_name())"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("differs", ["namespace", "boot"])
def test_work_of_another_container_or_machine_of_the_same_name_is_not_removed(store, differs, monkeypatch):
    process = dead_process()
    working = store / f".dpo-66666666.working.{process}.xyz"
    working.mkdir()
    with monkeypatch.context() as elsewhere:
        if differs == "namespace":
            elsewhere.setattr(os, "readlink", lambda path: "pid:[1]")
        else:
            elsewhere.setattr(owner, "_BOOT", Path("/proc/version"))
        (item,) = unneeded(store, set(), EVERYTHING)
        assert item.why == STRANGE
        assert item.remove() == "needed again"
        with publish(store / "dpo-66666666"):
            assert working.is_dir()
    assert working.is_dir()


def test_of_what_this_user_may_not_remove_nothing_is_touched(store, monkeypatch):
    item = found(store, known=["22222222"])["solar-11111111"]
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *how, **named: Path(path).name != "solar" and allowed(path, *how, **named)
    )
    before = sorted(store.rglob("*"))
    assert item.remove() == "belongs to another user"
    assert sorted(store.rglob("*")) == before


def test_a_store_that_is_not_there_holds_nothing(tmp_path):
    assert unneeded(tmp_path / "none", set(), Server()) == []
    assert not os.path.exists(tmp_path / "none")


def test_what_was_set_aside_as_damaged_is_listed_as_such(store):
    result = set_aside_damaged(store / "solar-11111111")
    states = [store / f".{name}.saved" / "checkpoint-2" for name in ("sft_v1-33333333", "other-66666666")]
    for state in states:
        state.mkdir(parents=True)
    inner, outer = map(set_aside_damaged, states)
    listed = {item.path: item for item in unneeded(store, {"other-66666666"}, EVERYTHING)}
    # The one beside a finished result goes with its folder, the other's work goes on.
    assert {path: item.why for path, item in listed.items()} == dict.fromkeys(
        [result, inner.parent, outer], DAMAGED
    )
    with locked(store / "solar-11111111", None):
        assert listed[result].remove() == "in use"
    assert listed[result].remove() is listed[outer].remove() is None
    assert not result.exists()
    assert outer.parent.is_dir()


def test_a_job_that_a_killed_machine_left_is_found_unless_its_training_goes_on(store):
    for name in ("sft_v1-22222222", "dpo_v1-55555555", "dpo_v1-66666666"):
        (store / f".{name}.job.json").write_text("{}")
    listed = unneeded(store, {"sft_v1-22222222", "dpo_v1-55555555"}, EVERYTHING)
    assert [item.path.name for item in listed] == [".dpo_v1-66666666.job.json", ".sft_v1-22222222.job.json"]
    assert [item.remove() for item in listed] == [None, None]
    assert [path.name for path in store.glob(".*")] == [".dpo_v1-55555555.job.json"]


WRITING = """
import os, sys
from pathlib import Path
from solar_repro.store.publish import replace_file, replace_folder, write_atomically
place = Path(sys.argv[2])
with globals()[sys.argv[1]](place) as work:
    (work / "a.csv" if work.is_dir() else work).write_text("half of the n")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["replace_file", "replace_folder"])
def test_a_report_that_is_killed_while_written_is_the_old_one_and_what_is_left_is_found(tmp_path, how):
    place = tmp_path / "report" / "check"
    place.parent.mkdir()
    old = place / "a.csv" if how == "replace_folder" else place
    old.parent.mkdir(exist_ok=True)
    old.write_text("the old one")
    subprocess.run([sys.executable, "-c", WRITING, how, str(place)], check=False)
    assert old.read_text() == "the old one"
    (item,) = unneeded(tmp_path / "store", set(), EVERYTHING, [place.parent, tmp_path / "nowhere"])
    assert (item.why, item.bytes) == ("left by a dead process", len("half of the n"))
    assert item.remove() is None
    assert list(place.parent.iterdir()) == [place]
