"""Table 2 from the released checkpoints: which rows this device can score, and what each takes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.model_source import locate_model
from solar_repro.errors import UserError, nearest
from solar_repro.paper.variants import RELEASED, Released

ROOM_FOR_ACTIVATIONS = 2 * 1024**3
BYTES = 2
"""Of a number, in the half precisions that all rows are released in."""


@dataclass(frozen=True)
class Candidate:
    """A row of Table 2: where its checkpoint is, the device memory it takes, and why it is refused, if so."""

    released: Released
    place: Path | str
    memory: int
    refusal: str

    @property
    def download(self) -> int:
        """Bytes to fetch from the hub (less, where some are in its cache); none for a folder."""
        return 0 if isinstance(self.place, Path) else BYTES * self.released.parameters


def memory_needed(released: Released, batch_tokens: int) -> int:
    """Bytes to score a checkpoint: weights, cached keys and values, room for activations and logits."""
    from solar_repro.shared_prefix.shared_forward import CACHE_BUDGETS

    # The prefixes of a batch, and the caches of the rows that continue them.
    positions = (1 + CACHE_BUDGETS) * batch_tokens
    cached = positions * 2 * released.layers * released.key_value_size
    return BYTES * (released.parameters + cached) + ROOM_FOR_ACTIVATIONS


def device_memory() -> int:
    """Bytes of the first GPU, or of the machine where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def candidates(rows: str | None, mirror: Path | None, batch_tokens: int, memory: int) -> list[Candidate]:
    """The rows of Table 2, or those named (separated by commas), judged for a device of so many bytes.

    Where `mirror` holds a row's checkpoint (`<org>/<name>/`), that folder is scored in place of the hub's.
    Unknown row: UserError with the nearest.
    """
    known = {released.row.lower(): released for released in RELEASED}
    chosen = []
    for name in rows.split(",") if rows else list(known):
        if not (released := known.get(name.strip().lower())):
            names = nearest(name.strip().lower(), known) or list(known)
            rows = ", ".join(known[found].row for found in names)
            raise UserError(f"rows: {name.strip()!r} is not a row of Table 2; use {rows}")
        chosen.append(_judge(released, locate_model(released.hub_id, mirror), batch_tokens, memory))
    return chosen


def _judge(released: Released, place: Path | str, batch_tokens: int, memory: int) -> Candidate:
    if isinstance(place, Path):
        released = _as_it_is(released, place)
    needed = memory_needed(released, batch_tokens)
    refusal = ""
    if released.remote_code and not isinstance(place, Path):
        refusal = "its repository's own code is needed to load it, which is never run here"
    elif needed > memory:
        refusal = f"needs {gigabytes(needed)} of memory, the device has {gigabytes(memory)}"
    return Candidate(released, place, needed, refusal)


def _as_it_is(released: Released, folder: Path) -> Released:
    """The row with the sizes of the checkpoint that lies in the folder."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    try:
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: {error} is missing; save the checkpoint again") from None
    key_value_size = (config.get("num_key_value_heads") or heads) * size
    return replace(
        released, parameters=checkpoint.parameters, layers=checkpoint.layers, key_value_size=key_value_size
    )


def accepted(found: Sequence[Candidate], named: bool) -> list[Candidate]:
    """Those that can be scored; UserError where none can, or where rows were `named` and one cannot."""
    refused = [candidate for candidate in found if candidate.refusal]
    if refused and (named or len(refused) == len(found)):
        first = refused[0]
        raise UserError(f"row {first.released.row!r}: {first.refusal}; choose other rows with -P rows=")
    return [candidate for candidate in found if not candidate.refusal]


def describe(found: Sequence[Candidate], memory: int) -> str:
    """The dry run: a line for each row, what would be downloaded, and what stands against it."""
    lines = [f"{'row':<28} {'checkpoint':<38} {'dtype':<9} {'download':>10} {'memory':>10}"]
    for candidate in found:
        released = candidate.released
        lines.append(
            f"{released.row:<28} {candidate.place!s:<38} {released.dtype:<9} "
            f"{gigabytes(candidate.download):>10} {gigabytes(candidate.memory):>10}"
            f"{'  refused: ' + candidate.refusal if candidate.refusal else ''}"
        )
    download = sum(candidate.download for candidate in found if not candidate.refusal)
    lines.append(f"the device has {gigabytes(memory)}; to download: at most {gigabytes(download)}")
    return "\n".join(lines)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
