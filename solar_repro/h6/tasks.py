"""The six benchmarks as tasks of lm-eval with their prompts, built once per process for all models."""

import functools
import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import env

from solar_repro.data.benchmark_sources import benchmark_source
from solar_repro.data.locate import mirror_folder, pinned_commit
from solar_repro.errors import UserError
from solar_repro.paper.benchmarks import FEWSHOT_SEED, H6_BENCHMARKS, H6_NAMES, H6Benchmark, h6_benchmark
from solar_repro.store.fingerprint import folder_fingerprint

HARNESS_FOLDERS = tuple(benchmark.folder for benchmark in H6_BENCHMARKS)


@dataclass(frozen=True)
class LoadedTask:
    """A task of the harness, the items that were chosen of it, and their requests in the harness's form."""

    column: H6Benchmark
    name: str
    task: Task
    items: tuple[int, ...]
    """Row numbers in the evaluated split, ascending."""
    split_size: int
    docs: tuple[dict[str, Any], ...]
    instances: tuple[tuple[Instance, ...], ...]
    """The requests of each item: one per choice, for GSM8K a single one."""
    docs_hash: str
    prompts_hash: str


@dataclass(frozen=True)
class H6Tasks:
    """All tasks to score, and what decided them. Every model's evaluation gets the same object."""

    loaded: tuple[LoadedTask, ...]
    columns: tuple[str, ...]
    limits: Mapping[str, int | None]
    seed: int
    sources: Mapping[str, str]
    """`mirror` or `hub`, by column."""
    encodings: dict[str, dict[Any, Any]] = field(default_factory=dict, repr=False, compare=False)
    """Token ids of prompts by tokenizer digest, so that models with the same tokenizer encode them once."""

    def of(self, column: str) -> tuple[LoadedTask, ...]:
        """The tasks of one column: 57 for MMLU, one for the others."""
        return tuple(loaded for loaded in self.loaded if loaded.column.name == column)


def build_tasks(
    mirror: Path | None,
    *,
    limits: Mapping[str, int | None] | None = None,
    subjects: Sequence[str] | None = None,
    seed: int = 0,
    columns: Sequence[str] = H6_NAMES,
    gsm8k_stop: Sequence[str] | None = None,
) -> H6Tasks:
    """Load the benchmarks and render every prompt, with lm-eval's own task definitions.

    `mirror` is a folder of data sets laid out `<org>/<name>/`; what it lacks comes from the hub. `limits`
    gives the number of items per column (per subject of MMLU), a sample drawn with `seed` that is the same
    for every model; None, or a column left out, means all items. `subjects` restricts MMLU, by names such as
    `anatomy`. `gsm8k_stop` replaces the harness's stop strings of GSM8K (`LEADERBOARD_GSM8K_STOP` are the
    leaderboard's).

    Raises UserError for an unknown column or subject, a limit above the split, and a benchmark that neither
    mirror nor hub has. The same arguments and mirror files give the object that was built before.
    """
    limits = dict(limits or {})
    for name in [*columns, *limits]:
        if name not in H6_NAMES:
            raise UserError(f"benchmark {name!r}: is not a column of H6; use one of {', '.join(H6_NAMES)}")
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise UserError(
                f"limit {limit} of {name}: at least one item is needed; leave it out to score all"
            )
    chosen = tuple(column.name for column in H6_BENCHMARKS if column.name in columns)
    return _build(
        Path(mirror).resolve() if mirror is not None else None,
        _mirror_state(mirror, chosen),
        tuple((name, limits.get(name)) for name in chosen),
        tuple(sorted(set(subjects))) if subjects is not None else None,
        seed,
        tuple(gsm8k_stop) if gsm8k_stop is not None else None,
    )


def _mirror_state(mirror: Path | None, columns: Sequence[str]) -> tuple[str, ...]:
    """Digests or commits of the benchmarks, so that a changed mirror or another commit gives new tasks."""
    state = []
    for hub_id in (h6_benchmark(name).hub_id for name in columns):
        folder = mirror_folder(hub_id, mirror)
        state.append(folder_fingerprint(folder) if folder else pinned_commit(hub_id) or "")
    return tuple(state)


@functools.lru_cache(maxsize=4)
def _build(
    mirror: Path | None,
    _state: tuple[str, ...],
    limits: tuple[tuple[str, int | None], ...],
    subjects: tuple[str, ...] | None,
    seed: int,
    gsm8k_stop: tuple[str, ...] | None,
) -> H6Tasks:
    _keep_compiled_templates()
    root = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(include_path=[str(root / name) for name in HARNESS_FOLDERS], include_defaults=False)
    loaded: list[LoadedTask] = []
    sources = {}
    bars = is_progress_bar_enabled()
    disable_progress_bar()
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of every task whose few-shot examples come from its train split
    try:
        for name, limit in limits:
            column = h6_benchmark(name)
            overrides: dict[str, Any] = {"num_fewshot": column.shots}
            if name == "GSM8K" and gsm8k_stop is not None:
                overrides["generation_kwargs"] = {
                    "until": list(gsm8k_stop),
                    "do_sample": False,
                    "temperature": 0.0,
                }
            names = _subject_tasks(manager, subjects) if name == "MMLU" else [column.task]
            sources[name] = "mirror" if mirror_folder(column.hub_id, mirror) else "hub"
            for task_name, task in _load(manager, names, overrides, column, mirror).items():
                loaded.append(_render(column, task_name, task, limit, seed))
    finally:
        log.setLevel(level)
        if bars:
            enable_progress_bar()
    return H6Tasks(tuple(loaded), tuple(name for name, _ in limits), dict(limits), seed, sources)


def _keep_compiled_templates() -> None:
    """Let the harness compile each prompt template once, not per document, which takes most of its set-up."""
    if not hasattr(env.from_string, "cache_info"):
        env.from_string = functools.lru_cache(maxsize=None)(env.from_string)


def _subject_tasks(manager: Any, subjects: tuple[str, ...] | None) -> list[str]:
    """Names of the `mmlu_<subject>` tasks, without the harness's groups of them."""
    known = sorted(
        name
        for name, entry in manager.task_index.items()
        if name.startswith("mmlu_") and entry.kind.name == "TASK"
    )
    if subjects is None:
        return known
    unknown = [subject for subject in subjects if f"mmlu_{subject}" not in known]
    if unknown or not subjects:
        example = ", ".join(name.removeprefix("mmlu_") for name in known[:3])
        raise UserError(f"MMLU subjects {unknown}: not among the {len(known)} subjects ({example}, …)")
    return [f"mmlu_{subject}" for subject in subjects]


def _load(
    manager: Any, names: Sequence[str], overrides: dict[str, Any], column: H6Benchmark, mirror: Path | None
) -> dict[str, Task]:
    """The harness's tasks with our data and shots. In a group, entries override the registered tasks."""
    entries = []
    for name in names:
        config = name.removeprefix("mmlu_") if column.name == "MMLU" else column.config
        source = benchmark_source(column.hub_id, config, mirror)
        entry = {"task": name, "dataset_path": source["path"], "dataset_name": source["name"], **overrides}
        given = {name: source[name] for name in ("data_files", "revision") if name in source}
        if given:
            entry["dataset_kwargs"] = given
        entries.append(entry)
    group = {"group": "h6", "task": entries}
    try:
        return dict(sorted(manager.load([group])["tasks"].items()))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        place = f"the mirror {mirror}" if mirror is not None else "a mirror (none was given)"
        raise UserError(
            f"benchmark {column.hub_id} ({column.name}): cannot be read from {place} or from the hub; put "
            f"it in <mirror>/{column.hub_id} or go online ({type(error).__name__}: {reason})"
        ) from error


def _render(column: H6Benchmark, name: str, task: Task, limit: int | None, seed: int) -> LoadedTask:
    """Choose the items and build their requests as the harness's `build_all_requests` does for `samples`."""
    task.set_fewshot_seed(FEWSHOT_SEED)
    split = task.eval_docs
    if limit is not None and limit > len(split):
        raise UserError(
            f"limit {limit} of {column.name}: {name} has only {len(split)} items; lower the limit or leave "
            "it out"
        )
    items = tuple(range(len(split)))
    if limit is not None:
        items = tuple(sorted(random.Random(f"{seed}/{name}").sample(items, limit)))
    docs = tuple(split[item] for item in items)
    instances = []
    for item, doc in zip(items, docs, strict=True):
        context = task.fewshot_context(doc, num_fewshot=column.shots, gen_prefix=task.doc_to_prefix(doc))
        requests = task.construct_requests(doc=doc, ctx=context, metadata=(name, item, 1))
        instances.append(tuple(requests if isinstance(requests, list) else [requests]))
    prompts = [request.arguments for requests in instances for request in requests]
    return LoadedTask(
        column, name, task, items, len(split), docs, tuple(instances), _hash(docs), _hash(prompts)
    )


def _hash(rows: Sequence[Any]) -> str:
    """sha256 of the rows as JSON, one after another."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()
