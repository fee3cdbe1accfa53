import pytest
import torch

from solar_repro.checkpoint.load import load_for_scoring
from solar_repro.layers.cpu_attention import SCORING, use_scoring_attention


@pytest.mark.parametrize("length", [1, 127, 128, 200, 767, 800])
def test_logits_are_those_of_the_kernel(model, length):
    plain, _ = load_for_scoring(model)
    blocks, _ = load_for_scoring(model)
    use_scoring_attention(blocks)
    assert blocks.config._attn_implementation == SCORING
    tokens = torch.randint(3, 400, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(blocks(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_the_kernel_is(model):
    exact, _ = load_for_scoring(model)
    plain, blocks = (load_for_scoring(model, dtype="bfloat16")[0] for _ in range(2))
    use_scoring_attention(blocks)
    tokens = torch.randint(3, 400, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = exact(tokens).logits
        off = [(one(tokens).logits.float() - expected).abs().mean() for one in (plain, blocks)]
    assert off[1] < 1.3 * off[0]


def test_padding_masks_are_kept(model):
    plain, _ = load_for_scoring(model)
    blocks, _ = load_for_scoring(model)
    use_scoring_attention(blocks)
    tokens = torch.randint(3, 400, (2, 150), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :40] = 0
    with torch.no_grad():
        found, expected = (m(tokens, attention_mask=mask).logits[:, 40:] for m in (blocks, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
