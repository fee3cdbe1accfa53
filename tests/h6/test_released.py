"""Table 2 from released checkpoints: judged for a device, scored with small models in their places."""

import re

import pytest

from entry_points import ablation, evaluate
from solar_repro.errors import UserError
from solar_repro.h6.released import accepted, candidates, describe, memory_needed
from solar_repro.paper.variants import RELEASED
from tests.tiny_benchmarks import SUBJECTS, make_model

H100, LAPTOP = 85_000_000_000, 16_000_000_000


def by_row(row):
    return next(released for released in RELEASED if released.row == row)


def test_memory_is_weights_caches_and_room():
    released = by_row("SOLAR 10.7B")
    weights = 2 * 10_731_524_096
    assert memory_needed(released, 8192) - memory_needed(released, 4096) == 5 * 4096 * 2 * 48 * 1024 * 2
    assert weights < memory_needed(released, 8192) < 1.6 * weights
    assert memory_needed(by_row("Mistral 7B"), 8192) < 24e9


def test_rows_are_refused_by_name_with_the_reason():
    found = candidates(None, None, 8192, H100)
    assert [candidate.released for candidate in found] == list(RELEASED)
    refused = {candidate.released.row: candidate.refusal for candidate in found if candidate.refusal}
    assert set(refused) == {
        "Qwen 72B", "Qwen 14B", "Llama 2 70B", "Falcon 180B",
        "Mixtral 8x7B-v0.1", "Mixtral 8x7B-Instruct-v0.1",
    }  # fmt: skip
    assert "own code" in refused["Qwen 14B"]
    assert re.search(r"needs 1\d\d\.\d GB of memory, the device has 85\.0 GB", refused["Llama 2 70B"])
    assert "SOLAR 10.7B" in {candidate.released.row for candidate in accepted(found, named=False)}
    with pytest.raises(UserError, match=r"row 'Falcon 180B': needs 3\d\d"):
        accepted(candidates("falcon 180b", None, 8192, H100), named=True)
    with pytest.raises(UserError, match="SOLAR"):
        accepted(candidates(None, None, 8192, LAPTOP), named=False)
    with pytest.raises(UserError, match="'Mistal 7B' is not a row of Table 2; use Mistral 7B"):
        candidates("SOLAR 10.7B, Mistal 7B", None, 8192, H100)


def test_the_dry_run_says_what_would_be_downloaded():
    lines = describe(candidates("SOLAR 10.7B, Qwen 14B", None, 8192, H100), H100).splitlines()
    assert lines[1].split()[2:7] == ["upstage/SOLAR-10.7B-v1.0", "float16", "21.5", "GB", "31.7"]
    assert "refused: its repository's own code" in lines[2]
    assert lines[-1].endswith("to download: at most 21.5 GB")


@pytest.fixture
def local_hub(mirror, tmp_path):
    """The tiny benchmarks, and small models under the ids of two released checkpoints."""
    hub = tmp_path / "hub"
    hub.mkdir()
    for folder in mirror.iterdir():
        (hub / folder.name).symlink_to(folder)
    for seed, row in enumerate(("SOLAR 10.7B", "Mistral 7B")):
        make_model(hub / by_row(row).hub_id, seed=seed)
    return hub


def scale_of(hub):
    subjects = ", ".join(SUBJECTS)
    return (
        *("--scale", "laptop", "--data.mirror", str(hub), "--evaluate.subjects", f"[{subjects}]"),
        *("--evaluate.limits", "{ARC: 3, HellaSwag: 3, MMLU: 2, TruthfulQA: 3, Winogrande: 3, GSM8K: 2}"),
    )


def test_table_2_with_small_models_in_the_released_ones_places(entry_point, local_hub, capsys):
    rows = ("--rows", "SOLAR 10.7B, Mistral 7B")
    place = entry_point(ablation, "--table", "2", *rows, *scale_of(local_hub))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Table 2 at scale laptop"
    for row, hub_id in (("SOLAR 10.7B", "SOLAR-10.7B-v1.0"), ("Mistral 7B", "Mistral-7B-v0.1")):
        (run,) = place.runs(f"tags.`solar.variant` = '{hub_id}'")
        assert run.data.params["evaluate.precision"] == by_row(row).dtype
        assert run.data.params["places.model"] == str((local_hub / by_row(row).hub_id).resolve())
        assert "held_out_loss" not in run.data.metrics
        printed = next(place for place, line in enumerate(lines) if line.startswith(f"{row}  "))
        assert lines[printed + 1].split()[:3] == ["ours", f"{run.data.metrics['H6']:.2f}", "±"]
        (folder,) = place.store.glob(f"{hub_id}.evaluate-*")
        assert (folder / "samples" / "gsm8k.parquet").is_file()
    # A folder is scored as the checkpoint that it is: the same content has the same key.
    entry_point(
        evaluate, "--model", str(local_hub / by_row("Mistral 7B").hub_id), *scale_of(local_hub),
        "--evaluate.precision", "bfloat16",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert re.search(r"Mistral-7B-v0\.1\.evaluate +cached", printed.err)
    assert re.search(r"^H6 +\d+\.\d\d ± \d+\.\d\d\nARC +\d", printed.out, re.MULTILINE)


def test_models_that_are_neither_folder_nor_on_the_hub(entry_point, local_hub, tmp_path):
    with pytest.raises(
        UserError, match=r"^model: nobody/nothing is not a folder, and it could not be fetched from the hub"
    ):
        entry_point(evaluate, "--model", "nobody/nothing", *scale_of(local_hub))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no config.json"):
        entry_point(evaluate, "--model", str(tmp_path / "empty"), *scale_of(local_hub))
    with pytest.raises(UserError, match="scale check: its benchmarks are those of the embedded world"):
        entry_point(ablation, "--table", "2")
