"""Hidden states of frozen denoisers against hooks on the whole models."""

from __future__ import annotations

import copy

import pytest
import torch
from test_adapters import CONDITIONING, LABELS, LATENTS, POOLED, TEXT, dit, flux, random_, sd3, text_unet, unet
from torch import nn

from lpl.denoisers import ClassConditionalMMDiT
from lpl.denoisers.adapters import adapt
from lpl.denoisers.hidden import find_block, hidden_states
from lpl.denoisers.mmdit import PRESETS, Preset


@pytest.fixture
def mmdit(monkeypatch):
    monkeypatch.setitem(PRESETS, "T", Preset(width=16, depth=4, heads=2))
    return random_(ClassConditionalMMDiT(4, 10, preset="T", patch_size=2, latent_size=8))


SD3 = {"encoder_hidden_states": TEXT, "pooled_projections": POOLED}
# denoiser, depth, the block's submodule, which of its outputs, condition
CASES = {
    "dit": (lambda: adapt(dit()), 1, "model.transformer_blocks.0", None, {"labels": LABELS}),
    "sd3": (lambda: adapt(sd3()), 1, "model.transformer_blocks.0", 1, SD3),
    "sd3, last block": (lambda: adapt(sd3()), "deep", "model.transformer_blocks.1", 1, SD3),
    "flux": (lambda: adapt(flux()), 1, "model.transformer_blocks.0", 1, SD3),
    "flux, single stream": (lambda: adapt(flux()), 2, "model.single_transformer_blocks.0", 1, SD3),
    "unet": (lambda: adapt(unet()), "middle", "model.mid_block", None, {}),
    "text unet": (lambda: adapt(text_unet()), "middle", "model.mid_block", None, {"encoder_hidden_states": TEXT}),
}


def seen_by_a_hook(denoiser, path, output, latents, condition):
    """What the block puts out while the whole model runs."""
    seen = []
    hook = denoiser.get_submodule(path).register_forward_hook(lambda _m, _i, value: seen.append(value))
    denoiser(latents, CONDITIONING, **condition)
    hook.remove()
    return seen[0] if output is None else seen[0][output]


@pytest.mark.parametrize("name", CASES)
def test_equal_what_a_hook_sees_and_nothing_later_runs(name):
    make, depth, path, output, condition = CASES[name]
    denoiser = make()
    hidden = hidden_states(denoiser, depth)
    ours, theirs = (LATENTS.clone().requires_grad_() for _ in range(2))
    features = hidden(ours, CONDITIONING, **condition)
    expected = seen_by_a_hook(denoiser, path, output, theirs, condition)
    assert torch.equal(features, expected)
    features.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    for module in find_block(denoiser, depth).unused:
        module.register_forward_hook(lambda *_: pytest.fail("a later block ran"))
    hidden_states(denoiser, depth)(LATENTS, CONDITIONING, **condition)


@pytest.mark.parametrize(("depth", "number"), [("shallow", 1), ("middle", 2), ("deep", 4), (3, 3)])
def test_are_those_of_the_mmdit(mmdit, depth, number):
    hidden = hidden_states(mmdit, depth)
    assert hidden.number == number
    tokens = mmdit.features(LATENTS, CONDITIONING, LABELS, [number])[number]
    assert torch.equal(hidden(LATENTS, CONDITIONING, LABELS), tokens)
    assert tokens.shape == (2, 16, 16)


def test_depths_of_28_blocks_are_the_papers():
    class TwentyEight(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.Module()
            self.transformer.transformer_blocks = nn.ModuleList(nn.Identity() for _ in range(28))

    assert [find_block(TwentyEight(), depth).number for depth in ("shallow", "middle", "deep")] == [8, 16, 28]


def test_the_copy_is_frozen_smaller_and_its_own(mmdit):
    whole = sum(value.numel() for value in mmdit.parameters())
    hidden = hidden_states(mmdit.train(), 1)
    assert sum(value.numel() for value in hidden.parameters()) < 0.5 * whole
    assert not any(value.requires_grad for value in hidden.parameters())
    assert all(value.requires_grad for value in mmdit.parameters())
    before = hidden(LATENTS, CONDITIONING, LABELS)
    with torch.no_grad():
        for parameter in mmdit.parameters():
            parameter.add_(1)
    assert torch.equal(hidden(LATENTS, CONDITIONING, LABELS), before)
    nn.ModuleList([hidden]).train()
    assert not any(module.training for module in hidden.denoiser.modules())
    assert mmdit.training


def test_gradient_checkpointing_of_the_original_does_not_matter(mmdit):
    plain = copy.deepcopy(mmdit)
    mmdit.set_gradient_checkpointing()
    gradients = []
    for denoiser in (plain, mmdit):
        latents = LATENTS.clone().requires_grad_()
        hidden_states(denoiser, 2)(latents, CONDITIONING, LABELS).square().sum().backward()
        gradients.append(latents.grad)
    assert torch.equal(*gradients)
    assert mmdit.transformer.gradient_checkpointing


def test_half_precision_is_close(mmdit):
    exact = hidden_states(mmdit, 2)(LATENTS, CONDITIONING, LABELS)
    rough = hidden_states(mmdit, 2, torch.bfloat16)(LATENTS, CONDITIONING, LABELS)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("make", "condition"),
    [(sd3, SD3), (text_unet, {"encoder_hidden_states": TEXT, "encoder_attention_mask": torch.ones(2, 5)})],
)
def test_conditions_are_cast_with_the_latents(make, condition):
    exact = hidden_states(adapt(make()))(LATENTS, CONDITIONING, **condition)
    rough = hidden_states(adapt(make()), dtype=torch.bfloat16)(LATENTS, CONDITIONING, **condition)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_conditions_within_mappings_are_cast_and_numbers_kept():
    """Sizes and positions are embedded as the numbers they are, which half precision would round."""
    seen = {}

    class Taking(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.Module()
            self.transformer.transformer_blocks = nn.ModuleList([nn.Linear(8, 8)])

        def forward(self, latents, conditioning, labels=None, **condition):
            seen.update(condition)
            return self.transformer.transformer_blocks[0](latents)

    time_ids, mask = torch.tensor([[1023.0]]), torch.ones(2, 5, dtype=torch.bool)
    added = {"text_embeds": POOLED, "time_ids": time_ids, "image_embeds": [TEXT]}
    hidden = hidden_states(Taking(), dtype=torch.bfloat16)
    hidden(LATENTS, CONDITIONING, added_cond_kwargs=added, mask=mask, scale=0.5)
    assert seen["added_cond_kwargs"]["text_embeds"].dtype == torch.bfloat16
    assert seen["added_cond_kwargs"]["image_embeds"][0].dtype == torch.bfloat16
    assert torch.equal(seen["added_cond_kwargs"]["time_ids"], time_ids)
    assert seen["mask"] is mask
    assert seen["scale"] == 0.5
    assert added["text_embeds"] is POOLED


@pytest.mark.parametrize(
    ("make", "depth", "message"),
    [
        (lambda: adapt(dit()), "midle", "depth: got midle, .* 1 to 2, or shallow, middle, deep"),
        (lambda: adapt(dit()), 3, "depth: got 3, this denoiser takes the number of a block, 1 to 2, or shallow"),
        (lambda: adapt(unet()), "deep", "depth: got deep, UNet2DModel takes middle, its mid block"),
        (lambda: nn.Linear(1, 1), "middle", "denoiser: Linear has neither transformer blocks nor a mid block"),
    ],
)
def test_blocks_that_do_not_exist_are_named(make, depth, message):
    with pytest.raises(ValueError, match=message):
        hidden_states(make(), depth)
