"""The paper's count of operations (its Tables 7 and 8), beside ours of the same models.

Reference: Berrada et al., *Boosting Latent Diffusion with Perceptual Objectives*, ICLR 2025 (arXiv 2411.04873).

The paper does not say how it counted: with which batch, whether a multiply-add is one operation or two, with which of
its two decoders. Its numbers narrow that down, and `candidates` shows what each reading gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..autoencoders import DecoderFeatures
from ..config import Recipe, build_recipe
from ..diffusion import DDPM
from .flops import META, denoiser_flops, perceptual_flops

TERA = 1e12
LATENT_CHANNELS, DOWNSAMPLING = 4, 8  # of every decoder here
SIGMA_THRESHOLD = 3.0  # τ_σ of the paper's ImageNet runs, on DDPM


@dataclass(frozen=True)
class Published:
    """An iteration of MMDiT-XL/2 in Table 8, on ImageNet, in post-training.

    Attributes:
        resolution: pixels a side.
        plain: 10¹² operations without LPL.
        perceptual: with it.
        batch_size: samples a GPU. At 512² it follows from Table 7; at 256² it is a guess.
        batch_size_from: how it is known.
    """

    resolution: int
    plain: float
    perceptual: float
    batch_size: int
    batch_size_from: str

    @property
    def added(self) -> float:
        """What LPL adds."""
        return self.perceptual - self.plain


TABLE_7 = {25: 108.347, 16: 106.581}  # batch a GPU: 10¹² operations; at 512², without LPL and with it
TABLE_8 = (
    Published(
        256, 63.342, 99.987, 64, "the power of two at which a sample costs as much less than at 512² as ours does"
    ),
    Published(512, 69.342, 106.581, 16, "Table 7 has 106.581 at batch 16, and 108.347 / 25 = 69.342 / 16"),
)


def _kl(up: tuple[int, ...], layers: int) -> dict[str, Any]:
    levels = len(up)
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": up,
        "layers_per_block": layers,
    }


def _stable_diffusion() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**_kl((128, 256, 512, 512), 2))


def _asymmetric(up: tuple[int, ...], layers: int) -> Any:
    from diffusers import AsymmetricAutoencoderKL

    config = {key: value for key, value in _kl(up, layers).items() if not key.startswith(("block_", "layers_"))}
    return AsymmetricAutoencoderKL(
        **config,
        down_block_out_channels=(128, 256, 512, 512),
        layers_per_down_block=2,
        up_block_out_channels=up,
        layers_per_up_block=layers,
    )


# Those of the paper's experiments (footnote 1), by the name shown. SD's and SDXL's differ in their weights alone.
DECODERS: dict[str, Callable[[], Any]] = {
    "SD and SDXL": _stable_diffusion,
    "asymmetric ×1.5": lambda: _asymmetric((192, 384, 768, 768), 3),
}


@dataclass(frozen=True)
class ModelFlops:
    """The operations of one sample at one resolution; a multiply-add counts as two.

    Attributes:
        resolution: pixels a side.
        denoiser: forward and backward.
        checkpointed: the same with gradient checkpointing, which computes each block's forward pass again.
        perceptual: of LPL's three passes by decoder, as the autoencoders run them: with the first block alone, with the
            first two, and so on to all five.
        lean: with all blocks as this package runs them, the upsamplings folded into convolutions.
    """

    resolution: int
    denoiser: int
    checkpointed: int
    perceptual: dict[str, tuple[int, ...]]
    lean: dict[str, int]


def model_flops(preset: str, resolution: int, patch_size: int = 2) -> ModelFlops:
    """Counts a denoiser and the decoders at a resolution; nothing is computed.

    Args:
        preset: a size of `ClassConditionalMMDiT`.
        resolution: pixels a side.
        patch_size: of the denoiser, in latent pixels.

    Raises:
        RecipeError: a preset or patch size that does not exist, or a resolution that fits neither.
    """
    shape = (LATENT_CHANNELS, resolution // DOWNSAMPLING, resolution // DOWNSAMPLING)
    plain, checkpointed = (denoiser_flops(_recipe(preset, resolution, patch_size, on), shape) for on in (False, True))
    decoders = {name: _on_meta(make) for name, make in DECODERS.items()}
    perceptual = {name: tuple(_by_depth(model, shape)) for name, model in decoders.items()}
    lean = {name: perceptual_flops(DecoderFeatures(model), shape) for name, model in decoders.items()}
    return ModelFlops(resolution, plain, checkpointed, perceptual, lean)


def gate_share() -> float:
    """The share of samples that pass the paper's gate."""
    return DDPM().probability_below(SIGMA_THRESHOLD)


@dataclass(frozen=True)
class Candidate:
    """What one reading of the paper's convention gives.

    Attributes:
        reading: in words.
        operations: our count of a batch, in 10¹² operations of that convention.
        published: the paper's.
    """

    reading: str
    operations: float
    published: float

    @property
    def difference(self) -> float:
        """Of ours from the paper's, as a share of the paper's."""
        return self.operations / self.published - 1


def candidates(flops: ModelFlops, published: Published) -> tuple[list[Candidate], list[Candidate]]:
    """Readings of the paper's two numbers at a resolution: of the iteration without LPL, and of what LPL adds.

    Returns:
        Both lists, the nearest first.
    """
    plain, added = _plain(flops, published), _added(flops, published)
    return _nearest_first(plain), _nearest_first(added)


def _plain(flops: ModelFlops, published: Published) -> Iterator[Candidate]:
    passes = {"forward and backward": flops.denoiser, "with gradient checkpointing": flops.checkpointed}
    for (name, count), operations in product(passes.items(), (2, 1)):
        yield _candidate(name, count, operations, published.batch_size, published.plain)


def _added(flops: ModelFlops, published: Published) -> Iterator[Candidate]:
    share = gate_share()
    for (name, counts), operations in product(flops.perceptual.items(), (2, 1)):
        for blocks, count in enumerate(counts, start=1):
            reading = f"{name}, {'all' if blocks == len(counts) else f'the first {blocks}'} of {len(counts)} blocks"
            yield _candidate(reading, share * count, operations, published.batch_size, published.added)


def _candidate(name: str, count: float, operations: int, batch_size: int, published: float) -> Candidate:
    reading = f"{name}, a multiply-add is {operations}"
    return Candidate(reading, batch_size * count * operations / 2 / TERA, published)


def _nearest_first(found: Iterable[Candidate]) -> list[Candidate]:
    return sorted(found, key=lambda candidate: abs(math.log(candidate.operations / candidate.published)))


def _on_meta(make: Callable[[], Any]) -> Any:
    with META:
        return make()


def _by_depth(model: Any, latent_shape: tuple[int, int, int]) -> Iterator[int]:
    blocks = DecoderFeatures(model).blocks
    for count in range(1, len(blocks) + 1):
        yield perceptual_flops(DecoderFeatures(model, blocks[:count], lean=False), latent_shape)


def _recipe(preset: str, resolution: int, patch_size: int, checkpointing: bool) -> Recipe:
    """The sections that a denoiser's size depends on."""
    if resolution % (DOWNSAMPLING * patch_size):
        raise ValueError(f"size: got {resolution}, takes multiples of {DOWNSAMPLING * patch_size} pixels")
    tokens = resolution // (DOWNSAMPLING * patch_size)
    denoiser = {"preset": preset, "patch_size": patch_size, "gradient_checkpointing": checkpointing}
    return build_recipe({"denoiser": {**denoiser, "max_tokens_per_side": max(64, tokens)}})


def published_at(resolution: int, rows: Sequence[Published] = TABLE_8) -> Published | None:
    """The paper's row of a resolution, or None where it has none."""
    return next((row for row in rows if row.resolution == resolution), None)
