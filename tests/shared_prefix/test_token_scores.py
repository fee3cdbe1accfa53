import numpy as np
import pytest
import torch

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.contamination.min_k import lowest_mean, min_k_scores
from solar_repro.errors import UserError
from solar_repro.shared_prefix.token_scores import encode_with_bos, token_scores
from solar_repro.training.held_out import held_out_losses, mean_loss

TEXTS = ["sun moon river stone", "green apple bread under the cold house at night", "seven"]


def _naive(folder, text, max_length):
    """Log-probabilities and z-scores of one text by one forward in float64, from the definitions."""
    model, tokenizer = load_for_scoring(folder)
    tokens = [1, *tokenizer(text, add_special_tokens=False)["input_ids"]][:max_length]
    with torch.no_grad():
        log_probs = model.double()(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1).numpy()
    picked = log_probs[np.arange(len(tokens) - 1), tokens[1:]]
    mean = (np.exp(log_probs) * log_probs).sum(-1)
    sigma = np.sqrt((np.exp(log_probs) * (log_probs - mean[:, None]) ** 2).sum(-1))
    return picked, (picked - mean) / sigma


@pytest.mark.parametrize("max_length", [6, 512])
def test_held_out_loss_is_over_all_predicted_tokens(model, max_length):
    expected = -np.concatenate([_naive(model, text, max_length)[0] for text in TEXTS]).mean()
    network, tokenizer = load_for_scoring(model)
    network.config.max_position_embeddings = max_length
    found = mean_loss(held_out_losses(network, tokenizer, TEXTS))
    assert found == pytest.approx(expected, rel=1e-5)


def test_slices_and_small_batches_change_nothing(model, monkeypatch):
    network, tokenizer = load_for_scoring(model)
    sequences = encode_with_bos(tokenizer, TEXTS, 512)
    whole = token_scores(network, sequences, batch_tokens=512, standardise=True)
    sizes = []
    network.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("solar_repro.shared_prefix.token_scores.SLICE", 3)
    monkeypatch.setattr("solar_repro.shared_prefix.token_scores.LOGITS", 30 * network.config.vocab_size)
    for found, expected in zip(
        token_scores(network, sequences, batch_tokens=512, standardise=True), whole, strict=True
    ):
        np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-5)
        np.testing.assert_allclose(found.z_scores, expected.z_scores, rtol=1e-4)
    assert max(sizes) <= 30


def test_min_k_follows_the_definitions(model):
    scores = min_k_scores(load_for_scoring(model), TEXTS, k=(0.2, 0.5), batch_tokens=512)
    for share in (0.2, 0.5):
        for index, text in enumerate(TEXTS):
            picked, standard = _naive(model, text, 2048)
            count = max(1, int(len(picked) * share))
            assert scores.min_k[share][index] == pytest.approx(np.sort(picked)[:count].mean(), rel=1e-4)
            assert scores.min_k_pp[share][index] == pytest.approx(np.sort(standard)[:count].mean(), rel=1e-4)
    assert lowest_mean(np.array([3.0, -1.0, 2.0]), 0.1) == -1.0


def test_nothing_to_score_is_the_users_mistake(model):
    with pytest.raises(UserError, match="not one token"):
        held_out_losses(*load_for_scoring(model), [""])
    with pytest.raises(UserError, match="text 1 is empty"):
        min_k_scores(load_for_scoring(model), ["sun", " "], batch_tokens=512)
    with pytest.raises(UserError, match="k="):
        min_k_scores(load_for_scoring(model), ["sun"], k=(20,), batch_tokens=512)
