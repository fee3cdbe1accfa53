"""What a result rests on: the libraries' versions, and the state of this code."""

import functools
import subprocess
from pathlib import Path


def versions() -> dict[str, str]:
    """Versions of the libraries that a result rests on."""
    from importlib.metadata import version

    names = ("mlflow", "torch", "transformers", "trl", "datasets", "lm_eval", "safetensors")
    return {name: version(name) for name in names}


@functools.cache
def code_version() -> str:
    """Commit of the checkout (`-dirty` where files differ from it), else the package's version."""
    from importlib.metadata import version

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version("solar-repro")
    return done.stdout.strip()
