"""A file of a language model's answers by request: a run after a killed one asks only for the missing ones.

An answer is on disk before it is used, so no answer that was received is lost, or paid for again.
"""

import fcntl
import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

from solar_repro.data.rephrase_by_model import Request
from solar_repro.safety.regular_files import open_own_file
from solar_repro.store.disk import make_shared_folder, share_file_with_group

MOST_TOKENS = 10**9


def is_count(number: Any) -> bool:
    """Whether a value can be a number of tokens."""
    return type(number) is int and 0 <= number <= MOST_TOKENS


@dataclass(frozen=True)
class Answer:
    """What a model answered, and how many tokens the prompt and the answer had."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Counts:
    """What became of a run's requests."""

    cached: int = 0
    """Requests whose answer was in the file already."""
    answered: int = 0
    failed: int = 0
    """Requests that were given up."""
    retries: Counter = field(default_factory=Counter)
    """Failed attempts by cause."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens of all answers that this run used, whether it paid for them or an earlier one did."""
    cost: float = 0.0


class AnswerFile:
    """The answers in `folder/answers.jsonl` that a model of this name gave within `max_tokens`.

    A last line that a kill cut short is removed from the file; damaged lines are reported and skipped.
    Several threads, and processes with other settings, may `keep` answers at the same time.
    """

    def __init__(self, folder: Path, model: str, max_tokens: int) -> None:
        make_shared_folder(folder)
        self.path = folder / "answers.jsonl"
        self.model, self.max_tokens = model, max_tokens
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}
        whole = 0
        with open(self.path, "ab+", opener=open_own_file) as lines:
            share_file_with_group(lines.fileno(), folder)
            _wait_for_others(lines)  # a line that another process is writing is not one that was cut short
            lines.seek(0)
            damaged = 0
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                found = _read(line)
                damaged += found is None
                self._answers |= found or {}
            lines.truncate(whole)
        if damaged:
            print(
                f"{self.path}: {damaged} damaged lines are skipped; their questions are asked again",
                file=sys.stderr,
            )

    def get(self, request: Request) -> Answer | None:
        """The kept answer to a request; None where there is none."""
        return self._answers.get(self._key(request))

    def keep(self, request: Request, answer: Answer) -> None:
        """Append an answer, which is on disk when this returns."""
        key = self._key(request)
        line = json.dumps({"key": key} | asdict(answer), ensure_ascii=False) + "\n"
        with self._lock:
            with open(self.path, "ab", opener=open_own_file, buffering=0) as out:
                _wait_for_others(out)
                end = out.seek(0, os.SEEK_END)
                try:
                    _write(out, line.encode("utf-8"))
                    os.fsync(out.fileno())
                except OSError:
                    out.truncate(end)  # the next line begins where this one did
                    raise
            self._answers[key] = answer

    def missing(self, requests: Sequence[Request]) -> list[Request]:
        """The requests without an answer, each of them once."""
        return [request for request in dict.fromkeys(requests) if self.get(request) is None]

    def _key(self, request: Request) -> str:
        asked = asdict(request) | {"model": self.model, "max_tokens": self.max_tokens}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _read(line: bytes) -> dict[str, Answer] | None:
    """The answer that a line holds, under its key; None for a damaged line."""
    try:
        found = json.loads(line)
        key, text = found["key"], found["text"]
        tokens = found["prompt_tokens"], found["completion_tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(key, str) and isinstance(text, str) and all(map(is_count, tokens))
    return {key: Answer(text, *tokens)} if whole else None


def _write(out: RawIOBase, line: bytes) -> None:
    while line:
        line = line[out.write(line) :]


def _wait_for_others(file: IO[bytes]) -> None:
    """Wait until no other process writes to the file, and lock it until it is closed."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
