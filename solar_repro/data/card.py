"""Cards of prepared data: rows that were read, dropped (by reason) and kept, tokens, a picture of lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from solar_repro.data.decontamination import Overlap
from solar_repro.data.histogram import draw_histogram
from solar_repro.data.report import RowReport

BARS = 48
"""Bars of the histogram of lengths."""
BLOCKS_AT_ONCE = 4096
"""Packed blocks that are read at once."""


def write_card(
    out: Path,
    name: str,
    rows: RowReport,
    tokens: RowReport,
    tokenised: Dataset,
    overlaps: list[Overlap] | None = None,
) -> None:
    """Write `<name>.md`, `<name>.json` and `<name>_lengths.png` into `out`.

    `rows` and `tokens` are the reports of loading and of tokenising; `overlaps` is None where the set was not
    compared with the benchmarks.
    """
    lengths = sequence_lengths(tokenised)
    figures = {"rows": rows, "tokens": tokens, "lengths": quantiles(lengths)}
    if overlaps is not None:
        figures["overlap"] = [vars(line) for line in overlaps]
    _write(out, name, figures, _markdown(name, rows, tokens, lengths, overlaps))
    _draw(out / f"{name}_lengths.png", f"{name}: {len(lengths):,} rows", lengths)


def write_corpus_card(
    out: Path, about: RowReport, packed: RowReport, blocks: Dataset, bos_token_id: int
) -> None:
    """Write the same files, as `corpus.…`, for packed text.

    `about` holds `used`, `split` and `fingerprint` of the text. `packed` is the report of packing, and
    `blocks` are its rows, whose documents begin with BOS.
    """
    lengths = document_lengths(blocks, bos_token_id)
    dropped = packed.get("dropped", {})
    lines = [
        "# corpus",
        "",
        f"Source: `{about['used']}`, split `{about['split']}`  ",
        f"Fingerprint: `{about['fingerprint']}`",
        "",
        "| | documents |",
        "|---|--:|",
        f"| read | {packed['documents'] + sum(dropped.values()):,} |",
        *(f"| dropped: {reason} | {count:,} |" for reason, count in dropped.items()),
        f"| tokenised | {packed['documents']:,} |",
        f"| in the blocks (the last one may be cut) | {len(lengths):,} |",
        "",
        f"Blocks: {packed['blocks']:,}, tokens: {packed['tokens']:,}; special tokens that were in "
        f"texts and were removed: {packed['special_tokens_removed']:,}. "
        f"Lengths: {_told(quantiles(lengths))}.",
    ]
    figures = {"about": about, "packed": packed, "lengths": quantiles(lengths)}
    _write(out, "corpus", figures, "\n".join([*lines, "", "![lengths](corpus_lengths.png)", ""]))
    _draw(out / "corpus_lengths.png", f"corpus: {len(lengths):,} documents", lengths)


def _write(out: Path, name: str, figures: dict[str, Any], markdown: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2, ensure_ascii=False, sort_keys=True, default=list)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(markdown, encoding="utf-8")


def sequence_lengths(tokenised: Dataset) -> np.ndarray:
    """Tokens of each row [rows]: of `input_ids`, or of the prompt and the longer one of its two answers."""

    def lengths(name: str) -> np.ndarray:
        return pc.list_value_length(tokenised.with_format("arrow")[:][name]).to_numpy()

    if "input_ids" in tokenised.column_names:
        return lengths("input_ids")
    return lengths("prompt_ids") + np.maximum(lengths("chosen_ids"), lengths("rejected_ids"))


def document_lengths(blocks: Dataset, bos_token_id: int) -> np.ndarray:
    """Tokens of each document of packed text [documents], however many blocks it lies in.

    A document begins with BOS. Where EOS is the same token, a piece of one token at the start of a block is
    the end of a document, for a new document would be longer.
    """
    pieces, begins = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    for batch in blocks.with_format("arrow").iter(BLOCKS_AT_ONCE):
        sizes = pc.list_flatten(batch["seq_lengths"].combine_chunks()).to_numpy()
        first = pc.list_flatten(batch["input_ids"].combine_chunks()).to_numpy()[np.cumsum(sizes) - sizes]
        pieces.append(sizes)
        block_starts = np.zeros(len(sizes), bool)
        counts = pc.list_value_length(batch["seq_lengths"].combine_chunks()).to_numpy()
        block_starts[np.cumsum(counts) - counts] = True
        begins.append((first == bos_token_id) & ~(block_starts & (sizes == 1)))
    starts = np.flatnonzero(np.concatenate(begins))
    return np.add.reduceat(np.concatenate(pieces), starts) if len(starts) else starts


def quantiles(lengths: np.ndarray) -> dict[str, float]:
    """Mean, median, 90th and 99th percentile and greatest length, in tokens; empty without rows."""
    if not len(lengths):
        return {}
    named = {"median": 50, "p90": 90, "p99": 99, "longest": 100}
    return {"mean": round(float(lengths.mean()), 1)} | {
        name: float(np.percentile(lengths, share, method="higher")) for name, share in named.items()
    }


def _markdown(
    name: str, rows: RowReport, tokens: RowReport, lengths: np.ndarray, overlaps: list[Overlap] | None
) -> str:
    stand_in = "" if rows["used"] == rows["hub_id"] else f", in place of `{rows['hub_id']}`"
    lines = [
        f"# {name}",
        "",
        f"Source: `{rows['used']}`{stand_in}, split `{rows['split']}`  ",
        f"Fingerprint: `{rows['fingerprint']}`",
        "",
        "| | rows |",
        "|---|--:|",
        f"| read | {rows['rows_in']:,} |",
        *(f"| dropped: {reason} | {count:,} |" for reason, count in rows["dropped"].items()),
        f"| usable | {rows['usable']:,} |",
        f"| kept within the limit of rows | {rows['kept']:,} |",
        *(f"| dropped: {reason} | {count:,} |" for reason, count in tokens["dropped"].items()),
        f"| tokenised | {tokens['kept']:,} |",
        f"| of these, with the start of the prompt cut off | {tokens['prompts_truncated']:,} |",
        "",
        f"Tokens: {tokens['tokens']:,}, of which answers {tokens['answer_tokens']:,}. Lengths: "
        f"{_told(quantiles(lengths))}.",
    ]
    if "filter" in rows:
        told = {key: value for key, value in rows["filter"].items() if key != "removed"}
        lines += ["", f"Filter of Table 8: {json.dumps(told, ensure_ascii=False)}"]
    if overlaps is not None:
        lines += ["", "| benchmark | rows that share a 13-gram | example |", "|---|--:|---|"]
        for line in overlaps:
            # In a code span nothing in a row's id is taken for markup.
            shown = (
                "`" + " ".join(line.examples[0][0].split()).replace("`", "'") + "`" if line.examples else ""
            )
            lines.append(f"| {line.benchmark} | {line.hit:,} | {shown} |")
    return "\n".join([*lines, "", f"![lengths]({name}_lengths.png)", ""])


def _told(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:,.0f}" for key, value in figures.items())


def _draw(file: Path, title: str, lengths: np.ndarray) -> None:
    draw_histogram(file, {"": lengths}, BARS, title=title, x="tokens", y="number")
