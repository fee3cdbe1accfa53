"""What the reference of DPO says of preference pairs: a file of log-probabilities, and the pairs' digest."""

import hashlib
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from solar_repro.errors import UserError

FILE = "reference.safetensors"
COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""TRL's names of them, in nats, summed over an answer."""
_ROWS_AT_ONCE = 10_000


def write_reference(out: Path, pairs: Dataset, log_probs: np.ndarray) -> None:
    """Write the log-probabilities [pairs, 2] (float32) of the chosen and the rejected answers."""
    tensors = {name: np.ascontiguousarray(log_probs[:, column]) for column, name in enumerate(COLUMNS)}
    save_file(tensors, out / FILE, {"pairs": pairs_digest(pairs)})


def with_reference(pairs: Dataset, folder: Path) -> Dataset:
    """Return the pairs with the columns of a written reference; UserError if it is of other pairs."""
    file = folder / FILE
    try:
        with safe_open(file, "numpy") as content:
            digest = (content.metadata() or {}).get("pairs")
            columns = {name: content.get_tensor(name) for name in COLUMNS}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read as the reference of DPO ({error}); make it again") from None
    if digest != pairs_digest(pairs):
        raise UserError(
            f"{file}: is of other pairs than those that were read here; clear the cache of data sets "
            "(HF_DATASETS_CACHE) on the machine that has old ones"
        )
    for name, values in columns.items():
        pairs = pairs.add_column(name, values)
    return pairs


def pairs_digest(pairs: Dataset) -> str:
    """SHA-256 over the token ids of all pairs, in their order."""
    found = hashlib.sha256()
    for table in pairs.with_format("arrow").iter(_ROWS_AT_ONCE):
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            lists = table[name].combine_chunks()
            found.update(lists.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            found.update(lists.flatten().to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()
