"""EMA against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lpl.training.ema import EMA


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("grid", torch.arange(4.0))


def _run(ema, model, values):
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(step)


def test_average_is_the_closed_form_with_warmed_up_decay():
    model = Tiny()
    ema = EMA(model, decay=0.5)
    values = [1.0, -2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0]
    _run(ema, model, values)
    # the weight of value k is (1 − d_k) Π_{j>k} d_j; the ramp reaches 0.5 at the eighth update: 9/18
    decays = [min(0.5, (1 + n) / (10 + n)) for n in range(1, 11)]
    expected = 0.0
    for k, value in enumerate(values):
        rest = 1.0
        for decay in decays[k + 1 :]:
            rest *= decay
        expected += (1 - decays[k]) * rest * value
    assert decays[6] < 0.5 == decays[7]
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), expected))


def test_without_warmup_the_decay_is_the_same_from_the_first_step_on():
    model = Tiny()
    ema = EMA(model, decay=0.9, warmup=False)
    ema.load_state_dict({"weight": torch.full((3,), 2.0)})
    _run(ema, model, [1.0, -2.0, 3.0])
    expected = 0.9**3 * 2.0 + 0.1 * (0.9**2 * 1.0 + 0.9 * -2.0 + 3.0)
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), expected))


def test_average_begins_from_the_weights_of_the_start_step():
    model = Tiny()
    ema = EMA(model, decay=0.9, start=3)
    _run(ema, model, [10.0, 20.0])
    assert not ema.started
    assert ema.state_dict() == {}
    _run(ema, model, [10.0, 20.0, 30.0])
    assert ema.state_dict()["weight"].tolist() == [30.0] * 3
    with torch.no_grad():
        model.weight.fill_(41.0)
    ema.update(4)
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), 30.0 + 11.0 * (1 - 2 / 11)))


def test_every_third_step_with_the_decays_of_three_is_the_average_of_weights_that_stand_still_in_between():
    rare, frequent = Tiny(), Tiny()
    sparse, dense = EMA(rare, decay=0.9, start=2, every=3), EMA(frequent, decay=0.9, start=2)
    values = [1.0, 2.0, 7.0, 7.0, 7.0, -4.0, -4.0, -4.0, 11.0, 11.0, 11.0]  # steps 3–5, 6–8 and 9–11 are alike
    _run(sparse, rare, values)
    _run(dense, frequent, values)
    torch.testing.assert_close(sparse.state_dict()["weight"], dense.state_dict()["weight"])


def test_steps_between_updates_leave_the_average_alone():
    model = Tiny()
    ema = EMA(model, decay=0.9, every=3)
    _run(ema, model, [5.0, 6.0])
    assert ema.state_dict()["weight"].tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="every: got 0"):
        EMA(model, every=0)


def test_half_precision_weights_are_averaged_in_float32():
    model = Tiny().to(torch.bfloat16)
    ema = EMA(model, decay=0.999)
    for step in range(20_000, 20_100):  # far from the warm-up: each update moves by a thousandth
        with torch.no_grad():
            model.weight.fill_(1.0)
        ema.update(step)
    average = ema.state_dict()["weight"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((3,), 1 - 0.999**100), rtol=1e-4, atol=0)


def test_swapped_holds_the_average_and_gives_the_weights_back_even_on_an_error():
    model = Tiny()
    ema = EMA(model, decay=0.9)
    _run(ema, model, [4.0])
    average = ema.state_dict()["weight"].clone()

    def fail():
        with ema.swapped() as averaged:
            assert torch.equal(averaged.weight, average)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.weight.tolist() == [4.0] * 3


def test_state_holds_buffers_and_restores_bit_for_bit():
    model = Tiny()
    ema = EMA(model, decay=0.9)
    _run(ema, model, [1.0, 0.3])
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    assert saved["grid"].tolist() == [0, 1, 2, 3]
    other = EMA(Tiny(), decay=0.9)
    other.load_state_dict(saved)
    assert torch.equal(other.state_dict()["weight"], saved["weight"])


def test_misuse_is_named():
    with pytest.raises(RuntimeError, match="starts at step 5"), EMA(Tiny(), start=5).swapped():
        pass
    with pytest.raises(ValueError, match="lacks weight"):
        EMA(Tiny()).load_state_dict({"grid": torch.arange(4.0)})
    with pytest.raises(ValueError, match=r"decay: got 1\.0"):
        EMA(Tiny(), decay=1.0)
    with pytest.raises(ValueError, match="start: got -1"):
        EMA(Tiny(), start=-1)
