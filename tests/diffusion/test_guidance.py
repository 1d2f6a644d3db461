"""Classifier-free guidance against its formula, one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lpl.denoisers import ClassConditionalMMDiT
from lpl.diffusion.guidance import guided

NULL = 3


class Recorder:
    """A denoiser with a class-dependent, nonlinear output that notes the batches it was given."""

    null_label = NULL

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.batches: list[int] = []
        self.labels: list[list[int]] = []
        self.dtype = dtype

    def __call__(self, latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(latents))
        self.labels.append(labels.tolist())
        factor = (1.3 + labels + conditioning / 500)[:, None, None, None]
        return torch.sin(factor * latents).to(self.dtype)


def example(times: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    latents = torch.randn(len(times), 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor(times) * 1000, torch.tensor([0, 1, 2])[: len(times)]


def formula(latents: Tensor, conditioning: Tensor, labels: Tensor, scale: float) -> Tensor:
    without = Recorder()(latents, conditioning, torch.full_like(labels, NULL))
    return without + scale * (Recorder()(latents, conditioning, labels) - without)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_follows_its_formula_in_one_batch(scale):
    denoiser = Recorder()
    output = guided(denoiser, scale)(*example([0.0, 0.4, 1.0]))
    torch.testing.assert_close(output, formula(*example([0.0, 0.4, 1.0]), scale))
    assert denoiser.batches == [6]
    assert denoiser.labels == [[0, 1, 2, NULL, NULL, NULL]]


def test_scale_zero_is_exactly_the_output_without_a_class():
    latents, conditioning, labels = example([0.2, 0.4, 0.9])
    without = Recorder()(latents, conditioning, torch.full_like(labels, NULL))
    assert torch.equal(guided(Recorder(), 0.0)(latents, conditioning, labels), without)


def test_scale_one_runs_the_conditional_half_only():
    denoiser = Recorder()
    inputs = example([0.1, 0.5, 0.9])
    assert torch.equal(guided(denoiser, 1.0)(*inputs), Recorder()(*inputs))
    assert denoiser.batches == [3]


@pytest.mark.parametrize(("time", "batch"), [(0.1, 3), (0.25, 6), (0.5, 6), (0.75, 6), (0.9, 3)])
def test_outside_the_interval_runs_the_conditional_half_only(time, batch):
    denoiser = Recorder()
    inputs = example([time] * 3)
    output = guided(denoiser, 3.0, interval=(0.25, 0.75))(*inputs)
    assert denoiser.batches == [batch]
    torch.testing.assert_close(output, formula(*inputs, 3.0 if batch == 6 else 1.0))


def test_samples_of_different_times_are_guided_one_by_one():
    denoiser = Recorder()
    inputs = example([0.1, 0.5, 0.9])
    output = guided(denoiser, 3.0, interval=(0.25, 0.75))(*inputs)
    torch.testing.assert_close(output[1], formula(*inputs, 3.0)[1])
    torch.testing.assert_close(output[[0, 2]], formula(*inputs, 1.0)[[0, 2]])
    assert denoiser.labels == [[0, 1, 2, NULL]]


def test_combines_in_float32_what_comes_in_bfloat16():
    output = guided(Recorder(torch.bfloat16), 4.0)(*example([0.5]))
    halves = Recorder(torch.bfloat16)
    latents, conditioning, labels = example([0.5])
    with_class = halves(latents, conditioning, labels).float()
    without = halves(latents, conditioning, torch.tensor([NULL])).float()
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, without + 4 * (with_class - without), rtol=0, atol=1e-6)


def test_takes_the_null_label_of_the_denoiser_that_is_trained_here():
    model = ClassConditionalMMDiT(2, num_classes=3, preset="T", patch_size=1, latent_size=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    latents, conditioning, labels = example([0.2, 0.5, 0.7])
    with torch.no_grad():
        with_class = model(latents, conditioning, labels)
        without = model(latents, conditioning, torch.full_like(labels, 3))
        output = guided(model, 2.0)(latents, conditioning, labels)
    torch.testing.assert_close(output, 2 * with_class - without, rtol=1e-4, atol=1e-4)


def test_a_null_label_must_be_known_where_it_is_needed():
    def plain(latents: Tensor, _conditioning: Tensor, labels: Tensor) -> Tensor:
        return latents * labels[:, None, None, None]

    with pytest.raises(ValueError, match=r"^null_label: function has no null_label"):
        guided(plain, 2.0)
    latents, conditioning, labels = example([0.2, 0.4])
    output = guided(plain, 2.0, null_label=NULL)(latents, conditioning, labels)
    torch.testing.assert_close(output, latents * (2 * labels - NULL)[:, None, None, None])
    assert torch.equal(guided(plain, 1.0)(latents, conditioning, labels), plain(latents, conditioning, labels))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match=r"^guidance_scale: got"):
        guided(Recorder(), scale)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 1.0), (0.0, 1.2), (float("nan"), 1.0)])
def test_impossible_intervals_are_refused(interval):
    with pytest.raises(ValueError, match=r"^interval: got"):
        guided(Recorder(), 2.0, interval)
