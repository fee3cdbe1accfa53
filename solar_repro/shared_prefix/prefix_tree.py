"""Which prefixes several sequences share, so that a causal model computes each of them once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARE_RATIO = 0.25
"""A prefix is computed apart if its length is at least this share of a branch's. Shorter ones, such as the
first example that two prompts have in common, are computed again with each branch, which then is a prefix of
its own."""
ROW_TOKENS = 256
"""Small branches of one prefix are put side by side into rows of about so many tokens."""


@dataclass(frozen=True)
class BranchRow:
    """Branches of one prefix, put side by side: a packed tree."""

    tokens: np.ndarray
    """[S] token ids."""
    parents: np.ndarray
    """[S] slot of the token before each one, -1 if that is the prefix's last token; parents[i] < i."""


@dataclass(frozen=True)
class SequencePlace:
    """Where the tokens of one sequence are: the group's stem[:stem], then the slots of a row."""

    group: int
    stem: int
    row: int
    """The number of the row in the group; -1 if the sequence ends in the stem."""
    slots: np.ndarray


@dataclass(frozen=True)
class PrefixGroup:
    """A prefix (the stem) and the rows of its branches; a single sequence is a stem without rows."""

    stem: np.ndarray
    rows: tuple[BranchRow, ...]


@dataclass(frozen=True)
class PrefixPlan:
    """What to compute, and where each sequence is found in it."""

    groups: tuple[PrefixGroup, ...]
    places: tuple[SequencePlace, ...]
    """The place of each sequence, in the order given."""
    distinct_tokens: int
    """Tokens of the prefix tree of all sequences, which any method has to compute."""


def plan_prefixes(sequences: Sequence[np.ndarray], row_tokens: int = ROW_TOKENS) -> PrefixPlan:
    """Find the prefixes that token sequences (int32 arrays, none empty) share, and lay out their branches.

    Every sequence can be read back from its place. Equal sequences have the same place.
    """
    # Bytes of equal prefixes are equal, so this order puts sequences with a common prefix side by side.
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].tobytes())
    ordered = [sequences[index] for index in order]
    # common[i]: length of the prefix that i shares with i - 1; common[0] = 0.
    common = np.zeros(len(ordered), dtype=np.int64)
    for index in range(1, len(ordered)):
        common[index] = _common_length(ordered[index - 1], ordered[index])
    lengths = np.array([len(sequence) for sequence in ordered], dtype=np.int64)
    distinct = int((lengths - common).sum())

    groups: list[PrefixGroup] = []
    places: list[SequencePlace | None] = [None] * len(sequences)
    pending = [(0, len(ordered))] if ordered else []
    while pending:
        low, high = pending.pop()
        shared = _shared(common, lengths, low, high)
        pieces = _pieces(common, lengths, low, high, shared, row_tokens)
        sizes = [_hanging(common, lengths, start, end, shared) for start, end in pieces]
        if shared == 0 or shared < SHARE_RATIO * sum(sizes) / len(sizes):
            pending.extend(reversed(_children(common, low, high, shared)))
            continue
        rows, found = _rows(ordered, common, shared, pieces, sizes, row_tokens)
        for index, (row, slots) in found.items():
            places[order[index]] = SequencePlace(len(groups), shared, row, slots)
        groups.append(PrefixGroup(ordered[low][:shared], rows))
    return PrefixPlan(tuple(groups), tuple(place for place in places if place is not None), distinct)


def _shared(common: np.ndarray, lengths: np.ndarray, low: int, high: int) -> int:
    """How many tokens the ordered sequences low … high - 1 have in common at their start."""
    return int(common[low + 1 : high].min()) if high - low > 1 else int(lengths[low])


def _children(common: np.ndarray, low: int, high: int, shared: int) -> list[tuple[int, int]]:
    """The ranges of sequences that go on differently after `shared` tokens."""
    starts = [low, *(low + 1 + np.flatnonzero(common[low + 1 : high] == shared)).tolist()]
    return list(zip(starts, [*starts[1:], high], strict=True))


def _hanging(common: np.ndarray, lengths: np.ndarray, low: int, high: int, shared: int) -> int:
    """The number of distinct tokens of a range of sequences behind the first `shared`."""
    return int(lengths[low] - shared + (lengths[low + 1 : high] - common[low + 1 : high]).sum())


def _pieces(
    common: np.ndarray, lengths: np.ndarray, low: int, high: int, shared: int, row_tokens: int
) -> list[tuple[int, int]]:
    """The ranges of sequences to put into rows: the children of a prefix, of which large ones are split.

    A child that is too large for a row is split if its own children share few tokens against those that each
    has alone, such as questions that begin with the same word. The shared tokens are computed once per piece.
    """
    pieces = []
    pending = list(reversed(_children(common, low, high, shared)))
    while pending:
        start, end = pending.pop()
        if end - start > 1 and _hanging(common, lengths, start, end, shared) > row_tokens:
            inner = _shared(common, lengths, start, end)
            parts = _children(common, start, end, inner)
            own = sum(_hanging(common, lengths, a, b, inner) for a, b in parts) / len(parts)
            if inner - shared < SHARE_RATIO * own:
                pending.extend(reversed(parts))
                continue
        pieces.append((start, end))
    return pieces


def _common_length(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences have in common at their start."""
    shorter = min(len(first), len(second))
    differing = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _rows(
    ordered: list[np.ndarray],
    common: np.ndarray,
    shared: int,
    pieces: list[tuple[int, int]],
    sizes: list[int],
    row_tokens: int,
) -> tuple[tuple[BranchRow, ...], dict[int, tuple[int, np.ndarray]]]:
    """Pack the pieces behind a prefix of `shared` tokens into rows; the row and slots of each sequence."""
    rows = []
    found: dict[int, tuple[int, np.ndarray]] = {}
    for number, members in enumerate(_first_fit(sizes, row_tokens)):
        tokens: list[np.ndarray] = []
        parents: list[np.ndarray] = []
        used = 0
        for low, high in (pieces[member] for member in members):
            path = np.empty(0, dtype=np.int64)
            for index in range(low, high):
                # The slots shared with the sequence before, then new slots for the rest.
                kept = path[: int(common[index]) - shared] if index > low else path
                fresh = ordered[index][shared + len(kept) :]
                slots = np.arange(used, used + len(fresh), dtype=np.int64)
                if len(fresh):
                    tokens.append(fresh)
                    parents.append(np.concatenate([kept[-1:] if len(kept) else [-1], slots[:-1]]))
                    used += len(fresh)
                path = np.concatenate([kept, slots])
                found[index] = (number if len(path) else -1, path)
        if used:
            rows.append(BranchRow(np.concatenate(tokens), np.concatenate(parents)))
    return tuple(rows), found


def _first_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Put items into bins of about `room`: the largest first, each into the first bin that has room for it.

    An item larger than `room` is alone in its bin. Items of size 0 come last, in a bin of their own.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for index in sorted((index for index, size in enumerate(sizes) if size), key=lambda index: -sizes[index]):
        place = next((number for number, space in enumerate(left) if space >= sizes[index]), None)
        if place is None:
            bins.append([index])
            left.append(room - sizes[index])
        else:
            bins[place].append(index)
            left[place] -= sizes[index]
    empty = [index for index, size in enumerate(sizes) if not size]
    return [*bins, empty] if empty else bins
