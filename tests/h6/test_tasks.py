"""Prompts and samples of the six benchmarks against the harness's own `build_all_requests`."""

import os
import shutil
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from solar_repro.errors import UserError
from solar_repro.h6.tasks import HARNESS_FOLDERS, build_tasks
from solar_repro.paper.benchmarks import FEWSHOT_SEED, H6_BENCHMARKS, LEADERBOARD_GSM8K_STOP
from tests.tiny_benchmarks import SUBJECTS

LIMITS = {"ARC": 3, "HellaSwag": 3, "MMLU": 2, "TruthfulQA": 3, "Winogrande": 3, "GSM8K": 2}


def harness_tasks(mirror, loaded):
    """The harness's own tasks on the same data, loaded here without our code."""
    root = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(include_path=[str(root / name) for name in HARNESS_FOLDERS], include_defaults=False)
    entries = [
        {
            "task": own.name,
            "dataset_path": str(mirror / own.column.hub_id),
            "dataset_kwargs": {"cache_dir": str(mirror / "cache")},
            "num_fewshot": own.column.shots,
        }
        for own in loaded
    ]
    tasks = manager.load([{"group": "g", "task": entries}])["tasks"]
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    return tasks


def test_the_table_is_the_leaderboards():
    rows = {column.name: (column.task, column.shots, column.metric.split(",")[0]) for column in H6_BENCHMARKS}
    assert rows == {
        "ARC": ("arc_challenge", 25, "acc_norm"),
        "HellaSwag": ("hellaswag", 10, "acc_norm"),
        "MMLU": ("mmlu", 5, "acc"),
        "TruthfulQA": ("truthfulqa_mc2", 0, "acc"),
        "Winogrande": ("winogrande", 5, "acc"),
        "GSM8K": ("gsm8k", 5, "exact_match"),
    }


def test_requests_are_the_harnesss_own(mirror):
    built = build_tasks(mirror, limits=LIMITS, subjects=SUBJECTS)
    theirs = harness_tasks(mirror, built.loaded)
    assert [loaded.name for loaded in built.of("MMLU")] == [f"mmlu_{subject}" for subject in SUBJECTS]
    for loaded in built.loaded:
        task = theirs[loaded.name]
        task.build_all_requests(samples=list(loaded.items))
        ours = [request.arguments for requests in loaded.instances for request in requests]
        assert ours == [instance.arguments for instance in task.instances], loaded.name
        assert len(loaded.items) == LIMITS[loaded.column.name]


def test_without_a_limit_every_item_of_the_scored_split_is_taken(mirror):
    built = build_tasks(mirror, subjects=SUBJECTS)
    sizes = {loaded.name: len(loaded.items) for loaded in built.loaded}
    assert sizes == {
        "arc_challenge": 8,
        "hellaswag": 8,
        "mmlu_anatomy": 6,
        "mmlu_virology": 7,
        "mmlu_world_religions": 8,
        "truthfulqa_mc2": 7,
        "winogrande": 8,
        "gsm8k": 6,
    }


def test_the_sample_depends_on_the_seed_alone(mirror):
    first = build_tasks(mirror, limits={"ARC": 4}, columns=["ARC"])
    assert build_tasks(mirror, limits={"ARC": 4}, columns=["ARC"]) is first
    others = [
        build_tasks(mirror, limits={"ARC": 4}, columns=["ARC"], seed=seed).loaded[0] for seed in (1, 2, 3)
    ]
    assert len({first.loaded[0].items, *(other.items for other in others)}) > 1
    assert first.loaded[0].items == tuple(sorted(first.loaded[0].items))


def test_a_mirror_never_gives_the_rows_of_another_or_of_its_own_past(mirror, tmp_path):
    copy = tmp_path / "mirror"
    shutil.copytree(mirror / "openai", copy / "openai")
    first = build_tasks(copy, columns=["GSM8K"])
    assert len(first.loaded[0].items) == 6
    test, train = (copy / f"openai/gsm8k/main/{split}-00000-of-00001.parquet" for split in ("test", "train"))
    before = test.stat()
    shutil.copy(train, test)
    os.utime(test, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(build_tasks(copy, columns=["GSM8K"]).loaded[0].items) == 30
    assert len(build_tasks(mirror, columns=["GSM8K"]).loaded[0].items) == 6


def test_the_old_stop_rule_of_gsm8k_is_a_setting(mirror):
    def stops(**settings):
        built = build_tasks(mirror, limits={"GSM8K": 1}, columns=["GSM8K"], **settings)
        return built.loaded[0].instances[0][0].arguments[1]["until"]

    assert stops() == ["Question:", "</s>", "<|im_end|>"]
    assert stops(gsm8k_stop=LEADERBOARD_GSM8K_STOP) == [":", "Question:", "Question"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {"ARC": 9}}, "limit 9 of ARC: arc_challenge has only 8 items"),
        ({"limits": {"ARC": 0}}, "limit 0 of ARC"),
        ({"limits": {"Arc": 3}}, "'Arc'.*ARC, HellaSwag"),
        ({"columns": ["BoolQ"]}, "'BoolQ'"),
        ({"subjects": ["astrology"]}, "astrology"),
        ({"limits": {"MMLU": 7}, "subjects": ["anatomy"]}, "limit 7 of MMLU: mmlu_anatomy has only 6"),
    ],
)
def test_mistakes_are_named(mirror, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        build_tasks(mirror, **{"columns": ["ARC", "MMLU"], **settings})
    assert "\n" not in str(caught.value)


def test_a_benchmark_in_neither_mirror_nor_hub_is_named(tmp_path):
    with pytest.raises(UserError, match="openai/gsm8k") as caught:
        build_tasks(tmp_path, columns=["GSM8K"])
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
