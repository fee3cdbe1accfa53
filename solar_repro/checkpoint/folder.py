"""Opens a Hugging Face checkpoint folder: config, index and headers of the shards, but no tensor."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from solar_repro.checkpoint.headers import TensorRange, element_count, read_header
from solar_repro.checkpoint.tensor_names import LayerNames, find_layers, head_name
from solar_repro.errors import UserError
from solar_repro.safety.config_bounds import refuse_absurd_config
from solar_repro.safety.json_files import read_json
from solar_repro.safety.regular_files import copy_file, is_plain_file_name, refuse_foreign_links
from solar_repro.store.model_files import CARRIED_FILES, CHAT_TEMPLATES, INDEX_FILE, SINGLE_FILE

# Trainers leave these files beside the weights.
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with consistent headers: the bytes of every tensor are known to lie in its file."""

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, TensorRange]

    @cached_property
    def names(self) -> LayerNames:
        """How the layers are numbered: their prefix, their count, and the config keys of the count."""
        return find_layers(self.folder, self.config, self.tensors)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return self.names.count

    @property
    def bytes(self) -> int:
        """Size of all tensors as stored, in bytes."""
        return sum(tensor.length for tensor in self.tensors.values())

    @cached_property
    def parameters(self) -> int:
        """Number of parameters (elements of floating-point tensors); tied weights count once."""
        tied_head = head_name(self.tensors) if self.config.get("tie_word_embeddings") is True else None
        return sum(
            element_count(tensor.shape)
            for name, tensor in self.tensors.items()
            if tensor.dtype.startswith(("F", "BF")) and name != tied_head
        )


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder: config.json and safetensors, one file or shards with an index.

    Headers, index and file names are checked before they are used. Raises UserError naming the file that is
    wrong; for pickled weights it gives the command that converts them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a Hugging Face checkpoint")
    if os.path.lexists(folder / "config.json"):  # otherwise it is no checkpoint and may be a whole disk
        refuse_foreign_links(folder)
    config = read_json(folder / "config.json", constants=True)
    refuse_absurd_config(folder / "config.json", config)
    if (folder / SINGLE_FILE).exists():
        return Checkpoint(folder, config, read_header(folder / SINGLE_FILE))
    if (folder / INDEX_FILE).exists():
        return Checkpoint(folder, config, _read_shards(folder))
    files = sorted(file.name for file in folder.iterdir())
    if shards := [name for name in files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]:
        raise UserError(
            f"{folder}: holds {shards[0]} but no {INDEX_FILE}, which says which tensor is in which shard; "
            "download that file too, or save the model again"
        )
    if "adapter_config.json" in files:
        raise UserError(
            f"{folder}: is an adapter (adapter_config.json), not a whole model; merge it into its base with "
            "peft's merge_and_unload and give the result"
        )
    pickles = [
        name for name in files if name.endswith((".bin", ".pt", ".pth")) and not _STATE.fullmatch(name)
    ]
    if pickles:
        source, target = str(folder), f"{folder}-safetensors"
        script = (
            "from transformers import AutoModelForCausalLM as M; "
            f"M.from_pretrained({source!r}, dtype='auto').save_pretrained({target!r})"
        )
        raise UserError(
            f"{folder}: {pickles[0]} is a pickle, which can run code when loaded; "
            f"if you trust it, convert it: python -c {shlex.quote(script)}"
        )
    raise UserError(
        f"{folder}: contains neither {SINGLE_FILE} nor {INDEX_FILE}; give the folder of a safetensors "
        "checkpoint"
    )


def carry_files(source: Path, out: Path) -> dict[str, str]:
    """Copy what a checkpoint needs besides weights and config: generation config, tokenizer, templates.

    Returns the SHA-256 of each file by its name. Raises UserError for anything but regular files of the
    folder.
    """
    files = [*(source / name for name in CARRIED_FILES), *sorted(source.glob(CHAT_TEMPLATES))]
    digests = {}
    for file in filter(Path.is_file, files):
        target = out / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        digests[file.relative_to(source).as_posix()] = copy_file(file, target, source)
    return digests


def _read_shards(folder: Path) -> dict[str, TensorRange]:
    index_file = folder / INDEX_FILE
    weight_map = read_json(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"{index_file}: 'weight_map' must map tensor names to shards; download or save it again"
        )
    by_shard: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not is_plain_file_name(shard) or not shard.endswith(".safetensors"):
            raise UserError(
                f"{index_file}: tensor {name!r} lies in {shard!r}, which is not the name of a safetensors "
                "file in this folder"
            )
        by_shard.setdefault(shard, set()).add(name)
    tensors: dict[str, TensorRange] = {}
    for shard, claimed in sorted(by_shard.items()):
        if not (folder / shard).is_file():
            raise UserError(f"{folder / shard}: missing, though {INDEX_FILE} names it; download the shard")
        header = read_header(folder / shard)
        for name in sorted(claimed ^ set(header)):
            where = "only in the index" if name in claimed else "only in the shard"
            raise UserError(
                f"{folder / shard}: does not agree with {INDEX_FILE}: tensor {name!r} is {where}; save it "
                "again"
            )
        tensors.update(header)
    return tensors
