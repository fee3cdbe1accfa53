"""Headers: what safetensors writes is read, what it writes wrong is refused by name."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from solar_repro.checkpoint.headers import build_header, element_count, read_header
from solar_repro.errors import UserError
from tests.tiny_decoders import raw_file

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
DATA = bytes(range(24))


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5, dtype=torch.bfloat16),
        "a": torch.arange(7),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "f8": torch.ones(4).to(torch.float8_e4m3fn),
        "mask": torch.tensor([True, False]),
    }
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    header = read_header(file)
    assert set(header) == set(tensors)
    content = file.read_bytes()
    for name, tensor in tensors.items():
        found = header[name]
        assert found.shape == tuple(tensor.shape)
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        assert content[found.offset : found.offset + found.length] == raw


def test_a_built_header_is_read_by_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for place in (None, 0, 8, 4088):
        header = build_header({"ä": ("U8", (2, 3), 6), "b": ("BF16", (2,), 4)}, place)
        file.write_bytes(header + bytes(range(10)))
        assert len(header) % 8 == 0
        assert place is None or len(header) % 4096 == place
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert opened.get_tensor("ä").flatten().tolist() == list(range(6))


def with_entry(**changes: Any) -> bytes:
    return raw_file({"w": {**ENTRY, **changes}}, DATA)


DAMAGED = {
    "empty file": b"",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": raw_file(b"{nonsense"),
    "a list": raw_file(b"[]"),
    "space before the header": raw_file(b' {"w": 1}', DATA),
    "invalid UTF-8": raw_file(b'{"\xff": 1}'),
    "lone surrogate": raw_file(b'{"\\ud800": ' + json.dumps(ENTRY).encode() + b"}", DATA),
    "nested too deeply": raw_file(b'{"w":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a number of 5,000 digits": raw_file(b'{"w":' + b"1" * 5000 + b"}"),
    "duplicate name": raw_file(b'{"w": %b, "w": %b}' % ((json.dumps(ENTRY).encode(),) * 2), DATA),
    "metadata that is no text": raw_file({"__metadata__": {"format": 1}, "w": ENTRY}, DATA),
    "no entry": raw_file({"w": None}, DATA),
    "missing key": raw_file({"w": {"dtype": "F32", "shape": [6]}}, DATA),
    "unknown key": with_entry(strides=[1]),
    "unknown dtype": with_entry(dtype="F33"),
    "dtype is a list": with_entry(dtype=["F32"]),
    "negative size": with_entry(shape=[-2, -3]),
    "size is true": with_entry(shape=[True, 6]),
    "size is 6.0": with_entry(shape=[6.0]),
    "huge shape": with_entry(shape=[2**62, 2**62, 2**62, 2**62, 0]),
    "product of 2**64 sizes wraps to zero": with_entry(shape=[2**32, 2**32], data_offsets=[0, 0]),
    "negative offsets": with_entry(data_offsets=[-24, 0]),
    "reversed offsets": with_entry(data_offsets=[24, 0]),
    "three offsets": with_entry(data_offsets=[0, 24, 24]),
    "beyond the file": with_entry(shape=[2, 4], data_offsets=[0, 32]),
    "wrong byte count": with_entry(shape=[2, 2]),
    "bytes left over": raw_file({"w": ENTRY}, DATA + b"x"),
    "bytes missing": raw_file({"w": ENTRY}, DATA[:-1]),
    "overlap": raw_file({"v": ENTRY, "w": ENTRY}, DATA),
    "hole": raw_file({"v": ENTRY, "w": {**ENTRY, "data_offsets": [28, 52]}}, bytes(52)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors: damaged") as refused:
        read_header(file)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")


def test_elements() -> None:
    assert element_count(()) == 1
    assert element_count((3, 0, 2)) == 0
    with pytest.raises(ValueError, match="huge"):
        element_count((2**40, 2**40))
