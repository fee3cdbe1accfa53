"""A small mirror of the embedded world, written once, and its rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from solar_repro.microworld.world import World, build_world
from solar_repro.microworld.write import write_mirror
from solar_repro.scales.microworld import WorldSettings

SMALL = WorldSettings(
    creatures=30,
    terms_per_subject=6,
    herbs=20,
    documents=4_000,
    validation_documents=50,
    alpaca_rows=400,
    orca_rows=600,
    math_problems=200,
    metamath_rows=400,
    ultrafeedback_rows=300,
    orca_dpo_rows=100,
    arc_items=40,
    hellaswag_items=60,
    mmlu_items_per_subject=2,
    truthfulqa_items=20,
    winogrande_items=80,
    gsm8k_items=170,
    fewshot_rows=30,
)

Rows = Callable[..., list[dict]]


@pytest.fixture(scope="session")
def world() -> World:
    return build_world(SMALL)


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("microworld") / "mirror"
    write_mirror(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def rows(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """rows(hub id, split, config): a split as a list, read as downstream reads it."""
    import datasets

    cache = str(tmp_path_factory.mktemp("datasets"))

    def load(hub_id: str, split: str, config: str = "default") -> list[dict]:
        return datasets.load_dataset(str(mirror / hub_id), config, split=split, cache_dir=cache).to_list()

    return load


TRAINING = (
    ("solar-repro/microworld", "train"),
    ("solar-repro/microworld", "validation"),
    ("vicgalle/alpaca-gpt4", "train"),
    ("Open-Orca/OpenOrca", "train"),
    ("meta-math/MetaMathQA", "train"),
    ("EleutherAI/hendrycks_math", "train"),
    ("allenai/ultrafeedback_binarized_cleaned", "train_prefs"),
    ("Intel/orca_dpo_pairs", "train"),
)


@pytest.fixture(scope="session")
def training_texts(rows: Rows) -> list[str]:
    """Every text of every row that training may see; the turns of a conversation one by one."""
    texts: list[str] = []
    for hub_id, split in TRAINING:
        for row in rows(hub_id, split):
            for value in row.values():
                texts += [value] if isinstance(value, str) else [turn["content"] for turn in value]
    return texts
