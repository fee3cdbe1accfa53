"""The benchmark at a few hundred kilobytes: it runs, checks, reports and cleans up behind itself."""

import json
from pathlib import Path

import pytest

from benchmarks.performance import checkpoint as benchmark
from benchmarks.performance import checkpoint_contenders
from benchmarks.performance import checkpoint_models as models
from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.checkpoint.layer_map import dus
from solar_repro.checkpoint.merge import merge
from solar_repro.checkpoint.upscale import plan_upscale, write_upscale

TINY = models.Shape(64, 128, layers=6, heads=4, key_value_heads=2, vocabulary=100, m=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The small size made tiny, in this process and instead of the child processes that write and check."""
    monkeypatch.setitem(models.SHAPES, "small", TINY)
    actions = {
        "write": lambda size, folder, seed: models.write_model(TINY, folder, seed),
        "differing": lambda size, base, out: models.differing_tensors(TINY, base, out),
        "error": lambda size, out, a, b, method, share: models.merge_error(out, a, b, method, share),
    }
    for module in (benchmark, checkpoint_contenders):
        monkeypatch.setattr(module, "child", lambda action, *arguments: actions[action](*arguments))
    return tmp_path


@pytest.mark.slow
def test_it_runs_and_leaves_only_its_report(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny / "work").mkdir()
    arguments = ["--folder", str(tiny / "work"), "--rounds", "1"]
    arguments += ["--json", str(tiny / "x.json"), "--plot", str(tiny / "x.png")]
    assert benchmark.main([*arguments, "--keep-inputs"]) == 0
    work = tiny / "work" / "checkpoint-benchmark-small"
    assert sorted(path.name for path in work.iterdir()) == ["a", "b"]
    monkeypatch.setattr(benchmark, "_rounds", lambda contenders, *others: ([], ""))  # measured once
    benchmark.run("small", work, 1, None, keep_inputs=False)
    assert not list((tiny / "work").iterdir())
    results = json.loads((tiny / "x.json").read_text())
    assert {(c["task"], c["name"]) for c in results["contenders"]} == {
        *(
            ("up-scaling", n)
            for n in ("dd, reading", "dd, writing", "cp", "solar_repro", "solar_repro, hashing")
        ),
        ("average", "solar_repro"),
        ("slerp", "solar_repro"),
    }
    for contender in results["contenders"]:
        assert contender["median_seconds"] > 0
        assert contender["peak_resident_bytes"] > 1_000_000
    assert [check["passed"] for check in results["checks"]] == [True] * 4
    assert (tiny / "x.png").read_bytes().startswith(b"\x89PNG")


def test_its_checks_see_a_changed_byte(tiny: Path) -> None:
    models.write_model(TINY, tiny / "a", 0)
    (tiny / "out").mkdir()
    write_upscale(plan_upscale(tiny / "a", dus(6, 2)), tiny / "out")
    assert models.differing_tensors(TINY, tiny / "a", tiny / "out") == []
    place = open_checkpoint(tiny / "out").tensors["model.layers.5.mlp.up_proj.weight"]
    with place.file.open("r+b") as stream:
        stream.seek(place.offset + place.length - 1)
        stream.write(b"\x01")
    assert models.differing_tensors(TINY, tiny / "a", tiny / "out") == ["model.layers.5.mlp.up_proj.weight"]


def test_its_error_is_that_of_rounding_for_a_rounded_merge(tiny: Path) -> None:
    for seed, name in enumerate("ab"):
        models.write_model(TINY, tiny / name, seed)
    for method in ("average", "slerp"):
        (tiny / method).mkdir()
        merge([tiny / "a", tiny / "b"], tiny / method, method, weights=[0.7, 0.3], t=0.3)
        error, of_rounding = models.merge_error(tiny / method, tiny / "a", tiny / "b", method, 0.3)
        assert 0 < of_rounding <= error <= 1.001 * of_rounding
        wrong, _ = models.merge_error(tiny / method, tiny / "a", tiny / "b", method, 0.31)
        assert wrong > 5 * of_rounding


def test_models_are_the_same_every_time_and_resumed(tiny: Path) -> None:
    models.write_model(TINY, tiny / "a", 0)
    models.write_model(TINY, tiny / "again", 0)
    contents = {file.name: file.read_bytes() for file in (tiny / "a").iterdir()}
    assert contents == {file.name: file.read_bytes() for file in (tiny / "again").iterdir()}
    assert len([name for name in contents if name.endswith(".safetensors")]) == models.SHARDS
    (tiny / "a" / "config.json").unlink()
    (tiny / "a" / "model-00002-of-00002.safetensors").unlink()
    models.write_model(TINY, tiny / "a", 0)
    assert contents == {file.name: file.read_bytes() for file in (tiny / "a").iterdir()}
    assert open_checkpoint(tiny / "a").bytes == TINY.bytes


def test_a_full_disk_is_refused_first(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5})())
    assert benchmark.main(["--folder", str(tiny)]) == 1
    assert "bytes are needed" in capsys.readouterr().err
    assert not list(tiny.iterdir())
    assert benchmark.main(["--folder", str(tiny / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
