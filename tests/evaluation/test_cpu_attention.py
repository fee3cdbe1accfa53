import pytest
import torch

from solar_repro.evaluation.cpu_attention import NAME, use_cpu_attention
from solar_repro.evaluation.load import load_model


@pytest.mark.parametrize("length", [1, 127, 128, 200, 767, 800])
def test_logits_are_those_of_the_kernel(model, length):
    plain, _ = load_model(model)
    blocks, _ = load_model(model)
    use_cpu_attention(blocks)
    assert blocks.config._attn_implementation == NAME
    tokens = torch.randint(3, 400, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(blocks(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)


def test_padding_masks_are_kept(model):
    plain, _ = load_model(model)
    blocks, _ = load_model(model)
    use_cpu_attention(blocks)
    tokens = torch.randint(3, 400, (2, 150), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :40] = 0
    with torch.no_grad():
        found, expected = (m(tokens, attention_mask=mask).logits[:, 40:] for m in (blocks, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
