"""Scores H6 with the harness's stock adapter and with ours, in turn, on the same model and items.

    python -m benchmarks.performance.evaluation --mirror ../shared/hub --out build/evaluation

Without --model a random Llama of 15M parameters is built, with a BPE of 8,192 tokens trained on the mirror.
Both sides run from loaded tasks to scores: the stock one through `lm_eval.evaluate` (which builds its prompts
anew for every model, as it does), ours through `evaluate_h6`. Positions computed are counted by one hook for
both, padding included; the limit is the tokens of the prefix tree of all prompts, which nothing can undercut.
Peak memory is the resident set's high-water mark within the call. Building the tasks is timed apart, for a
first and for a second model. Writes evaluation.json and evaluation.png.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.performance.evaluation_results import BenchmarkRow, Measured, plot, table, totals
from benchmarks.performance.memory import peak_mib, reset_peak
from benchmarks.performance.random_llama import build_random_llama
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.samples import read_samples
from solar_repro.h6.tasks import H6Tasks, build_tasks
from solar_repro.paper.benchmarks import FEWSHOT_SEED, H6_NAMES
from solar_repro.store.publish import write_atomically

SUBJECTS = (
    "anatomy",
    "college_physics",
    "high_school_geography",
    "moral_disputes",
    "professional_accounting",
)


@contextmanager
def counted_positions() -> Iterator[list[int]]:
    """Counts the positions that pass through any model's token embedding meanwhile."""
    total = [0]

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and not inputs[0].is_floating_point():
            total[0] += inputs[0].numel()

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield total
    finally:
        handle.remove()


def measure(run: Callable[[], Any]) -> tuple[Any, Measured]:
    """Run once and say what it took."""
    resettable = reset_peak()
    with counted_positions() as positions:
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
    return result, Measured(seconds, positions[0], peak_mib() if resettable else None)


def stock_evaluation(model: Path, tasks: H6Tasks, batch_size: int, max_length: int | None) -> dict[str, Any]:
    """The harness's own evaluation of these items, its prompt templates uncached as it has them."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import env

    from solar_repro.checkpoint.load import load_for_scoring

    cached = env.__dict__.pop("from_string", None)
    try:
        loaded, tokenizer = load_for_scoring(model)
        lm = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
        samples = {own.name: list(own.items) for own in tasks.loaded}
        for own in tasks.loaded:
            own.task.set_fewshot_seed(FEWSHOT_SEED)
        return evaluate(lm, {"tasks": {own.name: own.task for own in tasks.loaded}}, samples=samples)
    finally:
        if cached is not None:
            env.from_string = cached


def needed_tokens(model: Path, tasks: H6Tasks, max_length: int | None) -> int:
    """Tokens of the prefix tree of all prompts, and those generated: what any method must compute."""
    from solar_repro.checkpoint.load import load_for_scoring
    from solar_repro.h6.adapter import SharedPrefixLM
    from solar_repro.shared_prefix.prefix_tree import plan_prefixes

    loaded, tokenizer = load_for_scoring(model)
    lm = SharedPrefixLM(loaded, tokenizer, batch_tokens=8192, max_length=max_length)
    requests = [request for own in tasks.loaded for group in own.instances for request in group]
    if not tasks.loaded[0].column.generates:
        lm.loglikelihood(requests)
        return lm.scorer.distinct_tokens
    lm.generate_until(requests)
    prompts = lm.prompt_tokens([request.args[0] for request in requests], lm.max_gen_toks)
    # A row's last token is read off, not computed on.
    return plan_prefixes(prompts).distinct_tokens + lm.generated_tokens - len(requests)


def differences(stock: dict[str, Any], out: Path) -> tuple[float, int, int]:
    """Largest relative difference of a log-likelihood, items with another argmax, texts that differ."""
    largest, argmax, texts = 0.0, 0, 0
    logged = {
        (sample_task, sample["doc_id"]): sample
        for sample_task, samples in stock["samples"].items()
        for sample in samples
        if sample["filter"] in ("none", "strict-match")
    }
    for rows in read_samples(out).values():
        for row in rows:
            sample = logged[row["task"], row["item"]]
            if row["response"] is not None:
                texts += row["response"] != sample["resps"][0][0]
                continue
            theirs = np.array([value for value, _ in sample["filtered_resps"]])
            ours = np.array(row["log_likelihoods"])
            largest = max(largest, float((np.abs(ours - theirs) / np.abs(theirs)).max()))
            argmax += int(ours.argmax() != theirs.argmax())
    return largest, argmax, texts


def compare(
    model: Path, tasks: H6Tasks, out: Path, rounds: int, batch_size: int, max_length: int | None
) -> BenchmarkRow:
    """Both sides `rounds` times in turn; the fastest round of each counts."""
    ours, theirs = [], []
    for number in range(rounds):
        tasks.encodings.clear()  # our side pays for encoding the prompts each time, as the stock one does
        folder = out / f"{tasks.columns[0]}-{number}"
        sides = [
            lambda: ours.append(measure(lambda: evaluate_h6(model, tasks, folder, max_length=max_length))),  # noqa: B023
            lambda: theirs.append(measure(lambda: stock_evaluation(model, tasks, batch_size, max_length))),
        ]
        for side in sides if number % 2 else reversed(sides):
            side()
    largest, argmax, texts = differences(theirs[-1][0], folder)
    return BenchmarkRow(
        column=tasks.columns[0],
        stock=min((measured for _, measured in theirs), key=lambda measured: measured.seconds),
        ours=min((measured for _, measured in ours), key=lambda measured: measured.seconds),
        needed_tokens=needed_tokens(model, tasks, max_length),
        items=sum(len(own.items) for own in tasks.loaded),
        largest_relative_difference=largest,
        different_argmax=argmax,
        different_texts=texts,
    )


def main() -> None:
    """Parse the command line, measure, print the table, write JSON and plot."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0])
    parser.add_argument(
        "--mirror", type=Path, required=True, help="folder of data sets, laid out <org>/<name>/ as on the hub"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model", type=Path, help="folder of a model (default: a random Llama of 15M parameters)"
    )
    parser.add_argument("--items", type=int, default=50, help="number of items per benchmark")
    parser.add_argument("--mmlu-items", type=int, default=50, help="number of items per MMLU subject")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), help="subjects of MMLU, or: all")
    parser.add_argument("--columns", nargs="+", default=list(H6_NAMES))
    parser.add_argument(
        "--max-length", type=int, help="context length of the harness (default: 2048 for the random model)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="batch size of the stock adapter")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    model, max_length = options.model, options.max_length
    if model is None:
        model = build_random_llama(options.mirror, options.out / "random-llama-15m")
        max_length = max_length or 2048
    chosen: dict[str, Any] = {
        "limits": {name: options.mmlu_items if name == "MMLU" else options.items for name in options.columns},
        "subjects": None if options.subjects == ["all"] else options.subjects,
    }
    building = [measure(lambda: build_tasks(options.mirror, columns=options.columns, **chosen))[1].seconds]
    building += [measure(lambda: build_tasks(options.mirror, columns=options.columns, **chosen))[1].seconds]
    print(f"building the tasks: {building[0]:.2f} s, for a second model {building[1]:.3f} s", flush=True)
    rows = []
    for name in options.columns:
        limits = {name: chosen["limits"][name]}
        tasks = build_tasks(options.mirror, columns=[name], **chosen | {"limits": limits})
        rows.append(compare(model, tasks, options.out, options.rounds, options.batch_size, max_length))
        print(table(rows[-1:]), flush=True)
    rows.append(totals(rows))
    print(table(rows))
    settings = {key: str(value) for key, value in sorted(vars(options).items())}
    report = {"settings": settings, "building": building, "rows": [asdict(row) for row in rows]}
    write_atomically(options.out / "evaluation.json", json.dumps(report, indent=1) + "\n")
    plot(rows, options.out / "evaluation.png")


if __name__ == "__main__":
    main()
