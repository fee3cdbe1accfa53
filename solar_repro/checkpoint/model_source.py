"""Models from outside the plan, given as a folder or hub id: where they are, and digests of their content."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.errors import UserError
from solar_repro.safety.paths import expand_home
from solar_repro.store.fingerprint import fingerprint_of, folder_digests, folder_fingerprint
from solar_repro.store.hub import REVISION, hub_commit, hub_snapshot
from solar_repro.store.manifest import refuse_damaged
from solar_repro.store.model_files import CARRIED_FILES, CHAT_TEMPLATES

DOWNLOAD_PATTERNS = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    *CARRIED_FILES,
    CHAT_TEMPLATES,
]
"""Patterns of the files that are downloaded from the hub: neither pickles nor code."""


def locate_model(model: str, mirror: Path | None) -> Path | str:
    """Return a model's folder: `model` itself, else `<org>/<name>` in the mirror, else the hub id as it is.

    Raises UserError for a folder without config.json.
    """
    places = [Path(expand_home(str(model))), *([mirror / model] if mirror else [])]
    for place in places:
        if (place / "config.json").is_file():
            return place.resolve()
    if places[0].is_dir():
        raise UserError(f"model {model}: has no config.json; give the folder of a Hugging Face checkpoint")
    return model


def fingerprint_model(model: Path | str, setting: str) -> str:
    """Return the digest of a model folder's content (`sha256:…`), or the commit of a hub id (`revision:…`).

    Headers are checked before everything is read. Raises UserError if there is no such model, if its manifest
    does not match, or if a file is damaged; `setting` names the model in the message.
    """
    if (folder := Path(expand_home(str(model)))).is_dir():
        open_checkpoint(folder)
        digests = folder_digests(folder)
        refuse_damaged(folder, digests)
        return fingerprint_of(digests)
    return f"{REVISION}{hub_commit(str(model), 'model', _not_found(str(model), setting))}"


def model_folder(model: Path | str, digest: str = "") -> Path:
    """Return the folder itself, or the snapshot of a hub id in the Hugging Face cache (safetensors only).

    A `digest` from `fingerprint_model` selects the commit that it names. Raises UserError if it is not found.
    """
    if (folder := Path(expand_home(str(model)))).is_dir():
        return folder
    commit = digest.removeprefix(REVISION) if digest.startswith(REVISION) else None
    return hub_snapshot(str(model), "model", _not_found(str(model), "model"), commit, DOWNLOAD_PATTERNS)


def models_by_role(places: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step's places name, by role; the list `models` becomes `model_1`, `model_2`, …"""
    listed = {f"model_{number}": model for number, model in enumerate(places.get("models", ()), start=1)}
    return {**places, **listed}


def with_model_folders(places: Mapping[str, Any], found: Mapping[str, Path]) -> dict[str, Any]:
    """Return the places with the folders found for the roles of `models_by_role`."""
    changed = {role: found.get(role, place) for role, place in places.items()}
    if "models" in places:
        changed["models"] = [found[f"model_{number + 1}"] for number in range(len(places["models"]))]
    return changed


def refuse_changed_model(
    folder: Path, digest: str, role: str, copied: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Raise UserError if a model folder no longer matches its digest.

    `copied` gives the SHA-256 of files that were hashed while they were copied, by name; the others are
    checked again. Files of a hub id are identified by their commit and are not checked.
    """
    if not digest.startswith(REVISION) and folder_fingerprint(folder, copied=copied) != digest:
        raise UserError(
            f"{role}: {folder} was changed while it was used; run the same command again, when nobody "
            "writes to it"
        )


def _not_found(model: str, setting: str) -> Callable[[str], str]:
    return lambda reason: (
        f"{setting}: {model} is not a folder, and it could not be fetched from the hub ({reason}); "
        f"set {setting} to a folder with config.json and safetensors"
    )
