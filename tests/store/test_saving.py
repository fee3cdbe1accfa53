"""States of unfinished work: whole on the disk or not there, and a damaged one costs no more than itself."""

import os
from pathlib import Path

import pytest

from solar_repro.errors import UserError
from solar_repro.store.manifest import verify_manifest
from solar_repro.store.saving import ROWS, Saving, run_of


@pytest.fixture
def saving(tmp_path):
    return Saving(tmp_path / ".solar-01234567.saved", minutes=10, run_id="run")


def save(saving, step):
    """Save a state as a training does."""
    metrics = saving.folder.with_name("metrics.jsonl")
    metrics.write_text(f"rows up to {step}")
    saving.make_room()
    state = saving.state(step)
    (state / "shards").mkdir(parents=True)
    (state / "optimizer.pt").write_text(f"optimizer at {step}")
    (state / "shards" / "0.distcp").write_text(f"weights at {step}")
    saving.finish(state, metrics)


def test_the_last_two_states_are_kept(saving):
    for step in (8, 9, 10, 11):
        save(saving, step)
    assert {path.name for path in saving.folder.glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-11"}
    state = saving.sound()
    assert state == saving.newest() == saving.folder / "checkpoint-11"
    assert (run_of(state), (state / ROWS).read_text()) == ("run", "rows up to 11")


DAMAGES = {
    "cut": lambda file: file.write_text(""),
    "flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
    "missing": lambda file: file.unlink(),
}
FILES = ["optimizer.pt", "shards/0.distcp", ROWS, "run", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(saving, capsys, name, damage):
    save(saving, 1)
    save(saving, 2)
    DAMAGES[damage](saving.folder / "checkpoint-2" / name)
    assert saving.sound() == saving.newest() == saving.folder / "checkpoint-1"
    told = capsys.readouterr().err
    assert told.startswith(f"saved state {saving.folder / 'checkpoint-2' / name}")
    assert told.endswith("renamed to checkpoint-2.damaged-1, the state before it is used\n")
    save(saving, 2)  # the work has come to the same step again
    assert saving.sound().name == "checkpoint-2"
    verify_manifest(saving.folder / "checkpoint-1")


def test_where_all_are_damaged_the_work_begins_anew(saving):
    save(saving, 1)
    save(saving, 2)
    for state in saving.folder.glob("checkpoint-*"):
        (state / "run").unlink()
    assert saving.sound() is None


def test_a_state_has_its_place_only_once_all_of_it_is_on_the_disk(saving, monkeypatch):
    events, flushed, renamed = [], os.fsync, Path.rename

    def fsync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        flushed(descriptor)

    def rename(path, target):
        events.append("renamed")
        return renamed(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    save(saving, 3)
    state = saving.state(3)
    before = set(events[: events.index("renamed")])
    assert {state / name for name in FILES} | {state, state / "shards"} <= before
    assert events[-1] == saving.folder


def test_a_state_that_was_cut_off_does_not_count(saving, monkeypatch):
    save(saving, 1)

    def cut_off(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Path, "rename", cut_off)
        with pytest.raises(KeyboardInterrupt):
            save(saving, 2)
    assert saving.sound().name == "checkpoint-1"
    assert saving.state(2).is_dir()
    save(saving, 3)
    assert not saving.writing.exists() or not list(saving.writing.iterdir())
    assert saving.sound().name == "checkpoint-3"


def test_an_evaluation_keeps_no_states(saving):
    saving.folder.mkdir()
    (saving.folder / "answers.jsonl").write_text("")
    assert saving.sound() is None
    saving.remove()
    assert not saving.folder.exists()


def test_a_state_of_an_unreadable_file_is_not_taken_for_damaged(saving, monkeypatch):
    save(saving, 1)
    save(saving, 2)
    opened = os.open

    def refusing(path, *arguments, **named):
        if Path(path).name == "optimizer.pt":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match="cannot be read"):
        saving.sound()
    monkeypatch.undo()
    assert saving.sound().name == "checkpoint-2"


def test_a_group_that_may_write_to_the_store_may_go_on_with_saved_states(tmp_path):
    tmp_path.chmod(0o770)
    before = os.umask(0o022)
    try:
        saving = Saving(tmp_path / ".result.saved", minutes=10)
        saving.make_room()
        state = saving.state(3)
        state.mkdir()
        (state / "weights").write_text("w")
        (tmp_path / "metrics").write_text("")
        saving.finish(state, tmp_path / "metrics")
    finally:
        os.umask(before)
    written = [saving.folder, saving.writing, saving.newest(), *saving.newest().iterdir()]
    assert [path.name for path in written if not path.stat().st_mode & 0o020] == []


def test_what_was_set_aside_is_never_deleted(saving):
    save(saving, 1)
    save(saving, 2)
    (saving.folder / "checkpoint-2" / "optimizer.pt").write_text("")
    saving.sound()
    for step in (3, 4):
        save(saving, step)
    aside = saving.folder / "checkpoint-2.damaged-1"
    assert (aside / "shards" / "0.distcp").read_text() == "weights at 2"
    saving.remove()  # the result is published
    assert list(saving.folder.iterdir()) == [aside]
