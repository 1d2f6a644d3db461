from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo
from lpl.autoencoders import DecoderFeatures
from lpl.autoencoders.receptive_field import receptive_field

# A position may depend on one more only where a convolution runs there: 1/r latent positions at resolution r.
CONVOLUTIONS = {  # block → (resolution, 3×3 convolutions at it since the block before)
    "stable_diffusion": {
        "mid_block": [(1, 5)],
        "up_blocks.0": [(1, 4), (2, 1)],
        "up_blocks.1": [(2, 4), (4, 1)],
        "up_blocks.2": [(4, 4), (8, 1)],
        "up_blocks.3": [(8, 4)],
    },
    "taef2": {"5": [(1, 10)], "10": [(2, 10)], "15": [(4, 10)], "18": [(8, 4)]},
    "tiny": {"layers.3": [(1, 7)], "layers.7": [(2, 7)], "layers.11": [(4, 7)], "layers.14": [(8, 4)]},
}


def walked(blocks: dict[str, list[tuple[int, int]]]) -> dict[str, int]:
    """Margins by walking through the convolutions; positions are counted at each resolution as they are doubled.

    A feature at position q of a map r times the latents' size lies in latent position q // r. Its dependence widens by
    one position at the map's own resolution for each convolution, then halves, rounding outwards, on the way down.
    """
    margins = {}
    path: list[tuple[int, int]] = []
    for name, steps in blocks.items():
        path += steps
        resolution = path[-1][0]
        widest = 0
        for phase in range(resolution):  # where in its latent position the feature lies
            low = high = phase
            current = resolution
            for at, count in reversed(path):
                while current > at:
                    low, high, current = math.floor(low / 2), math.floor(high / 2), current // 2
                low, high = low - count, high + count
            while current > 1:
                low, high, current = math.floor(low / 2), math.floor(high / 2), current // 2
            widest = max(widest, -low, high)
        margins[name] = widest
    return margins


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_margins_are_those_of_walking_through_the_convolutions(name: str) -> None:
    found = receptive_field(DecoderFeatures(zoo.make(name)))
    assert found.margins == walked(CONVOLUTIONS[name])
    assert found.margin == max(found.margins.values())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_latent_beyond_the_margin_changes_nothing(name: str) -> None:
    """By the real decoder's own gradient; where something in it is global, by the gradient reaching further."""
    features = DecoderFeatures(zoo.make(name).double())
    found = receptive_field(features)
    channels = features.scaling.channels or 32
    length = 2 * found.margin + 5
    latents = torch.randn(1, channels, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    latents.requires_grad_()
    block, maps = list(features(latents).items())[-1]
    factor = maps.shape[-2] // length
    middle = length // 2
    looked_at = maps[..., middle * factor : (middle + 1) * factor, :].square().sum()
    (gradient,) = torch.autograd.grad(looked_at, latents)
    rows = gradient.abs().amax(dim=(0, 1, 3)).nonzero().flatten()
    reach = int((rows - middle).abs().max())
    assert reach <= found.margins[block] if found.is_local else reach > found.margins[block]


def test_knows_what_is_global() -> None:
    assert receptive_field(DecoderFeatures(zoo.make("tiny"))).is_local
    found = receptive_field(DecoderFeatures(zoo.make("taef2")))
    assert [path.split(".", 2)[2] for path in found.global_modules] == ["3.pool.1", "4.pool.1", "5.pool.1"]


def test_leaves_the_decoder_as_it_was() -> None:
    features = DecoderFeatures(zoo.make("stable_diffusion"))
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    before = features(latents)
    receptive_field(features)
    after = features(latents)
    assert all(torch.equal(before[name], after[name]) for name in before)


class Oblong(nn.Module):
    """Looks three positions up and down, one left and right; batch normalisation is local in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, (7, 3), padding=(3, 1))
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(latents)).relu())


class Mixing(Oblong):
    """Adds the map's mean, by no module at all."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.first(latents)
        return self.norm(hidden + hidden.mean(dim=(-2, -1), keepdim=True))


def test_any_other_module() -> None:
    model = Oblong()
    model.norm.running_mean += 5.0
    assert receptive_field(DecoderFeatures(model, blocks=["first", "last"])).margins == {"first": 3, "last": 3}
    wide = DecoderFeatures(model, blocks=["last"])
    assert receptive_field(wide).margins == {"last": 3}
    assert wide(torch.zeros(1, 4, 5, 5))["last"].shape == (1, 8, 5, 5)


def test_refuses_what_mixes_all_positions_unseen() -> None:
    with pytest.raises(ValueError, match="norm depends on latents more than 512 positions away; some module of Mixing"):
        receptive_field(DecoderFeatures(Mixing(), blocks=["norm"]))
