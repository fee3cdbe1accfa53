"""What made a result, kept inside it: settings, keys of the inputs, data fingerprints, versions."""

import functools
import json
import subprocess
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.checkpoint.folder import read_json
from solar_repro.checkpoint.manifest import ManifestError, read_result_json, verify_manifest
from solar_repro.code_digest import LIBRARIES, OPTIONAL, version
from solar_repro.device import machine
from solar_repro.errors import UserError

if TYPE_CHECKING:
    from solar_repro.step import Step

FILE = Path("solar", "provenance.json")


def write_provenance(work: Path, step: "Step", run_id: str) -> None:
    """Write what makes this step's result, and its run, into its working folder."""
    from solar_repro.step import plain

    content = {
        "run": run_id,
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
    try:
        found = read_json(folder / FILE).get("run")
    except UserError:
        return None
    return found if isinstance(found, str) else None


def verify_result(folder: Path, step: "Step") -> None:
    """Check that a folder is whole and that it is this step's result.

    ManifestError says what is damaged; a plain UserError that it cannot be told now.
    """
    verify_manifest(folder)
    found = read_result_json(folder / FILE).get("key")
    if found != step.key:
        raise ManifestError(
            f"{folder / FILE}: was made with key {str(found)[:8]!r}, but {step.key[:8]} is asked for; "
            "make or download the folder again"
        )


def versions() -> dict[str, str]:
    """Versions of the libraries that results rest on, as far as they are installed."""
    names = {"mlflow", *chain.from_iterable(LIBRARIES.values()), *OPTIONAL}
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
