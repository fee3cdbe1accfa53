"""Where a model comes from: a folder, or the hub."""

from pathlib import Path

from solar_repro.checkpoint.folder import CARRIED_FILES
from solar_repro.data.fingerprint import folder_fingerprint
from solar_repro.errors import UserError

WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", *CARRIED_FILES]
"""Files taken from the hub. Never pickles, never code."""


def fingerprint_model(model: str, setting: str) -> str:
    """Digest of a model folder's content, or the commit of a hub id; neither there: UserError naming the
    setting it comes from."""
    if Path(model).is_dir():
        return folder_fingerprint(Path(model))
    from huggingface_hub import HfApi

    try:
        return f"revision:{HfApi().model_info(model).sha}"
    except Exception as error:  # the hub's client raises OSError, ValueError or its HTTP library's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{setting}: {model} is no folder, and the hub did not give it ({reason}); "
            f"set -P {setting}=DIR to a folder with config.json and safetensors"
        ) from None


def model_folder(model: str) -> Path:
    """The folder itself, or the hub's files in the Hugging Face cache."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=WANTED))
