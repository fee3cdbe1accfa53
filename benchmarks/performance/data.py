"""Measures speed and memory of preparing data, and compares with `datasets.map`, TRL and plain Python.

    python -m benchmarks.performance.data --mirror ../shared/hub --rows 200000 --work /tmp/data-benchmark

The rows are those of google-research/flan-cot in the mirror. They are repeated as often as needed, and each
copy has its own ids and a word of its own in the question. The tokenizer is a byte-fallback BPE of 32,000
pieces in Llama's manner, trained on them. Every step of every contender runs in its own process; memory is
the peak of that process.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.performance.processes import measure
from solar_repro.store.publish import write_atomically

ROOT = Path(__file__).parents[2]
OPENORCA_ROWS = 4_233_923
STEPS = {
    "filter": "read, filter by task name, canonical rows",
    "tokenise": "chat template and tokens",
    "pack": "best-fit packing",
    "overlap": "13-grams against GSM8K's test (ours in a process a core)",
}


def write_mirror(source: Path, mirror: Path, rows: int) -> None:
    """`rows` rows (at least) of OpenOrca's columns, and GSM8K, in hub layout."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(next((source / "google-research/flan-cot").rglob("*.parquet")))
    folder = mirror / "Open-Orca/OpenOrca"
    folder.mkdir(parents=True)
    written = 0
    while written < rows:
        copy = f"{written // table.num_rows}"
        changed = table.set_column(
            0, "id", pc.binary_join_element_wise(table["id"], pa.scalar(copy), pa.scalar("."))
        )
        question = pc.binary_join_element_wise(table["question"], pa.scalar(f"({copy})"), pa.scalar(" "))
        changed = changed.set_column(table.column_names.index("question"), "question", question)
        pq.write_table(changed, folder / f"train-{written // table.num_rows:05}.parquet")
        written += table.num_rows
    (mirror / "openai").mkdir()
    shutil.copytree(source / "openai/gsm8k", mirror / "openai/gsm8k")


def train_tokenizer(source: Path, folder: Path) -> None:
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    table = pq.read_table(next((source / "google-research/flan-cot").rglob("*.parquet")))
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(split=True), pre_tokenizers.Split("\n", "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=32_000, special_tokens=special, show_progress=False)
    texts = (text for name in ("question", "response") for text in table[name].to_pylist())
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)


def run_step(contender: str, step: str, work: Path) -> dict[str, Any]:
    log = work / f"{contender}-{step}.log"
    command = [sys.executable, "-m", "benchmarks.performance.data_contenders", contender, step, str(work)]
    measure(command, log, None)
    return json.loads(log.read_text(errors="replace").strip().splitlines()[-1])


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = [
        "| step | rows | ours, rows/s | plain, rows/s | ratio | ours, peak MB | plain, peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for step, by_contender in results.items():
        ours, plain = by_contender["ours"], by_contender["map"]
        rates = [found["rows_in"] / found["seconds"] for found in (ours, plain)]
        memory = [found["peak_resident_bytes"] / 1e6 for found in (ours, plain)]
        lines.append(
            f"| {STEPS[step]} | {ours['rows_in']:,} | {rates[0]:,.0f} | {rates[1]:,.0f} | "
            f"{rates[0] / rates[1]:.1f} × | {memory[0]:,.0f} | {memory[1]:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder to write to; later steps read from it"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps to run, in this order"
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    if not (options.work / "tokenizer").exists():
        write_mirror(options.mirror, options.work / "mirror", options.rows)
        train_tokenizer(options.mirror, options.work / "tokenizer")
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for step in options.steps:
        results[step] = {contender: run_step(contender, step, options.work) for contender in ("map", "ours")}
        print(step, json.dumps(results[step]), flush=True)
    print(table(results))
    for contender, found in results.get("overlap", {}).items():
        minutes = found["seconds"] * OPENORCA_ROWS / found["rows_in"] / 60
        print(
            f"13-grams of {OPENORCA_ROWS:,} rows of OpenOrca, extrapolated from {found['rows_in']:,}: "
            f"{contender} {minutes:.1f} min"
        )
    if options.json:
        write_atomically(options.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
