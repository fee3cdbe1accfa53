"""Packing of documents into blocks of a fixed length, without a leak from one document to the next.

`seq_lengths` holds the lengths of the documents in a block. `PackedCollator` turns them into position ids
that start again at 0, and gives no attention mask: from such positions transformers builds a block-diagonal
causal mask for eager, SDPA and flex attention, on every device and for any batch size. With a key-value cache
it does not, and documents would see each other, so the collator asks for none. Flash attention wants all
blocks in one sequence instead, which TRL's `padding_free=True` makes of these columns.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import tokenizer_digest
from solar_repro.data.cache import arrow_rows, arrow_shards, cache_key
from solar_repro.data.report import RowReport
from solar_repro.data.text_stream import TextStream
from solar_repro.data.tokens import list_table
from solar_repro.terminal.progress import Progress

VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""
WINDOW_ROWS = 16_384
"""Rows among which the best fit is sought; their number bounds the memory."""
TEXTS_AT_ONCE = 256
"""Texts that are tokenised at once."""
SHARD_BLOCKS = 4096
"""Blocks of packed text in a file; a killed run loses no more than these."""
TEXT_COLUMNS = {"input_ids": "int32", "seq_lengths": "int32"}


@dataclass(frozen=True)
class PackedCollator:
    """Makes a batch of tensors [blocks, longest block] from `input_ids`, `seq_lengths` and maybe `labels`.

    The first token of every document has no label, for the token before it belongs to another document.
    """

    pad_token_id: int

    def __call__(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
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
        batch = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        return batch | {"use_cache": False}


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Distribute items by best-fit decreasing: the places of `lengths` (each ≤ capacity) in each bin.

    The longest item comes first; each goes into the fullest bin that has room.
    """
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
    tokenised: Dataset, length: int, key: str, cache_dir: Path | None = None
) -> tuple[Dataset, RowReport]:
    """Pack tokenised instructions by best fit: `input_ids`, `labels` (−100 off the answer), `seq_lengths`.

    `key` names the content of `tokenised`, whose rows must be no longer than `length` tokens. The report
    holds `rows`, `blocks`, `tokens` and `padding_share`, the share of padding in `blocks` × `length`.
    """
    key = cache_key(rows=key, length=length, version=VERSION)

    def tables(report: RowReport) -> Iterator[pa.Table]:
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
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    key: str,
    max_tokens: int | None = None,
    cache_dir: Path | None = None,
) -> tuple[Dataset, RowReport]:
    """Lay documents (BOS, text, EOS) end to end and cut them into full blocks: `input_ids`, `seq_lengths`.

    `key` names the content and order of `texts`, a `TextStream` or anything else that gives the same texts
    each time. Packing stops at `max_tokens` tokens, rounded up to a block (None packs all texts); the tokens
    behind the last full block are left out. Blocks are written in shards, and the run after a killed one
    resumes at the text behind the last whole shard. The report holds `documents`, `blocks`, `tokens`,
    `tokens_left_out` and `special_tokens_removed`, for a `TextStream` also `dropped` and `examples` by
    reason.
    """
    key = cache_key(
        texts=key,
        tokenizer=tokenizer_digest(tokenizer, chat_template=False),
        length=length,
        max_tokens=max_tokens,
        version=VERSION,
    )

    def shards(state: dict[str, Any] | None) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
        state = state or dict.fromkeys(("documents", "blocks", "tokens", "special_tokens_removed"), 0)
        rest, stream = state.pop("rest", []), state.pop("stream", None)
        if isinstance(texts, TextStream):
            source = texts.after(stream) if stream else texts
        else:
            source = itertools.islice(texts, state["documents"], None)
        most = None if max_tokens is None else -(-max_tokens // length)
        blocks: list[tuple[list[int], list[int]]] = []
        with Progress("packing text", max_tokens or 0, "tokens") as progress:
            progress.advance(state["tokens"])
            done, walk = False, iter(source)
            while not done:
                batch = list(itertools.islice(walk, TEXTS_AT_ONCE))
                documents = _documents(batch, tokenizer, state)
                full, rest = _cut_into_blocks(rest, documents, length)
                done = not batch or (most is not None and state["blocks"] + len(full) >= most)
                full = full[: most - state["blocks"]] if most is not None else full
                blocks += full
                state["documents"] += len(batch)
                state["blocks"] += len(full)
                state["tokens"] += len(full) * length
                progress.advance(len(full) * length)
                if done or len(blocks) >= SHARD_BLOCKS:
                    left_out = {"tokens_left_out": sum(map(len, rest)), "done": done}
                    left_out |= getattr(source, "report", {})
                    resume = {"rest": rest, "stream": getattr(source, "state", None)}
                    yield (
                        list_table(TEXT_COLUMNS, list(zip(*blocks, strict=True)) or [[], []]),
                        state | (left_out | ({} if done else resume)),
                    )
                    blocks = []

    rows, state = arrow_shards(key, shards, cache_dir)
    return rows, {name: value for name, value in state.items() if name != "done"}


def _cut_into_blocks(
    rest: list[list[int]], documents: Iterable[list[int]], length: int
) -> tuple[list[tuple[list[int], list[int]]], list[list[int]]]:
    """Full blocks (token ids, lengths of the pieces in them), and the pieces that do not fill a block yet."""
    blocks: list[tuple[list[int], list[int]]] = []
    pieces, room = list(rest), length - sum(map(len, rest))
    for document in documents:
        while document:
            pieces.append(document[:room])
            document = document[room:]
            room -= len(pieces[-1])
            if room == 0:
                blocks.append(([token for piece in pieces for token in piece], [len(p) for p in pieces]))
                pieces, room = [], length
    return blocks, pieces


def _documents(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, counts: dict[str, Any]
) -> Iterator[list[int]]:
    """The token ids of each text between BOS and EOS, without the special tokens that a text spells out."""
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []:
        kept = [token for token in ids if token not in special]
        counts["special_tokens_removed"] += len(ids) - len(kept)
        yield [tokenizer.bos_token_id, *kept, tokenizer.eos_token_id]
