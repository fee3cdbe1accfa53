"""Batched decoding into preallocated caches; finished rows leave, stop strings are sought in new text."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.evaluation.kv_cache import empty_cache, select_rows
from solar_repro.evaluation.shared_forward import logits_at

KEEP_SHARE = 0.75
"""Finished rows are dropped from the cache once less than this share of its rows is still being written."""


def decode(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    max_new: Sequence[int],
    pick: Callable[[torch.Tensor, list[int]], torch.Tensor],
    finished: Callable[[int, list[int]], bool],
    copies: int = 1,
) -> tuple[list[list[int]], int]:
    """Continue each prompt [n] (int32) `copies` times, prompt after prompt, and count the positions computed.

    `pick` maps logits [rows, vocabulary] and the row numbers they belong to to token ids [rows]; a row ends
    after `max_new` tokens (one number per row) or when `finished(row number, its new tokens)` says so.
    """
    device = model.device
    lengths = np.array([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    padded = np.zeros((len(prompts), longest), dtype=np.int64)
    for line, prompt in zip(padded, prompts, strict=True):
        line[: len(prompt)] = prompt
    cache = empty_cache()
    last = torch.from_numpy(lengths - 1).to(device)
    with torch.inference_mode(), logits_at(model, torch.arange(len(prompts), device=device), last):
        inputs = torch.from_numpy(padded).to(device)
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits[0]
    computed = padded.size
    rows = [row for row in range(len(prompts) * copies) if max_new[row] > 0]
    new: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    if not rows:
        return new, computed
    steps = max(max_new)
    origin = [row // copies for row in rows]
    cache = select_rows(cache, origin, longest, steps)
    logits = logits[torch.as_tensor(origin, device=device)]
    lines = list(
        rows
    )  # which row each line of the cache holds; finished ones stay until the cache is rebuilt
    visible = _visible(lengths, lines, copies, longest, steps).to(device)
    positions = torch.from_numpy(lengths[[row // copies for row in lines]]).to(device)
    alive = set(rows)
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
                chosen = torch.as_tensor(kept, device=device)
                cache = select_rows(cache, kept, longest + step, steps - step)
                lines = [lines[index] for index in kept]
                visible, positions, tokens = visible[chosen], positions[chosen], tokens[chosen]
            logits = model(
                input_ids=tokens[:, None],
                past_key_values=cache,
                use_cache=True,
                position_ids=positions[:, None],
                attention_mask=visible[:, None, None, : longest + step + 1],
            ).logits[:, -1]
            computed += len(lines)
            positions = positions + 1
    return new, computed


def _visible(lengths: np.ndarray, rows: Sequence[int], copies: int, longest: int, steps: int) -> torch.Tensor:
    """[rows, longest + steps]: False at the padding between a prompt's end and the longest prompt's."""
    visible = np.ones((len(rows), longest + steps), dtype=bool)
    for line, row in zip(visible, rows, strict=True):
        line[lengths[row // copies] : longest] = False
    return torch.from_numpy(visible)


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
