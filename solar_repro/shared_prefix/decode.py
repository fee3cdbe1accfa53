"""Batched decoding into preallocated caches, which finished rows leave, and a search for stop strings."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from solar_repro.layers.fused_scoring import logits_at
from solar_repro.shared_prefix.kv_cache import copy_rows, empty_cache, room_for, select_rows
from solar_repro.shared_prefix.shared_forward import padded

KEEP_SHARE = 0.75
"""Finished rows are removed from the cache once less than this share of its rows is still being written."""


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
    """Continue each prompt [n] (int32) `copies` times: new tokens by row, number of positions computed.

    The rows are the copies of the first prompt, then those of the second, and so on. `pick` chooses token ids
    [rows] from logits [rows, vocabulary] and the numbers of their rows. A row ends after `max_new` tokens
    (one number per row, at least 1), or when `finished(row number, its new tokens)` is true. Prompts are
    computed once for all copies, in batches of `batch_tokens`; then all rows are written together.
    """
    lengths = np.array([len(prompt) for prompt in prompts]).repeat(copies)
    longest, steps = int(lengths.max()), max(max_new)
    cache, logits, computed = _prompts_cached(model, prompts, copies, longest + steps, batch_tokens)
    new: list[list[int]] = [[] for _ in lengths]
    # The row that each line of the cache holds. Finished rows stay until the cache is rebuilt.
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


def _prompts_cached(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], copies: int, capacity: int, batch_tokens: int
) -> tuple[Cache, torch.Tensor, int]:
    """A cache of the prompts, each `copies` times, with room for `capacity` tokens; the logits at each
    prompt's last token; the positions computed."""
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
    """What to add to attention scores [rows, longest + steps]: -inf behind short prompts, else 0."""
    columns = np.arange(longest + steps)
    padding = (columns >= lengths[:, None]) & (columns < longest)
    return torch.zeros(padding.shape, dtype=dtype).masked_fill_(torch.from_numpy(padding), float("-inf"))


class StopStrings:
    """Finds stop strings in growing token sequences by decoding only their last few tokens at each step.

    transformers' own criterion finds the same; it prepares tables over the whole vocabulary for each set of
    strings, which takes longer than a benchmark's steps do, and is no faster at a step.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], end_tokens: set[int]
    ) -> None:
        self.tokenizer, self.strings, self.end_tokens = tokenizer, [s for s in strings if s], end_tokens
        # A token that is not special stands for at least one byte, so n tokens hold a string of n bytes.
        self.window = max((len(string.encode()) for string in self.strings), default=0) + 2

    def found(self, tokens: list[int]) -> bool:
        """Whether a row's new tokens, of which the last was just added, end its text."""
        if tokens[-1] in self.end_tokens:
            return True
        tail = self.tokenizer.decode(tokens[-self.window :], skip_special_tokens=False)
        if not any(string in tail for string in self.strings):
            return False
        # A tail that is decoded alone may differ from the text at its first character.
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        return any(string in text for string in self.strings)
