"""What is measured: the floor, the plain implementation, the package's modes, its estimators, and a peer.

A further mode is one entry in `MODES`.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from lpl import LatentPerceptualLoss

from .plain import PlainLatentPerceptualLoss, decoder_features, decoder_stages


class Inputs(NamedTuple):
    """What every mode is given: ẑ0 and z0, (B, C, h, w) as the diffusion model sees them, and σ_t, (B,)."""

    prediction: Tensor
    target: Tensor
    sigma: Tensor


class Outcome(NamedTuple):
    """What a pass gives: the loss, detached (None for a floor), and its gradient with respect to ẑ0."""

    loss: Tensor | None
    gradient: Tensor


class Unavailable(Exception):
    """A mode that this version of the package does not have; the message says what is missing."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        run: does it.
        frozen: modules whose weights it computes with, which no memory count includes.
        calls: how many calls of a loss `run` makes; its gradient is their mean, and its cost is divided by them.
    """

    run: Callable[[Inputs], Outcome]
    frozen: tuple[nn.Module, ...]
    calls: int = 1


@dataclass(frozen=True)
class Mode:
    """A row of the benchmark.

    Attributes:
        name: of the row.
        floor: name of the floor of the same dtype and layout.
        build: makes the pass from a frozen float32 autoencoder, which it must not change; raises `Unavailable`.
            Picklable, so that another process can build it.
        kind: "floor", "plain", "exact", "estimator" or "peer".
        judged: whether its gradient is meant to be the exact one.
    """

    name: str
    floor: str
    build: Callable[[nn.Module], Pass]
    kind: str = "exact"
    judged: bool = True


FLOOR, FLOOR_LAST, FLOOR_BF16 = "floor, float32", "floor, float32 channels-last", "floor, bfloat16 channels-last"
PLAIN, EXACT, DEFAULT, STREAMING = "plain, float32", "exact, float32", "default, bfloat16", "streaming, float32"


def floor(autoencoder: nn.Module, dtype: torch.dtype, channels_last: bool) -> Pass:
    """Three bare passes of the blocks: features of the target, features of the prediction, gradient to the latent."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    copied: Any = copy.deepcopy(autoencoder).to(dtype)
    copied.to(memory_format=layout)
    stages = decoder_stages(copied)

    def run(inputs: Inputs) -> Outcome:
        prediction = inputs.prediction.to(dtype, memory_format=layout).requires_grad_()
        with torch.no_grad():
            decoder_features(stages, inputs.target.to(dtype, memory_format=layout))
        features = decoder_features(stages, prediction)
        # Any gradient will do; the features' own values are at hand and of a sane size.
        (gradient,) = torch.autograd.grad(features, prediction, [value.detach() for value in features])
        return Outcome(None, gradient)

    return Pass(run, (copied,))


def plain(autoencoder: nn.Module, dtype: torch.dtype) -> Pass:
    """The equation as one first writes it down."""
    copied = copy.deepcopy(autoencoder).to(dtype)
    loss = PlainLatentPerceptualLoss(copied)
    return Pass(lambda inputs: differentiated(loss, Inputs(*(value.to(dtype) for value in inputs))), (copied,))


def package(autoencoder: nn.Module, **options: Any) -> Pass:
    """`LatentPerceptualLoss` with options."""
    known = inspect.signature(LatentPerceptualLoss).parameters
    missing = [name for name in options if name not in known]
    if missing:
        raise Unavailable(f"LatentPerceptualLoss takes no {', '.join(missing)}")
    loss = LatentPerceptualLoss(autoencoder, **options)
    loss.to(next(autoencoder.parameters()).device)
    return Pass(lambda inputs: differentiated(loss, inputs), (autoencoder, loss))


def estimator(autoencoder: nn.Module, name: str, calls: int = 1, **options: Any) -> Pass:
    """An estimator around the default mode."""
    try:
        kind = getattr(importlib.import_module("lpl.losses.estimators"), name)
    except (ImportError, AttributeError):
        raise Unavailable(f"lpl.losses.estimators has no {name}") from None
    exact = LatentPerceptualLoss(autoencoder, dtype=torch.bfloat16)
    loss = kind(exact, **options).train().to(next(autoencoder.parameters()).device)

    def run(inputs: Inputs) -> Outcome:
        loss.step = 0
        outcomes = [differentiated(loss, inputs) for _ in range(calls)]
        values, gradients = zip(*outcomes, strict=True)
        return Outcome(torch.stack(values).mean(), torch.stack(gradients).mean(dim=0))

    return Pass(run, (autoencoder, loss), calls)


def distilled(autoencoder: nn.Module) -> Pass:
    """The loss in a decoder of TAESD's shape, in place of the full one; with random weights, so for its cost alone."""
    channels = latent_channels(autoencoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny: Any = AutoencoderTiny(latent_channels=channels)
    tiny.requires_grad_(False).eval()
    loss = LatentPerceptualLoss(tiny, dtype=torch.bfloat16)
    loss.to(next(autoencoder.parameters()).device)
    return Pass(lambda inputs: differentiated(loss, inputs), (tiny, loss))


def latent_channels(autoencoder: Any) -> int:
    """Channels of the latents."""
    config = getattr(autoencoder, "config", None)
    return int(config.latent_channels if config is not None else autoencoder.latent_channels)


def peer(autoencoder: nn.Module, file: Path) -> Pass:
    """The class `LatentPerceptualLoss(vae, …)` of a file, called as `get_loss(input, target)`."""
    copied = copy.deepcopy(autoencoder)
    loss = peer_class(file)(copied)
    if isinstance(loss, nn.Module):
        loss.to(next(autoencoder.parameters()).device)
    frozen = (copied, loss) if isinstance(loss, nn.Module) else (copied,)
    return Pass(lambda inputs: differentiated(lambda a, b, _: loss.get_loss(a, b), inputs), frozen)


def peer_mode(file: Path) -> Mode:
    """The row of a peer.

    Raises:
        ValueError: the file is missing or holds no such class.
    """
    peer_class(file)
    return Mode(f"peer, {file.stem}", FLOOR, partial(peer, file=file), "peer")


def peer_class(file: Path) -> Any:
    """The class of a peer's file."""
    if not file.is_file():
        raise ValueError(f"--peer: {file} does not exist; takes a Python file")
    specification = importlib.util.spec_from_file_location(f"peer_{file.stem}", file)
    if specification is None or specification.loader is None:
        raise ValueError(f"--peer: {file} can't be imported; takes a Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    kind = getattr(module, "LatentPerceptualLoss", None)
    if not callable(getattr(kind, "get_loss", None)):
        raise ValueError(f"--peer: {file} has no class LatentPerceptualLoss with a method get_loss(input, target)")
    return kind


def differentiated(loss: Callable[..., Tensor], inputs: Inputs) -> Outcome:
    """The value of a loss and its gradient with respect to the prediction."""
    prediction = inputs.prediction.detach().clone().requires_grad_()
    value = loss(prediction, inputs.target, inputs.sigma)
    value.backward()
    assert prediction.grad is not None
    return Outcome(value.detach(), prediction.grad)


MODES = (
    Mode(FLOOR, FLOOR, partial(floor, dtype=torch.float32, channels_last=False), "floor"),
    Mode(FLOOR_LAST, FLOOR_LAST, partial(floor, dtype=torch.float32, channels_last=True), "floor"),
    Mode(FLOOR_BF16, FLOOR_BF16, partial(floor, dtype=torch.bfloat16, channels_last=True), "floor"),
    Mode(PLAIN, FLOOR, partial(plain, dtype=torch.float32), "plain"),
    Mode(EXACT, FLOOR, package),
    Mode("exact, float32 channels-last", FLOOR_LAST, partial(package, dtype=torch.float32)),
    Mode(DEFAULT, FLOOR_BF16, partial(package, dtype=torch.bfloat16)),
    Mode(STREAMING, FLOOR, partial(package, micro_batch=1)),
    Mode("streaming, bfloat16", FLOOR_BF16, partial(package, micro_batch=1, dtype=torch.bfloat16)),
    Mode("half of the samples", FLOOR_BF16, partial(estimator, name="GatedSubset", fraction=0.5), "estimator"),
    Mode(
        "window of 8², margin 2", FLOOR_BF16, partial(estimator, name="RandomWindows", window=8, margin=2), "estimator"
    ),
    Mode("every 2nd step", FLOOR_BF16, partial(estimator, name="EveryKth", calls=2, k=2), "estimator"),
    Mode("decoder of TAESD's shape", FLOOR_BF16, distilled, "estimator", judged=False),
)
