"""Digests taken behind the writers are those of hashlib over the finished file."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from solar_repro.store import hashing
from solar_repro.store.hashing import FollowingHasher, sha256, sha256_all


@pytest.mark.parametrize("window", [4096, 10_000, 1 << 20])
def test_parts_in_any_order_from_several_threads(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hashing, "WINDOW_BYTES", window)
    random.seed(window)
    contents = {
        tmp_path / name: random.randbytes(size) for name, size in [("a", 50_001), ("b", 1), ("c", 12_345)]
    }
    parts = [(file, start) for file, content in contents.items() for start in range(0, len(content), 777)]
    random.shuffle(parts)
    for file, content in contents.items():
        file.write_bytes(bytes(len(content)))

    with FollowingHasher({file: len(content) for file, content in contents.items()}) as hasher:

        def write(part: tuple[Path, int]) -> None:
            file, start = part
            piece = contents[file][start : start + 777]
            with file.open("r+b") as stream:
                stream.seek(start)
                stream.write(piece)
            hasher.written(file, start, len(piece))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, parts))
            hasher.written(tmp_path / "a", 0, 0)
        digests = hasher.digests()
    assert digests == {file.name: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    expected = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    assert sha256_all(contents) == {file: sha256(file) for file in contents} == expected
    monkeypatch.setattr(hashing, "LONG_BYTES", 1)
    assert sha256_all(contents) == expected
    assert "hashing: 62,347/62,347 B" in capsys.readouterr().err


def test_a_part_that_is_missing_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    with FollowingHasher({tmp_path / "a": 10}) as hasher:
        hasher.written(tmp_path / "a", 4, 6)
        hasher.written(tmp_path / "a", 4, 0)  # an empty tensor in the same place
        with pytest.raises(ValueError, match="only 0 of 10"):
            hasher.digests()
        hasher.written(tmp_path / "a", 0, 4)
        assert hasher.digests() == {"a": hashlib.sha256(bytes(10)).hexdigest()}
