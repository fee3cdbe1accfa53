"""Which tokens of a batch attend to each other: the documents of packed or padded rows, grouped by length."""

from dataclasses import dataclass

import torch

BOUNDS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Documents whose lengths lie between the same two bounds are computed together."""
LONGEST = BOUNDS[-1]
"""Tokens of a document up to which its scores, which the backward pass needs, take little memory."""


@dataclass(frozen=True)
class LengthGroup:
    """Documents of like length, padded to the longest of them.

    Queries, keys and values of all tokens are the rows of one table [tokens × (heads + 2 × key-value heads),
    size]; the outputs of attention are the rows of another [tokens × heads, size].
    """

    documents: int
    length: int
    queries: torch.Tensor
    """Rows of the table with the queries: by document, key-value head, head of its group, token."""
    keys: torch.Tensor
    values: torch.Tensor
    """Rows of the table with the keys and the values, in the order (document, key-value head, token)."""
    outputs: torch.Tensor
    """Rows of the output for the queries, without those of the padding."""
    real_queries: torch.Tensor | None
    real_keys: torch.Tensor | None
    """Places in `queries`, and in `keys`, that are not padding; None where there is no padding."""
    hidden: torch.Tensor
    """[length, length]: minus infinity where a key lies behind its query, else 0."""


@dataclass(frozen=True)
class Documents:
    """The documents of a batch [rows, length]. Padding belongs to no document."""

    real: torch.Tensor | None
    """Positions of the flattened batch that are not padding; None where there is no padding."""
    groups: tuple[LengthGroup, ...]
    turns: torch.Tensor
    """Rotations [real tokens, 1, size / 2] of queries and keys."""


def documents_of(mask: torch.Tensor, turns: torch.Tensor, heads: int, kv_heads: int) -> Documents | None:
    """Find the documents in a mask [rows, 1, n, n], which is true where a query sees a key.

    `turns` are the rotations [rows or 1, n, size / 2] of all positions. Returns None where a query sees
    anything but its document up to itself, or where a document is longer than LONGEST.
    """
    sees = mask[:, 0]
    rows, n, _ = sees.shape
    real = sees.diagonal(dim1=1, dim2=2)
    places = torch.arange(n)
    starts = sees.to(torch.uint8).argmax(-1)
    if not ((sees.sum(-1) == places - starts + 1) | ~real).all():
        return None
    kept = real.flatten().nonzero().flatten()
    document = (starts + n * torch.arange(rows)[:, None]).flatten()[kept]
    _, lengths = document.unique_consecutive(return_counts=True)
    if lengths.numel() == 0 or lengths.max() > LONGEST:
        return None
    firsts = lengths.cumsum(0) - lengths
    which = torch.bucketize(lengths, torch.tensor(BOUNDS))
    groups = [
        _group(firsts[which == bound], lengths[which == bound], heads, kv_heads) for bound in which.unique()
    ]
    turns = turns.expand(rows, n, -1).flatten(0, 1)[:, None]
    if len(kept) == rows * n:
        return Documents(None, tuple(groups), turns)
    return Documents(kept, tuple(groups), turns[kept])


def _group(firsts: torch.Tensor, lengths: torch.Tensor, heads: int, kv_heads: int) -> LengthGroup:
    length = int(lengths.max())
    slots = torch.arange(length)
    real = slots < lengths[:, None]
    tokens = torch.where(real, firsts[:, None] + slots, firsts[:, None])[:, None, None]  # [D, 1, 1, L]
    head = torch.arange(heads).view(kv_heads, -1, 1)
    kv_head = torch.arange(kv_heads).view(-1, 1)
    width = heads + 2 * kv_heads
    queries = (tokens * width + head).flatten()
    outputs = (tokens * heads + head).flatten()
    keys = (tokens[:, 0] * width + heads + kv_head).flatten()
    if padded := not real.all():
        real_queries = real[:, None].expand(-1, heads, -1).flatten().nonzero().flatten()
        real_keys = real[:, None].expand(-1, kv_heads, -1).flatten().nonzero().flatten()
        outputs = outputs[real_queries]
    return LengthGroup(
        documents=len(firsts),
        length=length,
        queries=queries,
        keys=keys,
        values=keys + kv_heads,
        outputs=outputs,
        real_queries=real_queries if padded else None,
        real_keys=real_keys if padded else None,
        hidden=torch.full((length, length), float("-inf")).triu(1),
    )
