"""Scores H6 with the harness's stock adapter and with ours, in turn, on the same model and items.

    python -m benchmarks.performance.evaluation --mirror ../shared/hub --out build/evaluation
    python -m benchmarks.performance.evaluation --shape 1B --dtype bfloat16 --batch-size 32 --rounds 2 \
        --columns ARC HellaSwag MMLU TruthfulQA Winogrande --out build/evaluation

Without --model a random Llama is built: of 15M parameters, with a BPE of 8,192 tokens trained on the mirror,
or of TinyLlama's shape (1B), with the embedded tokenizer. Without --mirror items are the embedded world's.
Both sides run from loaded tasks and a loaded model to scores: the stock one through `lm_eval.evaluate` (which
builds its prompts anew for every model, as it does), ours through `evaluate_h6`. Positions computed are
counted by one hook for both, padding included; the limit is the tokens of the prefix tree of all prompts,
which nothing can undercut. Peak memory within the call is the resident set's high-water mark, or on a GPU the
most that PyTorch held there. Building the tasks is timed apart, for a first and for a second model. Writes
evaluation.json and evaluation.png.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.performance.evaluation_results import BenchmarkRow, Measured, plot, table, totals
from benchmarks.performance.gpu_training import SHAPES, write_random_llama
from benchmarks.performance.memory import gpu_peak_mib, peak_mib, reset_gpu_peak, reset_peak
from benchmarks.performance.random_llama import build_random_llama
from solar_repro.checkpoint.load import DTYPES, Loaded, load_for_scoring, model_digest
from solar_repro.device import device
from solar_repro.h6.evaluation import evaluate_h6
from solar_repro.h6.samples import read_samples
from solar_repro.h6.tasks import H6Tasks, build_tasks
from solar_repro.microworld.write import write_mirror
from solar_repro.paper.benchmarks import FEWSHOT_SEED, H6_NAMES
from solar_repro.scales.microworld import WorldSettings
from solar_repro.store.publish import write_atomically

SUBJECTS = (
    "anatomy",
    "college_physics",
    "high_school_geography",
    "moral_disputes",
    "professional_accounting",
)


@dataclass(frozen=True)
class How:
    """How both sides compute; `batch_size` is the stock adapter's, None for `max_length` the model's own."""

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 8
    max_length: int | None = None

    def load(self, model: Path) -> Loaded:
        return load_for_scoring(model, device=self.device, dtype=self.dtype)


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


def measure(run: Callable[[], Any], on: str = "cpu") -> tuple[Any, Measured]:
    """Run once and say what it took of this process's memory, or of the GPU's if it runs `on` one."""
    if on == "cuda":
        reset_gpu_peak()
    resettable = reset_peak()
    with counted_positions() as positions:
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
    peak = gpu_peak_mib() if on == "cuda" else peak_mib() if resettable else None
    return result, Measured(seconds, positions[0], peak)


def stock_evaluation(loaded: Loaded, tasks: H6Tasks, how: How) -> dict[str, Any]:
    """The harness's own evaluation of these items, its prompt templates uncached as it has them."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import env

    cached = env.__dict__.pop("from_string", None)
    try:
        model, tokenizer = loaded
        settings = {"batch_size": how.batch_size, "max_length": how.max_length}
        lm = HFLM(pretrained=model, tokenizer=tokenizer, **settings)
        samples = {own.name: list(own.items) for own in tasks.loaded}
        for own in tasks.loaded:
            own.task.set_fewshot_seed(FEWSHOT_SEED)
        return evaluate(lm, {"tasks": {own.name: own.task for own in tasks.loaded}}, samples=samples)
    finally:
        if cached is not None:
            env.from_string = cached


def own_evaluation(loaded: Loaded, model: Path, tasks: H6Tasks, out: Path, how: How) -> None:
    """Ours of the same items, with the folder's model as it is loaded already."""
    with patch("solar_repro.h6.evaluation.load_for_scoring", lambda *place, **settings: loaded):
        evaluate_h6(model, tasks, out, device=how.device, dtype=how.dtype, max_length=how.max_length)


def needed_tokens(model: Path, tasks: H6Tasks, how: How) -> int:
    """Tokens of the prefix tree of all prompts, and those generated: what any method must compute."""
    from solar_repro.h6.adapter import SharedPrefixLM
    from solar_repro.shared_prefix.prefix_tree import plan_prefixes

    loaded, tokenizer = how.load(model)
    lm = SharedPrefixLM(loaded, tokenizer, batch_tokens=8192, max_length=how.max_length)
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


def compare(model: Path, tasks: H6Tasks, out: Path, rounds: int, how: How) -> BenchmarkRow:
    """Both sides `rounds` times in turn; the fastest round of each counts."""
    ours, theirs = [], []
    model_digest(model)  # hashed once, not in the first round
    for number in range(rounds):
        tasks.encodings.clear()  # our side pays for encoding the prompts each time, as the stock one does
        folder = out / f"{tasks.columns[0]}-{number}"

        def run_ours(folder: Path = folder) -> None:
            loaded = how.load(model)
            ours.append(measure(lambda: own_evaluation(loaded, model, tasks, folder, how), how.device))

        def run_theirs() -> None:
            loaded = how.load(model)
            theirs.append(measure(lambda: stock_evaluation(loaded, tasks, how), how.device))

        for side in (run_ours, run_theirs) if number % 2 else (run_theirs, run_ours):
            side()
    largest, argmax, texts = differences(theirs[-1][0], folder)
    return BenchmarkRow(
        column=tasks.columns[0],
        stock=min((measured for _, measured in theirs), key=lambda measured: measured.seconds),
        ours=min((measured for _, measured in ours), key=lambda measured: measured.seconds),
        needed_tokens=needed_tokens(model, tasks, how),
        items=sum(len(own.items) for own in tasks.loaded),
        largest_relative_difference=largest,
        different_argmax=argmax,
        different_texts=texts,
    )


def write_embedded(folder: Path) -> Path:
    """Write the embedded world's benchmarks, and the little of the rest that their folder needs."""
    few = {"documents": 100, "alpaca_rows": 10, "orca_rows": 20, "math_problems": 40, "metamath_rows": 40}
    write_mirror(folder, WorldSettings(**few, ultrafeedback_rows=10, orca_dpo_rows=10))
    return folder


def main() -> None:
    """Parse the command line, measure, print the table, write JSON and plot."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n")[0])
    parser.add_argument(
        "--mirror",
        type=Path,
        help="folder of data sets, laid out <org>/<name>/ as on the hub (default: the embedded world)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write results to")
    parser.add_argument(
        "--model", type=Path, help="folder of a model (default: a random Llama, whose size is --shape)"
    )
    parser.add_argument("--shape", choices=("15M", "1B"), default="15M")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default=device(), help="device of both sides (default: %(default)s)")
    parser.add_argument("--items", type=int, default=50, help="number of items per benchmark")
    parser.add_argument(
        "--mmlu-items", type=int, help="number of items per MMLU subject (default: 50; all 9 embedded ones)"
    )
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
    model, max_length, mmlu_items = options.model, options.max_length, options.mmlu_items
    mirror = options.mirror or write_embedded(options.out / "world")
    if mmlu_items is None:
        mmlu_items = 50 if options.mirror else WorldSettings().mmlu_items_per_subject
    if model is None:
        max_length = max_length or 2048
        model = options.out / f"random-llama-{options.shape}"
        if options.shape == "1B":
            write_random_llama(SHAPES["1B"], model)
        else:
            build_random_llama(mirror, model)
    how = How(options.device, options.dtype, options.batch_size, max_length)
    chosen: dict[str, Any] = {
        "limits": {name: mmlu_items if name == "MMLU" else options.items for name in options.columns},
        "subjects": None if options.subjects == ["all"] else options.subjects,
    }
    building = [measure(lambda: build_tasks(mirror, columns=options.columns, **chosen))[1].seconds]
    building += [measure(lambda: build_tasks(mirror, columns=options.columns, **chosen))[1].seconds]
    print(f"building the tasks: {building[0]:.2f} s, for a second model {building[1]:.3f} s", flush=True)
    rows = []
    for name in options.columns:
        limits = {name: chosen["limits"][name]}
        tasks = build_tasks(mirror, columns=[name], **chosen | {"limits": limits})
        rows.append(compare(model, tasks, options.out, options.rounds, how))
        print(table(rows[-1:]), flush=True)
    rows.append(totals(rows))
    print(table(rows))
    settings = {key: str(value) for key, value in sorted(vars(options).items())}
    report = {"settings": settings, "building": building, "rows": [asdict(row) for row in rows]}
    write_atomically(options.out / "evaluation.json", json.dumps(report, indent=1) + "\n")
    plot(rows, options.out / "evaluation.png")


if __name__ == "__main__":
    main()
