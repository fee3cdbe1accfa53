"""Reads, checks and writes the header of a safetensors file, without loading a tensor.

Format (https://github.com/huggingface/safetensors#format): eight bytes little-endian header length, a JSON
object (tensor name → dtype, shape, data_offsets), then the tensors' bytes without holes.

`huggingface_hub.parse_local_safetensors_file_metadata` is not used: it accepts duplicate names and invalid
UTF-8, knows no file size, and would replace only the twelve lines that read the JSON.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from solar_repro.errors import UserError
from solar_repro.safety.json_files import strict_json
from solar_repro.safety.regular_files import open_regular

MAX_REASON_CHARACTERS = 500  # names and shapes in a hostile file may be as long as its header
MAX_HEADER_BYTES = 100_000_000  # this is the reference implementation's limit
DISK_BLOCK = 4096
DTYPE_BITS = {
    **dict.fromkeys(["F4"], 4),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 64),
}
FLOAT_DTYPES = frozenset(["F16", "BF16", "F32", "F64"])
_METADATA_KEY = "__metadata__"


@dataclass(frozen=True)
class TensorRange:
    """Where the bytes of one tensor are: `length` bytes from `offset`, counted from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def element_count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape.

    Raises ValueError if a size or the product needs over 63 bits.
    """
    count = 1
    for size in shape:
        count *= size
        if not 0 <= size < 2**63 or count >= 2**63:
            raise ValueError("huge or negative shape")
    return count


def read_header(file: Path) -> dict[str, TensorRange]:
    """Return where each tensor of a safetensors file is, in the order of the bytes.

    Everything that the header claims is checked against the file. Raises UserError, naming file and tensor,
    for whatever is wrong.
    """

    def refuse(reason: str) -> NoReturn:
        raise UserError(
            f"{file}: damaged safetensors file: {reason[:MAX_REASON_CHARACTERS]}; download or save it again"
        )

    try:
        with open(file, "rb", opener=open_regular) as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                refuse(f"{file_bytes} bytes are too few for a header")
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > MAX_HEADER_BYTES or 8 + header_bytes > file_bytes:
                refuse(f"a header of {header_bytes} bytes in a file of {file_bytes} bytes")
            raw = stream.read(header_bytes)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    if not raw.startswith(b"{"):
        refuse("the header does not begin with '{'")
    try:
        header = strict_json(raw)
        tensors = {
            name: _tensor_range(file, name, entry, 8 + header_bytes)
            for name, entry in header.items()
            if name != _METADATA_KEY
        }
        _check_metadata(header.get(_METADATA_KEY, {}))
    except ValueError as error:
        refuse(str(error))
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)))
    position = 8 + header_bytes
    for name, tensor in ordered.items():
        if tensor.offset != position:
            refuse(f"tensor {name!r} begins at byte {tensor.offset}, the one before it ends at {position}")
        position += tensor.length
    if position != file_bytes:
        refuse(f"its tensors end at byte {position}, the file at {file_bytes}")
    return ordered


def build_header(tensors: Mapping[str, tuple[str, Sequence[int], int]], place: int | None = None) -> bytes:
    """Return the first bytes of a safetensors file: the length and the header.

    `tensors` gives dtype, shape and byte length by name, in the order of the bytes. Spaces pad the header so
    that the tensors begin at a multiple of eight bytes, or with `place` at that offset within a disk block.
    """
    header: dict[str, Any] = {_METADATA_KEY: {"format": "pt"}}
    position = 0
    for name, (dtype, shape, length) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + length]}
        position += length
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (((place or 0) - len(raw) - 8) % (8 if place is None else DISK_BLOCK))
    return struct.pack("<Q", len(raw)) + raw


def _tensor_range(file: Path, name: str, entry: Any, data_start: int) -> TensorRange:
    _check_text(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"tensor {name!r} has an unknown dtype {dtype!r}")
    if not _are_counts(shape):
        raise ValueError(f"tensor {name!r} has an impossible shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has impossible offsets {offsets!r}")
    try:
        bits = element_count(shape) * DTYPE_BITS[dtype]
    except ValueError as error:
        raise ValueError(f"tensor {name!r} has an impossible shape: {error}") from error
    length = offsets[1] - offsets[0]
    if bits != 8 * length:
        raise ValueError(f"tensor {name!r} needs {bits / 8:g} bytes, its offsets give {length}")
    return TensorRange(file, dtype, tuple(shape), data_start + offsets[0], length)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA_KEY} must map text to text")
    for text in (*metadata, *metadata.values()):
        _check_text(text)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not valid Unicode") from error
