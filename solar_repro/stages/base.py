"""The base model (Sec. 2): a checkpoint folder, a hub id, or the embedded world's own."""

import json
import shutil
from pathlib import Path

from solar_repro.checkpoint.folder import CARRIED_FILES, open_checkpoint
from solar_repro.data.fingerprint import folder_fingerprint
from solar_repro.errors import UserError
from solar_repro.microworld.settings import BaseTraining
from solar_repro.microworld.trained_base import copy_trained_base
from solar_repro.stages import Log
from solar_repro.stages.checkpoints import load

WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", *CARRIED_FILES]
"""Files taken from the hub. Never pickles, never code."""


def fingerprint_model(model: str) -> str:
    """Digest of a model folder's content, or the commit of a hub id; neither there: UserError."""
    if Path(model).is_dir():
        return folder_fingerprint(Path(model))
    from huggingface_hub import HfApi

    try:
        return f"revision:{HfApi().model_info(model).sha}"
    except Exception as error:  # the hub's client raises OSError, ValueError or its HTTP library's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"base.model: {model} is no folder, and the hub did not give it ({reason}); "
            "set -P base.model=DIR to a folder with config.json and safetensors"
        ) from None


def run(
    out: Path,
    log: Log,
    *,
    base: BaseTraining | None = None,
    trained: str | None = None,
    model: str | None = None,
    mirror: Path | None = None,
) -> None:
    """Write the base to `out`: trained on the world's `mirror` as `base` says, else a copy of `model`.

    With `trained`, the digest of the base that ships with the package, that one is copied, which was trained
    as `base` says. A training's state is kept beside `out`, so that one killed goes on where it stopped.
    """
    if trained is not None:
        copy_trained_base(out, mirror)
    elif base is not None:
        from solar_repro.microworld.base import train_base

        train_base(mirror, out, base, log, work=out.parent)
    else:
        _copy(_folder(model), out)
    load(out)  # a tokenizer without BOS or EOS is refused here, not after an hour of training
    log({"parameters": open_checkpoint(out).parameters, "layers": open_checkpoint(out).layers})


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, allow_patterns=WANTED))


def _copy(source: Path, out: Path) -> None:
    """Copy a checkpoint after its headers were checked; Mistral becomes the Llama 2 architecture (Sec. 2)."""
    checkpoint = open_checkpoint(source)
    files = {tensor.file.name for tensor in checkpoint.tensors.values()}
    for name in (*sorted(files), "model.safetensors.index.json", *CARRIED_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    config = as_llama(checkpoint.config)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def as_llama(config: dict) -> dict:
    """A Mistral config as Llama's, without the sliding window, as the released SOLAR has it."""
    if config.get("model_type") != "mistral":
        return config
    dropped = {name: value for name, value in config.items() if name != "sliding_window"}
    return {**dropped, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
