"""Work on parts of a set in several processes, its results in order."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_inherited: dict[str, Callable[[Any], Any]] = {}
"""What a forked process does: handed on by the fork, so that it may be a closure over opened files."""


def in_order(work: Callable[[Any], Any], parts: Iterable[Any], num_proc: int) -> Iterator[Any]:
    """`work` of each part, in the parts' order; in `num_proc` forked processes where that is more than 1."""
    if num_proc == 1:
        yield from map(work, parts)
        return
    _inherited["work"] = work
    with multiprocessing.get_context("fork").Pool(num_proc) as pool:
        yield from pool.imap(_do, parts)


def _do(part: Any) -> Any:
    return _inherited["work"](part)
