"""The log-probability of every token of texts, and how it compares with those of the whole vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.checkpoint.tokenizer import first_token_id
from solar_repro.errors import UserError
from solar_repro.shared_prefix.shared_forward import padded

LOGITS = 2**26
"""Logits of one forward pass at most: they take 256 MiB in float32, half of it in bfloat16."""
_CONTEXT_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_UNKNOWN_CONTEXT = 2048
SLICE = 512
"""Positions whose log-probabilities, as many as the vocabulary has entries, are computed at once."""


@dataclass(frozen=True)
class TokenScores:
    """Scores (float64) of the n - 1 predicted tokens of a sequence of n tokens."""

    log_probs: np.ndarray
    """log p of each token, in nats."""
    z_scores: np.ndarray | None
    """(log p - μ) / σ, with mean and deviation of log p under the model's distribution at the position
    (Min-K%++); None where they were not asked for."""


def context_length(model: PreTrainedModel) -> int:
    """Tokens of the longest sequence that a model takes; lm-eval's 2,048 where its config says nothing."""
    config = model.config.get_text_config()
    named = (getattr(config, name, None) for name in _CONTEXT_LENGTHS)
    return next((int(length) for length in named if length), _UNKNOWN_CONTEXT)


def encode_with_bos(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[np.ndarray]:
    """Token ids [n] (int32) of each text behind a BOS (`first_token_id`), cut to `max_length` tokens."""
    first = first_token_id(tokenizer)
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([first, *tokens], dtype=np.int32)[:max_length] for tokens in encoded]


def token_scores(
    model: PreTrainedModel,
    sequences: Sequence[np.ndarray],
    *,
    batch_tokens: int,
    standardise: bool = False,
    passes: int = 0,
) -> list[TokenScores]:
    """Score each sequence's tokens but the first; UserError where no sequence has two tokens.

    Batches of like length hold at most `batch_tokens` positions, or fewer where the vocabulary is large, so
    that memory stays bounded. Log-probabilities are computed in float32. With `passes`, no fewer forward
    passes are taken, if need be over one token, and it is no error to have nothing to score.
    """
    batches = batches_of(model, sequences, batch_tokens)
    if not batches and not passes:
        raise UserError("loss of texts: not one token to predict; give texts that are not empty")
    results = [TokenScores(np.empty(0), np.empty(0) if standardise else None) for _ in sequences]
    for batch in batches:
        lengths = [len(sequences[index]) for index in batch]
        tokens = padded([sequences[index] for index in batch], model.device)
        with torch.no_grad():  # inference tensors cannot be gathered from shards
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            for line, (index, length) in enumerate(zip(batch, lengths, strict=True)):
                slices = logits[line, : length - 1].split(SLICE), tokens[line, 1:length].split(SLICE)
                parts = [_scores(*pair, standardise) for pair in zip(*slices, strict=True)]
                log_probs, z_scores = zip(*parts, strict=True)
                results[index] = TokenScores(
                    np.concatenate(log_probs), np.concatenate(z_scores) if standardise else None
                )
    for _ in range(passes - len(batches)):
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    return results


def batches_of(model: PreTrainedModel, sequences: Sequence[np.ndarray], batch_tokens: int) -> list[list[int]]:
    """Indices of the sequences in each forward pass of `token_scores`, the longest sequences first."""
    order = sorted(
        (index for index, sequence in enumerate(sequences) if len(sequence) > 1),
        key=lambda index: -len(sequences[index]),
    )
    positions = min(batch_tokens, LOGITS // model.config.get_text_config().vocab_size)
    batches = []
    while order:
        count = max(1, positions // len(sequences[order[0]]))
        batches.append(order[:count])
        order = order[count:]
    return batches


def _scores(
    logits: torch.Tensor, targets: torch.Tensor, standardise: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probabilities of targets [n] under logits [n, vocabulary], and their z-scores, or None."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    picked = log_probs.gather(1, targets[:, None])[:, 0].cpu().double()
    if not standardise:
        return picked.numpy(), None
    probs = log_probs.exp()
    mean = (probs * log_probs).sum(-1).cpu().double()
    square = (probs * log_probs.square()).sum(-1).cpu().double()
    z_scores = (picked - mean) / (square - mean.square()).clamp_min(1e-12).sqrt()
    return picked.numpy(), z_scores.numpy()
