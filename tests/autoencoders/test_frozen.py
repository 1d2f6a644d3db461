from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn

from lpl import DecoderFeatures
from lpl.autoencoders import frozen_copy


class Watcher:
    """Somebody's, who can't be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1


def decoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))


def test_hooks_stay_with_the_original() -> None:
    model, watcher = decoder(), Watcher()
    model[0].register_forward_hook(watcher)
    model[0].register_forward_pre_hook(lambda module, arguments: watcher(), with_kwargs=False)
    model[2].register_full_backward_hook(watcher)
    model.register_state_dict_pre_hook(watcher)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    copied = frozen_copy(model)
    copied(x).sum().backward()
    copied.state_dict()
    assert watcher.calls == 0
    model(x).sum().backward()
    assert watcher.calls == 3


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_hooks_that_compute_weights_go_along(kind: str) -> None:
    """Of torch.nn.utils, before parametrizations: what the copy computes follows the weights they compute from."""
    model = decoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(torch.nn.utils, kind)(model[0])
    model.eval()
    features = DecoderFeatures(model, blocks=["0", "2"])
    other = {name: value + 0.1 for name, value in model.state_dict().items()}
    model.load_state_dict(other)  # the computed weight is renewed when the model runs next
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    maps = features(x)
    torch.testing.assert_close(maps["2"], model(x))
    (gradient,) = torch.autograd.grad(maps["2"].sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(model(x).sum(), x)[0])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_in_the_copy_writes_over_its_input() -> None:
    model = decoder()
    copied = frozen_copy(model)
    assert not copied[1].inplace
    assert model[1].inplace
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(copied(x), model(x))


def test_weights_made_in_inference_mode_are_copied() -> None:
    with torch.inference_mode():
        model = decoder()
    copied = frozen_copy(model)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    copied(x).sum().backward()
    assert x.grad is not None
