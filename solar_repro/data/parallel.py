"""Work on the parts of a set in several processes, with the results in the order of the parts."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from solar_repro.errors import UserError
from solar_repro.terminal.stopping import block_signals, unblock_sigterm

AHEAD = 4
_work: Callable[[Any], Any]
"""What this process does with each part; set once, when it starts."""


def in_order(work: Callable[[Any], Any], parts: Iterable[Any], num_proc: int) -> Iterator[Any]:
    """Yield `work(part)` for each part, in order, computed by `num_proc` processes if that is more than 1.

    The processes are started afresh, not forked, for a fork beside other threads may hold their locks for
    ever. So `work` has to be picklable: a module's function, or a `partial` of one. Each process gets it
    once. Parts are taken `AHEAD` for each process before their turn, so there may be parts without end.
    Raises UserError where a process is killed.
    """
    if num_proc == 1:
        yield from map(work, parts)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, fresh, initializer=_begin, initargs=(work,)) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            for part in parts:
                with block_signals():
                    waiting.append(pool.submit(_do, part))
                if len(waiting) > AHEAD * num_proc:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                f"num_proc: one of {num_proc} processes has ended; if no error is printed above, it was "
                "killed, perhaps because memory ran out: set a smaller number"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def batches(rows: int, size: int) -> list[slice]:
    """Slices of `size` rows that cover all rows; the last one may be smaller."""
    return [slice(start, start + size) for start in range(0, rows, size)]


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    threading.Thread(target=_end_with_parent, daemon=True).start()
    unblock_sigterm()


def _end_with_parent() -> None:
    """End with a killed parent. Without this a process waits for ever on a pipe that it holds open itself."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _do(part: Any) -> Any:
    return _work(part)
