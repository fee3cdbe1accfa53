"""A file of a model's answers, kept as they come, so that a killed evaluation resumes behind them."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from solar_repro.errors import UserError
from solar_repro.safety.redact import printable
from solar_repro.safety.regular_files import open_own_file
from solar_repro.store.disk import make_shared_folder, share_file_with_group
from solar_repro.terminal.progress import Progress


def request_key(kind: str, arguments: Sequence[Any]) -> str:
    """sha256 of the kind of a request (`loglikelihood`, `generate_until`) and its arguments."""
    return hashlib.sha256(json.dumps([kind, *arguments], sort_keys=True).encode()).hexdigest()


class Journal:
    """Takes each answer from the harness's cache hook, refuses NaN, and appends the answer to a file.

    If `path` is None, nothing is kept. A line that a kill cut short is removed on reading; damaged lines are
    reported and skipped. `items` names the item of each request, for messages; `progress` counts the answers.
    """

    def __init__(self, path: Path | None, items: Mapping[tuple[str, str], str], progress: Progress) -> None:
        self.items, self.progress = items, progress
        self.known: dict[str, Any] = {}
        self.answered = 0
        self._file = None
        if path is None:
            return
        make_shared_folder(path.parent)
        self._file = os.fdopen(open_own_file(path, os.O_RDWR | os.O_CREAT), "r+b")
        share_file_with_group(self._file.fileno(), path.parent)
        whole = self._file.read()
        end = whole.rfind(b"\n") + 1
        kept = [_kept(line) for line in whole[:end].splitlines()]
        self.known = dict(filter(None, kept))
        if damaged := kept.count(None):
            print(
                printable(f"{path}: {damaged} damaged lines are skipped; their answers are computed again"),
                file=sys.stderr,
                flush=True,
            )
        self._file.seek(end)
        self._file.truncate()

    def split(self, instances: Sequence[Instance]) -> tuple[dict[int, Any], list[int]]:
        """The answers that the file has, by position, and the positions that have to be computed."""
        if not self.known:
            return {}, list(range(len(instances)))
        found = {}
        for index, instance in enumerate(instances):
            key = request_key(instance.request_type, instance.args)
            if key in self.known:
                found[index] = self.known[key]
        return found, [index for index in range(len(instances)) if index not in found]

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        """Keep an answer; the harness calls this for each one of a finished batch. NaN raises UserError."""
        if kind == "loglikelihood" and math.isnan(answer[0]):
            item = self.items.get(arguments, "an item")
            raise UserError(
                f"log-likelihood of {item}: is NaN, so the model gives no probabilities here; check its "
                "weights or use dtype=float32"
            )
        self.answered += 1
        self.progress.advance(1)
        if self._file is not None:
            line = json.dumps([request_key(kind, arguments), answer])
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _kept(line: bytes) -> tuple[str, Any] | None:
    """The key and the answer that a line holds; None where it is damaged."""
    try:
        key, answer = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(key, str):
        return None
    if isinstance(answer, str):
        return key, answer
    if (
        isinstance(answer, list)
        and [type(part) for part in answer] == [float, bool]
        and not math.isnan(answer[0])
    ):
        return key, tuple(answer)
    return None
