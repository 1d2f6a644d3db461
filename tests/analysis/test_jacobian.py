from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from lpl.analysis.inputs import decode_map
from lpl.analysis.jacobian import LocalMetric, channel_sensitivities, lanczos, second_moment
from lpl.autoencoders import Autoencoder


def make(name: str, side: int = 2) -> tuple[Autoencoder, torch.Tensor]:
    autoencoder = Autoencoder(zoo.make(name))
    shape = (1, autoencoder.latent_shape(side * autoencoder.downsampling)[0], side, side)
    return autoencoder, torch.randn(shape, generator=torch.Generator().manual_seed(0))


def dense(autoencoder: Autoencoder, point: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """The whole Jacobian by central differences in float64: (outputs, inputs). Leaves the model in float64."""
    autoencoder.model.double()
    moves = step * torch.eye(point.numel(), dtype=torch.float64).reshape(-1, *point.shape[1:])
    with torch.no_grad():
        ahead, behind = (decode_map(autoencoder)(point.double() + sign * moves).flatten(1) for sign in (1, -1))
    return ((ahead - behind) / (2 * step)).T


@pytest.mark.parametrize("name", ["stable_diffusion", "taef2", "tiny"])
def test_products_are_those_of_the_dense_jacobian(name: str) -> None:
    autoencoder, point = make(name)
    metric = LocalMetric(decode_map(autoencoder), point)
    directions = torch.randn(3, *point.shape[1:], generator=torch.Generator().manual_seed(1))
    pushed, product = metric.push(directions), metric.multiply(directions[:1]).flatten()
    jacobian = dense(autoencoder, point)
    rows = directions.double().flatten(1)
    scale = pushed.abs().max().item()
    torch.testing.assert_close(pushed.flatten(1).double(), rows @ jacobian.T, rtol=1e-3, atol=1e-4 * scale)
    expected = jacobian.T @ (jacobian @ rows[0])
    torch.testing.assert_close(product.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["dc", "vq", "vq_spatial", "flux2", "sd3", "asymmetric_1.5"])
def test_every_kind_has_a_metric(name: str) -> None:
    """⟨Jv, Jv⟩ = ⟨v, Gv⟩, and a step along v changes the picture by Jv to first order."""
    autoencoder, point = make(name)
    metric = LocalMetric(decode_map(autoencoder), point)
    direction = torch.randn(point.shape, generator=torch.Generator().manual_seed(2))
    pushed = metric.push(direction)
    product = (direction * metric.multiply(direction)).sum()
    assert product.item() == pytest.approx(pushed.square().sum().item(), rel=1e-3)
    assert torch.allclose(metric.push(torch.cat([direction, direction]))[1:], pushed, rtol=1e-3, atol=1e-4)
    # A codebook's steps have no derivative, its gradient is passed straight through; dc computes parts in float32.
    if name not in ("vq", "dc"):
        autoencoder.model.double()
        function, step = decode_map(autoencoder), 1e-6
        near = [function(point.double() + sign * step * direction.double()) for sign in (1, -1)]
        torch.testing.assert_close(pushed.double(), (near[0] - near[1]) / (2 * step), rtol=1e-2, atol=1e-3)


def test_decoding_for_derivatives_is_decoding() -> None:
    for name in ("taef2", "flux2", "playground"):
        autoencoder, point = make(name)
        torch.testing.assert_close(decode_map(autoencoder)(point).clamp(-1, 1), autoencoder.decode(point))


def test_eigenvalues_are_those_of_the_dense_metric() -> None:
    autoencoder, point = make("stable_diffusion")
    jacobian = dense(autoencoder, point)
    expected = torch.linalg.eigvalsh(jacobian.T @ jacobian)
    metric = LocalMetric(decode_map(autoencoder), point.double())
    ritz = lanczos(lambda v: metric.multiply(v.reshape(point.shape)).flatten(), metric.dimension, range(100))
    assert len(ritz.values) == metric.dimension == 16  # the space is exhausted: exact
    torch.testing.assert_close(ritz.values, expected, rtol=1e-5, atol=1e-7 * float(expected[-1]))


def matrix(size: int = 60, seed: int = 0) -> torch.Tensor:
    """Symmetric, with eigenvalues 10⁻³ … 10² evenly spread on a logarithmic scale."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
    return torch.tensor(basis @ np.diag(np.logspace(-3, 2, size)) @ basis.T)


def test_short_lanczos_brackets_the_spectrum() -> None:
    values = torch.linalg.eigvalsh(matrix())
    ritz = lanczos(lambda v: matrix() @ v, 60, range(25))
    assert ritz.values[-1].item() == pytest.approx(float(values[-1]), rel=1e-6)
    assert ritz.values[0] >= values[0]  # an upper bound of the smallest
    for value, residual in zip(ritz.values, ritz.residuals, strict=True):
        assert (values - value).abs().min() <= residual + 1e-9  # an eigenvalue lies within the residual
    assert ritz.weights.sum().item() == pytest.approx(1.0)


def test_ritz_vectors_have_their_rayleigh_quotients() -> None:
    ritz = lanczos(lambda v: matrix() @ v, 60, range(30))
    for vector, value in ((ritz.highest, ritz.values[-1]), (ritz.lowest, ritz.values[0])):
        assert vector.norm().item() == pytest.approx(1.0, rel=1e-9)
        assert (vector @ matrix() @ vector).item() == pytest.approx(value.item(), rel=1e-6, abs=1e-9)


def test_lanczos_ends_when_the_space_is_exhausted() -> None:
    low_rank = torch.diag(torch.tensor([3.0, 3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    ritz = lanczos(lambda v: low_rank @ v, 5, range(50))
    torch.testing.assert_close(ritz.values, torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), atol=1e-9, rtol=1e-9)


def test_traces_by_channel_are_those_of_the_diagonal_blocks() -> None:
    autoencoder, point = make("stable_diffusion")
    jacobian = dense(autoencoder, point)
    blocks = jacobian.square().sum(dim=0).reshape(4, 4).mean(dim=1)
    metric = LocalMetric(decode_map(autoencoder), point.double())
    found = channel_sensitivities(metric, probes=24, batch_size=16)
    assert found.mean.shape == (4,)
    assert ((found.mean - blocks).abs() < 4 * found.standard_error + 1e-3 * blocks).all()


def test_second_moment_is_the_trace_of_the_square() -> None:
    autoencoder, point = make("stable_diffusion")
    jacobian = dense(autoencoder, point)
    expected = (jacobian.T @ jacobian).square().sum().item()
    metric = LocalMetric(decode_map(autoencoder), point.double())
    assert second_moment(metric, probes=30) == pytest.approx(expected, rel=0.4)
