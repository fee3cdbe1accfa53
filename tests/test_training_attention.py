import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from solar_repro.training_attention import LONGEST, use_training_attention


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=300, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("lengths", [[300], [130, 1, 169]])
def test_loss_and_gradients_are_those_of_the_stock_attention(model, lengths):
    tokens = torch.randint(50, (2, 300))  # two whole blocks of queries and a part of one
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, 300)

    def loss_and_gradients():
        model.zero_grad()
        loss = model(input_ids=tokens, position_ids=positions, labels=tokens, use_cache=False).loss
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in model.parameters())]

    model.set_attn_implementation("eager")
    stock = loss_and_gradients()
    model.set_attn_implementation("sdpa")
    use_training_attention(model, 300)
    assert model.config._attn_implementation != "sdpa"
    for ours, theirs in zip(loss_and_gradients(), stock, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_longer_sequences_keep_the_stock_attention(model):
    use_training_attention(model, LONGEST + 1)
    assert model.config._attn_implementation == "sdpa"
