"""The base model (Sec. 2): a checkpoint folder, a hub id, or the embedded world's own."""

import json
import sys
from pathlib import Path

from solar_repro.checkpoint.config import without_code
from solar_repro.checkpoint.copying import CopyRange, copy_chunks, split
from solar_repro.checkpoint.folder import carry_files, open_checkpoint
from solar_repro.checkpoint.model_source import model_folder, refuse_changed_model
from solar_repro.contract import BaseModelInputs, BaseModelSettings, Digests
from solar_repro.microworld.trained_base import copy_trained_base
from solar_repro.safety.json_files import read_json
from solar_repro.safety.paths import require_space
from solar_repro.safety.regular_files import copy_file
from solar_repro.store.hashing import FollowingHasher
from solar_repro.store.model_files import INDEX_FILE
from solar_repro.store.result import Log
from solar_repro.store.resume import ResumeFolder
from solar_repro.terminal.progress import Progress

CONFIG = "config.json"


def run(
    out: Path,
    log: Log,
    settings: BaseModelSettings,
    inputs: BaseModelInputs,
    resume: ResumeFolder | None = None,
) -> Digests:
    """Write the base to `out`: trained on the world's mirror, the one that ships with the package, or a copy.

    What was copied must be what `inputs.digest` was made of. Returns the SHA-256 of copied files by name.
    """
    digests: Digests = {}
    if settings.trained is not None:
        copy_trained_base(out, inputs.mirror)
    elif settings.base is not None:
        from solar_repro.microworld.base_training import train_base

        train_base(inputs.mirror, out, settings.base, log, resume)
    else:
        source = model_folder(inputs.model)
        digests = _copy(source, out)
        if inputs.digest:
            refuse_changed_model(source, inputs.digest, "base.model", digests)
        digests = {name: found for name, found in digests.items() if name != CONFIG}
    written = open_checkpoint(out)
    log({"parameters": written.parameters, "layers": written.layers})
    return digests


def _copy(source: Path, out: Path) -> dict[str, str]:
    """Copy a checkpoint after its headers were checked; Mistral becomes the Llama 2 architecture (Sec. 2).

    Returns the SHA-256 of what was read of each file, by name.
    """
    checkpoint = open_checkpoint(source)
    layers = checkpoint.layers  # refuses what is no decoder before anything is copied
    shards = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    sizes = {out / shard.name: shard.stat().st_size for shard in shards}
    require_space(out, sum(sizes.values()))
    copied = {
        name: copy_file(source / name, out / name)
        for name in (CONFIG, INDEX_FILE)
        if (source / name).is_file()
    }
    copied |= carry_files(source, out)
    given = read_json(out / CONFIG, constants=True)  # the copy, which nobody changes meanwhile
    config = as_llama(without_code(given))
    if (window := given.get("sliding_window")) and "sliding_window" not in config:
        print(
            f"base: {layers} layers of Mistral are used as Llama's, without their sliding window of {window} "
            "tokens (the paper's Sec. 2); on longer texts the results differ",
            file=sys.stderr,
        )
    (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    whole = [CopyRange(shard, 0, out / shard.name, 0, sizes[out / shard.name]) for shard in shards]
    with FollowingHasher(sizes) as hasher, Progress("copying", sum(sizes.values()), "B") as progress:

        def done(chunk: CopyRange) -> None:
            progress.advance(chunk.length)
            hasher.written(chunk.target, chunk.target_offset, chunk.length)

        for target in sizes:
            target.touch()
        copy_chunks([chunk for one in whole for chunk in split(one)], done)
        return copied | hasher.digests()


def as_llama(config: dict) -> dict:
    """A Mistral config as Llama's, without the sliding window, as the released SOLAR has it."""
    if config.get("model_type") != "mistral":
        return config
    dropped = {name: value for name, value in config.items() if name != "sliding_window"}
    return {**dropped, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
