"""The fault campaign's own checks find what they look for."""

import shutil

from benchmarks.reliability import compared, contents, left_open
from solar_repro.checkpoint.manifest import write_manifest


def test_a_result_with_other_bytes_or_none_is_a_difference(finished, tmp_path):
    for name in ("sft_v1", "dpo_v1", "merge_v1"):
        shutil.copytree(finished.folder(name), tmp_path / finished.folder(name).name)
    expected = contents(tmp_path)
    assert len(expected) == 3
    assert all("model.safetensors" in files for files in expected.values())
    assert compared(expected, contents(tmp_path)) == []
    changed, gone = finished.folder("sft_v1").name, finished.folder("dpo_v1").name
    (tmp_path / changed / "config.json").write_text("{}")
    (tmp_path / changed / "manifest.json").unlink()
    write_manifest(tmp_path / changed)
    shutil.rmtree(tmp_path / gone)
    assert compared(expected, contents(tmp_path)) == sorted([f"{changed}: differs", f"{gone}: differs"])


def test_a_run_left_open_and_a_step_made_twice_are_found(place):
    results = len(contents(place.store))
    assert left_open(place.tracking_uri, results) == []
    (run,) = [run for run in place.runs() if run.info.run_name == "sft_v1"]
    client = place.client()
    client.create_run(
        run.info.experiment_id, run_name="again", tags={"solar.key": run.data.tags["solar.key"]}
    )
    assert left_open(place.tracking_uri, results) == ["again: left open"]
    assert left_open(place.tracking_uri, results + 1)[-1].endswith(f"{results + 1} results")
