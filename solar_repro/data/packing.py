"""Packing into blocks of a fixed length without a leak from one document to the next.

`seq_lengths` holds the lengths of the documents in a block. `PackedCollator` turns them into position ids
that start again at 0 and gives no attention mask: from such positions transformers builds a block-diagonal
causal mask for eager, SDPA and flex attention on every device, for any batch size. It does so only as long as
there is no key-value cache: call the model with `use_cache=False`, or documents see each other. Flash
attention wants all blocks in one sequence instead, which TRL's `padding_free=True` makes of the same columns.
"""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solar_repro.code_digest import code_digest
from solar_repro.data.cache import arrow_rows, key_of
from solar_repro.data.report import Report
from solar_repro.data.tokens import list_table, tokenizer_fingerprint
from solar_repro.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

WINDOW_ROWS = 16_384
"""Rows among which the best fit is sought; bounds the memory."""
TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class PackedCollator:
    """Blocks (`input_ids`, `seq_lengths`, optionally `labels`) to a batch (rows, longest block).

    The first token of every document has no label: what stands before it is another document.
    """

    pad_token_id: int

    def __call__(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = max(len(block["input_ids"]) for block in blocks)
        input_ids = torch.full((len(blocks), width), self.pad_token_id)
        labels = torch.full((len(blocks), width), -100)
        # Padding is a document of its own, so no token attends to it.
        position_ids = torch.zeros((len(blocks), width), dtype=torch.long)
        for row, block in enumerate(blocks):
            size = len(block["input_ids"])
            input_ids[row, :size] = torch.as_tensor(block["input_ids"])
            labels[row, :size] = torch.as_tensor(block.get("labels", block["input_ids"]))
            lengths = [*block["seq_lengths"], width - size]
            position_ids[row] = torch.cat([torch.arange(length) for length in lengths])
        labels[position_ids == 0] = -100
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}


def best_fit(lengths: "np.ndarray", capacity: int) -> list[list[int]]:
    """Best-fit decreasing: places of `lengths` (each ≤ capacity) in bins, the fullest bin that fits first."""
    bins: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = int(lengths[place])
        found = bisect.bisect_left(spaces, length)
        if found == len(spaces):
            number, space = len(bins), capacity
            bins.append([])
        else:
            space = spaces[found]
            number = by_space[space].pop()
            if not by_space[space]:
                del spaces[found]
        bins[number].append(place)
        if left := space - length:
            waiting = by_space.setdefault(left, [])
            if not waiting:
                bisect.insort(spaces, left)
            waiting.append(number)
    return bins


def pack_instruction(
    tokenised: "Dataset", length: int, key: str, cache_dir: Path | None = None
) -> "tuple[Dataset, Report]":
    """Tokenised instruction rows packed by best fit: `input_ids`, `labels` (−100 off the answer) and
    `seq_lengths`.

    `key` names the content of `tokenised`, whose rows must be no longer than `length`.
    Report: `rows`, `blocks`, `tokens`, `padding_share` (of `blocks` × `length`).
    """
    key = key_of(rows=key, length=length, code=code_digest("solar_repro.data.packing"))

    def tables(report: Report) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        report |= {"rows": len(tokenised), "blocks": 0, "tokens": 0}
        for window in tokenised.with_format("arrow").iter(WINDOW_ROWS):
            ids = pc.list_slice(window["input_ids"].combine_chunks(), 0, length)
            mask = pc.list_slice(window["completion_mask"].combine_chunks(), 0, length)
            lengths = pc.list_value_length(ids).to_numpy()
            bins = best_fit(lengths, length)
            order = pa.array([place for places in bins for place in places])
            ids = pc.list_flatten(pc.take(ids, order)).cast(pa.int32())
            mask = pc.list_flatten(pc.take(mask, order))
            labels = pc.if_else(pc.equal(mask, 1), ids, pa.scalar(-100, pa.int32()))
            ends = np.cumsum([0] + [sum(lengths[places]) for places in bins]).astype(np.int32)
            per_block = [[int(lengths[place]) for place in places] for places in bins]
            report["blocks"] += len(bins)
            report["tokens"] += len(ids)
            yield pa.table(
                {
                    "input_ids": pa.ListArray.from_arrays(pa.array(ends), ids),
                    "labels": pa.ListArray.from_arrays(pa.array(ends), labels),
                    "seq_lengths": list_table({"seq_lengths": "int32"}, [per_block])["seq_lengths"],
                }
            )
        report["padding_share"] = 1 - report["tokens"] / (report["blocks"] * length)

    return arrow_rows(key, tables, cache_dir)


def pack_text(
    texts: Iterable[str],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    *,
    key: str,
    max_tokens: int | None = None,
    cache_dir: Path | None = None,
) -> "tuple[Dataset, Report]":
    """Documents (BOS, text, EOS) laid end to end and cut into full blocks: `input_ids`, `seq_lengths`.

    `key` names the content and order of `texts`. Stops at `max_tokens` tokens, rounded up to a block; the
    tokens after the last full block are left out. Report: `documents`, `blocks`, `tokens`, `tokens_left_out`.
    """
    key = key_of(
        texts=key,
        tokenizer=tokenizer_fingerprint(tokenizer),
        length=length,
        max_tokens=max_tokens,
        code=code_digest("solar_repro.data.packing"),
    )
    columns = {"input_ids": "int32", "seq_lengths": "int32"}

    def tables(report: Report) -> Iterator[Any]:
        report |= {"documents": 0, "blocks": 0, "tokens": 0}
        blocks: list[tuple[list[int], list[int]]] = []
        ids: list[int] = []
        lengths: list[int] = []
        with Progress("packing text", max_tokens or 0, "tokens") as progress:
            for document in _documents(texts, tokenizer):
                report["documents"] += 1
                start = 0
                while start < len(document):
                    piece = document[start : start + length - len(ids)]
                    ids, lengths, start = ids + piece, [*lengths, len(piece)], start + len(piece)
                    if len(ids) == length:
                        blocks.append((ids, lengths))
                        ids, lengths = [], []
                        report["blocks"] += 1
                        report["tokens"] += length
                        progress.advance(length)
                        if max_tokens and report["tokens"] >= max_tokens:
                            start = len(document)
                if len(blocks) >= TEXTS_AT_ONCE:
                    yield list_table(columns, list(zip(*blocks, strict=True)))
                    blocks = []
                if max_tokens and report["tokens"] >= max_tokens:
                    break
        report["tokens_left_out"] = len(ids)
        yield list_table(columns, list(zip(*blocks, strict=True)) or [[], []])

    return arrow_rows(key, tables, cache_dir)


def _documents(texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[int]]:
    from itertools import islice

    source = iter(texts)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    while batch := list(islice(source, TEXTS_AT_ONCE)):
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            yield [bos, *(token for token in ids if token not in (bos, eos)), eos]
