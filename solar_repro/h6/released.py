"""Table 2 from the released checkpoints: which of its rows this device can score, and what each one takes.

torch is imported where it is used, so that a mistyped row is refused at once.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.model_source import locate_model
from solar_repro.errors import UserError, nearest
from solar_repro.paper.variants import RELEASED, Released

ROOM_FOR_ACTIVATIONS = 2 * 1024**3
"""Bytes for activations and logits of a forward pass."""
PARAMETER_BYTES = 2
"""Bytes of a number in the half precisions that all rows are released in."""


@dataclass(frozen=True)
class Candidate:
    """A row of Table 2 that may be scored."""

    released: Released
    place: Path | str
    """The checkpoint's folder, or its hub id."""
    memory: int
    """Bytes of device memory that scoring takes."""
    refusal: str
    """Why the row cannot be scored; "" where it can."""

    @property
    def download(self) -> int:
        """Bytes to fetch from the hub, unless its cache has some of them; 0 for a folder."""
        return 0 if isinstance(self.place, Path) else PARAMETER_BYTES * self.released.parameters


def memory_needed(released: Released, batch_tokens: int) -> int:
    """Bytes of memory to score a checkpoint: weights, cached keys and values, activations and logits."""
    from solar_repro.shared_prefix.shared_forward import CACHE_BUDGETS

    # A batch's prefixes are cached, and so are the rows that continue them.
    positions = (1 + CACHE_BUDGETS) * batch_tokens
    cached = positions * 2 * released.layers * released.key_value_size
    return PARAMETER_BYTES * (released.parameters + cached) + ROOM_FOR_ACTIVATIONS


def device_memory() -> int:
    """Bytes of memory of the first GPU, or of the machine if it has no GPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def candidates(rows: str | None, mirror: Path | None, batch_tokens: int, memory: int) -> list[Candidate]:
    """Judge rows of Table 2, named and separated by commas, or all (None), for `memory` bytes of a device.

    If the mirror holds a row's checkpoint (`<org>/<name>/`), that folder is scored in the place of the hub's.
    Raises UserError, with the nearest name, for an unknown row.
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
    """The row with the sizes of the checkpoint in a folder, which may differ from the released one."""
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
    """The candidates that can be scored; UserError if none can, or if rows were `named` and one cannot."""
    refused = [candidate for candidate in found if candidate.refusal]
    if refused and (named or len(refused) == len(found)):
        first = refused[0]
        raise UserError(f"row {first.released.row!r}: {first.refusal}; choose other rows with -P rows=")
    return [candidate for candidate in found if not candidate.refusal]


def describe(found: Sequence[Candidate], memory: int) -> str:
    """What a dry run prints: a line per row, with what it would download and why it is refused, if it is."""
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
    """A number of bytes as `21.5 GB`."""
    return f"{size / 1e9:,.1f} GB"
