"""Neighbours of a text, which a reference model samples, and the loss of many texts under a target model."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.errors import UserError
from solar_repro.shared_prefix.decode import decode
from solar_repro.shared_prefix.shared_forward import CACHE_BUDGETS, SharedPrefixScorer
from solar_repro.shared_prefix.token_scores import encode_with_bos


def context_length(model: PreTrainedModel) -> int:
    """Tokens of the longest sequence that a model takes."""
    return int(model.config.max_position_embeddings)


class TopKSampler:
    """Draws tokens from the `top_k` most likely ones.

    `uniforms` [rows, steps] holds the random numbers of each row, so that batching does not change them.
    """

    def __init__(self, uniforms: np.ndarray, top_k: int, temperature: float) -> None:
        self.uniforms, self.top_k, self.temperature, self.step = uniforms, top_k, temperature, 0

    def __call__(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        best, tokens = (logits.float() / self.temperature).topk(min(self.top_k, logits.shape[-1]), dim=-1)
        total = torch.softmax(best, dim=-1).cumsum(-1)
        draw = torch.from_numpy(self.uniforms[rows, self.step]).to(total)
        self.step += 1
        # The last sum may be rounded to less than the draw, which then means the last candidate.
        rank = (total < draw[:, None]).sum(-1).clamp_max(total.shape[-1] - 1)
        return tokens.gather(1, rank[:, None])[:, 0]


def write_neighbours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    seeds: Sequence[tuple[int, int]],
    copies: int,
    ratio: float,
    top_k: int,
    temperature: float,
    batch_tokens: int,
) -> list[list[str]]:
    """`copies` neighbours of each text: its first ceil(ratio · w) of w words, then what the model writes.

    The model writes at most as many tokens as words are missing, and computes the prompt once for all copies.
    A prompt that is too long for the context is cut on the left. `seeds` fix each text's random numbers.
    Raises UserError where the context has no room for a prompt.
    """
    prompts, limits = [], []
    for text in texts:
        words = text.split()
        first = math.ceil(ratio * len(words))
        prompts.append(" ".join(words[:first]))
        limits.append(len(words) - first)
    encoded = tokenizer(prompts)["input_ids"]
    room = context_length(model)
    longest_new = max(limits)
    if room <= longest_new:
        raise UserError(f"neighbours: {longest_new} new tokens do not fit a context of {room}")
    sequences = [
        np.array(tokens, dtype=np.int32)[-(room - limit) :]
        for tokens, limit in zip(encoded, limits, strict=True)
    ]
    ends = model.generation_config.eos_token_id
    end_tokens = set(ends) if isinstance(ends, list) else {ends}
    results: list[list[str]] = [[] for _ in texts]
    order = sorted(range(len(texts)), key=lambda index: -limits[index])
    while order:
        positions = max(len(sequences[index]) for index in order) + limits[order[0]]
        count = max(1, CACHE_BUDGETS * batch_tokens // (copies * positions))
        batch, order = order[:count], order[count:]
        steps = limits[batch[0]]
        uniforms = np.zeros((len(batch) * copies, steps))
        for number, index in enumerate(batch):
            rows = slice(number * copies, (number + 1) * copies)
            drawn = np.random.default_rng(seeds[index]).random((copies, limits[index]))
            uniforms[rows, : limits[index]] = drawn
        new, _ = decode(
            model,
            [sequences[index] for index in batch],
            [limits[index] for index in batch for _ in range(copies)],
            pick=TopKSampler(uniforms, top_k, temperature),
            finished=lambda row, tokens: tokens[-1] in end_tokens,
            batch_tokens=batch_tokens,
            copies=copies,
        )
        for number, index in enumerate(batch):
            whole = [
                [*sequences[index].tolist(), *tokens]
                for tokens in new[number * copies : (number + 1) * copies]
            ]
            results[index] = tokenizer.batch_decode(whole, skip_special_tokens=True)
    return results


def sequence_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_tokens: int
) -> list[float]:
    """The loss of each text behind a BOS, in nats per token; shared prefixes are computed once.

    Raises UserError for a text without a token to predict, and for a loss that is NaN.
    """
    sequences = encode_with_bos(tokenizer, texts, context_length(model))
    short = [text for text, sequence in zip(texts, sequences, strict=True) if len(sequence) < 2]
    if short:
        raise UserError(f"loss of {short[0]!r}: it has no token to predict; leave such texts out")
    losses = [0.0] * len(texts)

    def done(finished: list[int], sums: np.ndarray, greedy: np.ndarray) -> None:
        for index, value in zip(finished, sums.tolist(), strict=True):
            losses[index] = -value / (len(sequences[index]) - 1)

    scorer = SharedPrefixScorer(model, batch_tokens, None)
    scorer.score([tokens[:-1] for tokens in sequences], [tokens[1:] for tokens in sequences], done)
    refuse_nan(losses, texts)
    return losses


def refuse_nan(values: Sequence[float], texts: Sequence[str]) -> None:
    """Raise UserError for the first text whose value is NaN, which is neither above nor below any other."""
    for value, text in zip(values, texts, strict=True):
        if math.isnan(value):
            start = " ".join(text.split())[:60]
            raise UserError(
                f"log-likelihood of the text {start!r}: is NaN, so the model gives no probabilities here; "
                "check its weights or use float32"
            )
