"""States of unfinished work: whole on the disk or not there, and a damaged one costs no more than itself."""

import os
from pathlib import Path

import pytest

from solar_repro.errors import UserError
from solar_repro.store.manifest import verify_manifest
from solar_repro.store.resume import RESUME_METRICS, ResumeFolder, run_of_checkpoint


@pytest.fixture
def resume(tmp_path):
    return ResumeFolder(tmp_path / ".solar-01234567.saved", minutes=10, run_id="run")


def save(resume, step):
    """Save a state as a training does."""
    metrics = resume.folder.with_name("metrics.jsonl")
    metrics.write_text(f"rows up to {step}")
    resume.remove_old_checkpoints()
    state = resume.new_checkpoint(step)
    (state / "shards").mkdir(parents=True)
    (state / "optimizer.pt").write_text(f"optimizer at {step}")
    (state / "shards" / "0.distcp").write_text(f"weights at {step}")
    resume.publish_checkpoint(state, metrics)


def test_the_last_two_states_are_kept(resume):
    for step in (8, 9, 10, 11):
        save(resume, step)
    assert {path.name for path in resume.folder.glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-11"}
    state = resume.intact_checkpoint()
    assert state == resume.newest_checkpoint() == resume.folder / "checkpoint-11"
    assert (run_of_checkpoint(state), (state / RESUME_METRICS).read_text()) == ("run", "rows up to 11")


DAMAGES = {
    "cut": lambda file: file.write_text(""),
    "flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
    "missing": lambda file: file.unlink(),
}
FILES = ["optimizer.pt", "shards/0.distcp", RESUME_METRICS, "run", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(resume, capsys, name, damage):
    save(resume, 1)
    save(resume, 2)
    DAMAGES[damage](resume.folder / "checkpoint-2" / name)
    assert resume.intact_checkpoint() == resume.newest_checkpoint() == resume.folder / "checkpoint-1"
    told = capsys.readouterr().err
    assert told.startswith(f"saved state {resume.folder / 'checkpoint-2' / name}")
    assert told.endswith("renamed to checkpoint-2.damaged-1, the state before it is used\n")
    save(resume, 2)  # the work has come to the same step again
    assert resume.intact_checkpoint().name == "checkpoint-2"
    verify_manifest(resume.folder / "checkpoint-1")


def test_where_all_are_damaged_the_work_begins_anew(resume):
    save(resume, 1)
    save(resume, 2)
    for state in resume.folder.glob("checkpoint-*"):
        (state / "run").unlink()
    assert resume.intact_checkpoint() is None


def test_a_state_has_its_place_only_once_all_of_it_is_on_the_disk(resume, monkeypatch):
    events, flushed, renamed = [], os.fsync, Path.rename

    def fsync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        flushed(descriptor)

    def rename(path, target):
        events.append("renamed")
        return renamed(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    save(resume, 3)
    state = resume.new_checkpoint(3)
    before = set(events[: events.index("renamed")])
    assert {state / name for name in FILES} | {state, state / "shards"} <= before
    assert events[-1] == resume.folder


def test_a_state_that_was_cut_off_does_not_count(resume, monkeypatch):
    save(resume, 1)

    def cut_off(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Path, "rename", cut_off)
        with pytest.raises(KeyboardInterrupt):
            save(resume, 2)
    assert resume.intact_checkpoint().name == "checkpoint-1"
    assert resume.new_checkpoint(2).is_dir()
    save(resume, 3)
    assert not resume.unfinished.exists() or not list(resume.unfinished.iterdir())
    assert resume.intact_checkpoint().name == "checkpoint-3"


def test_an_evaluation_keeps_no_states(resume):
    resume.folder.mkdir()
    (resume.folder / "answers.jsonl").write_text("")
    assert resume.intact_checkpoint() is None
    resume.remove()
    assert not resume.folder.exists()


def test_a_state_of_an_unreadable_file_is_not_taken_for_damaged(resume, monkeypatch):
    save(resume, 1)
    save(resume, 2)
    opened = os.open

    def refusing(path, *arguments, **named):
        if Path(path).name == "optimizer.pt":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match="cannot be read"):
        resume.intact_checkpoint()
    monkeypatch.undo()
    assert resume.intact_checkpoint().name == "checkpoint-2"


def test_a_group_that_may_write_to_the_store_may_go_on_with_saved_states(tmp_path):
    tmp_path.chmod(0o770)
    before = os.umask(0o022)
    try:
        resume = ResumeFolder(tmp_path / ".result.saved", minutes=10)
        resume.remove_old_checkpoints()
        state = resume.new_checkpoint(3)
        state.mkdir()
        (state / "weights").write_text("w")
        (tmp_path / "metrics").write_text("")
        resume.publish_checkpoint(state, tmp_path / "metrics")
    finally:
        os.umask(before)
    written = [
        resume.folder,
        resume.unfinished,
        resume.newest_checkpoint(),
        *resume.newest_checkpoint().iterdir(),
    ]
    assert [path.name for path in written if not path.stat().st_mode & 0o020] == []


def test_what_was_set_aside_is_never_deleted(resume):
    save(resume, 1)
    save(resume, 2)
    (resume.folder / "checkpoint-2" / "optimizer.pt").write_text("")
    resume.intact_checkpoint()
    for step in (3, 4):
        save(resume, step)
    aside = resume.folder / "checkpoint-2.damaged-1"
    assert (aside / "shards" / "0.distcp").read_text() == "weights at 2"
    resume.remove()  # the result is published
    assert list(resume.folder.iterdir()) == [aside]
