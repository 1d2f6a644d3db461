"""Micro-batches: the same loss and gradient as all samples at once, in the memory of a few."""

from __future__ import annotations

import pytest
import torch

import zoo
from lpl import LatentPerceptualLoss


@pytest.fixture(scope="module")
def latents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(5, 4, 8, 6, generator=generator)
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator)
    return prediction, target, torch.tensor([0.5, 7.0, 3.0, 1.0, 0.2])


@pytest.mark.parametrize("normalization", ["prediction", "independent"])
@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9])
def test_equals_all_at_once(latents, micro_batch: int, normalization: str) -> None:
    model = zoo.make("stable_diffusion")
    prediction, target, sigma = latents
    found = []
    for size in (None, micro_batch):
        perceptual = LatentPerceptualLoss(model, normalization=normalization, outliers="all", micro_batch=size)
        leaf = prediction.clone().requires_grad_()
        terms = perceptual(leaf, target, sigma, return_terms=True)
        (3.0 * terms.loss).backward()
        found.append((terms, leaf.grad))
    (whole, expected), (parts, gradient) = found
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert parts.passed == whole.passed == 4
    torch.testing.assert_close(parts.per_sample, whole.per_sample)
    assert not parts.per_sample.requires_grad
    for name in whole.blocks:
        assert parts.blocks[name].item() == pytest.approx(whole.blocks[name].item(), rel=1e-5)
        assert float(parts.outlier_share[name]) == pytest.approx(whole.outlier_share[name].item(), rel=1e-5)


def tensors_saved(node) -> list[torch.Tensor]:
    """Every tensor that a graph holds for its backward pass."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    saved = [value for name in names if isinstance(value := getattr(node, name), torch.Tensor)]
    saved += [tensor for tensor in getattr(node, "saved_tensors", ()) if tensor is not None]
    return saved + [tensor for parent, _ in node.next_functions if parent for tensor in tensors_saved(parent)]


def test_keeps_nothing_but_the_gradient(latents) -> None:
    prediction, target, _ = latents
    leaf = prediction.clone().requires_grad_()
    model = zoo.make("stable_diffusion")
    kept = []
    for micro_batch in (None, 1):
        loss = LatentPerceptualLoss(model, sigma_threshold=None, micro_batch=micro_batch)(leaf, target)
        kept.append(sum(tensor.numel() for tensor in tensors_saved(loss.grad_fn)))
    assert kept[1] <= 1.1 * prediction.numel()  # besides, the indices of the samples that passed
    assert kept[0] > 100 * prediction.numel()


def test_two_gradients_of_one_graph(latents) -> None:
    prediction, target, sigma = latents
    perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"), micro_batch=2)
    leaf = prediction.clone().requires_grad_()
    loss = perceptual(leaf * 1.0, target, sigma)
    first = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
    second = torch.autograd.grad(2 * loss, leaf)[0]
    torch.testing.assert_close(second, 2 * first)


def test_without_gradient_nothing_is_differentiated(latents, monkeypatch) -> None:
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("differentiated"))
    prediction, target, sigma = latents
    model = zoo.make("stable_diffusion")
    streamed = LatentPerceptualLoss(model, micro_batch=1)
    whole = LatentPerceptualLoss(model)(prediction, target, sigma)
    assert streamed(prediction, target, sigma).item() == pytest.approx(whole.item(), rel=1e-6)
    with torch.no_grad():
        assert not streamed(prediction.clone().requires_grad_(), target, sigma).requires_grad


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("factor", [1e-7, 1.0, 1e6])
def test_float16_gradients_neither_vanish_nor_overflow(latents, micro_batch: int | None, factor: float) -> None:
    """Large batches, small weights and gradient scalers are factors outside of the decoder."""
    prediction, target, sigma = latents
    model = zoo.make("stable_diffusion")
    gradients = []
    for dtype in (torch.float32, torch.float16):
        leaf = prediction.clone().requires_grad_()
        loss = LatentPerceptualLoss(model, dtype=dtype, micro_batch=micro_batch)(leaf, target, sigma)
        (factor * loss).backward()
        gradients.append(leaf.grad.flatten())
    exact, half = gradients
    assert (half - exact).norm() < 0.03 * exact.norm()


def test_float16_gradients_of_one_graph_taken_twice(latents) -> None:
    prediction, target, sigma = latents
    leaf = prediction.clone().requires_grad_()
    terms = LatentPerceptualLoss(zoo.make("stable_diffusion"), dtype=torch.float16)(leaf, target, sigma)
    first = torch.autograd.grad(terms, leaf, retain_graph=True)[0]
    second = torch.autograd.grad(2 * terms, leaf)[0]
    torch.testing.assert_close(second, 2 * first)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_batch: got 0"):
        LatentPerceptualLoss(zoo.make("stable_diffusion"), micro_batch=0)
