"""What nothing refers to is found and removed; what is in use, elsewhere or linked is left alone."""

import os
import subprocess
import sys

import pytest

from solar_repro.checkpoint.lock import locked
from solar_repro.checkpoint.publish import publish
from solar_repro.errors import UserError
from solar_repro.garbage import unneeded


@pytest.fixture
def store(tmp_path):
    for name in ("solar-11111111", "sft_v1-22222222", "sft_v1-33333333", "report", "notes-44444444.txt"):
        with publish(tmp_path / "store" / name) as work:
            (work / "a.txt").write_text("abc")
    return tmp_path / "store"


def found(store, planned=(), known=()):
    return {item.path.name: item for item in unneeded(store, set(planned), lambda key: key in known)}


def test_what_the_plan_names_or_a_run_knows_is_kept(store):
    listed = found(store, ["solar-11111111"], ["22222222"])
    assert list(listed) == ["sft_v1-33333333"]
    item = listed["sft_v1-33333333"]
    assert item.bytes == sum(path.stat().st_size for path in (store / item.path.name).iterdir())
    assert item.remove()
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
    assert found(store, known=["22222222"])["sft_v1-33333333"].remove()
    assert (elsewhere / "a.txt").read_text() == "abc"  # the link went, not what it points to


def test_what_a_process_works_on_is_left_alone(store):
    item = found(store, known=["22222222"])["solar-11111111"]
    with locked(item.path, None):
        assert not item.remove()
    assert item.path.is_dir()
    assert item.remove()


def test_what_dead_processes_left_is_found_and_that_of_living_ones_is_not(store):
    script = (
        "import os, sys; from pathlib import Path; from solar_repro.checkpoint.publish import publish\n"
        "with publish(Path(sys.argv[1])) as work:\n (work / 'x').write_text('x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(store / "dpo-66666666")], check=False)
    with publish(store / "other-77777777") as living:
        (living / "x").write_text("x")
        listed = unneeded(store, set(), lambda key: True)
        assert [item.why for item in listed] == ["left by a dead process"]
        assert listed[0].path.name.startswith(".dpo-66666666.working.")
        assert listed[0].remove()
        assert living.is_dir()
    assert not list(store.glob(".*"))


def test_unfinished_work_is_found_unless_it_is_planned_or_under_way(store):
    for name in ("sft_v1-22222222", "base.evaluate-55555555", "other.evaluate-66666666"):
        (store / f".{name}.saved").mkdir()
    listed = unneeded(store, {"sft_v1-22222222", "base.evaluate-55555555"}, lambda key: True)
    # What the first was for is finished; the second goes on with it.
    assert [item.path.name for item in listed] == [".other.evaluate-66666666.saved", ".sft_v1-22222222.saved"]
    assert {item.why for item in listed} == {"unfinished work"}
    with locked(store / "other.evaluate-66666666", None):
        assert not listed[0].remove()
    assert all(item.remove() for item in listed)
    assert [path.name for path in store.glob(".*")] == [".base.evaluate-55555555.saved"]


def test_a_server_that_knows_nothing_of_the_store_is_the_wrong_one(store):
    with pytest.raises(UserError, match="no result is known to the tracking server"):
        found(store)


def test_a_store_that_is_not_there_holds_nothing(tmp_path):
    assert unneeded(tmp_path / "none", set(), lambda key: False) == []
    assert not os.path.exists(tmp_path / "none")
