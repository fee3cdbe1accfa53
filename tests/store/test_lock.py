"""Of two processes that make the same result one works and the other waits."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from solar_repro.errors import UserError
from solar_repro.store.lock import LockHeld, locked

HOLDER = """
import sys
from pathlib import Path
from solar_repro.store.lock import locked
with locked(Path(sys.argv[1]), lambda owner: print("waiting for", owner, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "result")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "store" / "result", None):
        assert [path.name for path in (tmp_path / "store").iterdir()] == [".result.lock"]
        with locked(tmp_path / "store" / "other", None):
            pass
    assert not list((tmp_path / "store").iterdir())


def test_the_second_is_told_who_holds_it(tmp_path, holder):
    with (
        pytest.raises(LockHeld, match=rf"process {holder.pid} on .*, since 20"),
        locked(tmp_path / "result", None),
    ):
        pytest.fail("the block must not run")


def test_the_second_waits_for_the_first(tmp_path, holder):
    told, entered = [], threading.Event()

    def second():
        with locked(tmp_path / "result", told.append):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    while not told:
        assert thread.is_alive()
    assert not entered.is_set()
    holder.communicate("done\n")
    thread.join()
    assert entered.is_set()
    assert f"process {holder.pid} " in told[0]
    assert not list(tmp_path.iterdir())


def test_a_dead_owners_lock_is_taken_over(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".result.lock").exists()
    with locked(tmp_path / "result", None):
        pass
    assert not list(tmp_path.iterdir())


def test_where_no_lock_can_be_had_the_work_is_done_without_and_it_is_said(tmp_path, monkeypatch):
    with locked(tmp_path / "result", None) as unlocked:
        assert unlocked is None
    (tmp_path / "file").write_text("")
    with locked(tmp_path / "file" / "result", None) as unlocked:
        assert unlocked == "File exists"

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "result", None) as unlocked:
        assert unlocked == "No locks available"


@pytest.fixture
def may_be_read_alone(tmp_path, monkeypatch):
    """The lock's file belongs to another user whose umask is 022."""
    opened = os.open

    def refusing(path, flags, *mode, **named):
        if str(path) == str(tmp_path / ".result.lock") and flags & (os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *mode, **named)

    monkeypatch.setattr(os, "open", refusing)


def test_another_users_lock_is_held_though_it_may_be_read_alone(tmp_path, holder, may_be_read_alone):
    with pytest.raises(LockHeld, match=f"process {holder.pid} "), locked(tmp_path / "result", None):
        pytest.fail("the block must not run")
    holder.kill()
    holder.wait()
    with locked(tmp_path / "result", None) as unlocked:
        assert unlocked is None
        with pytest.raises(LockHeld), locked(tmp_path / "result", None):
            pytest.fail("the block must not run")


def test_in_a_store_that_is_only_read_nothing_is_waited_for(tmp_path, may_be_read_alone, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments, **named: False)
    with locked(tmp_path / "result", None) as unlocked:
        assert unlocked == "Permission denied"


@pytest.mark.parametrize(("folder", "lock"), [(0o775, 0o664), (0o755, 0o644), (0o1777, 0o666)])
def test_who_may_write_to_the_folder_may_lock_in_it(tmp_path, folder, lock):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(folder)
    with locked(tmp_path / "store" / "result", None):
        assert (tmp_path / "store" / ".result.lock").stat().st_mode & 0o777 == lock


@pytest.mark.parametrize("target", ["a file", "nothing yet"])
def test_a_link_in_the_locks_place_is_refused_and_its_target_untouched(tmp_path, target):
    (tmp_path / "store").mkdir()
    victim = tmp_path / "victim"
    if target == "a file":
        victim.write_text("dear")
    lock = tmp_path / "store" / ".result.lock"
    lock.symlink_to(victim)
    with (
        pytest.raises(UserError, match=r"\.result\.lock: is a link, but a file is written here"),
        locked(tmp_path / "store" / "result", None),
    ):
        pytest.fail("the block must not run")
    assert victim.read_text() == "dear" if target == "a file" else not victim.exists()
    assert lock.is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_locks_place_is_refused_at_once(tmp_path, make):
    make(tmp_path / ".result.lock")
    with pytest.raises(UserError, match=", but must be a file"), locked(tmp_path / "result", None):
        pytest.fail("the block must not run")


def test_a_file_with_another_name_is_locked_but_not_written_into(tmp_path):
    (tmp_path / "victim").write_text("dear")
    os.link(tmp_path / "victim", tmp_path / ".result.lock")
    (tmp_path / "victim").chmod(0o600)
    with locked(tmp_path / "result", None):
        assert (tmp_path / "victim").read_text() == "dear"
        assert (tmp_path / "victim").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "victim").read_text() == "dear"


def test_the_name_of_an_owner_is_shown_without_what_a_terminal_would_obey(tmp_path, holder):
    (tmp_path / ".result.lock").write_bytes(b"\x1b[2J" + b"x" * 1000 + b"\xff")
    with pytest.raises(LockHeld) as held, locked(tmp_path / "result", None):
        pass
    assert "\x1b" not in str(held.value)
    assert len(str(held.value)) < 250
