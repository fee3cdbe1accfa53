"""Log-probabilities of many continuations, whose shared prefixes (see `prefix_tree`) are computed once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from solar_repro.layers.cpu_attention import SCORING
from solar_repro.layers.fused_scoring import logits_at
from solar_repro.shared_prefix.kv_cache import empty_cache, select_rows
from solar_repro.shared_prefix.prefix_tree import (
    BranchRow,
    PrefixGroup,
    PrefixPlan,
    SequencePlace,
    plan_prefixes,
)

FULL_ATTENTION_FAMILIES = {"gpt_neox", "gpt2", "llama", "mistral", "qwen2", "qwen3"}
"""Families of decoders whose scores are tested against plain forward passes."""
CACHE_BUDGETS = 4
"""Cached positions of one forward pass at most, as a multiple of its token budget."""
PADDING = 0.15
"""A sequence that would be padded by more than this share of the longest one goes into the next batch."""


def shares_prefixes(model: PreTrainedModel, longest: int) -> bool:
    """Whether prefixes of sequences of up to `longest` tokens can be shared: a tested family, through SDPA.

    Other attention may read the masks otherwise, have a window, or keep its cache in another shape.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    windowed = window is not None and getattr(config, "use_sliding_window", True)
    return (
        config.model_type in FULL_ATTENTION_FAMILIES
        and config._attn_implementation in ("sdpa", SCORING)
        and not (windowed and window < longest)
    )


@dataclass
class TargetReads:
    """What to read from a forward pass: log p of `tokens[i]` at (rows[i], columns[i]), for `requests[i]`."""

    requests: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)

    def add(self, request: int, row: int, columns: np.ndarray, tokens: np.ndarray) -> None:
        """Read the log-probabilities of a request's `tokens` at `columns` of a row."""
        if len(tokens):
            self.requests.append(np.full(len(tokens), request))
            self.rows.append(np.full(len(tokens), row))
            self.columns.append(columns)
            self.tokens.append(tokens)


class SharedPrefixScorer:
    """Scores continuations with a decoder-only transformer for which `shares_prefixes` is true.

    `batch_tokens` bounds the positions of one forward pass, padding included. `tokens_computed` counts all
    positions; `distinct_tokens` counts those that any method has to compute. None for `softmax_dtype` keeps
    the logits' dtype.
    """

    def __init__(self, model: PreTrainedModel, batch_tokens: int, softmax_dtype: torch.dtype | None) -> None:
        self.model, self.batch_tokens, self.softmax_dtype = model, batch_tokens, softmax_dtype
        self.tokens_computed = 0
        self.distinct_tokens = 0

    def score(
        self,
        sequences: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        done: Callable[[list[int], np.ndarray, np.ndarray], None],
    ) -> None:
        """Sum up log p(targets[i]) at the last len(targets[i]) positions of sequences[i].

        `sequences[i]` are the model's inputs [n] (int32), of which the last position predicts the last
        target. `done` is called for each finished batch with the numbers of its requests, their sums
        (float64, nats), and whether every target was the most likely token.
        """
        plan = plan_prefixes(sequences)
        self.distinct_tokens += plan.distinct_tokens
        members: list[list[int]] = [[] for _ in plan.groups]
        for request, place in enumerate(plan.places):
            members[place.group].append(request)
        sums = np.zeros(len(sequences))
        greedy = np.ones(len(sequences), dtype=bool)
        for batch in self._group_batches(plan):
            self._score_groups(plan, batch, members, targets, sums, greedy)
            finished = [request for group in batch for request in members[group]]
            done(finished, sums[finished], greedy[finished])

    def _group_batches(self, plan: PrefixPlan) -> Iterator[list[int]]:
        """Batches of groups with stems of like length within the token budget, with branches first."""
        for branching in (True, False):
            chosen = [index for index, group in enumerate(plan.groups) if bool(group.rows) is branching]
            chosen.sort(key=lambda index: -len(plan.groups[index].stem))
            batch: list[int] = []
            for index in chosen:
                longest = len(plan.groups[batch[0]].stem) if batch else 0
                padding = longest - len(plan.groups[index].stem)
                if batch and ((len(batch) + 1) * longest > self.batch_tokens or padding > PADDING * longest):
                    yield batch
                    batch = []
                batch.append(index)
            if batch:
                yield batch

    def _score_groups(
        self,
        plan: PrefixPlan,
        batch: list[int],
        members: list[list[int]],
        targets: Sequence[np.ndarray],
        sums: np.ndarray,
        greedy: np.ndarray,
    ) -> None:
        groups = [plan.groups[index] for index in batch]
        on_stems = TargetReads()
        on_rows: dict[tuple[int, int], list[tuple[int, SequencePlace, np.ndarray]]] = {}
        for number, index in enumerate(batch):
            for request in members[index]:
                place, wanted = plan.places[request], targets[request]
                inside = min(len(wanted), len(place.slots))
                before = len(wanted) - inside
                on_stems.add(request, number, np.arange(place.stem - before, place.stem), wanted[:before])
                if inside:
                    on_rows.setdefault((number, place.row), []).append((request, place, wanted[before:]))

        cache = empty_cache() if any(group.rows for group in groups) else None
        stems = padded([group.stem for group in groups], self.model.device)
        self._forward(
            on_stems, sums, greedy, input_ids=stems, past_key_values=cache, use_cache=cache is not None
        )
        if cache is None:
            return
        rows = [(number, row) for number, group in enumerate(groups) for row in range(len(group.rows))]
        rows.sort(key=lambda key: -len(groups[key[0]].rows[key[1]].tokens))
        for chunk in self._row_batches(groups, rows):
            wanted = TargetReads()
            for line, key in enumerate(chunk):
                for request, place, tokens in on_rows.get(key, ()):
                    wanted.add(request, line, place.slots[len(place.slots) - len(tokens) :], tokens)
            stem_lengths = [len(groups[number].stem) for number, _ in chunk]
            packed = [groups[number].rows[row] for number, row in chunk]
            length, width = max(stem_lengths), max(len(row.tokens) for row in packed)
            positions, mask = _tree_masks(packed, stem_lengths, length, width)
            self._forward(
                wanted,
                sums,
                greedy,
                input_ids=padded([row.tokens for row in packed], self.model.device),
                past_key_values=select_rows(cache, [number for number, _ in chunk], length, width),
                position_ids=torch.from_numpy(positions).to(self.model.device),
                attention_mask=torch.from_numpy(mask).to(self.model.device),
                use_cache=True,
            )

    def _row_batches(
        self, groups: Sequence[PrefixGroup], rows: Sequence[tuple[int, int]]
    ) -> Iterator[list[tuple[int, int]]]:
        """Batches of rows of like width within the token budget, and within CACHE_BUDGETS cached prefixes."""
        chunk: list[tuple[int, int]] = []
        longest = width = 0
        for number, row in rows:
            stem, size = len(groups[number].stem), len(groups[number].rows[row].tokens)
            count = len(chunk) + 1
            over = count * width > self.batch_tokens or width - size > PADDING * width
            if chunk and (over or count * (max(longest, stem) + width) > CACHE_BUDGETS * self.batch_tokens):
                yield chunk
                chunk = []
            if not chunk:
                longest, width = 0, size
            longest = max(longest, stem)
            chunk.append((number, row))
        if chunk:
            yield chunk

    def _forward(
        self,
        wanted: TargetReads,
        sums: np.ndarray,
        greedy: np.ndarray,
        *,
        input_ids: torch.Tensor,
        **inputs: object,
    ) -> None:
        self.tokens_computed += input_ids.numel()
        if not wanted.requests:  # nothing is predicted here, but the keys and values are needed
            with (
                torch.inference_mode(),
                logits_at(self.model, input_ids.new_zeros(1), input_ids.new_zeros(1)),
            ):
                self.model(input_ids=input_ids, **inputs)
            return
        requests, tokens = np.concatenate(wanted.requests), np.concatenate(wanted.tokens)
        width = input_ids.shape[1]
        flat = np.concatenate(wanted.rows) * width + np.concatenate(wanted.columns)
        distinct, which = np.unique(flat, return_inverse=True)
        where = torch.from_numpy(distinct).to(input_ids.device)
        with torch.inference_mode(), logits_at(self.model, where // width, where % width):
            logits = self.model(input_ids=input_ids, **inputs).logits[0]
            log_probs = torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
            line = torch.from_numpy(which).to(input_ids.device)
            target = torch.from_numpy(tokens.astype(np.int64)).to(input_ids.device)
            picked = log_probs[line, target].cpu().double().numpy()
            best = (logits.argmax(dim=-1)[line] == target).cpu().numpy()
        np.add.at(sums, requests, picked)
        np.logical_and.at(greedy, requests, best)


def padded(sequences: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Token ids [sequences, longest], with zeros on the right."""
    padded = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for line, sequence in zip(padded, sequences, strict=True):
        line[: len(sequence)] = sequence
    return torch.from_numpy(padded).to(device)


def _tree_masks(
    rows: Sequence[BranchRow], stem_lengths: Sequence[int], length: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [rows, width] and which keys (stem, then row) a slot sees [rows, 1, width, length + width].

    Every slot sees its row's stem, its ancestors and itself. Slots of padding see the stem, so that no line
    of the softmax is empty.
    """
    positions = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), 1, width, length + width), dtype=bool)
    for line, (row, stem) in enumerate(zip(rows, stem_lengths, strict=True)):
        mask[line, 0, :, :stem] = True
        seen, depth = mask[line, 0, :, length:], positions[line]
        for slot, parent in enumerate(row.parents.tolist()):
            if parent >= 0:
                seen[slot] = seen[parent]
                depth[slot] = depth[parent] + 1
            else:
                depth[slot] = stem
            seen[slot, slot] = True
    return positions, mask
