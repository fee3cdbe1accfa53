"""What `benchmarks.performance.data` measures, one step of one contender a process.

    python -m benchmarks.performance.data_contenders CONTENDER STEP WORK

`ours` is `solar_repro.data`; `map` does the same with `datasets`, TRL and plain Python functions, a row at a
time, as their documentation shows. Prints seconds (imports apart), rows in and out, and the peak of memory.
"""

import json
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solar_repro.paper.data_sets import FILTERED_TASKS

LENGTH = 2048
"""Tokens of a packed block and the longest row: Zephyr's SFT length."""
TEXT_COLUMNS = ("system_prompt", "question", "response")
SET, BENCHMARK = "Open-Orca/OpenOrca", "GSM8K"
Step = Callable[[Path], Callable[[], dict[str, Any]]]
"""Imports and opens what the step stands on; the returned function is what is timed."""


def _rows(work: Path, **settings: Any) -> Any:
    from solar_repro.data.locate import locate
    from solar_repro.data.sources import load_instruction

    return load_instruction("openorca", locate(SET, work / "mirror"), cache_dir=work / "ours", **settings)


def _tokenizer(work: Path) -> Any:
    from solar_repro.checkpoint.load import pretrained_tokenizer
    from solar_repro.data.templates import set_chat_template

    tokenizer = pretrained_tokenizer(work / "tokenizer")
    set_chat_template(tokenizer)
    return tokenizer


def ours_filter(work: Path) -> Callable[[], dict[str, Any]]:
    import datasets  # noqa: F401
    import pyarrow.compute  # noqa: F401

    from solar_repro.data.table_8_filter import by_task_name

    shutil.rmtree(work / "ours", ignore_errors=True)  # what an earlier run kept would be read instead

    def step() -> dict[str, Any]:
        rows = _rows(work, row_filters=[by_task_name(FILTERED_TASKS)])
        return {"rows_in": rows.report["rows_in"], "rows_out": len(rows.dataset)}

    return step


def _ours_filtered(work: Path) -> Any:
    from solar_repro.data.table_8_filter import by_task_name

    return _rows(work, row_filters=[by_task_name(FILTERED_TASKS)])


def ours_tokenise(work: Path) -> Callable[[], dict[str, Any]]:
    from solar_repro.data.tokens import tokenise_instruction

    rows, tokenizer = _ours_filtered(work), _tokenizer(work)
    shutil.rmtree(work / "ours_tokens", ignore_errors=True)

    def step() -> dict[str, Any]:
        done, report = tokenise_instruction(rows, tokenizer, LENGTH, cache_dir=work / "ours_tokens")
        return {"rows_in": len(rows.dataset), "rows_out": len(done), "tokens": report["tokens"]}

    return step


def ours_pack(work: Path) -> Callable[[], dict[str, Any]]:
    from solar_repro.data.packing import pack_instruction
    from solar_repro.data.tokens import tokenise_instruction

    rows, tokenizer = _ours_filtered(work), _tokenizer(work)
    done, _ = tokenise_instruction(rows, tokenizer, LENGTH, cache_dir=work / "ours_tokens")
    shutil.rmtree(work / "ours_blocks", ignore_errors=True)

    def step() -> dict[str, Any]:
        _, report = pack_instruction(done, LENGTH, rows.key, work / "ours_blocks")
        return {"rows_in": report["rows"], "rows_out": report["blocks"], "padding": report["padding_share"]}

    return step


def ours_overlap(work: Path) -> Callable[[], dict[str, Any]]:
    from solar_repro.data.decontamination import benchmark_index, overlap

    rows = _rows(work)
    index = benchmark_index(work / "mirror", [BENCHMARK])

    def step() -> dict[str, Any]:
        lines, _ = overlap(rows, index, num_proc=os.cpu_count())
        return {"rows_in": len(rows.dataset), "rows_out": lines[0].hit}

    return step


def _plain(work: Path) -> Any:
    import datasets

    folder = str(work / "mirror" / SET)
    return datasets.load_dataset(folder, split="train", cache_dir=str(work / "map"))


def map_filter(work: Path) -> Callable[[], dict[str, Any]]:
    import datasets  # noqa: F401

    def messages(row: dict[str, Any]) -> dict[str, Any]:
        turns = [("system", row["system_prompt"]), ("user", row["question"]), ("assistant", row["response"])]
        kept = [{"role": role, "content": text} for role, text in turns if text]
        return {"row_id": row["id"], "messages": kept}

    def step() -> dict[str, Any]:
        rows = _plain(work)
        kept = rows.filter(lambda row: row["task_name"] not in FILTERED_TASKS and row["response"])
        done = kept.map(messages, remove_columns=kept.column_names)
        done.save_to_disk(str(work / "map" / "filtered"))
        return {"rows_in": len(rows), "rows_out": len(done)}

    return step


def map_tokenise(work: Path) -> Callable[[], dict[str, Any]]:
    import datasets

    tokenizer = _tokenizer(work)
    rows = datasets.load_from_disk(str(work / "map" / "filtered"))

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        # As TRL's SFT trainer: the prompt and the whole, each rendered and tokenised.
        turns = row["messages"]
        prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(turns, return_dict=False)[:LENGTH]
        return {"input_ids": whole, "completion_mask": [0] * len(prompt) + [1] * (len(whole) - len(prompt))}

    def step() -> dict[str, Any]:
        done = rows.map(tokens, remove_columns=rows.column_names)
        done.save_to_disk(str(work / "map" / "tokens"))
        return {"rows_in": len(rows), "rows_out": len(done), "tokens": sum(map(len, done["input_ids"]))}

    return step


def map_pack(work: Path) -> Callable[[], dict[str, Any]]:
    import datasets
    from trl import pack_dataset

    rows = datasets.load_from_disk(str(work / "map" / "tokens"))

    def labels(row: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
        return {"labels": [token if keep else -100 for token, keep in pairs]}

    def step() -> dict[str, Any]:
        done = pack_dataset(rows.map(labels, remove_columns=["completion_mask"]), LENGTH, "bfd")
        filled = sum(map(sum, done["seq_lengths"]))
        return {"rows_in": len(rows), "rows_out": len(done), "padding": 1 - filled / (len(done) * LENGTH)}

    return step


def map_overlap(work: Path) -> Callable[[], dict[str, Any]]:
    import datasets

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())
        return {tuple(words[start : start + 13]) for start in range(max(len(words) - 12, 1))}

    items = datasets.load_dataset(str(work / "mirror" / "openai/gsm8k"), "main", split="test")
    known = set().union(*(grams(question) for question in items["question"]))
    rows = _plain(work)

    def step() -> dict[str, Any]:
        hit = 0
        for batch in rows.iter(1000):
            for texts in zip(*(batch[name] for name in TEXT_COLUMNS), strict=True):
                hit += any(grams(text) & known for text in texts)
        return {"rows_in": len(rows), "rows_out": hit}

    return step


STEPS: dict[str, dict[str, Step]] = {
    "ours": {
        "filter": ours_filter,
        "tokenise": ours_tokenise,
        "pack": ours_pack,
        "overlap": ours_overlap,
    },
    "map": {"filter": map_filter, "tokenise": map_tokenise, "pack": map_pack, "overlap": map_overlap},
}


def main(contender: str, name: str, work: str) -> None:
    step = STEPS[contender][name](Path(work))
    start = time.perf_counter()
    found = step()
    found["seconds"] = time.perf_counter() - start
    # Counted from this program's own start, unlike what the parent would see.
    status = Path("/proc/self/status").read_text()
    found["peak_resident_bytes"] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
