"""The text of continued pretraining is packed once, resumably, to blocks that all trainings share."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets.table import ConcatenationTable, MemoryMappedTable

from solar_repro.checkpoint.load import load_training_tokenizer
from solar_repro.contract import PackedInputs, PackedSettings
from solar_repro.data import packing
from solar_repro.data.locate import text_location
from solar_repro.data.packed_text import FILE, read_packed_text
from solar_repro.data.text_stream import load_text
from solar_repro.errors import UserError
from solar_repro.microworld.trained_base import FOLDER
from solar_repro.paper.variants import CONTROLS, PAPER
from solar_repro.plan.costs import bytes_to_write
from solar_repro.plan.dry_run import describe, forecast
from solar_repro.plan.plan import Plan
from solar_repro.plan.step import Step
from solar_repro.scales.load import load_scale
from solar_repro.stages import packed
from solar_repro.store.resume import ResumeFolder

LENGTH, TOKENS = 32, 5_000
INPUTS = PackedInputs(model=FOLDER, held_out_split="validation")


@pytest.fixture
def settings(tmp_path: Path) -> PackedSettings:
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [f"the mole number {number} eats a worm" for number in range(300)]
    (folder / "train.txt").write_text("\n".join([*lines, " ", ""]))
    (folder / "validation.txt").write_text("a text held out\n")
    return PackedSettings(
        id=str(folder), split="train", column="text", tokens=TOKENS, max_length=LENGTH, seed=3
    )


def pack(out: Path, settings: PackedSettings, resume: ResumeFolder | None = None) -> dict[str, Any]:
    out.mkdir()
    metrics: dict[str, Any] = {}
    packed.run(out, lambda figures, step=0: metrics.update(figures), settings, INPUTS, resume)
    return metrics


@pytest.fixture
def resume(tmp_path: Path) -> ResumeFolder:
    return ResumeFolder(tmp_path / ".result.saved", minutes=10)


def test_blocks_are_those_that_a_training_packed_for_itself(
    settings: PackedSettings, tmp_path: Path, resume: ResumeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_BLOCKS", 40)
    monkeypatch.setattr(packing, "TEXTS_AT_ONCE", 16)
    metrics = pack(tmp_path / "out", settings, resume)
    tokenizer = load_training_tokenizer(FOLDER)
    blocks, report = read_packed_text(tmp_path / "out", tokenizer)
    location = text_location(settings.id, None)
    texts = load_text(location, settings.split, settings.column, seed=settings.seed, epochs=None)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokens = itertools.chain.from_iterable(
        [begin, *tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts
    )
    number = -(-TOKENS // LENGTH)
    assert blocks["input_ids"][:] == [list(itertools.islice(tokens, LENGTH)) for _ in range(number)]
    assert all(sum(lengths) == LENGTH for lengths in blocks["seq_lengths"])
    assert (report["blocks"], report["tokens"]) == (number, number * LENGTH)
    assert {name: metrics[name] for name in ("blocks", "tokens", "documents")} == {
        name: report[name] for name in ("blocks", "tokens", "documents")
    }
    assert metrics["dropped"] == sum(report["dropped"].values())
    assert metrics["tokens_per_second"] > 0
    assert (tmp_path / "out" / "solar" / "data" / "corpus.md").is_file()


def test_trainings_map_the_blocks_into_memory(settings: PackedSettings, tmp_path: Path) -> None:
    pack(tmp_path / "out", settings)
    blocks, _ = read_packed_text(tmp_path / "out", load_training_tokenizer(FOLDER))
    parts = blocks.data.blocks if isinstance(blocks.data, ConcatenationTable) else [[blocks.data]]
    assert {type(part) for row in parts for part in row} == {MemoryMappedTable}
    assert {Path(file["filename"]).parent for file in blocks.cache_files} == {tmp_path / "out"}
    size = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.arrow"))
    needed = bytes_to_write(Step("packed", "corpus", settings), {"model": FOLDER})
    assert needed == 2 * -(-TOKENS // LENGTH) * LENGTH
    assert needed < size < 1.7 * needed  # blocks as short as these have many lengths of documents


def test_a_killed_packing_goes_on_and_its_half_is_no_result(
    settings: PackedSettings, tmp_path: Path, resume: ResumeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_BLOCKS", 20)
    monkeypatch.setattr(packing, "TEXTS_AT_ONCE", 16)
    pack(tmp_path / "whole", settings, ResumeFolder(tmp_path / ".whole.saved", minutes=10))
    encode: Callable[..., Any] = packing._encoded
    calls: list[int] = []

    def killed(tokenizer: Any, kind: Any, texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 12:
            raise KeyboardInterrupt
        return encode(tokenizer, kind, texts)

    monkeypatch.setattr(packing, "_encoded", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "out", settings, resume)
    assert list((tmp_path / "out").iterdir()) == []
    kept = {file.name for file in resume.folder.glob("*.arrow")}
    assert len(kept) >= 2
    before = len(calls)
    metrics = pack(tmp_path / "again", settings, resume)
    assert len(calls) - before < 30  # not all of the text again
    assert "tokens_per_second" not in metrics  # part of the work was another process's
    names = {file.name for file in (tmp_path / "whole").glob("*.arrow")}
    for name in (*names, FILE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    resume.remove()
    assert not resume.folder.exists()
    assert (tmp_path / "again" / "blocks-00000.arrow").stat().st_nlink == 1


def test_files_are_copied_where_there_are_no_links(
    settings: PackedSettings, tmp_path: Path, resume: ResumeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "linked", settings, resume)

    def refuse(*paths: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    pack(tmp_path / "copied", settings, resume)
    name = "blocks-00000.arrow"
    assert (tmp_path / "copied" / name).read_bytes() == (tmp_path / "linked" / name).read_bytes()


def test_another_tokenizer_is_refused(settings: PackedSettings, tmp_path: Path) -> None:
    pack(tmp_path / "out", settings)
    tokenizer = load_training_tokenizer(FOLDER)
    tokenizer.add_tokens(["mole"])
    with pytest.raises(UserError, match="was packed with another tokenizer") as refused:
        read_packed_text(tmp_path / "out", tokenizer)
    assert "\n" not in str(refused.value)


def test_a_text_that_fills_no_block_is_refused_before_it_is_packed(
    settings: PackedSettings, tmp_path: Path, resume: ResumeFolder
) -> None:
    long = settings.model_copy(update={"max_length": 100_000})
    with pytest.raises(UserError, match=r"holds [\d,]+ tokens, but a block needs 100,000") as refused:
        pack(tmp_path / "out", long, resume)
    assert str(refused.value).startswith(f"text {settings.id}: ")
    assert not resume.folder.exists()


def test_all_that_are_trained_on_the_text_share_it() -> None:
    def key(**changes: str) -> str:
        return Plan(load_scale("check", changes)).packed().key

    plan = Plan(load_scale("check"))
    names = [name for name, made in {**PAPER, **CONTROLS}.items() if made.stage == "continue_pretrain"]
    assert len(names) > 3
    assert {plan.model(name).inputs["packed"].key for name in names} == {key()}
    assert [step.label for step in plan.main()].count("corpus.packed") == 1
    same = {"continue_pretrain.learning_rate": "1e-5", "data.corpus.held_out_documents": "3", "num_proc": "2"}
    assert key(**same) == key()
    for change in ("continue_pretrain.tokens", "continue_pretrain.max_length", "seed_offset"):
        assert key(**{change: "512"}) != key()


@pytest.mark.parametrize(("scale", "vocabulary", "size"), [("paper", 32_000, 10e9), ("paper", 128_256, 20e9)])
def test_the_plan_says_how_large_it_gets(scale: str, vocabulary: int, size: float, tmp_path: Path) -> None:
    plan = Plan(load_scale(scale, {"base.shape.vocab_size": str(vocabulary)}), dry=True)
    found = forecast(plan, tmp_path)
    (packed_text,) = [item for item in found if item.step.label == "corpus.packed"]
    assert packed_text.disk == pytest.approx(size, rel=1e-4)
    assert (packed_text.tokens, packed_text.parameters, packed_text.hours) == (0, 0, 0)
    shown = describe(plan, found, tmp_path)
    assert re.search(rf"^corpus\.packed +packed +\w+ +– +– +{size / 1e9:.1f} GB +–", shown, re.MULTILINE)
