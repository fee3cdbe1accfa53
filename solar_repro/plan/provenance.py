"""What made a result, kept inside it: settings, keys of the inputs, data fingerprints, versions."""

import functools
import getpass
import hashlib
import json
import os
import socket
import subprocess
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.device import machine
from solar_repro.errors import UserError
from solar_repro.safety.json_files import read_json
from solar_repro.safety.redact import one_line
from solar_repro.stages.table import STAGES
from solar_repro.store.fingerprint import remembered_digests
from solar_repro.store.hashing import sha256_all
from solar_repro.store.manifest import ManifestError, read_manifest, read_result_json, verify_manifest
from solar_repro.store.result import NOTES
from solar_repro.store.versions import version

if TYPE_CHECKING:
    from solar_repro.plan.step import Step

FILE = Path(NOTES, "provenance.json")
OPTIONAL = ("peft", "bitsandbytes")
"""Distributions that decide results where settings ask for them (`Section.libraries`), and may be missing."""


def write_provenance(work: Path, step: "Step", run_id: str) -> None:
    """Write what makes this step's result, and its run, into its working folder."""
    from solar_repro.scales.section import plain

    content = {
        "run": run_id,
        "made_by": this_maker(),
        "stage": step.stage,
        "variant": step.variant,
        "key": step.key,
        "settings": plain(step.settings),
        "inputs": {role: [parent.label, parent.key] for role, parent in step.inputs.items()},
        "data": dict(step.data),
        "versions": {**versions(), "code": code_version()},
        "machine": machine(),
    }
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    (work / FILE).write_text(text + "\n", encoding="utf-8")


def made_in(folder: Path) -> str | None:
    """Id of the run that has made a result; None where the result does not say."""
    found = _said(folder).get("run")
    return found if isinstance(found, str) else None


def this_maker() -> dict[str, str]:
    """Who makes results in this process: `user` and `host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname()}


def maker(folder: Path) -> dict[str, str] | None:
    """Who has made a result: `user` and `host`; None where the result does not say."""
    found = _said(folder).get("made_by")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), str) for part in ("user", "host")):
        return None
    return {part: one_line(found[part])[:100] for part in ("user", "host")}


def _said(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / FILE)
    except UserError:
        return {}


def verify_result(folder: Path, step: "Step", remembered: bool = False) -> None:
    """Check that a folder is whole and that it is this step's result.

    With `remembered`, files that have not changed since they were last read are not read again.
    ManifestError says what is damaged; a plain UserError means that the folder cannot be read now.
    """
    verify_manifest(folder, remembered_digests if remembered else sha256_all)
    verify_key(folder, step.key)


def verify_key(folder: Path, key: str) -> None:
    """Check that a result was made with this key; ManifestError where it was not."""
    found = recorded_key(folder)
    if found != key:
        raise ManifestError(
            f"{folder / FILE}: was made with key {one_line(str(found))[:8]!r}, but {key[:8]} is asked for; "
            "make or download the folder again"
        )


def recorded_key(folder: Path) -> Any:
    """The key that a result says it was made with."""
    return read_result_json(folder / FILE).get("key")


def result_digest(folder: Path) -> str:
    """sha256 over the names and digests of a result's files, as its manifest has them.

    Notes are left out, because they describe the run. Raises ManifestError where there is no manifest.
    """
    entries = read_manifest(folder).items()
    files = sorted((name, digest) for name, (_, digest) in entries if not name.startswith(f"{NOTES}/"))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that results rest on, as far as they are installed."""
    names = {"mlflow", *OPTIONAL, *chain.from_iterable(stage.libraries for stage in STAGES.values())}
    return {name: number for name in sorted(names) if (number := version(name))}


@functools.cache
def code_version() -> str:
    """Commit of the checkout (`-dirty` where files differ from it), else the package's version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version("solar-repro") or "unknown"
    return done.stdout.strip()
