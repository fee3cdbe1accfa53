"""Which tokens several sequences share, so that a causal model computes each shared prefix once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARE_RATIO = 0.25
"""A prefix is computed apart where it is at least this long against what hangs on it. Below, what hangs on it
would itself be long (two prompts with the same first example), and is better a prefix of its own."""
ROW_TOKENS = 256
"""Small branches of one prefix are laid side by side in rows of about this many tokens."""


@dataclass(frozen=True)
class Row:
    """Branches that hang on one prefix, laid side by side: a packed tree."""

    tokens: np.ndarray
    """[S] token ids."""
    parents: np.ndarray
    """[S] slot of the token before each one; -1 where that is the prefix's last token. parents[i] < i."""


@dataclass(frozen=True)
class Place:
    """Where one sequence lies: its tokens are the group's stem[:stem], then the slots of a row."""

    group: int
    stem: int
    row: int
    """Row within the group; -1 where the sequence ends inside the stem."""
    slots: np.ndarray


@dataclass(frozen=True)
class Group:
    """A prefix and the rows of branches that hang on it (none where a single sequence is all there is)."""

    stem: np.ndarray
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Plan:
    groups: tuple[Group, ...]
    places: tuple[Place, ...]
    """One per sequence, in the order given."""
    distinct_tokens: int
    """Tokens of the prefix tree of all sequences: what any method must compute."""


def plan_prefixes(sequences: Sequence[np.ndarray], row_tokens: int = ROW_TOKENS) -> Plan:
    """Find the shared prefixes of token sequences (int32 arrays, none empty) and lay out their branches.

    Every sequence can be read back from its place; equal sequences share one.
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

    groups: list[Group] = []
    places: list[Place | None] = [None] * len(sequences)
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
            places[order[index]] = Place(len(groups), shared, row, slots)
        groups.append(Group(ordered[low][:shared], rows))
    return Plan(tuple(groups), tuple(place for place in places if place is not None), distinct)


def _shared(common: np.ndarray, lengths: np.ndarray, low: int, high: int) -> int:
    """Tokens that the ordered sequences low … high - 1 all begin with."""
    return int(common[low + 1 : high].min()) if high - low > 1 else int(lengths[low])


def _children(common: np.ndarray, low: int, high: int, shared: int) -> list[tuple[int, int]]:
    """The ranges of sequences that part ways after `shared` tokens."""
    starts = [low, *(low + 1 + np.flatnonzero(common[low + 1 : high] == shared)).tolist()]
    return list(zip(starts, [*starts[1:], high], strict=True))


def _hanging(common: np.ndarray, lengths: np.ndarray, low: int, high: int, shared: int) -> int:
    """Distinct tokens of a range of sequences beyond the first `shared`."""
    return int(lengths[low] - shared + (lengths[low + 1 : high] - common[low + 1 : high]).sum())


def _pieces(
    common: np.ndarray, lengths: np.ndarray, low: int, high: int, shared: int, row_tokens: int
) -> list[tuple[int, int]]:
    """Ranges to lay into rows: children of the prefix, those too large for a row split where little is lost.

    Little is lost where the children of a large child share few tokens beside what each has of its own
    (questions that begin with the same word); they are computed once per piece.
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
) -> tuple[tuple[Row, ...], dict[int, tuple[int, np.ndarray]]]:
    """Pack pieces that hang on a prefix of `shared` tokens into rows, and say where each sequence lies."""
    rows = []
    found: dict[int, tuple[int, np.ndarray]] = {}
    for number, members in enumerate(_first_fit(sizes, row_tokens)):
        tokens: list[np.ndarray] = []
        parents: list[np.ndarray] = []
        used = 0
        for low, high in (pieces[member] for member in members):
            path = np.empty(0, dtype=np.int64)
            for index in range(low, high):
                # Slots of the part shared with the sequence before, then new slots for the rest.
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
            rows.append(Row(np.concatenate(tokens), np.concatenate(parents)))
    return tuple(rows), found


def _first_fit(sizes: list[int], room: int) -> list[list[int]]:
    """Bins of about `room`: the largest first, each into the first bin that has room (a larger one alone).

    Those of size 0 come last, in a bin of their own.
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
