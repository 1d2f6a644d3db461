"""The local metric JᵀJ of a real decoder, J its Jacobian at a latent, by products with vectors alone.

J is never formed: there are J v (JVP) and Jᵀ u (VJP). Extreme eigenvalues come from a Lanczos run of fixed length,
which costs a known number of products and says by its residuals how precise it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data import seeded_generator

Map = Callable[[Tensor], Tensor]


class LocalMetric:
    """Products with J and G = JᵀJ of a map at one point.

    Jᵀ u is a VJP. It is linear in u, so that J v is the VJP of u ↦ Jᵀ u: exact like a forward-mode JVP, but for layers
    that have no forward-mode derivative (fused attention, codebooks, some normalisations) too, and both passes over the
    map are recorded once for all products.

    Args:
        function: F, maps (B, …) to (B, …), samples independent of each other.
        point: z, (1, …).
    """

    def __init__(self, function: Map, point: Tensor) -> None:
        self.function = function
        self.point = point.detach()
        self._single = _Recorded(function, self.point)
        self.value = self._single.value

    @property
    def dimension(self) -> int:
        """Values of z."""
        return self.point.numel()

    def push(self, directions: Tensor) -> Tensor:
        """J v for directions v (B, …) of the shape of z: (B, …) of the shape of F(z)."""
        directions = directions.to(self.point)
        if len(directions) == 1:
            return self._single.push(directions)
        points = self.point.expand(len(directions), *self.point.shape[1:])
        return _Recorded(self.function, points).push(directions)

    def pull(self, covector: Tensor) -> Tensor:
        """Jᵀ u for one u (1, …) of the shape of F(z): (1, …) of the shape of z."""
        return self._single.pull(covector)

    def multiply(self, direction: Tensor) -> Tensor:
        """G v for one v (1, …)."""
        return self.pull(self.push(direction))


class _Recorded:
    """F(z) and u ↦ Jᵀ u with their graphs, at points (B, …)."""

    def __init__(self, function: Map, points: Tensor) -> None:
        self.points = points.clone().requires_grad_()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            self._output = function(self.points)
            self._covector = torch.zeros_like(self._output, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(self._output, self.points, self._covector, create_graph=True)
        self.value = self._output.detach()

    def push(self, directions: Tensor) -> Tensor:
        return torch.autograd.grad(self._pulled, self._covector, directions, retain_graph=True)[0]

    def pull(self, covector: Tensor) -> Tensor:
        return torch.autograd.grad(self._output, self.points, covector, retain_graph=True)[0]


@dataclass(frozen=True)
class Ritz:
    """What a Lanczos run knows of a symmetric matrix's spectrum.

    Attributes:
        values: Ritz values, ascending, float64 (K,). The largest is at most λ_max and the smallest at least λ_min.
        residuals: ‖G v − θ v‖ of each, (K,): an eigenvalue lies within this distance of the Ritz value.
        weights: squared overlap of each Ritz vector with the random start, (K,), which add up to 1: Σ of those below
            λ estimates the share of eigenvalues below λ.
        lowest: the unit Ritz vector of the smallest value, flat (m,).
        highest: that of the largest value.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor
    lowest: Tensor
    highest: Tensor


def lanczos(
    multiply: Callable[[Tensor], Tensor], dimension: int, steps: Iterable[int], seed: int = 0, floor: float = 1e-10
) -> Ritz:
    """Lanczos tridiagonalisation with full reorthogonalisation, in float64.

    The Krylov space does not change when the matrix is shifted, so one run approaches both ends of the spectrum. The
    small end of a decoder's metric lies close together, and its Ritz value is an upper bound that comes down slowly;
    the residual says how far it may be off.

    Args:
        multiply: v ↦ G v for flat float64 vectors (m,); its own precision limits that of small eigenvalues.
        dimension: m.
        steps: at most K, one for each product; ends early where the space is exhausted.
        seed: of the random start.
        floor: relative norm below which a new direction is rounding.

    Reference: Golub & Van Loan, *Matrix Computations*, section 10.1.
    """
    start = torch.randn(dimension, dtype=torch.float64, generator=seeded_generator(seed))
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in steps:
        product = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ product))
        matrix = torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors that grow
            product = product - matrix.T @ (matrix @ product)
        off_diagonal.append(float(product.norm()))
        scale = max(abs(value) for value in diagonal)
        if len(basis) == dimension or off_diagonal[-1] <= floor * scale:
            off_diagonal[-1] = 0.0
            break
        basis.append(product / off_diagonal[-1])
    return _ritz(torch.stack(basis[: len(diagonal)]), diagonal, off_diagonal)


def _ritz(basis: Tensor, diagonal: list[float], off_diagonal: list[float]) -> Ritz:
    beta = torch.tensor(off_diagonal[:-1], dtype=torch.float64)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(beta, 1) + torch.diag(beta, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return Ritz(
        values=values,
        residuals=off_diagonal[-1] * vectors[-1].abs(),
        weights=vectors[0].square(),
        lowest=basis.T @ vectors[:, 0],
        highest=basis.T @ vectors[:, -1],
    )


@dataclass(frozen=True)
class Sensitivities:
    """Mean diagonal of G by channel: image error, squared, of a unit error on that channel at one position.

    Attributes:
        mean: tr(G_cc)/(h·w), float64 (C,).
        standard_error: of the Hutchinson estimate, (C,); NaN for a single probe.
    """

    mean: Tensor
    standard_error: Tensor


def channel_sensitivities(metric: LocalMetric, probes: int, seed: int = 0, batch_size: int = 4) -> Sensitivities:
    """Traces of the diagonal blocks of G by channel, from random signs on one channel at a time (Hutchinson).

    E ‖J v_c‖² over signs v_c on channel c is tr(G_cc); other channels add nothing, not even variance.

    Args:
        metric: at z (1, C, h, w).
        probes: random sign vectors a channel.
        seed: of the signs.
        batch_size: directions at once.
    """
    _, channels, height, width = metric.point.shape
    signs = torch.randint(0, 2, (probes, channels, height, width), generator=seeded_generator(seed)) * 2.0 - 1
    jobs = [(probe, channel) for probe in range(probes) for channel in range(channels)]
    norms: list[Tensor] = []
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        directions = torch.zeros(len(part), channels, height, width)
        for row, (probe, channel) in enumerate(part):
            directions[row, channel] = signs[probe, channel]
        norms.append(metric.push(directions).double().square().flatten(1).sum(dim=1).cpu())
    traces = torch.cat(norms).reshape(probes, channels) / (height * width)
    error = traces.std(dim=0) / probes**0.5 if probes > 1 else torch.full((channels,), torch.nan)
    return Sensitivities(traces.mean(dim=0), error)


def second_moment(metric: LocalMetric, probes: int, seed: int = 0) -> float:
    """tr(G²) = E ‖G v‖² over random signs v: with the trace it gives the number of directions that count."""
    generator = seeded_generator(seed, 2)
    total = 0.0
    for _ in range(probes):
        signs = torch.randint(0, 2, metric.point.shape, generator=generator) * 2.0 - 1
        total += float(metric.multiply(signs.to(metric.point)).double().square().sum())
    return total / probes
