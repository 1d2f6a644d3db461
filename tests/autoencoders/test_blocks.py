from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

import zoo
from lpl import DecoderFeatures, LatentPerceptualLoss
from lpl.autoencoders import Autoencoder, scaling_of


class Decoder(nn.Module):
    """Laid out as CompVis's latent diffusion does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3, padding=1)
        self.mid = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        hidden = self.mid(self.conv_in(z))
        for block in reversed(self.up):
            hidden = block(hidden)
        return hidden


class AutoencoderKL(nn.Module):
    """Of the same name as diffusers' class."""

    def __init__(self) -> None:
        super().__init__()
        self.post_quant_conv = nn.Conv2d(4, 4, 1)
        self.decoder = Decoder()
        self.bn = nn.BatchNorm2d(4)  # not FLUX.2's

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(z))


@pytest.mark.parametrize("name", ["AutoencoderKL", "VQModel", "AutoencoderTiny", "TAEF2", "AutoencoderKLFlux2"])
def test_other_libraries_classes_of_the_same_name_are_unknown(name: str) -> None:
    model = type(name, (AutoencoderKL,), {})()
    model.bn.running_var.fill_(9.0)
    z = torch.randn(1, 4, 5, 5)
    maps = DecoderFeatures(model, blocks=["decoder.up.1", "decoder.up.0"])(z)
    torch.testing.assert_close(maps["decoder.up.0"], model.decode(z))
    loss = LatentPerceptualLoss(model, blocks=["decoder.up.1"])
    assert loss(z, z + 0.1, 0.5) > 0
    with pytest.raises(ValueError, match=rf"^blocks: needed for {name} of .*known without: .*, of diffusers or lpl\)"):
        DecoderFeatures(model)
    with pytest.raises(ValueError, match=f"^model: {name} is not an autoencoder whose latents are known: takes Asym"):
        Autoencoder(model)


def test_subclasses_are_what_they_inherit() -> None:
    class MyAutoencoder(diffusers.AutoencoderTiny):
        pass

    model = MyAutoencoder()
    assert DecoderFeatures(model).blocks == DecoderFeatures(diffusers.AutoencoderTiny()).blocks


def test_movq_is_neither_scaled_nor_quantised() -> None:
    """Kandinsky's pipelines call movq.decode(latents, force_not_quantize=True)."""
    model = zoo.make("vq_spatial")
    autoencoder = Autoencoder(model)
    z = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.decode(z, force_not_quantize=True).sample
    torch.testing.assert_close(autoencoder.decode_unclamped(z), expected)
    torch.testing.assert_close(autoencoder.decode(z), expected.clamp(-1, 1))


def test_a_codebook_of_another_width_than_the_latents() -> None:
    model = diffusers.VQModel(latent_channels=4, vq_embed_dim=6, norm_num_groups=8, block_out_channels=(16,))
    mean, _ = Autoencoder(model).encode(torch.zeros(1, 3, 8, 8))
    assert mean.shape[1] == 6
    assert DecoderFeatures(model)(mean)["mid_block"].shape == (1, 16, 8, 8)


def test_statistics_in_buffers() -> None:
    """As in LTX's autoencoder."""
    model = nn.Module()
    model.register_buffer("latents_mean", torch.tensor([1.0, -1.0]))
    model.register_buffer("latents_std", torch.tensor([2.0, 0.5]))
    scaling = scaling_of(model)
    assert scaling.mean.tolist() == [1.0, -1.0]
    assert scaling.std.tolist() == [2.0, 0.5]
