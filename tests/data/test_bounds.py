"""Data that others wrote to hang a reader or fill its memory: rows are counted, files refused in a line."""

import bz2
import gzip
import json
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solar_repro.data import parquet_rows, row_batches, text_rows
from solar_repro.data.benchmark_sources import mirror_configs
from solar_repro.data.hub_card import read_card
from solar_repro.data.row_batches import read_batches
from solar_repro.data.split_files import data_files
from solar_repro.data.text_rows import DEEP, LONG, json_rows
from solar_repro.errors import UserError
from solar_repro.paper.data_sets import TEXT, TURNS
from tests.safety.test_plain_yaml import BOMB

DEEPEST = "[" * 50_000 + "]" * 50_000
fuzz = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def short_rows(monkeypatch):
    """A bound of rows that a test can pass."""
    monkeypatch.setattr(text_rows, "LONGEST_ROW", 1 << 12)


def read(file, columns=None):
    """All texts of a file and all faults, by row number."""
    texts, faults = [], {}
    for batch in read_batches(file, columns or {"text": TEXT}):
        faults |= {len(texts) + number: fault for number, fault in batch.faults.items()}
        texts += batch.table.column(0).to_pylist()
    return texts, faults


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_row_that_is_nested_too_deeply_is_counted(tmp_path, form):
    rows = ['{"text": "one"}', f'{{"text": "[]]}}{{", "more": {DEEPEST}}}', '{"text": "two"}']
    file = tmp_path / "train.json"
    file.write_text("\n".join(rows) if form == "lines" else f"[{', '.join(rows)}]")
    assert read(file) == (["one", None, "two"], {1: DEEP})


def test_an_array_that_ends_within_a_deep_row_is_refused(tmp_path):
    file = tmp_path / "train.json"
    file.write_text('[{"text": "one"}, ' + "[" * 50_000)
    with pytest.raises(UserError, match="it ends within a row"):
        read(file)


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_a_line_that_is_too_long_is_counted(tmp_path, short_rows, suffix):
    file = tmp_path / f"train{suffix}"
    lines = [
        json.dumps({"text": text}) if suffix == ".jsonl" else text for text in ("one", "x" * 9000, "two")
    ]
    file.write_text("\n".join(lines))
    assert read(file) == (["one", None, "two"], {1: LONG})


def test_an_array_with_a_row_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_rows, "LONGEST_ROW", 1 << 17)
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{"text": "x" * 600_000}]))
    with pytest.raises(UserError, match="a row longer than"):
        read(file)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_compressed_file_that_unfolds_without_measure_is_refused(tmp_path, short_rows, suffix, compress):
    file = tmp_path / f"train.jsonl{suffix}"
    file.write_bytes(compress(b" " * 20_000_000))
    with pytest.raises(UserError, match="unfolds to more than"):
        list(json_rows(file))


def test_a_compressed_file_of_texts_is_read(tmp_path):
    file = tmp_path / "train.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "the same text"}\n' * 100_000))
    texts, faults = read(file)
    assert len(texts) == 100_000
    assert not faults


def bomb(file, text, rows=8192):
    """A parquet file that holds one text once and says it in every row."""
    once = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": once.cast(pa.string()) if len(text) < 1000 else once}), file,
                   compression="zstd", store_schema=False)  # fmt: skip


def test_a_small_parquet_file_of_4_gb_is_refused_before_it_is_written_out(tmp_path):
    file = tmp_path / "train.parquet"
    bomb(file, "a" * 500_000)
    assert file.stat().st_size < 1000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match=r"train\.parquet unfolds to more than"):
        read(file)
    assert pa.default_memory_pool().max_memory() - before < 200_000_000


def test_turns_are_bounded_as_well(tmp_path):
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 8192, pa.int32()), pa.array(["a" * 500_000]))
    file = tmp_path / "train.parquet"
    roles = pa.array(["user"] * 8192)
    turn = pa.StructArray.from_arrays([roles, once], ["role", "content"])
    turns = pa.ListArray.from_arrays(pa.array(range(8193), pa.int32()), turn)
    pq.write_table(pa.table({"chosen": turns}), file, compression="zstd")
    with pytest.raises(UserError, match="unfolds to more than"):
        read(file, {"chosen": TURNS})


def test_a_parquet_file_that_claims_rows_without_end_is_refused(tmp_path):
    file = tmp_path / "train.parquet"
    rows = 70_000_000
    nothing = pa.table({"text": pa.nulls(rows, pa.string())})
    pq.write_table(nothing, file, row_group_size=rows, max_rows_per_page=rows)
    assert file.stat().st_size < 5_000
    with pytest.raises(UserError, match="unfolds to more than"):
        read(file)


def test_long_texts_come_in_small_batches(tmp_path, monkeypatch):
    for module in (parquet_rows, row_batches):
        monkeypatch.setattr(module, "BATCH_BYTES", 10_000)
    texts = [f"{number} " + "x" * 900 for number in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "train.parquet")
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for name in ("train.parquet", "train.jsonl"):
        batches = [
            batch.table.column(0).to_pylist() for batch in read_batches(tmp_path / name, {"text": TEXT})
        ]
        assert [text for batch in batches for text in batch] == texts
        assert 9 <= len(batches) <= 12


ROWS = b'{"text": "one"}\n[1, {"text": "two"}]\n{"text": "\\ud83d\\ude00"}\n{"text": null}\n'


@fuzz
@given(st.lists(st.tuples(st.integers(0, len(ROWS)), st.binary(max_size=3), st.booleans()), max_size=6))
def test_any_json_lines_are_rows_or_faults(tmp_path_factory, edits):
    content = bytearray(ROWS)
    for place, value, is_cut in edits:
        content[place : place + 2 * is_cut] = value
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    file.write_bytes(content)
    try:
        texts, _ = read(file)
    except UserError as refused:  # no row has the column, or an array that is broken
        assert "\n" not in str(refused)  # noqa: PT017
        return
    assert all(text is None or isinstance(text, str) for text in texts)


@pytest.fixture
def card(write_set):
    folder = write_set("o/n", [{"text": "x"}])
    assert data_files(folder, "train")

    def write(metadata):
        (folder / "README.md").write_text(f"---\n{metadata}\n---\n")
        return folder

    return write


CONFIG = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n"
HOSTILE = {
    "an address": (CONFIG.format("https://127.0.0.1:9/x.parquet"), "outside the folder"),
    "another address": (CONFIG.format('["hf://datasets/a/b/x.parquet"]'), "outside the folder"),
    "a chain of addresses": (CONFIG.format("zip://x.csv::https://127.0.0.1:9/a.zip"), "outside the folder"),
    "an absolute path": (CONFIG.format("/etc/passwd"), "outside the folder"),
    "a path that leaves": (CONFIG.format("data/../../x.parquet"), "outside the folder"),
    "data files as a mapping": (
        "configs:\n- data_files: {train: 'http://127.0.0.1:9/x'}",
        "outside the folder",
    ),
    "a folder elsewhere": ("configs:\n- data_dir: /etc", "outside the folder"),
    "a tag": (CONFIG.format("!!python/object/apply:os.getcwd []"), "is not read here"),
    "an alias within itself": ("configs: &a [*a]", "inside of what it names"),
    "aliases that unfold": (BOMB, "unfold to more than"),
    "depth": ("configs: " + "[" * 9000, "nested too deeply"),
    "no mapping": ("- a", "keys and values"),
    "a missing file": (CONFIG.format("gone.parquet"), "gone.parquet"),
    "a config that is a text": ("configs: [a]", "no data files"),
    "configs that are a number": ("configs: 3", "no data files"),
    "features that are none": ("dataset_info: {features: [{name: text, dtype: [}]}", "not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_card_is_one_line_and_nothing_is_fetched(card, name, monkeypatch):
    def connect(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    metadata, message = HOSTILE[name]
    folder = card(metadata)
    with pytest.raises(UserError) as refused:
        data_files(folder, "train")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800


def test_a_large_card_and_a_hidden_one_are_refused(card):
    folder = card("a: " + "x" * (1 << 20))
    with pytest.raises(UserError, match="larger than"):
        read_card(folder)
    (folder / "README.md").unlink()
    (folder / ".huggingface.yaml").write_text("configs: []")
    with pytest.raises(UserError, match="would be read in place of"):
        data_files(folder, "train")


@pytest.mark.parametrize("path", ["https://127.0.0.1:9/x.parquet", "../*.parquet", "/etc/*"])
def test_a_benchmarks_card_stays_in_its_folder_too(card, path):
    with pytest.raises(UserError, match="outside the folder"):
        mirror_configs(card(CONFIG.format(f"'{path}'")))
