"""Prepared rows: those that are damaged are made again, and a place that is full is one line."""

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from solar_repro.data.cache import arrow_rows, arrow_shards
from solar_repro.errors import UserError


def tables(report: dict) -> Iterator[pa.Table]:
    report["rows"] = 3
    yield pa.table({"x": [1, 2, 3]})


def not_again(*given: object) -> Iterator[pa.Table]:
    raise AssertionError("what is cached is not made again")


def shards(made: list[int], last: dict | None) -> Iterator[tuple[pa.Table, dict]]:
    for number in range(last["number"] + 1 if last else 0, 4):
        made.append(number)
        yield pa.table({"x": [number]}), {"number": number, "done": number == 3}


DAMAGES = {
    "flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-8]),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("suffix", [".arrow", ".json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_made_again_and_told_of(
    suffix: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arrow_rows("key", tables, tmp_path)
    arrow_rows("key", not_again, tmp_path)
    assert not capsys.readouterr().err
    DAMAGES[damage]((tmp_path / "key.arrow").with_suffix(suffix))
    rows, report = arrow_rows("key", tables, tmp_path)
    assert (list(rows["x"]), report) == ([1, 2, 3], {"rows": 3})
    told = capsys.readouterr().err
    if (suffix, damage) != (".json", "gone"):
        assert told.startswith(f"cached rows {tmp_path / 'key.arrow'}: damaged (")
        assert told.endswith("); made again\n")
    arrow_rows("key", not_again, tmp_path)


def test_shards_are_made_again_from_the_first_that_is_damaged(tmp_path: Path) -> None:
    made: list[int] = []
    whole, last = arrow_shards("key", lambda state: shards(made, state), tmp_path)
    DAMAGES["flipped"](tmp_path / "key-00002.arrow")
    again, last_again = arrow_shards("key", lambda state: shards(made, state), tmp_path)
    assert made == [0, 1, 2, 3, 2, 3]
    assert (again.to_list(), last_again) == (whole.to_list(), last)


def test_a_note_of_another_form_is_not_believed(tmp_path: Path) -> None:
    arrow_rows("key", tables, tmp_path)
    for note in ("[]", "{}", "null", json.dumps({"sha256": 1, "about": {}})):
        (tmp_path / "key.json").write_text(note)
        assert arrow_rows("key", tables, tmp_path)[1] == {"rows": 3}


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of 16 kB at most, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_cache_is_one_line_that_names_it(tmp_path: Path) -> None:
    def large(report: dict) -> Iterator[pa.Table]:
        yield pa.table({"x": list(range(1 << 14))})

    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be written .*HF_DATASETS_CACHE") as refused:
        arrow_rows("key", large, tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*"))


def test_many_shards_are_read_with_few_open_files(tmp_path: Path) -> None:
    def many(last: dict | None) -> Iterator[tuple[pa.Table, dict]]:
        for number in range(100):
            yield pa.table({"x": [number]}), {"done": number == 99}

    before = len(os.listdir("/proc/self/fd"))
    rows, _ = arrow_shards("key", many, tmp_path)
    assert len(os.listdir("/proc/self/fd")) < before + 20
    assert list(rows["x"]) == list(range(100))
