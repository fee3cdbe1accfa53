"""Mutated headers: never a crash, never a file accepted that safetensors refuses or reads otherwise.

`CHECKPOINT_FUZZ_CASES=100000 pytest tests/checkpoint/test_headers_fuzz.py` runs that many of each kind.
"""

import copy
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.headers import read_header
from solar_repro.errors import UserError

CASES = int(os.environ.get("CHECKPOINT_FUZZ_CASES", "150"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)

REAL = save(
    {
        "model.embed_tokens.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "model.layers.0.mlp.weight": torch.arange(4, dtype=torch.bfloat16),
        "model.layers.1.mlp.weight": torch.arange(4, 8, dtype=torch.bfloat16),
        "model.mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 2),
    },
    metadata={"format": "pt"},
)
HEADER_BYTES = struct.unpack("<Q", REAL[:8])[0]
HEADER = json.loads(REAL[8 : 8 + HEADER_BYTES])
DATA = REAL[8 + HEADER_BYTES :]
NAMES = sorted(HEADER)

numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**64 + 8, -(2**63)]),
    st.sampled_from([1.0, 0.5, 1e300, True, False, None, "4", [], {}]),
)
dtypes = st.sampled_from(
    ["F32", "BF16", "BOOL", "U8", "F4", "F6_E2M3", "F8_E4M3", "F8_E8M0", "C64", "I64", "f32", "F128", ""]
)
names = st.one_of(
    st.sampled_from(NAMES), st.text(max_size=4), st.sampled_from(["__metadata__", "\ud800", "../x"])
)
values = st.one_of(
    dtypes,
    numbers,
    st.lists(numbers, max_size=3),
    st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), numbers, max_size=4),
)
byte_edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut"]),
        st.integers(0, len(REAL)),
        st.one_of(st.sampled_from(list(b'{}[]",:0123456789-.eE \\utnfl\x00\xff')), st.integers(0, 255)),
    ),
    min_size=1,
    max_size=4,
)
entry_edits = st.lists(
    st.tuples(names, st.sampled_from(["dtype", "shape", "data_offsets", "entry", "drop", "x"]), values),
    min_size=1,
    max_size=3,
)
layouts = st.lists(
    st.tuples(dtypes, st.lists(st.integers(0, 5), max_size=3), st.integers(-2, 2), st.integers(-2, 2)),
    max_size=4,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def check(content: bytes, file: Path) -> bool:
    """Whether the file is accepted; then safetensors must accept it too and see the same tensors."""
    file.write_bytes(content)
    try:
        found = read_header(file)
    except UserError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
        return False
    try:
        reference = dict(deserialize(content))
    except SafetensorError as error:
        raise AssertionError(f"accepted what safetensors refuses: {error}: {content!r}") from error
    assert set(found) == set(reference)
    for name, tensor in found.items():
        assert tensor.dtype == reference[name]["dtype"]
        assert list(tensor.shape) == reference[name]["shape"]
        assert content[tensor.offset : tensor.offset + tensor.length] == bytes(reference[name]["data"])
    return True


def test_the_real_file_is_accepted(file: Path) -> None:
    assert check(REAL, file)


@fuzz
@given(byte_edits)
def test_bytes_are_changed(file: Path, edits: list[tuple[str, int, int]]) -> None:
    content = bytearray(REAL)
    for kind, place, value in edits:
        place = min(place, len(content) - 1)
        if kind == "set" and content:
            content[place] = value
        elif kind == "insert":
            content[place:place] = bytes([value])
        elif kind == "delete":
            del content[place : place + 1]
        elif kind == "cut" and value < 32:
            del content[place:]
    check(bytes(content), file)


@fuzz
@given(entry_edits, st.integers(-9, 9).filter(bool) | st.just(0), st.booleans())
def test_entries_are_changed(file: Path, edits: list[tuple[str, str, Any]], longer: int, twice: bool) -> None:
    header = json.loads(json.dumps(HEADER))
    for name, key, value in edits:
        if key == "drop":
            header.pop(name, None)
        elif key == "entry" or not isinstance(header.get(name), dict):
            header[name] = copy.deepcopy(value)
        else:
            header[name][key] = copy.deepcopy(value)
    raw = json.dumps(header).encode()
    if twice:
        raw = raw[:-1] + b"," + raw[1:]
    data = DATA[:longer] if longer < 0 else DATA + bytes(longer)
    check(struct.pack("<Q", len(raw)) + raw + data, file)


@fuzz
@given(layouts, st.randoms(use_true_random=False))
def test_layouts_that_are_nearly_right(
    file: Path, tensors: list[tuple[str, list[int], int, int]], random: Any
) -> None:
    bits = {"F32": 32, "BF16": 16, "F4": 4, "F6_E2M3": 6, "C64": 64, "I64": 64}
    header, position = {}, 0
    for number, (dtype, shape, early, late) in enumerate(tensors):
        length = bits.get(dtype, 8)
        for size in shape:
            length *= size
        wrong = random.random() < 0.3
        end = position + -(-length // 8) + (late if wrong else 0)
        header[f"t{number}"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position + (early if wrong else 0), end],
        }
        position = end
    items = list(header.items())
    random.shuffle(items)
    raw = json.dumps(dict(items)).encode()
    check(struct.pack("<Q", len(raw)) + raw + bytes(max(0, position)), file)


@fuzz
@given(
    st.lists(
        st.tuples(
            names,
            st.one_of(
                values,
                st.sampled_from(
                    ["../a.safetensors", "/etc/passwd", "a.safetensors", "b.safetensors", "a\0.safetensors"]
                ),
            ),
        ),
        max_size=3,
    ),
    st.sets(st.sampled_from(NAMES), max_size=2),
)
def test_an_index_is_changed(tmp_path_factory: Any, edits: list[tuple[str, Any]], dropped: set[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "indexed"
    folder.mkdir(exist_ok=True)
    (folder / "a.safetensors").write_bytes(save({"x": torch.zeros(2)}))
    (folder / "b.safetensors").write_bytes(REAL)
    (folder / "config.json").write_text("{}")
    true_map = {"x": "a.safetensors"} | {n: "b.safetensors" for n in NAMES if n != "__metadata__"}
    weight_map = {name: shard for name, shard in true_map.items() if name not in dropped} | dict(edits)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    try:
        found = open_checkpoint(folder).tensors
    except UserError:
        return
    assert weight_map == true_map
    assert {name: tensor.file.name for name, tensor in found.items()} == true_map
