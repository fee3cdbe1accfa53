"""Tries tokenizers and chat templates of others in a process with limited time and memory.

What never ends, fills the memory or aborts does so there. The process imports only what it tries.
"""

import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from solar_repro.errors import UserError
from solar_repro.safety.redact import one_line

CPU_SECONDS = 30
"""CPU seconds allowed. The largest tokenizers load within two, and a template renders at once."""
_MEMORY = 6 << 30
_RUNS = 2000
_LIMITS = """
import resource, sys
for limit, most in (("CPU", {seconds}), ("DATA", {memory}), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most))
"""
_TOKENIZER = f"""
from tokenizers import Tokenizer
try:
    tokenizer = Tokenizer.from_file(sys.argv[1])
    for character in "a \\n0.é":
        tokenizer.encode(character * {_RUNS} + "!")
except Exception:
    pass  # loading it later explains what is wrong
"""
_TEMPLATE = """
import json
from transformers.utils.chat_template_utils import render_jinja_template
asked = json.load(sys.stdin)
try:
    rendered, _ = render_jinja_template(
        conversations=asked["conversations"], chat_template=asked["template"], add_generation_prompt=True,
        **asked["tokens"],
    )
    if sum(map(len, rendered)) > 1 << 27:
        raise MemoryError
except Exception as error:
    sys.exit(type(error).__name__ + ": " + " ".join(str(error).split()))
json.dump(rendered, sys.stdout)
"""


def try_tokenizer(folder: Path) -> None:
    """Raise UserError if a folder's tokenizer does not finish short texts within the limits."""
    file = folder / "tokenizer.json"
    if file.is_file():
        _try_once(hashlib.sha256(file.read_bytes()).hexdigest(), file)


@functools.cache
def _try_once(_content: str, file: Path) -> None:
    done = _run(_TOKENIZER, str(file), CPU_SECONDS)
    if done.returncode:
        raise UserError(
            f"{file}: {_end(done, CPU_SECONDS)} when it is tried on short texts; take the model's own "
            "tokenizer"
        )


def render_chat_template(
    template: str, tokens: dict[str, str], conversations: list[list[dict[str, str]]], named: str
) -> list[str]:
    """Render each conversation with a chat template; `named` says in errors where the template comes from.

    Raises UserError if the template is malformed or exceeds the limits.
    """
    asked = {"template": template, "tokens": tokens, "conversations": conversations}
    seconds = CPU_SECONDS + len(conversations) // 100
    done = _run(_TEMPLATE, "", seconds, json.dumps(asked))
    if done.returncode:
        raise UserError(
            f"{named}: its chat template cannot be rendered ({_end(done, seconds)}); take another model or "
            "correct the template"
        )
    return json.loads(done.stdout)


def _run(script: str, argument: str, seconds: int, given: str = "") -> "subprocess.CompletedProcess[str]":
    limits = _LIMITS.format(seconds=seconds, memory=_MEMORY)
    command = [sys.executable, "-P", "-c", limits + script, argument]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def _end(done: "subprocess.CompletedProcess[Any]", seconds: int) -> str:
    """Return in words how a process ended."""
    if done.returncode in (-9, -24):  # SIGKILL, SIGXCPU
        return f"it takes more than {seconds} seconds"
    last_line = one_line(done.stderr.strip().rpartition("\n")[2])[:200]
    if "MemoryError" in last_line or "memory allocation" in last_line:
        return f"it takes more than {_MEMORY >> 30} GiB of memory"
    return last_line or "it aborts"
