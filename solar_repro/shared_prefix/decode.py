"""Batched decoding into preallocated caches; finished rows leave, stop strings are sought in new text."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from solar_repro.layers.fused_scoring import logits_at
from solar_repro.shared_prefix.kv_cache import copy_rows, empty_cache, room_for, select_rows
from solar_repro.shared_prefix.shared_forward import padded

KEEP_SHARE = 0.75
"""Finished rows are dropped from the cache once less than this share of its rows is still being written."""


def decode(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    max_new: Sequence[int],
    pick: Callable[[torch.Tensor, list[int]], torch.Tensor],
    finished: Callable[[int, list[int]], bool],
    *,
    batch_tokens: int,
    copies: int = 1,
) -> tuple[list[list[int]], int]:
    """Continue each prompt [n] (int32) `copies` times, prompt after prompt, and count the positions computed.

    `pick` maps logits [rows, vocabulary] and the row numbers they belong to to token ids [rows]; a row ends
    after `max_new` tokens (one number per row, at least 1) or when `finished(row number, its new tokens)`
    says so. Prompts are computed in batches of `batch_tokens`, once for all copies; then all rows are written
    together.
    """
    lengths = np.array([len(prompt) for prompt in prompts]).repeat(copies)
    longest, steps = int(lengths.max()), max(max_new)
    cache, logits, computed = _read(model, prompts, copies, longest + steps, batch_tokens)
    new: list[list[int]] = [[] for _ in lengths]
    # Which row each line of the cache holds; finished ones stay until the cache is rebuilt.
    lines = list(range(len(lengths)))
    hidden = _hidden(lengths, longest, steps, model.dtype).to(model.device)
    positions = torch.from_numpy(lengths).to(model.device)
    alive = set(lines)
    with torch.inference_mode():
        for step in range(steps):
            tokens = pick(logits, lines)
            for row, token in zip(lines, tokens.tolist(), strict=True):
                if row in alive:
                    new[row].append(token)
                    if len(new[row]) >= max_new[row] or finished(row, new[row]):
                        alive.discard(row)
            if not alive:
                break
            if len(alive) < KEEP_SHARE * len(lines):
                kept = [index for index, row in enumerate(lines) if row in alive]
                chosen = torch.as_tensor(kept, device=model.device)
                cache = select_rows(cache, kept, longest + step, steps - step)
                lines = [lines[index] for index in kept]
                hidden, positions, tokens = hidden[chosen], positions[chosen], tokens[chosen]
            logits = model(
                input_ids=tokens[:, None],
                past_key_values=cache,
                use_cache=True,
                position_ids=positions[:, None],
                attention_mask=hidden[:, None, None, : longest + step + 1],
            ).logits[:, -1]
            computed += len(lines)
            positions = positions + 1
    return new, computed


def _read(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], copies: int, capacity: int, batch_tokens: int
) -> tuple[Cache, torch.Tensor, int]:
    """Cached prompts, each `copies` times, with room for `capacity` tokens; their last logits; positions."""
    longest = max(map(len, prompts))
    count = max(1, batch_tokens // longest)
    cache, last, computed = None, [], 0
    for start in range(0, len(prompts), count):
        batch = prompts[start : start + count]
        inputs = padded(batch, model.device)
        lines = torch.arange(len(batch), device=model.device)
        ends = torch.tensor([len(prompt) - 1 for prompt in batch], device=model.device)
        part = empty_cache()
        with torch.inference_mode(), logits_at(model, lines, ends):
            last.append(model(input_ids=inputs, past_key_values=part, use_cache=True).logits[0])
        if cache is None:
            cache = room_for(part, len(prompts) * copies, capacity, longest)
        copy_rows(part, lines.repeat_interleave(copies), cache, start * copies)
        computed += inputs.numel()
    return cache, torch.cat(last).repeat_interleave(copies, 0), computed


def _hidden(lengths: np.ndarray, longest: int, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """[rows, longest + steps] to add to attention scores: minus infinity behind short prompts."""
    columns = np.arange(longest + steps)
    padding = (columns >= lengths[:, None]) & (columns < longest)
    return torch.zeros(padding.shape, dtype=dtype).masked_fill_(torch.from_numpy(padding), float("-inf"))


class StopStrings:
    """Finds stop strings in growing token sequences, decoding only the last few tokens at each step."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], end_tokens: set[int]
    ) -> None:
        self.tokenizer, self.strings, self.end_tokens = tokenizer, [s for s in strings if s], end_tokens
        # A token that is not special writes at least one byte, so a string of n bytes ends within n tokens.
        self.window = max((len(string.encode()) for string in self.strings), default=0) + 2

    def found(self, tokens: list[int]) -> bool:
        """Whether these new tokens (the last one just added) end the text."""
        if tokens[-1] in self.end_tokens:
            return True
        tail = self.tokenizer.decode(tokens[-self.window :], skip_special_tokens=False)
        if not any(string in tail for string in self.strings):
            return False
        # A tail decoded alone can differ from the text at its first character: ask the whole text.
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return any(string in text for string in self.strings)
