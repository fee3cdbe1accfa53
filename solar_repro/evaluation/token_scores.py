"""Log-probability of every token of texts, and its standing within the vocabulary's distribution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from solar_repro.errors import UserError


@dataclass(frozen=True)
class TokenScores:
    """For one sequence of n tokens, the n - 1 predicted ones (float64)."""

    log_probs: np.ndarray
    z_scores: np.ndarray | None
    """(log p - μ) / σ, μ and σ of log p under the model's distribution at that position (Min-K%++)."""


def encode_with_bos(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[np.ndarray]:
    """Token ids [n] (int32) of each text behind one BOS (EOS if there is no BOS), cut to `max_length`."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([first, *tokens], dtype=np.int32)[:max_length] for tokens in encoded]


def token_scores(
    model: PreTrainedModel,
    sequences: Sequence[np.ndarray],
    *,
    batch_tokens: int,
    standardise: bool = False,
) -> list[TokenScores]:
    """Score each sequence's tokens after the first; UserError where no sequence has two tokens.

    Batches of like length hold at most `batch_tokens` positions. Log-probabilities are taken in float32.
    """
    if not any(len(sequence) > 1 for sequence in sequences):
        raise UserError("loss of texts: not one token to predict; give texts that are not empty")
    results = [TokenScores(np.empty(0), np.empty(0) if standardise else None) for _ in sequences]
    order = sorted(
        (index for index, sequence in enumerate(sequences) if len(sequence) > 1),
        key=lambda index: -len(sequences[index]),
    )
    while order:
        count = max(1, batch_tokens // len(sequences[order[0]]))
        batch, order = order[:count], order[count:]
        lengths = [len(sequences[index]) for index in batch]
        padded = np.zeros((len(batch), lengths[0]), dtype=np.int64)
        for line, index in zip(padded, batch, strict=True):
            line[: len(sequences[index])] = sequences[index]
        tokens = torch.from_numpy(padded).to(model.device)
        with torch.no_grad():  # inference tensors cannot be gathered from shards
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
            log_probs = torch.log_softmax(logits, dim=-1)
            picked = log_probs.gather(2, tokens[:, 1:, None])[:, :, 0].double()
            z_scores = None
            if standardise:
                probs = log_probs.exp()
                mean = (probs * log_probs).sum(-1).double()
                square = (probs * log_probs.square()).sum(-1).double()
                z_scores = ((picked - mean) / (square - mean.square()).clamp_min(1e-12).sqrt()).cpu().numpy()
        values = picked.cpu().numpy()
        for line, (index, length) in enumerate(zip(batch, lengths, strict=True)):
            results[index] = TokenScores(
                values[line, : length - 1],
                z_scores[line, : length - 1] if z_scores is not None else None,
            )
    return results
