"""Next-token loss of a model on texts."""

from collections.abc import Sequence
from pathlib import Path


def mean_loss(
    model: Path | str,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_tokens: int = 8192,
    device: str = "cpu",
    dtype: str = "float32",
) -> float:
    """Mean next-token cross entropy in nats over all predicted tokens of all texts, a BOS before each text.

    Texts longer than `max_length` tokens (BOS included) are cut there. UserError where nothing is predicted.
    """
    from solar_repro.evaluation.load import load_model
    from solar_repro.evaluation.token_scores import encode_with_bos, token_scores

    loaded, tokenizer = load_model(model, device=device, dtype=dtype)
    sequences = encode_with_bos(tokenizer, texts, max_length)
    scores = token_scores(loaded, sequences, batch_tokens=batch_tokens)
    return -sum(float(score.log_probs.sum()) for score in scores) / sum(len(s.log_probs) for s in scores)
