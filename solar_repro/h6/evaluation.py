"""Scoring a model on H6 with the harness's tasks and metrics and our adapter, in a run that can resume."""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.metrics import stderr_for_metric

from solar_repro.checkpoint.load import load_for_scoring, model_digest
from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.errors import UserError
from solar_repro.h6.adapter import SharedPrefixLM
from solar_repro.h6.generation_server import GenerationServer
from solar_repro.h6.journal import Journal
from solar_repro.h6.samples import item_row, write_samples
from solar_repro.h6.scores import ColumnScore, Scores, write_scores
from solar_repro.h6.tasks import H6Tasks, LoadedTask
from solar_repro.paper.benchmarks import FEWSHOT_SEED, FLEXIBLE, H6_NAMES, h6_benchmark
from solar_repro.scales.inference_server import InferenceServer
from solar_repro.terminal.progress import Progress

BATCH_TOKENS = 8192
"""Positions of a forward pass, padding included, unless settings say otherwise."""


def evaluate_h6(
    model: Path | str,
    tasks: H6Tasks,
    out: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    batch_tokens: int = BATCH_TOKENS,
    max_length: int | None = None,
    server: InferenceServer | None = None,
    work: Path | None = None,
) -> Scores:
    """Score a model (folder or hub id) and write `scores.json` and `samples/<task>.parquet` into `out`.

    `batch_tokens` bounds the positions of one forward pass. `max_length` shortens the model's own context.
    A `server` that has the model generates answers; None generates here. Every answer is kept in the folder
    `work`, so that the run after a killed one resumes; None keeps none.

    Raises UserError for a model that cannot be loaded, for NaN log-likelihoods (it names the item), for a
    context too short to generate in, and for a `server` that does not answer or has other models.
    """
    generator = GenerationServer(server, model) if server is not None else None
    loaded_model, tokenizer = load_for_scoring(model, device=device, dtype=dtype)
    encodings = tasks.encodings.setdefault(tokenizer_digest(tokenizer, chat_template=False), {})
    lm = SharedPrefixLM(
        loaded_model, tokenizer, batch_tokens=batch_tokens, max_length=max_length, encodings=encodings
    )
    settings = _settings(model, tasks, lm, device, dtype, batch_tokens, generator)
    path = None
    if work is not None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        path = Path(work) / f"answers-{digest[:16]}.jsonl"
    items = {
        request.args: f"{loaded.name} item {item}"
        for loaded in tasks.loaded
        if not loaded.column.generates
        for item, requests in zip(loaded.items, loaded.instances, strict=True)
        for request in requests
    }
    out = Path(out)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    task_scores: dict[str, dict[str, Any]] = {}
    columns: dict[str, ColumnScore] = {}
    total = sum(len(requests) for loaded in tasks.loaded for requests in loaded.instances)
    with Progress("evaluate", total, "requests", is_main=True) as progress:
        journal = Journal(path, items, progress)
        lm.set_cache_hook(journal)
        for name in tasks.columns:
            loaded_tasks = tasks.of(name)
            _answer(lm, journal, loaded_tasks, generator)
            rows = []
            for loaded in loaded_tasks:
                task_scores[loaded.name], found = _score_task(loaded, lm)
                rows.extend(found)
            write_samples(rows, out / "samples" / f"{h6_benchmark(name).task}.parquet")
            columns[name] = _column(name, tasks, [task_scores[loaded.name] for loaded in loaded_tasks])
        journal.close()
    # A frame can outlive its call in the traceback of an error that a library caught; the weights must not.
    del lm, loaded_model
    scores = _scores({name: columns[name] for name in tasks.columns}, task_scores, settings)
    write_scores(scores, out)
    return scores


def _settings(
    model: Path | str,
    tasks: H6Tasks,
    lm: SharedPrefixLM,
    device: str,
    dtype: str,
    batch_tokens: int,
    generator: GenerationServer | None,
) -> dict[str, Any]:
    """Everything but prompts and items that can change a score, as it is recorded."""
    tokenizer, version = lm.tokenizer, importlib.metadata.version
    return {
        **({"generated_by_server": generator.name} if generator else {}),
        "model_digest": model_digest(model),
        "harness": version("lm-eval"),
        "transformers": version("transformers"),
        "torch": version("torch"),
        "fewshot_seed": FEWSHOT_SEED,
        "sample_seed": tasks.seed,
        "limits": dict(tasks.limits),
        "sources": dict(tasks.sources),
        "dtype": dtype,
        "device": device.split(":")[0],
        "batch_tokens": batch_tokens,
        "max_length": lm.max_length,
        "shared_prefixes": lm.fast,
        "bos_token": tokenizer.bos_token,
        "prefix_token_id": lm.prefix_token_id,
        "tokenizer_adds": tokenizer("")["input_ids"],  # without an EOS: see `drop_trailing_tokens`
    }


def _answer(
    lm: SharedPrefixLM, journal: Journal, tasks: Sequence[LoadedTask], generator: GenerationServer | None
) -> None:
    """Fill in every request's response, from the journal if it holds it."""
    instances = [request for loaded in tasks for requests in loaded.instances for request in requests]
    answers, missing = journal.split(instances)
    journal.progress.advance(len(answers))
    asked = [instances[index] for index in missing]
    if not tasks[0].column.generates:
        found = lm.loglikelihood(asked)
    elif generator is None or not asked:
        found = lm.generate_until(asked)
    else:
        found = generator.generate_until(asked, lm)
    answers.update(zip(missing, found, strict=True))
    for index, instance in enumerate(instances):
        instance.resps, instance.filtered_resps = [answers[index]], {}


def _score_task(loaded: LoadedTask, lm: SharedPrefixLM) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One task's score in percent, by the harness's filters, metric and aggregation, and a row per item."""
    task, column = loaded.task, loaded.column
    task._instances = [request for requests in loaded.instances for request in requests]
    task.apply_filters()
    values: dict[str, list[float]] = {}
    rows = []
    for item, doc, requests in zip(loaded.items, loaded.docs, loaded.instances, strict=True):
        measured = {}
        for key in requests[0].filtered_resps:
            for metric, value in task.process_results(doc, [r.filtered_resps[key] for r in requests]).items():
                measured[f"{metric},{key}"] = float(value)
        if any(math.isnan(value) for value in measured.values()):
            raise UserError(
                f"{loaded.name} item {item}: its metric is NaN, as its choices have no probability under "
                "this model; check the checkpoint or leave this benchmark out"
            )
        for metric, value in measured.items():
            values.setdefault(metric, []).append(value)
        rows.append(item_row(loaded, item, doc, requests, measured))
    result: dict[str, Any] = {}
    for metric, prefix in ((column.metric, ""), (FLEXIBLE, "flexible_")):
        if metric in values:
            aggregate = task.aggregation()[metric.split(",")[0]]
            stderr = stderr_for_metric(aggregate, bootstrap_iters=1)
            result[f"{prefix}score"] = 100 * float(aggregate(values[metric]))
            result[f"{prefix}stderr"] = (
                100 * float(stderr(values[metric])) if len(values[metric]) > 1 else None
            )
    return {
        **result,
        "items": len(loaded.items),
        "split_size": loaded.split_size,
        "truncated": sum(any(lm.exceeds(request) for request in requests) for requests in loaded.instances),
        "version": task.VERSION,
        "docs_hash": loaded.docs_hash,
        "prompts_hash": loaded.prompts_hash,
    }, rows


def _column(name: str, tasks: H6Tasks, found: Sequence[dict[str, Any]]) -> ColumnScore:
    """A column's plain mean over its tasks: a single one, or MMLU's subjects."""
    column = h6_benchmark(name)
    return ColumnScore(
        score=sum(task["score"] for task in found) / len(found),
        stderr=mean_stderr([task["stderr"] for task in found]),
        items=sum(task["items"] for task in found),
        truncated=sum(task["truncated"] for task in found),
        metric=column.metric,
        shots=column.shots,
        limit=tasks.limits[name],
    )


def mean_stderr(stderrs: Sequence[float | None]) -> float | None:
    """Standard error of the plain mean of independent means; None where one of theirs is unknown."""
    if any(stderr is None for stderr in stderrs):
        return None
    return math.sqrt(sum(stderr**2 for stderr in stderrs)) / len(stderrs)


def _scores(
    columns: dict[str, ColumnScore], task_scores: dict[str, dict[str, Any]], settings: dict[str, Any]
) -> Scores:
    complete = set(columns) == set(H6_NAMES)
    subjects = [task for name, task in task_scores.items() if name.startswith("mmlu_")]
    gsm8k = task_scores.get("gsm8k", {})
    return Scores(
        h6=sum(column.score for column in columns.values()) / len(columns) if complete else None,
        h6_stderr=mean_stderr([column.stderr for column in columns.values()]) if complete else None,
        columns=columns,
        mmlu_weighted=(
            sum(task["score"] * task["items"] for task in subjects) / sum(task["items"] for task in subjects)
            if subjects
            else None
        ),
        gsm8k_flexible=gsm8k.get("flexible_score"),
        gsm8k_flexible_stderr=gsm8k.get("flexible_stderr"),
        tasks=task_scores,
        settings=settings,
    )
