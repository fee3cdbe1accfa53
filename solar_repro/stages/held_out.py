"""The held-out loss of Sec. 2's argument: up-scaling raises it, continued pretraining brings it back."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from solar_repro.data.locate import text_location
from solar_repro.data.sources import load_text
from solar_repro.evaluation.token_scores import encode_with_bos, token_scores
from solar_repro.scales import Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 8192


def held_out_texts(corpus: Corpus, mirror: Path | None) -> list[str]:
    """The first documents, in a fixed order, of the corpus's held-out split."""
    texts = load_text(text_location(corpus.id, mirror), corpus.held_out_split, corpus.column)
    return list(itertools.islice(texts, corpus.held_out_documents))


def held_out_loss(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> float:
    """Mean next-token loss in nats over all tokens behind a BOS, each text cut at the model's context."""
    sequences = encode_with_bos(tokenizer, texts, model.config.max_position_embeddings)
    model.eval()
    scores = token_scores(model, sequences, batch_tokens=BATCH_TOKENS)
    return -sum(float(score.log_probs.sum()) for score in scores) / sum(len(s.log_probs) for s in scores)
