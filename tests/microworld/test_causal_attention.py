import torch
from transformers import LlamaConfig, LlamaForCausalLM

from solar_repro.microworld.causal_attention import use_causal_attention


def test_loss_and_gradients_are_those_of_the_stock_attention():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=300, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tokens = torch.randint(50, (2, 300))  # two whole blocks of queries and a part of one

    def loss_and_gradients():
        model.zero_grad()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in model.parameters())]

    stock = loss_and_gradients()
    use_causal_attention(model)
    for ours, theirs in zip(loss_and_gradients(), stock, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
