"""Packing of documents into blocks of a fixed length, without a leak from one document to the next.

`seq_lengths` holds the lengths of the documents in a block. `PackedCollator` turns them into position ids
that start again at 0, and gives no attention mask: from such positions transformers builds a block-diagonal
causal mask for eager, SDPA and flex attention, on every device and for any batch size. With a key-value cache
it does not, and documents would see each other, so the collator asks for none. Flash attention wants all
blocks in one sequence instead, which TRL's `padding_free=True` makes of these columns.
"""

import bisect
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
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
from solar_repro.data.parallel import in_order
from solar_repro.data.report import RowReport
from solar_repro.data.text_stream import TextStream
from solar_repro.data.tokens import list_table
from solar_repro.errors import UserError
from solar_repro.terminal.progress import Progress

VERSION = 1
"""Raise it by one when rows come out otherwise than before: cached ones are then made again."""
WINDOW_ROWS = 16_384
"""Rows among which the best fit is sought; their number bounds the memory."""
TEXTS_AT_ONCE = 256
"""Texts that are tokenised at once."""
SHARD_BLOCKS = 4096
"""Blocks of packed text in a file; a killed run loses no more than these."""
Encoded = tuple[np.ndarray, np.ndarray, int]
"""Token ids of documents end to end, the length of each, and how many special tokens were removed."""


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
    num_proc: int = 1,
    cache_dir: Path | None = None,
) -> tuple[Dataset, RowReport]:
    """Lay documents (BOS, text, EOS) end to end and cut them into full blocks: `input_ids`, `seq_lengths`.

    `key` names the content and order of `texts`, a `TextStream` or anything else that gives the same texts
    each time. Packing stops at `max_tokens` tokens, rounded up to a block (None packs all texts); the tokens
    behind the last full block are left out. Token ids take two bytes if the vocabulary allows it, else four.
    Blocks are written in shards, and the run after a killed one resumes at the text behind the last whole
    shard. The report holds `documents`, `blocks`, `tokens`, `tokens_left_out` and `special_tokens_removed`,
    for a `TextStream` also `dropped` and `examples` by reason.
    """
    kind = _token_type(tokenizer)
    key = cache_key(
        texts=key,
        tokenizer=tokenizer_digest(tokenizer, chat_template=False),
        length=length,
        max_tokens=max_tokens,
        version=VERSION,
        kind=kind.name,
    )
    most = None if max_tokens is None else -(-max_tokens // length)

    def shards(state: dict[str, Any] | None) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
        state = state or dict.fromkeys(("documents", "blocks", "tokens", "special_tokens_removed"), 0)
        rest, stream = state.pop("rest", ([], [])), state.pop("stream", None)
        ids, lengths = np.array(rest[0], kind), np.array(rest[1], np.int64)
        if isinstance(texts, TextStream):
            source: Any = texts.after(stream) if stream else texts
        else:
            source = itertools.islice(texts, state["documents"], None)
        behind: deque[dict[str, Any] | None] = deque()
        """Where the stream is behind each batch that is being tokenised."""
        tables: list[pa.Table] = []

        def parts() -> Iterator[list[str]]:
            walk = iter(source)
            while batch := list(itertools.islice(walk, TEXTS_AT_ONCE)):
                behind.append(getattr(source, "state", None))
                yield batch

        def shard(done: bool, report: RowReport) -> tuple[pa.Table, dict[str, Any]]:
            resume = {"rest": [ids.tolist(), lengths.tolist()], "stream": stream}
            about = state | {"tokens_left_out": len(ids), "done": done} | report | ({} if done else resume)
            table = pa.concat_tables(tables or [_block_table(ids[:0], lengths[:0], length)])
            tables.clear()
            return table.combine_chunks(), about

        with Progress("packing text", max_tokens or 0, "tokens") as progress:
            progress.advance(state["tokens"])
            for more, sizes, removed in in_order(partial(_encoded, tokenizer, kind), parts(), num_proc):
                stream = behind.popleft()
                ids, lengths = np.concatenate([ids, more]), np.concatenate([lengths, sizes])
                cut = len(ids) // length
                full = cut if most is None else min(cut, most - state["blocks"])
                tables.append(_block_table(ids[: full * length], lengths, length))
                ids, lengths = ids[cut * length :], _lengths_behind(lengths, cut * length)
                state["documents"] += len(sizes)
                state["blocks"] += full
                state["tokens"] += full * length
                state["special_tokens_removed"] += removed
                progress.advance(full * length)
                report = dict(stream["report"]) if stream else {}
                if most is not None and state["blocks"] >= most:
                    yield shard(True, report)
                    return
                if sum(map(len, tables)) >= SHARD_BLOCKS:
                    yield shard(False, report)
        yield shard(True, getattr(source, "report", {}))

    rows, state = arrow_shards(key, shards, cache_dir)
    return rows, {name: value for name, value in state.items() if name != "done"}


def refuse_short_text(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int, name: str
) -> None:
    """Raise UserError if the texts, each read once, hold fewer tokens than a block of `length` needs."""
    found, walk, kind = 0, iter(texts), _token_type(tokenizer)
    while batch := list(itertools.islice(walk, TEXTS_AT_ONCE)):
        found += len(_encoded(tokenizer, kind, batch)[0])
        if found >= length:
            return
    raise UserError(
        f"text {name}: holds {found:,} tokens, but a block needs {length:,} (continue_pretrain.max_length); "
        "give more text, or make blocks shorter"
    )


def _block_table(ids: np.ndarray, lengths: np.ndarray, length: int) -> pa.Table:
    """Return the blocks of `ids`, whose number is a multiple of `length`, of documents of these lengths."""
    blocks = len(ids) // length
    ends = np.cumsum(lengths)
    block_ends = np.arange(1, blocks + 1) * length
    cuts = np.union1d(ends[ends <= len(ids)], block_ends).astype(np.int64)
    pieces = np.diff(cuts, prepend=0).astype(np.int32)
    offsets = np.concatenate([[0], np.searchsorted(cuts, block_ends, side="right")]).astype(np.int32)
    starts = (np.arange(blocks + 1) * length).astype(np.int32)
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(starts, pa.array(ids)),
            "seq_lengths": pa.ListArray.from_arrays(offsets, pa.array(pieces)),
        }
    )


def _lengths_behind(lengths: np.ndarray, start: int) -> np.ndarray:
    """Return the lengths of what lies behind the first `start` tokens of documents, the first cut there."""
    ends = np.cumsum(lengths)
    return np.diff(ends[ends > start], prepend=start)


def _token_type(tokenizer: PreTrainedTokenizerBase) -> np.dtype[Any]:
    """Return the smallest unsigned integer type that holds every token id: two bytes, or four."""
    return np.min_scalar_type(max(256, *tokenizer.get_vocab().values()))


def _encoded(tokenizer: PreTrainedTokenizerBase, kind: np.dtype[Any], texts: list[str]) -> Encoded:
    """Put each text's token ids, without special tokens that it spells out, between BOS and EOS."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    parts, lengths, removed = [], [], 0
    for found in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        ids = np.array(found, kind)
        kept = ids[(ids != bos) & (ids != eos)]
        removed += len(ids) - len(kept)
        parts += [[bos], kept, [eos]]
        lengths.append(len(kept) + 2)
    return np.concatenate(parts, dtype=kind, casting="unsafe"), np.array(lengths, np.int64), removed
