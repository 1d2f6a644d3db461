"""Figure 12: what noise on one latent position does to the picture, near it and far from it.

The same noise vector goes on every position, one position at a time, so that differences between positions come from
where it is added alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders import Autoencoder
from ..data import seeded_generator
from ..evaluation.contrast import luminance
from .inputs import AnalysisError, Track, untracked
from .statistics import Interval, bootstrap, rank_correlations

Position = tuple[int, int]  # row and column of a latent

NOISE_VARIANCE = 0.5  # of each channel's variance, as in the figure
VISIBLE = 4 / 255  # a change of luminance in [0, 1] that counts as seen: twice the step of 8-bit colours
LEVELS = (0.5, 0.9, 0.99)  # shares of the error whose radius is reported


@dataclass(frozen=True)
class ImagePerturbation:
    """What noise on each of P positions of one latent does to its picture.

    Attributes:
        error: mean squared difference of the whole picture, values in [−1, 1], float32 (P,).
        cells: the same by the latent position under which pixels lie, float32 (P, h, w); its mean is `error`.
        local_share: share of the squared error within `window_radius` positions, (P,) in [0, 1].
        visible_outside: share of the pixels outside that window whose luminance changes by more than 4/255, (P,).
        window_shares: share of the squared error within r positions, r = 0, 1, …, (P, r).
        reference: what the latent decodes to, (3, R, R).
        pictures: what it decodes to with the noise, uint8 (P, 3, R, R).
    """

    error: Tensor
    cells: Tensor
    local_share: Tensor
    visible_outside: Tensor
    window_shares: Tensor
    reference: Tensor
    pictures: Tensor

    @property
    def global_share(self) -> float:
        """Share of the squared error of all positions together that lies outside their windows.

        Positions that do next to nothing count for next to nothing, unlike in the mean of 1 − `local_share`.
        """
        return float(((1 - self.local_share) * self.error).sum() / self.error.sum())


@dataclass(frozen=True)
class PerturbationStudy:
    """Everything Figure 12 shows, in numbers.

    Attributes:
        positions: the P positions (row, column) that were perturbed, one at a time.
        grid: (h, w) of the latents.
        images: what happened to each image.
        noise: the vectors added, float32 (D, C); with several draws, errors are means over them.
        window_radius: latent positions on each side that still count as local.
        explained_by: rank correlation, over positions, of the error with what might explain it: "latent_norm", the
            norm of the latent there, and "contrast", the standard deviation of luminance of the pixels above it.
    """

    positions: tuple[Position, ...]
    grid: tuple[int, int]
    images: tuple[ImagePerturbation, ...]
    noise: Tensor
    window_radius: int
    explained_by: dict[str, Interval]


def check_positions(positions: Sequence[Position] | None, grid: tuple[int, int]) -> tuple[Position, ...]:
    """The positions to perturb, all of them by default.

    Raises:
        AnalysisError: a position outside the latent, or none at all.
    """
    height, width = grid
    if positions is None:
        return tuple((row, column) for row in range(height) for column in range(width))
    if not positions:
        raise AnalysisError("positions: got none, takes pairs of row and column; leave it out for all positions")
    for row, column in positions:
        if not (0 <= row < height and 0 <= column < width):
            raise AnalysisError(
                f"positions: ({row}, {column}) lies outside the latent; rows are 0 to {height - 1} and columns "
                f"0 to {width - 1}"
            )
    return tuple(positions)


def noise_vectors(latents: Tensor, variance: float, draws: int, seed: int) -> Tensor:
    """Normal vectors (D, C) whose variance is the given share of each channel's over latents (N, C, h, w)."""
    scale = (variance * latents.cpu().var(dim=(0, 2, 3))).sqrt()
    return torch.randn(draws, len(scale), generator=seeded_generator(seed)) * scale


def study_perturbation(
    autoencoder: Autoencoder,
    latents: Tensor,
    positions: Sequence[Position] | None = None,
    statistics_of: Tensor | None = None,
    variance: float = NOISE_VARIANCE,
    window_radius: int = 1,
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    track: Track = untracked,
) -> PerturbationStudy:
    """Adds noise to one position at a time and compares the decoded pictures.

    Args:
        autoencoder: to look at.
        latents: (N, C, h, w) as the diffusion model sees them.
        positions: rows and columns to perturb; all of them by default.
        statistics_of: latents (M, C, h, w) whose channel variances scale the noise; `latents` by default.
        variance: of the noise over that of each channel.
        window_radius: latent positions on each side of the perturbed one that count as local.
        draws: noise vectors to average over.
        seed: of the noise.
        batch_size: perturbed latents decoded at once.
        track: shows progress.

    Raises:
        AnalysisError: a position outside the latent, a variance or number of draws that is not positive, or a radius
            that leaves nothing outside.
    """
    grid = (int(latents.shape[-2]), int(latents.shape[-1]))
    chosen = check_positions(positions, grid)
    _check_settings(variance, draws, window_radius, grid)
    noise = noise_vectors(latents if statistics_of is None else statistics_of, variance, draws, seed).to(latents)
    jobs = [(index, draw) for index in range(len(latents)) for draw in range(draws)]
    batches = [(job, part) for job in jobs for part in torch.arange(len(chosen)).split(batch_size)]
    references = [autoencoder.decode(latent[None])[0].cpu() for latent in latents]
    cells = torch.zeros(len(latents), len(chosen), *grid)
    visible = torch.zeros(len(latents), len(chosen))
    pictures = torch.zeros(len(latents), len(chosen), *references[0].shape, dtype=torch.uint8)
    windows = _outside(chosen, grid, window_radius, references[0].shape[-1] // grid[1])
    for (index, draw), part in track(batches, "Perturbing and decoding"):
        decoded = autoencoder.decode(perturbed(latents[index], [chosen[p] for p in part], noise[draw])).cpu()
        cells[index, part] += _cell_errors(decoded, references[index], grid) / draws
        visible[index, part] += _visible_share(decoded, references[index], windows[part]) / draws
        if draw == 0:
            pictures[index, part] = ((decoded + 1) * 127.5).round().to(torch.uint8)
    images = tuple(
        _summarise(cells[i], visible[i], chosen, window_radius, references[i], pictures[i]) for i in range(len(latents))
    )
    explained = _explain(latents.cpu(), torch.stack(references), images, chosen)
    return PerturbationStudy(chosen, grid, images, noise.cpu(), window_radius, explained)


def perturbed(latent: Tensor, positions: Sequence[Position], noise: Tensor) -> Tensor:
    """Copies of a latent (C, h, w), each with the noise (C,) added at one position: (P, C, h, w)."""
    copies = latent.expand(len(positions), *latent.shape).clone()
    rows, columns = (torch.tensor(values, device=latent.device) for values in zip(*positions, strict=True))
    copies[torch.arange(len(positions), device=latent.device), :, rows, columns] += noise
    return copies


def radius_of(window_shares: Tensor, level: float) -> Tensor:
    """Smallest radius within which at least `level` of each error lies: int64 of the shape of (…, r) without r."""
    return (window_shares < level - 1e-6).sum(dim=-1)


def _check_settings(variance: float, draws: int, window_radius: int, grid: tuple[int, int]) -> None:
    if variance <= 0:
        raise AnalysisError(f"variance: got {variance:g}, takes a positive share of the latents' variance")
    if draws < 1:
        raise AnalysisError(f"draws: got {draws}, takes a positive number of noise vectors")
    if window_radius < 0 or 2 * window_radius + 1 >= max(grid):
        largest = (max(grid) - 2) // 2
        raise AnalysisError(
            f"window_radius: got {window_radius}; latents of {grid[0]}×{grid[1]} take 0 to {largest}, so that some "
            "positions lie outside"
        )


def _cell_errors(decoded: Tensor, reference: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean squared difference by the latent position under which pixels lie: (P, h, w)."""
    return F.adaptive_avg_pool2d((decoded - reference).square().mean(dim=1, keepdim=True), grid)[:, 0]


def _distances_to(position: Position, grid: tuple[int, int]) -> Tensor:
    """Chebyshev distance of every position to the given one, (h, w)."""
    rows, columns = (torch.arange(side) for side in grid)
    return torch.maximum((rows - position[0]).abs()[:, None], (columns - position[1]).abs()[None])


def _outside(positions: Sequence[Position], grid: tuple[int, int], radius: int, factor: int) -> Tensor:
    """Pixels outside each position's window, boolean (P, H, W)."""
    outside = torch.stack([_distances_to(position, grid) > radius for position in positions])
    return outside.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def _visible_share(decoded: Tensor, reference: Tensor, outside: Tensor) -> Tensor:
    changed = (luminance(decoded) - luminance(reference[None])).abs() > VISIBLE
    return (changed & outside).flatten(1).sum(1) / outside.flatten(1).sum(1).clamp_min(1)


def _summarise(
    cells: Tensor, visible: Tensor, positions: Sequence[Position], radius: int, reference: Tensor, pictures: Tensor
) -> ImagePerturbation:
    grid = (int(cells.shape[1]), int(cells.shape[2]))
    within = []
    for cell, position in zip(cells, positions, strict=True):
        distance = _distances_to(position, grid)
        rings = torch.zeros(max(grid)).index_add_(0, distance.flatten(), cell.flatten())
        within.append(rings.cumsum(0) / rings.sum().clamp_min(torch.finfo(torch.float32).tiny))
    shares = torch.stack(within)
    return ImagePerturbation(
        error=cells.mean(dim=(1, 2)),
        cells=cells,
        local_share=shares[:, radius],
        visible_outside=visible,
        window_shares=shares,
        reference=reference,
        pictures=pictures,
    )


def _explain(
    latents: Tensor, references: Tensor, images: Sequence[ImagePerturbation], positions: Sequence[Position]
) -> dict[str, Interval]:
    """Rank correlation over positions of the error with the latent's norm and the picture's contrast there."""
    rows, columns = (torch.tensor(values) for values in zip(*positions, strict=True))
    grid = (int(latents.shape[-2]), int(latents.shape[-1]))
    luma = luminance(references)[:, None]
    variance = F.adaptive_avg_pool2d(luma.square(), grid) - F.adaptive_avg_pool2d(luma, grid).square()
    candidates = {
        "latent_norm": torch.linalg.vector_norm(latents, dim=1),
        "contrast": variance[:, 0].clamp_min(0).sqrt(),
    }
    errors = torch.stack([image.error for image in images]).double().numpy()
    return {
        name: bootstrap(rank_correlations(values[:, rows, columns].double().numpy(), errors))
        for name, values in candidates.items()
    }
