"""A checkpoint made elsewhere, named by a folder or a hub id: where it lies, and what names its content."""

from pathlib import Path

from solar_repro.checkpoint.folder import CARRIED_FILES, CHAT_TEMPLATES
from solar_repro.data.fingerprint import folder_fingerprint
from solar_repro.errors import UserError

WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", *CARRIED_FILES, CHAT_TEMPLATES]
"""Files taken from the hub. Never pickles, never code."""


def locate_model(model: str, mirror: Path | None) -> Path | str:
    """The folder itself, the folder `<org>/<name>` of the mirror, or else the hub id as it is.

    UserError for a folder without config.json.
    """
    places = [Path(model).expanduser(), *([mirror / model] if mirror else [])]
    for place in places:
        if (place / "config.json").is_file():
            return place.resolve()
    if places[0].is_dir():
        raise UserError(f"model {model}: has no config.json; give the folder of a Hugging Face checkpoint")
    return model


def fingerprint_model(model: Path | str, setting: str) -> str:
    """Digest of a model folder's content, or the commit of a hub id; neither there: UserError.

    `setting` is what names the model, for the message.
    """
    if (folder := Path(model).expanduser()).is_dir():
        return folder_fingerprint(folder)
    from huggingface_hub import HfApi

    try:
        return f"revision:{HfApi().model_info(str(model)).sha}"
    except Exception as error:  # the hub's client raises OSError, ValueError or its HTTP library's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{setting}: {model} is no folder, and the hub did not give it ({reason}); "
            f"set {setting} to a folder with config.json and safetensors"
        ) from None


def model_folder(model: str) -> Path:
    """The folder itself, or the hub's files in the Hugging Face cache (safetensors only)."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=WANTED))
