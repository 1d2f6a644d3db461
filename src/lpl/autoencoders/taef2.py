"""TAEF2, the tiny autoencoder of FLUX.2's latent space, from weights keyed by position.

Reference: madebyollin/taesd (architecture; files taef2_encoder and taef2_decoder).
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .blocks import SoftClamp


class TAEF2(nn.Module):
    """Images in [0, 1] ↔ latents (32, H/8, W/8) of about zero mean and standard deviation 0.9; no scaling factor."""

    latent_channels = 32
    downsampling = 8
    block_positions = (5, 10, 15, 18)  # the end of each resolution in the decoder

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(3, 64),
            Block(),
            *_downsample(),
            *(Block() for _ in range(3)),
            *_downsample(),
            *(Block() for _ in range(3)),
            *_downsample(),
            *(Block(pooled=True) for _ in range(3)),
            _conv(64, 32),
        )
        self.decoder = nn.Sequential(
            SoftClamp(),
            _conv(32, 64),
            nn.ReLU(),
            *(Block(pooled=True) for _ in range(3)),
            *_upsample(),
            *(Block() for _ in range(3)),
            *_upsample(),
            *(Block() for _ in range(3)),
            *_upsample(),
            Block(),
            _conv(64, 3),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> TAEF2:
        """Loads `encoder.safetensors` and `decoder.safetensors`, in float32.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: one of them holds something else.
        """
        model = cls()
        for part in ("encoder", "decoder"):
            path = Path(folder) / f"{part}.safetensors"
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; a TAEF2 folder holds encoder and decoder.safetensors")
            try:
                weights = {name: value.float() for name, value in load_file(path).items()}
                getattr(model, part).load_state_dict(weights)
            except (SafetensorError, RuntimeError) as error:
                raise ValueError(f"{path}: does not hold TAEF2's {part} ({error}); download it again") from error
        return model.eval()

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, 32, H/8, W/8)."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 32, h, w) → (B, 3, 8h, 8w), about [0, 1]."""
        return self.decoder(latents)


class Block(nn.Module):
    """Three 3×3 convolutions with ReLU around an identity skip; a pooled one first adds grouped 1×1 mixing."""

    def __init__(self, channels: int = 64, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
        )
        self.fuse = nn.ReLU()
        self.pool = _pool(channels) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return self.fuse(self.conv(x) + x)


def _pool(channels: int) -> nn.Sequential:
    wide = 4 * channels
    return nn.Sequential(
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.GroupNorm(4, wide),
        nn.ReLU(),
        nn.Conv2d(wide, channels, 1, bias=False),
    )


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _downsample() -> list[nn.Module]:
    return [_conv(64, 64, stride=2, bias=False)]


def _upsample() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), _conv(64, 64, bias=False)]
