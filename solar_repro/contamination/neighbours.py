"""Neighbours of a text, which a reference model samples, and the loss of many texts under a target model."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.errors import UserError
from solar_repro.shared_prefix.decode import decode
from solar_repro.shared_prefix.shared_forward import CACHE_BUDGETS, SharedPrefixScorer, shares_prefixes
from solar_repro.shared_prefix.token_scores import context_length, encode_with_bos, token_scores


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

    The model writes at most as many tokens as words are missing, and computes the prompt once for all copies
    where it can (`shares_prefixes`). A prompt that is too long for the context is cut on the left. `seeds`
    fix each text's random numbers. Raises UserError where the context has no room for a prompt.
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
    shares = shares_prefixes(model, longest_new + max(map(len, sequences)))
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
        if shares:
            new, _ = decode(
                model,
                [sequences[index] for index in batch],
                [limits[index] for index in batch for _ in range(copies)],
                pick=TopKSampler(uniforms, top_k, temperature),
                finished=lambda row, tokens: tokens[-1] in end_tokens,
                batch_tokens=batch_tokens,
                copies=copies,
            )
        else:
            new = []
            for number, index in enumerate(batch):
                own = uniforms[number * copies : (number + 1) * copies]
                new += _generate(
                    model, sequences[index], limits[index], TopKSampler(own, top_k, temperature), end_tokens
                )
        for number, index in enumerate(batch):
            whole = [
                [*sequences[index].tolist(), *tokens]
                for tokens in new[number * copies : (number + 1) * copies]
            ]
            results[index] = tokenizer.batch_decode(whole, skip_special_tokens=True)
    return results


class _Draw(LogitsProcessor):
    """Leaves to greedy decoding the tokens that a sampler has drawn."""

    def __init__(self, sampler: TopKSampler) -> None:
        self._sampler = sampler

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        drawn = self._sampler(scores, list(range(len(scores))))
        return torch.full_like(scores, -math.inf).scatter_(1, drawn[:, None], 0.0)


def _generate(
    model: PreTrainedModel, prompt: np.ndarray, most: int, sampler: TopKSampler, ends: set[int | None]
) -> list[list[int]]:
    """Continue copies of one prompt, as many as the sampler has rows, by the model's own `generate`."""
    inputs = torch.from_numpy(prompt.astype(np.int64)).to(model.device).expand(len(sampler.uniforms), -1)
    written = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=most,
        do_sample=False,
        pad_token_id=max(end or 0 for end in ends),
        logits_processor=LogitsProcessorList([_Draw(sampler)]),
    )
    rows = []
    for row in written[:, len(prompt) :].tolist():
        end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:end])
    return rows


def sequence_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_tokens: int
) -> list[float]:
    """The loss of each text behind a BOS, in nats per token.

    Shared prefixes are computed once where the model allows it (`shares_prefixes`).

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

    if shares_prefixes(model, max(map(len, sequences))):
        scorer = SharedPrefixScorer(model, batch_tokens, None)
        scorer.score([tokens[:-1] for tokens in sequences], [tokens[1:] for tokens in sequences], done)
    else:
        scores = token_scores(model, sequences, batch_tokens=batch_tokens)
        losses = [-float(score.log_probs.mean()) for score in scores]
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
