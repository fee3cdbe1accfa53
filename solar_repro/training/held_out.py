"""The held-out loss of Sec. 2's argument: up-scaling raises it, continued pretraining brings it back."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from solar_repro.data.locate import text_location
from solar_repro.data.text_stream import load_text
from solar_repro.h6.samples import LOSSES_FILE
from solar_repro.scales.settings import Corpus
from solar_repro.shared_prefix.token_scores import batches_of, context_length, encode_with_bos, token_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 8192


class TextLoss(NamedTuple):
    """One text's loss: predicted tokens, and their losses summed (nats)."""

    tokens: int
    nats: float


def held_out_texts(corpus: Corpus, mirror: Path | None) -> list[str]:
    """The first documents, in a fixed order, of the corpus's held-out split."""
    texts = load_text(text_location(corpus.id, mirror), corpus.held_out_split, corpus.column)
    return list(itertools.islice(texts, corpus.held_out_documents))


def held_out_losses(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str]
) -> list[TextLoss]:
    """Each text's next-token losses in nats behind a BOS, the text cut at the model's context."""
    sequences = encode_with_bos(tokenizer, texts, context_length(model))
    model.eval()
    scores = token_scores(model, sequences, batch_tokens=BATCH_TOKENS)
    return [TextLoss(len(score.log_probs), -float(score.log_probs.sum())) for score in scores]


def shared_mean_loss(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str]
) -> float:
    """`mean_loss` of texts that all processes of a training share out among themselves, on each of them.

    Every process takes as many forward passes: where layers are sharded, each pass gathers them from all.
    """
    import torch
    from torch import distributed

    launched = distributed.is_initialized()
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if launched else (0, 1)
    sequences = encode_with_bos(tokenizer, texts, context_length(model))
    # Dealt out by length, the shares are of like size, and so are the batches that are scored at one time.
    sequences.sort(key=len, reverse=True)
    shares = [sequences[first::processes] for first in range(processes)]
    passes = max(len(batches_of(model, share, BATCH_TOKENS)) for share in shares)
    model.eval()
    scores = token_scores(model, shares[rank], batch_tokens=BATCH_TOKENS, passes=passes)
    sums = torch.tensor(
        [sum(score.log_probs.sum() for score in scores), sum(len(score.log_probs) for score in scores)],
        dtype=torch.float64,
        device=model.device if launched else "cpu",
    )
    if launched:
        distributed.all_reduce(sums)
    return -float(sums[0] / sums[1])


def mean_loss(losses: list[TextLoss]) -> float:
    """Mean loss in nats over all tokens."""
    return sum(text.nats for text in losses) / sum(text.tokens for text in losses)


def write_losses(losses: list[TextLoss], out: Path) -> None:
    """Write the file of held-out losses: tokens and summed loss of each text, in order."""
    text = json.dumps([[loss.tokens, loss.nats] for loss in losses])
    (out / LOSSES_FILE).write_text(text + "\n", encoding="utf-8")
