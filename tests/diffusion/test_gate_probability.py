from __future__ import annotations

import pytest
import torch

from lpl.diffusion import DDPM, FlowOT


@pytest.mark.parametrize(
    "path",
    [DDPM(), DDPM(num_timesteps=50), FlowOT(), FlowOT(0.5, 1.5)],
    ids=["ddpm", "ddpm-50", "flow", "flow-shifted"],
)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0, 20.0])
def test_probability_is_the_share_of_drawn_times(path, sigma):
    times = path.sample_timesteps(200_000, torch.Generator().manual_seed(0))
    share = (path.sigma(times) <= sigma).double().mean().item()
    assert path.probability_below(sigma) == pytest.approx(share, abs=0.005)


def test_the_paper_s_gate_on_its_path():
    """Counted by hand from ᾱ_t ≥ 1/(1 + 3²) = 0.1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = ((1 - betas).cumprod(0) >= 0.1).sum().item()
    assert DDPM().probability_below(3.0) == kept / 1000
    assert FlowOT().probability_below(0.0) == 0.0
    assert FlowOT(0.7).probability_below(float(torch.tensor(0.7).exp())) == pytest.approx(0.5)
