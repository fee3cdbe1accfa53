import json

import pyarrow as pa
import pytest

from solar_repro.data import text_rows
from solar_repro.data.files import TEXT, TURNS, data_files, read_batches
from solar_repro.errors import UserError


def read(folder, columns, split="train"):
    """All rows and all faults (by row number in the split)."""
    rows, faults = [], {}
    for file in data_files(folder, split):
        for batch in read_batches(file, columns):
            faults |= {len(rows) + number: fault for number, fault in batch.faults.items()}
            rows += batch.table.to_pylist()
    return rows, faults


def strings(*values: bytes | None) -> pa.Array:
    """A string column that may hold bytes which are no UTF-8, as files written elsewhere do."""
    return pa.array(values, pa.binary()).view(pa.string())


def test_parquet_with_broken_utf8(write_set):
    table = pa.table({"text": strings(b"good", b"\xff\xfe", None, "hé".encode())})
    rows, faults = read(write_set("o/n", table), {"text": TEXT})
    assert [row["text"] for row in rows] == ["good", None, None, "hé"]
    assert faults == {1: "broken UTF-8"}


def test_turns_with_broken_utf8(write_set):
    contents = strings(b"q", b"a", b"q", b"\xc3")
    roles = pa.array(["user", "assistant"] * 2)
    turns = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    table = pa.table({"turns": pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), turns)})
    rows, faults = read(write_set("o/n", table), {"turns": TURNS})
    assert rows[0]["turns"] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert (rows[1]["turns"], faults) == (None, {1: "broken UTF-8"})


def test_json_lines_past_every_damage(write_set):
    lines = [
        b'{"text": "one"}',
        b'{"text": 2}',
        b'{"text": ["x"]}',
        b"not json",
        b'{"text": "\xff"}',
        rb'{"text": "\ud800"}',
        b'{"other": "x"}',
        b"",
        b'"text"',
        b'{"text": "nine"}',
    ]
    rows, faults = read(write_set("o/n", b"\n".join(lines), suffix="jsonl"), {"text": TEXT})
    assert [row["text"] for row in rows] == ["one", *[None] * 7, "nine"]
    assert faults == {
        1: "wrong type: text",
        2: "wrong type: text",
        3: "no valid JSON",
        4: "broken UTF-8",
        5: "broken UTF-8",
        7: "no JSON object",
    }


def test_json_array(write_set):
    rows, faults = read(write_set("o/n", b'[{"a": "x"}, {"a": "y"}, {"a": 1}]', suffix="json"), {"a": TEXT})
    assert [row["a"] for row in rows] == ["x", "y", None]
    assert faults == {2: "wrong type: a"}


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_json_array_larger_than_what_is_read_at_once(write_set, monkeypatch, size):
    monkeypatch.setattr(text_rows, "ARRAY_CHARACTERS", size)
    values = [{"a": f"x [{number}] ,]é" * (number % 7)} for number in range(50)]
    content = json.dumps(values, ensure_ascii=False, indent=size % 3).encode() + b"\n"
    rows, faults = read(write_set("o/n", content, suffix="json"), {"a": TEXT})
    assert (rows, faults) == (values, {})


def test_damaged_json_array(write_set):
    folder = write_set("o/n", b'[{"a": "x"}, {"a": "\xff"}, {"a": "y"}]', suffix="json")
    rows, faults = read(folder, {"a": TEXT})
    assert ([row["a"] for row in rows], faults) == (["x", None, "y"], {1: "broken UTF-8"})
    folder = write_set("o/n", b'[{"a": "x"}, {"a": "y"', suffix="json")
    with pytest.raises(UserError, match="no valid JSON"):
        read(folder, {"a": TEXT})


def test_readme_that_points_elsewhere(write_set):
    folder = write_set("o/n", [{"text": "x"}])
    write_set("o/other", [{"text": "secret"}])
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("path: ", "path: ../other/"))
    with pytest.raises(UserError, match="outside the folder"):
        data_files(folder, "train")


def test_links_into_a_cache_as_hub_downloads_have_them(write_set, tmp_path):
    folder = write_set("o/n", [{"text": "x"}])
    file = next(folder.glob("*.parquet"))
    (tmp_path / "blobs").mkdir()
    blob = file.rename(tmp_path / "blobs" / "abc")
    file.symlink_to(blob)
    assert read(folder, {"text": TEXT})[0] == [{"text": "x"}]


def test_text_is_a_document_a_line(write_set):
    rows, faults = read(write_set("o/n", b"first\n\n \xff\nlast\r\n", suffix="txt"), {"text": TEXT})
    assert [row["text"] for row in rows] == ["first", None, "last"]
    assert faults == {1: "broken UTF-8"}


def test_rows_beyond_one_batch_keep_their_order(write_set):
    texts = [str(number) for number in range(20_000)]
    rows, _ = read(write_set("o/n", [{"text": text} for text in texts]), {"text": TEXT})
    assert [row["text"] for row in rows] == texts


def test_large_and_all_null_columns(write_set):
    table = pa.table({"a": pa.array(["x"], pa.large_string()), "b": pa.nulls(1)})
    rows, _ = read(write_set("o/n", table), {"a": TEXT, "b": TEXT})
    assert rows == [{"a": "x", "b": None}]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_missing_column_is_named_with_those_found(write_set, suffix):
    folder = write_set("org/name", [{"a": "x", "b": "y"}], suffix=suffix)
    with pytest.raises(UserError, match=r"org/name.*no column 'text'.*a, b"):
        read(folder, {"text": TEXT})


def test_column_of_another_type(write_set):
    with pytest.raises(UserError, match="column 'text' is int64, not text"):
        read(write_set("o/n", [{"text": 1}]), {"text": TEXT})


def test_truncated_parquet(write_set):
    folder = write_set("o/n", [{"text": "x" * 100}])
    file = next(folder.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="no readable parquet") as error:
        read(folder, {"text": TEXT})
    assert "\n" not in str(error.value)


def test_damaged_page_of_a_parquet_file(write_set):
    folder = write_set("o/n", [{"text": f"{number} " * 50} for number in range(2000)])
    file = next(folder.glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[40:400] = b"\xaa" * 360
    file.write_bytes(content)
    with pytest.raises(UserError, match="no readable parquet"):
        read(folder, {"text": TEXT})


def test_split_and_config_that_are_not_there(write_set):
    folder = write_set("o/n", [{"text": "x"}], split="test", config="main")
    with pytest.raises(UserError, match="no split 'train'; it has test"):
        data_files(folder, "train")
    with pytest.raises(UserError, match="no config 'other'; it has main"):
        data_files(folder, "test", "other")


def test_all_configs_where_none_is_named(write_set):
    write_set("o/n", [{"text": "x"}], config="algebra")
    folder = write_set("o/n", [{"text": "y"}], config="geometry")
    assert [row["text"] for row in read(folder, {"text": TEXT})[0]] == ["x", "y"]
    assert len(data_files(folder, "train", "geometry")) == 1


def test_other_suffix(write_set):
    folder = write_set("o/n", b"a,b\n", suffix="csv")
    with pytest.raises(UserError, match="use parquet, jsonl or txt"):
        read(folder, {"a": TEXT})
