"""Work in several processes: in order, beside other threads, and with one line where a process dies."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from solar_repro.data.parallel import AHEAD, batches, in_order
from solar_repro.errors import UserError
from tests.conftest import ROOT

LOCK = threading.Lock()


def double(part: slice) -> tuple[int, int]:
    return 2 * part.start, os.getpid()


def take_lock(part: int) -> bool:
    return LOCK.acquire(timeout=5)


def die(part: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_are_in_the_parts_order_and_made_elsewhere():
    parts = batches(70, 10)
    done = list(in_order(double, parts, 2))
    assert [result for result, _ in done] == [0, 20, 40, 60, 80, 100, 120]
    assert os.getpid() not in {process for _, process in done}


def test_of_parts_without_end_few_are_taken_before_their_turn():
    taken = itertools.count(1)
    done = in_order(double, (slice(next(taken), None) for _ in itertools.repeat(None)), 2)
    assert [next(done)[0] for _ in range(20)] == [2 * number for number in range(1, 21)]
    done.close()
    assert next(taken) <= 20 + 2 * AHEAD + 2


def test_a_lock_that_another_thread_holds_is_not_held_in_the_processes():
    taken, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCK:
            taken.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(10)
        assert list(in_order(take_lock, [1], 2)) == [True]
    finally:
        ended.set()
        thread.join()


def test_a_process_that_is_killed_is_told_of():
    with pytest.raises(UserError, match=r"num_proc: one of 2 processes has ended"):
        list(in_order(die, [1, 2], 2))


def test_processes_end_with_their_parent():
    script = (
        "import sys\n"
        "from solar_repro.data.parallel import in_order\n"
        "from tests.data.test_parallel import double\n"
        "found = in_order(double, [slice(1, 2)], 2)\n"
        "print(next(found)[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{worker}") and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not os.path.exists(f"/proc/{worker}")
