"""The text encoder alone agrees with transformers on random weights."""

import pytest
import tiny
import torch

from kleinod.config import TextEncoderConfig
from kleinod.models import text_encoder
from kleinod.models.text_encoder import TextEncoder

LAYERS = (9, 18, 27)


@pytest.mark.parametrize("longest", [150, 25])
def test_embeds_equal_transformers(longest: int) -> None:
    torch.manual_seed(0)
    oracle = tiny.text_encoder()
    # transformers starts every norm at one, which would hide a forgotten scale
    for name, parameter in oracle.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    ours = TextEncoder(TextEncoderConfig(300, 32, 64, 29, 4, 2, 16), LAYERS).eval()
    state = {n: t for n, t in oracle.state_dict().items() if n in ours.state_dict()}
    ours.load_state_dict(state, strict=True)
    ids, mask = torch.randint(0, 300, (2, 150)), torch.ones(2, 150, dtype=torch.long)
    mask[0, 11:] = 0
    # padding that follows all prompts has no keys
    mask[1, longest:] = 0
    with torch.inference_mode():
        states = oracle(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        theirs = torch.cat([states[layer] for layer in LAYERS], dim=-1)
        mine = ours(ids, mask)
    # float32 rounding only, the order of sums may differ; seen: 0
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_of_padding_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = TextEncoder(TextEncoderConfig(300, 64, 96, 3, 4, 2, 32), (1, 2, 3)).to(dtype)
    ids, mask = torch.randint(0, 300, (1, 512)), (torch.arange(512) < 19).long()[None]
    made = module(ids, mask)
    monkeypatch.setattr(text_encoder, "num_seen", lambda mask: mask.shape[1])
    assert torch.equal(made, module(ids, mask))
