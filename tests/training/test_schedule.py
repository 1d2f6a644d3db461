"""The learning rate against diffusers' schedules."""

from __future__ import annotations

import pytest
import torch
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from lpl.config import TrainingConfig
from lpl.training.schedule import learning_rate


def _diffusers_rates(schedule, rate, warmup, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    if schedule == "cosine":
        scheduler = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    else:
        scheduler = get_constant_schedule_with_warmup(optimizer, warmup)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_rate_follows_diffusers_apart_from_where_the_ramp_begins(schedule, warmup):
    config = TrainingConfig(steps=30, learning_rate=2e-3, warmup_steps=warmup, schedule=schedule)
    reference = _diffusers_rates(schedule, 2e-3, warmup, 30)
    ours = [learning_rate(step, config) for step in range(1, 31)]
    # diffusers' first step of a warm-up has rate 0 and moves nothing; ours begins one step up the ramp
    assert ours[:warmup] == pytest.approx(reference[1 : warmup + 1])
    assert ours[warmup:] == pytest.approx(reference[warmup:30])
    assert max(ours) == pytest.approx(2e-3)
    assert min(ours) > 0


def test_a_warmup_longer_than_the_run_never_reaches_the_full_rate():
    config = TrainingConfig(steps=4, learning_rate=1.0, warmup_steps=8, schedule="cosine")
    assert [learning_rate(step, config) for step in range(1, 5)] == [0.125, 0.25, 0.375, 0.5]
