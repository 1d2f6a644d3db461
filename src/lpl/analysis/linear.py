"""Appendix A.1 in numbers: equations (4)–(12) for a linear decoder A, of any shape.

With a linear decoder the posteriors (8) and (9) of the image are N(A μ̃, β̃ A Aᵀ) and N(A μ_Θ, σ² A Aᵀ). Where A has
more rows than columns (pictures have more values than latents), A Aᵀ is singular: both live on the range of A, the
inverse in (10)–(12) is the pseudo-inverse, and the identity in the trace is that of the range, of dimension rank A.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ..data import seeded_generator
from .inputs import AnalysisError

SHAPES: dict[str, tuple[int, int]] = {"tall": (48, 16), "square": (24, 24), "wide": (8, 32)}  # (image, latent) values


@dataclass(frozen=True)
class PosteriorPair:
    """The two posteriors of one step, in the latent space.

    Attributes:
        shift: Δμ = μ̃ − μ_Θ, (…, m).
        true_variance: β̃ of q.
        model_variance: σ² of p.
    """

    shift: Tensor
    true_variance: float
    model_variance: float


@dataclass(frozen=True)
class LinearCheck:
    """What a linear decoder makes of equations (10)–(12); all KL divergences in nats, over K random shifts.

    Attributes:
        shape: "tall", "square" or "wide".
        image_values: n, rows of A.
        latent_values: m, columns of A.
        rank: of A.
        condition: σ_max/σ_min of A, over the singular values that are not zero.
        largest_inverse_eigenvalue: λ_max((A Aᵀ)⁺) = 1/σ_min².
        divergence: KL(q‖p) from torch.distributions on the range of A, float64 (K,).
        closed_form: eq. (10) with its dimension and trace put right, (K,); see `divergence_terms`.
        as_printed: eq. (10) as printed, (K,).
        quadratic: (1/2σ²) ‖A Δμ‖² in the metric (A Aᵀ)⁺, eq. (11) without C, (K,).
        constant: C of eq. (11).
        bound: eq. (12) without C, (K,).
        tightness: bound over quadratic, at least 1, (K,).
        latent_penalty: (1/2σ²) ‖Δμ‖², what the plain ℓ2 loss on latents is, (K,).
        monte_carlo: E_q[log q − log p] of the first shift, by sampling.
        monte_carlo_error: its standard error.
        tightest: bound over quadratic for Δμ along the singular vector of σ_min.
        loosest: the same along that of σ_max.
    """

    shape: str
    image_values: int
    latent_values: int
    rank: int
    condition: float
    largest_inverse_eigenvalue: float
    divergence: Tensor
    closed_form: Tensor
    as_printed: Tensor
    quadratic: Tensor
    constant: float
    bound: Tensor
    tightness: Tensor
    latent_penalty: Tensor
    monte_carlo: float
    monte_carlo_error: float
    tightest: float
    loosest: float


def pseudo_metric(decoder: Tensor) -> Tensor:
    """(A Aᵀ)⁺ of A (n, m): the inverse where A Aᵀ has one, else its inverse on the range of A; float64 (n, n)."""
    return torch.linalg.pinv(decoder.double() @ decoder.double().T, hermitian=True)


def quadratic_penalty(decoder: Tensor, shift: Tensor, variance: float) -> Tensor:
    """(1/2σ²) (A Δμ)ᵀ (A Aᵀ)⁺ (A Δμ), eq. (11) without its constant.

    As Aᵀ(A Aᵀ)⁺A projects onto the rows of A, this is (1/2σ²) ‖P Δμ‖². For a tall A of full rank P is the identity, and
    the exact penalty is the ℓ2 loss on latents again: a Kullback-Leibler divergence does not change under an
    injective map. What weighs errors as the picture does is the bound (12).

    Args:
        decoder: A, (n, m).
        shift: Δμ, (…, m).
        variance: σ².

    Returns:
        float64 (…,).
    """
    moved = shift.double() @ decoder.double().T
    return torch.einsum("...i,ij,...j->...", moved, pseudo_metric(decoder), moved) / (2 * variance)


def penalty_bound(decoder: Tensor, shift: Tensor, variance: float) -> Tensor:
    """(1/2σ²) λ_max((A Aᵀ)⁺) ‖A Δμ‖², eq. (12) without its constant; float64 (…,)."""
    largest = 1 / _singular_values(decoder)[-1].square()
    return largest * (shift.double() @ decoder.double().T).square().sum(dim=-1) / (2 * variance)


def divergence_terms(rank: int, true_variance: float, model_variance: float) -> tuple[float, float]:
    """What eq. (10) adds to the quadratic term: put right, and as printed.

    KL(N(a, β̃ S) ‖ N(b, σ² S)) adds ½ r [log(σ²/β̃) + β̃/σ² − 1], r the dimension. The appendix prints the logarithm
    without r, and σ²/β̃ − 1 in the trace, which belongs to KL(p‖q). Both vanish at σ² = β̃, the usual choice.
    """
    ratio = torch.tensor(model_variance / true_variance, dtype=torch.float64)
    right = 0.5 * rank * (ratio.log() + 1 / ratio - 1)
    printed = 0.5 * (ratio.log() + rank * (ratio - 1))
    return float(right), float(printed)


def exact_divergence(decoder: Tensor, pair: PosteriorPair) -> Tensor:
    """KL(q‖p) of (8) and (9) by torch.distributions, in orthonormal coordinates of the range of A; float64 (…,)."""
    q, p = _posteriors(decoder, pair)
    return kl_divergence(q, p)


def sampled_divergence(decoder: Tensor, pair: PosteriorPair, samples: int, seed: int) -> tuple[float, float]:
    """E_q[log q − log p] from samples of x = A(μ̃ + √β̃ ε), and its standard error; for one shift (m,)."""
    q, p = _posteriors(decoder, pair)
    noise = torch.randn(samples, decoder.shape[1], dtype=torch.float64, generator=seeded_generator(seed))
    points = (pair.true_variance**0.5 * noise) @ decoder.double().T @ _range(decoder)
    ratios = q.log_prob(points) - p.log_prob(points)
    return float(ratios.mean()), float(ratios.std()) / samples**0.5


def check_linear_decoder(
    shape: str,
    true_variance: float = 0.5,
    model_variance: float = 0.8,
    shifts: int = 1000,
    samples: int = 20000,
    seed: int = 0,
) -> LinearCheck:
    """Checks equations (10)–(12) for a random decoder with normal entries.

    Args:
        shape: "tall", "square" or "wide".
        true_variance: β̃.
        model_variance: σ².
        shifts: K, random normal Δμ.
        samples: of the Monte-Carlo estimate.
        seed: of the decoder, the shifts and the samples.

    Raises:
        AnalysisError: another shape, or variances that are not positive.
    """
    if shape not in SHAPES:
        raise AnalysisError(f"shape: got {shape!r}, takes {', '.join(SHAPES)}")
    if min(true_variance, model_variance) <= 0:
        raise AnalysisError(f"variances: got {true_variance:g} and {model_variance:g}, take positive numbers")
    n, m = SHAPES[shape]
    generator = seeded_generator(seed, n, m)
    decoder = torch.randn(n, m, dtype=torch.float64, generator=generator) / m**0.5
    pair = PosteriorPair(
        torch.randn(shifts, m, dtype=torch.float64, generator=generator), true_variance, model_variance
    )
    return _check(shape, decoder, pair, samples, seed)


def _check(shape: str, decoder: Tensor, pair: PosteriorPair, samples: int, seed: int) -> LinearCheck:
    values = _singular_values(decoder)
    right, printed = divergence_terms(len(values), pair.true_variance, pair.model_variance)
    quadratic = quadratic_penalty(decoder, pair.shift, pair.model_variance)
    bound = penalty_bound(decoder, pair.shift, pair.model_variance)
    first = PosteriorPair(pair.shift[0], pair.true_variance, pair.model_variance)
    estimate, error = sampled_divergence(decoder, first, samples, seed)
    return LinearCheck(
        shape=shape,
        image_values=decoder.shape[0],
        latent_values=decoder.shape[1],
        rank=len(values),
        condition=float(values[0] / values[-1]),
        largest_inverse_eigenvalue=float(1 / values[-1].square()),
        divergence=exact_divergence(decoder, pair),
        closed_form=quadratic + right,
        as_printed=quadratic + printed,
        quadratic=quadratic,
        constant=right,
        bound=bound,
        tightness=bound / quadratic,
        latent_penalty=pair.shift.square().sum(dim=-1) / (2 * pair.model_variance),
        monte_carlo=estimate,
        monte_carlo_error=error,
        tightest=_tightness_along(decoder, len(values) - 1),
        loosest=_tightness_along(decoder, 0),
    )


def _tightness_along(decoder: Tensor, index: int) -> float:
    """Bound over quadratic for Δμ along one right singular vector of A."""
    direction = torch.linalg.svd(decoder.double(), full_matrices=False).Vh[index]
    return float(penalty_bound(decoder, direction, 1.0) / quadratic_penalty(decoder, direction, 1.0))


def _posteriors(decoder: Tensor, pair: PosteriorPair) -> tuple[MultivariateNormal, MultivariateNormal]:
    """(8) and (9) with μ̃ at the origin, in orthonormal coordinates of the range of A."""
    compressed = _range(decoder).T @ decoder.double()  # (r, m)
    shape = compressed @ compressed.T
    shape = (shape + shape.T) / 2  # rounding leaves it not quite symmetric
    modelled = -pair.shift.double() @ compressed.T
    q = MultivariateNormal(torch.zeros_like(modelled), pair.true_variance * shape)
    return q, MultivariateNormal(modelled, pair.model_variance * shape)


def _range(decoder: Tensor) -> Tensor:
    """Orthonormal basis of the range of A: (n, r)."""
    left, _, _ = torch.linalg.svd(decoder.double(), full_matrices=False)
    return left[:, : len(_singular_values(decoder))]


def _singular_values(decoder: Tensor) -> Tensor:
    """Those that are not zero to rounding, the largest first: float64 (r,)."""
    values = torch.linalg.svdvals(decoder.double())
    return values[values > values[0] * max(decoder.shape) * torch.finfo(torch.float64).eps]
