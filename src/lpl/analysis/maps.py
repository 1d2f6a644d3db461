"""Measures of feature maps (B, C, H, W) and of what a mask leaves out of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..losses import outlier_mask

MASK_DEFAULTS: dict[str, float] = {"quantile": 0.02, "offset": 2.0, "opening": 5, "closing": 3}  # Algorithm 1's


def mask_with(maps: Tensor, down_f: float, **changes: float) -> Tensor:
    """Algorithm 1 with some parameters changed: boolean, True where a position is kept."""
    values = MASK_DEFAULTS | changes
    return outlier_mask(
        maps,
        down_f,
        opening=int(values["opening"]),
        closing=int(values["closing"]),
        quantile=values["quantile"],
        offset=values["offset"],
    )


def masked_shares(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of positions and of energy Σ (x − mean)² that a mask leaves out, each (B, C)."""
    energy = (maps.float() - maps.float().mean(dim=(-2, -1), keepdim=True)).square()
    left_out = ~mask
    total = energy.sum(dim=(-2, -1))
    share = (energy * left_out).sum(dim=(-2, -1)) / total.clamp_min(torch.finfo(torch.float32).tiny)
    return left_out.float().mean(dim=(-2, -1)), share


def masked_norms(maps: Tensor, mask: Tensor) -> Tensor:
    """Root mean square of masked activations over that of kept ones, both about the kept ones' mean, (B, C).

    0 where nothing is masked, infinite where the kept activations are all the same.
    """
    maps = maps.float()
    kept, left_out = mask.sum(dim=(-2, -1)), (~mask).sum(dim=(-2, -1))
    mean = (maps * mask).sum(dim=(-2, -1)) / kept.clamp_min(1)
    energy = (maps - mean[..., None, None]).square()
    inside = (energy * mask).sum(dim=(-2, -1)) / kept.clamp_min(1)
    outside = (energy * ~mask).sum(dim=(-2, -1)) / left_out.clamp_min(1)
    return torch.where(left_out > 0, (outside / inside).sqrt(), 0.0)


def position_norms(maps: Tensor) -> Tensor:
    """Norm over channels, each less its mean, at every position over the map's median norm: (B, H·W), ascending."""
    maps = maps.float()
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    norms = torch.linalg.vector_norm(centred, dim=1).flatten(1).sort(dim=1).values
    median = norms[:, norms.shape[1] // 2, None]
    return norms / median.clamp_min(torch.finfo(torch.float32).tiny)


def standardised(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(maps − mean)/std by map in float32, with the mean and the standard deviation, (B, C); constant maps give 0."""
    maps = maps.float()
    variance, mean = torch.var_mean(maps, dim=(-2, -1), correction=0, keepdim=True)
    std = variance.sqrt()
    scores = torch.where(std > 0, (maps - mean) / std.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    return scores, mean[..., 0, 0], std[..., 0, 0]


def excess_kurtosis(maps: Tensor, mask: Tensor) -> Tensor:
    """E[(x − mean)⁴]/var² − 3 over the positions that a mask keeps, (B, C); 0 for constant maps."""
    count = mask.sum(dim=(-2, -1)).clamp_min(1)
    centred = (maps - ((maps * mask).sum(dim=(-2, -1)) / count)[..., None, None]) * mask
    variance = centred.square().sum(dim=(-2, -1)) / count
    fourth = centred.pow(4).sum(dim=(-2, -1)) / count
    return torch.where(variance > 0, fourth / variance.square().clamp_min(torch.finfo(maps.dtype).tiny) - 3, 0.0)
