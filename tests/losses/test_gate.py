"""Which samples pass the noise gate, and what becomes of the others."""

from __future__ import annotations

import pytest
import torch

from lpl.losses.gate import check_pair, nothing_passed, over_batch, passing, refuse_nan

LATENTS = torch.zeros(3, 2, 4, 4)


def test_the_threshold_itself_passes_and_infinite_noise_does_not():
    sigma = torch.tensor([3.0, 3.1, float("inf")])
    assert passing(sigma, 3.0, LATENTS).tolist() == [0]
    assert passing(sigma, None, LATENTS).tolist() == [0, 1, 2]
    assert passing(2.0, 3.0, LATENTS).tolist() == [0, 1, 2]
    assert passing(None, None, LATENTS).tolist() == [0, 1, 2]


def test_the_mean_divides_by_the_whole_batch():
    per_sample = torch.tensor([6.0, 3.0], requires_grad=True)
    loss, every = over_batch(per_sample, torch.tensor([2, 0]), batch_size=3)
    assert loss.item() == pytest.approx(3.0)
    assert every.tolist() == [3.0, 0.0, 6.0]
    assert not every.requires_grad
    loss.backward()
    assert per_sample.grad.tolist() == pytest.approx([1 / 3, 1 / 3])


def test_where_nothing_passes_the_zero_still_has_a_gradient():
    prediction = LATENTS.clone().requires_grad_()
    terms = nothing_passed(prediction, ("layer1",))
    terms.loss.backward()
    assert torch.equal(prediction.grad, LATENTS)
    assert terms.per_sample.tolist() == [0.0] * 3
    assert terms.layers["layer1"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: passing(None, 3.0, LATENTS), "sigma: missing"),
        (lambda: passing(torch.ones(2), 3.0, LATENTS), "sigma: got 2 numbers, takes one for each of 3 samples"),
        (lambda: passing(torch.tensor([1.0, -1.0, 2.0]), 3.0, LATENTS), r"sigma: got \[-1.0\], takes noise-to-signal"),
        (lambda: passing(torch.tensor([1.0, torch.nan, 2.0]), 3.0, LATENTS), r"sigma: got \[nan\]"),
        (
            lambda: passing(torch.tensor([1, 999, 2]), 3.0, LATENTS),
            "sigma: got torch.int64, takes floats: .* no timesteps",
        ),
        (lambda: check_pair(LATENTS.long(), LATENTS), r"prediction: got torch.int64 \(3, 2, 4, 4\)"),
        (lambda: check_pair(LATENTS, LATENTS[0]), r"target: got torch.float32 \(2, 4, 4\), takes floating-point"),
        (lambda: check_pair(LATENTS, LATENTS[:2]), r"target: got shape \(2, 2, 4, 4\), takes that of prediction"),
        (lambda: refuse_nan("target", LATENTS / 0), "target: holds NaN in 3 of the samples"),
    ],
)
def test_what_can_not_be_gated_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
