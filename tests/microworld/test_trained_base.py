"""The base that ships: whole, small, of this world; and how one is taken into the package."""

import json
import shutil
from pathlib import Path

import pytest

from solar_repro.checkpoint.folder import open_checkpoint
from solar_repro.errors import UserError
from solar_repro.microworld import corpus, trained_base
from solar_repro.microworld.stored_corpus import FIRST_DOCUMENTS, corpus_digest
from solar_repro.microworld.world import build_world
from solar_repro.scales.load import load_scale
from solar_repro.store.manifest import ManifestError, verify_manifest
from tests.microworld.conftest import SMALL

SMOKE = load_scale("smoke")


def test_the_shipped_base_is_small_and_what_its_record_says():
    verify_manifest(trained_base.FOLDER)
    checkpoint = open_checkpoint(trained_base.FOLDER)
    assert checkpoint.layers == 8
    assert 1e6 < checkpoint.parameters < 2e6
    assert checkpoint.bytes <= 4_000_000
    record = json.loads((trained_base.FOLDER / trained_base.RECORD).read_text())
    steps, losses = zip(*record["loss"], strict=True)
    assert steps[-1] == record["settings"]["base"]["steps"]
    assert losses[-1] < losses[0]


def test_the_shipped_base_was_trained_on_the_world_of_scale_smoke():
    record = json.loads((trained_base.FOLDER / trained_base.RECORD).read_text())
    # The numbers of test items are no part of the corpus.
    world = {name: size for name, size in SMOKE.world.model_dump(mode="json").items() if "items" not in name}
    assert world == {name: size for name, size in record["settings"]["world"].items() if "items" not in name}
    documents = corpus.documents(build_world(SMOKE.world), "train", FIRST_DOCUMENTS)
    assert corpus_digest(documents, SMOKE.world.documents) == record["corpus"]


def test_other_training_settings_are_refused():
    other = SMOKE.base.training.model_copy(update={"steps": 7})
    with pytest.raises(
        UserError, match=r"base\.training\.steps = 7, but the shipped base has \d+; .*retrain"
    ):
        trained_base.shipped_base(other)


@pytest.fixture(scope="module")
def shipped(finished, tmp_path_factory) -> Path:
    """The base of a finished run at scale `check`, taken into a package folder."""
    folder = tmp_path_factory.mktemp("package") / "trained_base"
    trained_base.ship(finished.folder("base"), finished.folder("base.evaluate"), folder)
    return folder


def test_shipping_and_copying_keep_every_byte(finished, shipped, tmp_path, monkeypatch):
    monkeypatch.setattr(trained_base, "FOLDER", shipped)
    trained_base.copy_trained_base(tmp_path, finished.folder("microworld"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "model.safetensors" in names
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / name).read_bytes() == (finished.folder("base") / name).read_bytes()
    record = json.loads((shipped / trained_base.RECORD).read_text())
    assert record["settings"]["world"]["documents"] == 1500
    assert record["scores"]["held_out_loss"] > 0
    trained_base.shipped_base(load_scale("check").base.training)


def test_another_corpus_and_damaged_files_are_refused(finished, shipped, mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(trained_base, "FOLDER", shipped)
    with pytest.raises(UserError, match=r"its corpus is not the one .* -P base\.retrain=true"):
        trained_base.copy_trained_base(tmp_path, mirror)
    damaged = tmp_path / "damaged"
    shutil.copytree(shipped, damaged)
    (damaged / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(trained_base, "FOLDER", damaged)
    with pytest.raises(ManifestError, match=r"tokenizer\.json"):
        trained_base.copy_trained_base(tmp_path, finished.folder("microworld"))


def test_the_evaluation_of_another_model_is_refused(finished, tmp_path):
    with pytest.raises(UserError, match="scores another model"):
        trained_base.ship(finished.folder("base"), finished.folder("solar.evaluate"), tmp_path / "package")


def test_a_corpus_of_another_length_is_another(world):
    first = list(corpus.documents(world, "train", 20))
    assert corpus_digest(first, 20) == corpus_digest(iter(first), 20)
    assert corpus_digest(first, 20) != corpus_digest(first, SMALL.documents)
    assert corpus_digest(first, 20) != corpus_digest(first[::-1], 20)
