import bz2
import gzip
import json

import pyarrow as pa
import pytest

from solar_repro.data import row_batches, text_rows
from solar_repro.data.row_batches import read_batches
from solar_repro.data.split_files import data_files
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT, TURNS


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
        3: "is not valid JSON",
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
    with pytest.raises(UserError, match="is not valid JSON"):
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
    repository = tmp_path / "datasets--o--n"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    snapshot = folder.rename(repository / "snapshots" / "0123abc")
    file = next(snapshot.glob("*.parquet"))
    file.rename(repository / "blobs" / "abc")
    file.symlink_to("../../blobs/abc")
    folder.symlink_to(snapshot)  # the mirror has it under its name
    assert read(folder, {"text": TEXT})[0] == read(snapshot, {"text": TEXT})[0] == [{"text": "x"}]


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
    with pytest.raises(UserError, match="cannot be read as a parquet file") as error:
        read(folder, {"text": TEXT})
    assert "\n" not in str(error.value)


def test_damaged_page_of_a_parquet_file(write_set):
    folder = write_set("o/n", [{"text": f"{number} " * 50} for number in range(2000)])
    file = next(folder.glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[40:400] = b"\xaa" * 360
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a parquet file"):
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b"text\nx\n", r"train.csv: .csv cannot be read; use parquet, jsonl or txt"),
        ("train.csv.gz", gzip.compress(b"text\nx\n"), r".csv.gz cannot be read"),
        ("train.jsonl", '{"text": "x"}\n'.encode("utf-16"), "train.jsonl begins as UTF-16"),
        ("train.jsonl", '{"text": "x"}\n'.encode("utf-16-le"), "train.jsonl begins as UTF-16"),
        ("train.txt", "x\n".encode("utf-32"), "train.txt begins as UTF-16 or UTF-32"),
        ("train.jsonl.gz", b'{"text": "x"}\n', "train.jsonl.gz is no readable gzip file"),
        ("train.jsonl.zst", b'{"text": "x"}\n', "train.jsonl.zst is no readable zstd file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_that_are_not_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        data_files(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_folder_without_data_files(tmp_path):
    with pytest.raises(UserError, match="has no data files"):
        data_files(tmp_path, "train")


LINES = b'{"text": "one"}\r\n{"text": "two"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", b"\xef\xbb\xbf" + LINES),
        ("train.ndjson", LINES),
        ("train.json", b'\xef\xbb\xbf [{"text": "one"}, {"text": "two"}]'),
        ("train.txt", b"\xef\xbb\xbfone\ntwo\n"),
        ("train.jsonl", b'{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n'),  # two files joined
        ("train.jsonl.gz", gzip.compress(LINES)),
        ("train.json.gz", gzip.compress(b'[{"text": "one"}, {"text": "two"}]')),
        ("train.txt.bz2", bz2.compress(b"one\ntwo\n")),
        ("train.jsonl.zst", pa.compress(LINES, "zstd", asbytes=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_compressed_and_marked_files_are_read_whole(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path, {"text": TEXT}) == ([{"text": "one"}, {"text": "two"}], {})


def test_compressed_file_that_is_cut_off(tmp_path):
    content = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(5000)))
    (tmp_path / "train.jsonl.gz").write_bytes(content[:-2000])
    with pytest.raises(UserError, match="no readable gzip file"):
        read(tmp_path, {"text": TEXT})


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_column_that_the_first_rows_lack(write_set, monkeypatch, suffix):
    monkeypatch.setattr(row_batches, "BATCH_ROWS", 3)
    values = [{"_meta": "v1"}] * 7 + [{"text": "x"}]
    content = json.dumps(values) if suffix == "json" else "".join(json.dumps(row) + "\n" for row in values)
    rows, _ = read(write_set("o/n", content.encode(), suffix=suffix), {"text": TEXT})
    assert [row["text"] for row in rows] == [None] * 7 + ["x"]


@pytest.mark.parametrize("content", [b'{"a": "x", "b": NaN}\n', b'[{"a": "x", "b": NaN}]'])
def test_nan_is_a_missing_value(write_set, content):
    assert read(write_set("o/n", content, suffix="json"), {"a": TEXT, "b": TEXT}) == (
        [{"a": "x", "b": None}],
        {},
    )


def test_file_without_any_object(write_set):
    folder = write_set("o/n", b"1\n2\n", suffix="jsonl")
    with pytest.raises(UserError, match="no column 'a'; it has none"):
        read(folder, {"a": TEXT})
    assert read(write_set("o/n", b"", suffix="jsonl"), {"a": TEXT}) == ([], {})


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_optional_columns_are_null_where_the_file_has_none(write_set, suffix):
    folder = write_set("o/n", [{"a": "x"}, {"a": "y"}], suffix=suffix)
    found = [
        batch.table.to_pylist()
        for file in data_files(folder, "train")
        for batch in read_batches(file, {"a": TEXT}, {"b": TEXT})
    ]
    assert found == [[{"a": "x", "b": None}, {"a": "y", "b": None}]]


TEXTS = [
    pa.array(["x", None, "y"]).dictionary_encode(),
    pa.array(["x", None, "y"], pa.large_string()).dictionary_encode(),
    pa.array(["x", None, "y"], pa.string_view()),
    pa.array([b"x", None, b"y"], pa.binary()),
    pa.array([b"x", None, b"y"], pa.large_binary()),
]


@pytest.mark.parametrize("texts", TEXTS, ids=lambda texts: str(texts.type))
def test_text_as_pandas_polars_and_spark_write_it(write_set, texts):
    rows, faults = read(write_set("o/n", pa.table({"text": texts})), {"text": TEXT})
    assert ([row["text"] for row in rows], faults) == (["x", None, "y"], {})


def test_bytes_that_are_no_utf8(write_set):
    table = pa.table({"text": pa.array([b"good", b"\xff"], pa.binary())})
    rows, faults = read(write_set("o/n", table), {"text": TEXT})
    assert ([row["text"] for row in rows], faults) == (["good", None], {1: "broken UTF-8"})


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.bool_(), pa.list_(pa.null())])
def test_column_without_a_value_is_of_any_type(write_set, kind):
    table = pa.table({"a": ["x", "y"], "b": pa.nulls(2, kind), "turns": pa.nulls(2, kind)})
    rows, _ = read(write_set("o/n", table), {"a": TEXT, "b": TEXT, "turns": TURNS})
    assert rows == [{"a": text, "b": None, "turns": None} for text in "xy"]


TURN = {"role": pa.string(), "content": pa.string()}
BYTES = {"role": pa.binary(), "content": pa.binary()}


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.struct({"content": pa.string(), "score": pa.int64(), "role": pa.string()})),
        pa.list_(pa.struct({"content": pa.large_string(), "role": pa.dictionary(pa.int32(), pa.string())})),
        pa.list_(pa.struct(TURN), 2),
        pa.large_list(pa.struct(TURN)),
        pa.list_(pa.struct(BYTES)),
    ],
    ids=str,
)
def test_turns_in_other_forms(write_set, kind):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    given = [{"role": turn["role"].encode(), "content": turn["content"].encode()} for turn in turns]
    given = given if kind == pa.list_(pa.struct(BYTES)) else turns
    rows, faults = read(
        write_set("o/n", pa.table({"turns": pa.array([given, given], kind)})), {"turns": TURNS}
    )
    assert (rows, faults) == ([{"turns": turns}] * 2, {})


def test_turns_of_bytes_that_are_no_utf8(write_set):
    kind = pa.list_(pa.struct(BYTES))
    values = [[{"role": b"user", "content": text}] for text in (b"q", b"\xff")]
    rows, faults = read(write_set("o/n", pa.table({"turns": pa.array(values, kind)})), {"turns": TURNS})
    assert [row["turns"] for row in rows] == [[{"role": "user", "content": "q"}], None]
    assert faults == {1: "broken UTF-8"}
