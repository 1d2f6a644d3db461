from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from lpl import LatentPerceptualLoss
from lpl.autoencoders import TAEF2, load_autoencoder
from lpl.losses import NORMALIZATIONS
from references import appendix_listing


def reference_features(model: nn.Module, latents: torch.Tensor) -> list[np.ndarray]:
    """The five blocks' features in float64, seen by hooks inside decode."""
    model = model.double()
    blocks = [model.decoder.mid_block, *model.decoder.up_blocks]
    seen: list[np.ndarray] = []
    hooks = [block.register_forward_hook(lambda _m, _i, output: seen.append(output.numpy())) for block in blocks]
    with torch.no_grad():
        model.decode(latents.double() / model.config.scaling_factor)
    for hook in hooks:
        hook.remove()
    model.float()
    return seen


def reference_masks(targets: list[np.ndarray], down_f: list[float]) -> list[np.ndarray]:
    """Algorithm 1 for every block, sample and channel; small maps, on which the listing fails, are kept whole."""
    masks = []
    for features, factor in zip(targets, down_f, strict=True):
        maps = features.reshape(-1, *features.shape[-2:])
        kept = [appendix_listing(m, factor) if m.size >= 50 else np.ones_like(m, dtype=bool) for m in maps]
        masks.append(np.stack(kept).reshape(features.shape))
    return masks


def reference_loss(
    predictions: list[np.ndarray],
    targets: list[np.ndarray],
    masks: list[np.ndarray],
    passed: list[int],
    options: dict,
) -> float:
    """The equation with loops over samples, blocks and channels, in NumPy float64."""
    normalization, total = options["normalization"], 0.0
    for sample, (predicted, true, mask) in itertools.product(passed, zip(predictions, targets, masks, strict=True)):
        height = true.shape[-2]
        omega = targets[0].shape[-2] / height if options["depth_weights"] else 1.0
        masked = {"all": True, "deep": targets[-1].shape[-2] / height <= 2, "none": False}[options["outliers"]]
        norm = np.sqrt((true[sample] ** 2).sum(axis=0))
        for channel in range(true.shape[1]):
            a, b = predicted[sample, channel], true[sample, channel]
            keep = mask[sample, channel] if masked else np.ones_like(b, dtype=bool)
            mean_a, std_a = a[keep].mean(), a[keep].std()
            mean_b, std_b = b[keep].mean(), b[keep].std()
            if normalization == "prediction":
                a, b = (a - mean_a) / std_a, (b - mean_a) / std_a
            elif normalization == "target":
                a, b = (a - mean_b) / std_b, (b - mean_b) / std_b
            elif normalization == "independent":
                a, b = (a - mean_a) / std_a, (b - mean_b) / std_b
            elif normalization == "unit":
                a, b = a / norm, b / norm
            distance = ((a - b)[keep] ** 2).sum()
            total += omega / true.shape[1] * distance / (keep.sum() if options["reduction"] == "mean" else 1)
    return total / len(targets[0])


OPTIONS = [
    dict(zip(("normalization", "outliers", "depth_weights", "reduction"), choice, strict=True))
    for choice in itertools.product(NORMALIZATIONS, ("deep", "all", "none"), (True, False), ("mean", "sum"))
]


@pytest.fixture(scope="module")
def latents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 4, 8, 6, generator=generator)
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator)
    return prediction, target, torch.tensor([0.5, 7.0, 3.0])


@pytest.mark.parametrize("name", ["stable_diffusion", "asymmetric_1.5", "asymmetric_2"])
def test_equals_the_equation_for_every_option(name: str, latents: tuple) -> None:
    model = zoo.make(name)
    prediction, target, _ = latents
    predictions, targets = reference_features(model, prediction), reference_features(model, target)
    masks = reference_masks(targets, [targets[-1].shape[-2] / features.shape[-2] for features in targets])
    assert any(not mask.all() for mask in masks)  # or the mask would go untested
    for options in OPTIONS:
        expected = reference_loss(predictions, targets, masks, passed=[0, 2], options=options)
        actual = LatentPerceptualLoss(model, sigma_threshold=3.0, **options)(*latents)
        assert actual.item() == pytest.approx(expected, rel=2e-4), options


def finite_difference(loss, prediction: torch.Tensor, direction: torch.Tensor, step: float = 1e-5) -> float:
    return ((loss(prediction + step * direction) - loss(prediction - step * direction)) / (2 * step)).item()


@pytest.mark.parametrize("normalization", ["target", "independent", "unit", "none"])
@pytest.mark.parametrize("name", ["stable_diffusion", "asymmetric_1.5"])
def test_gradient_equals_finite_differences(name: str, normalization: str, latents: tuple) -> None:
    model = zoo.make(name).double()
    prediction, target, sigma = (value.double() for value in latents)
    perceptual = LatentPerceptualLoss(model, normalization=normalization)
    prediction = prediction.requires_grad_()
    perceptual(prediction, target, sigma).backward()
    direction = torch.randn(prediction.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected = finite_difference(lambda z: perceptual(z, target, sigma), prediction.detach(), direction)
    assert (prediction.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5)


def test_gradient_with_the_predictions_statistics_held_fixed(latents: tuple) -> None:
    """Finite differences of the loss whose standard deviations are frozen at the prediction they are taken from."""
    model = zoo.make("stable_diffusion").double()
    prediction, target, _ = (value.double() for value in latents)
    perceptual = LatentPerceptualLoss(model, sigma_threshold=None, outliers="none", reduction="sum")
    prediction = prediction.requires_grad_()
    perceptual(prediction, target).backward()
    fixed = [f.std(dim=(-2, -1), correction=0, keepdim=True) for f in perceptual.features(prediction.detach()).values()]
    goal = list(perceptual.features(target).values())

    def frozen(z: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for index, features in enumerate(perceptual.features(z).values()):
            omega = goal[0].shape[-2] / features.shape[-2]
            squares = ((features - goal[index]) / fixed[index]).square()
            total += omega * squares.sum(dim=(-2, -1)).mean(dim=1).mean()
        return total

    direction = torch.randn(prediction.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = finite_difference(frozen, prediction.detach(), direction)
    assert (prediction.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_zero_loss_and_gradient_at_a_perfect_prediction(normalization: str, latents: tuple) -> None:
    target = latents[1]
    prediction = target.clone().requires_grad_()
    loss = LatentPerceptualLoss(zoo.make("stable_diffusion"), normalization=normalization)(prediction, target, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert prediction.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


def test_gradient_reaches_the_prediction_alone(latents: tuple) -> None:
    model = zoo.make("stable_diffusion")
    prediction, target = latents[0].clone().requires_grad_(), latents[1].clone().requires_grad_()
    sigma = latents[2].clone().requires_grad_()
    LatentPerceptualLoss(model)(prediction, target, sigma).backward()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None
    assert sigma.grad is None
    assert all(p.grad is None for p in model.parameters())


class TestGate:
    def test_mean_divides_by_the_whole_batch(self, latents: tuple) -> None:
        prediction, target, sigma = latents
        perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"), sigma_threshold=3.0)
        alone = [perceptual(prediction[i : i + 1], target[i : i + 1], 0.1).item() for i in range(3)]
        terms = perceptual(prediction, target, sigma, return_terms=True)
        assert terms.loss.item() == pytest.approx((alone[0] + alone[2]) / 3, rel=1e-5)
        assert terms.passed == 2
        torch.testing.assert_close(terms.per_sample, torch.tensor([alone[0], 0.0, alone[2]]), rtol=1e-5, atol=1e-7)

    def test_closed_samples_get_no_gradient_and_never_enter_the_decoder(self, latents: tuple) -> None:
        prediction, target, sigma = latents
        prediction = prediction.clone().requires_grad_()
        perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"))
        entered: list[int] = []
        perceptual.features.register_forward_pre_hook(lambda _m, inputs: entered.append(len(inputs[0])))
        perceptual(prediction, target, sigma).backward()
        assert entered == [2, 2]
        assert prediction.grad[1].abs().sum() == 0

    def test_an_empty_gate_is_zero_and_differentiable(self, latents: tuple) -> None:
        prediction, target, _ = latents
        prediction = (prediction * float("inf")).requires_grad_()  # ẑ0 where no signal is left
        perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"))
        perceptual.features.register_forward_pre_hook(lambda *_: pytest.fail("entered the decoder"))
        terms = perceptual(prediction, target, torch.full((3,), float("inf")), return_terms=True)
        terms.loss.backward()
        assert terms.loss.item() == 0
        assert terms.passed == 0
        assert prediction.grad.abs().sum() == 0

    def test_nan_beyond_the_gate_does_no_harm(self, latents: tuple) -> None:
        prediction, target, sigma = (value.clone() for value in latents)
        prediction[1] = float("nan")
        assert torch.isfinite(LatentPerceptualLoss(zoo.make("stable_diffusion"))(prediction, target, sigma))

    def test_no_gate(self, latents: tuple) -> None:
        terms = LatentPerceptualLoss(zoo.make("stable_diffusion"), sigma_threshold=None)(
            latents[0], latents[1], return_terms=True
        )
        assert terms.passed == 3


def test_terms_add_up(latents: tuple) -> None:
    terms = LatentPerceptualLoss(zoo.make("stable_diffusion"))(*latents, return_terms=True)
    assert sum(value.item() for value in terms.blocks.values()) == pytest.approx(terms.loss.item(), rel=1e-5)
    assert terms.per_sample.mean().item() == pytest.approx(terms.loss.item(), rel=1e-5)
    assert list(terms.outlier_share) == list(terms.blocks)
    assert terms.outlier_share["mid_block"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_latents(dtype: torch.dtype, latents: tuple) -> None:
    prediction, target, sigma = latents
    perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"))
    half = prediction.to(dtype).requires_grad_()
    loss = perceptual(half, target.to(dtype), sigma)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == dtype
    exact = perceptual(prediction.to(dtype).float(), target.to(dtype).float(), sigma)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decoder(dtype: torch.dtype, latents: tuple) -> None:
    prediction, target, sigma = latents
    exact = LatentPerceptualLoss(zoo.make("stable_diffusion"))(prediction, target, sigma).item()
    half = LatentPerceptualLoss(zoo.make("stable_diffusion").to(dtype))(prediction.to(dtype), target.to(dtype), sigma)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact, rel=0.05)


def test_autocast(latents: tuple) -> None:
    perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"))
    exact = perceptual(*latents).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = perceptual(*latents)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", zoo.ZOO)
@pytest.mark.parametrize("size", [(1, 2), (2, 3), (5, 8)])
def test_every_autoencoder_and_any_size(name: str, size: tuple[int, int]) -> None:
    perceptual = LatentPerceptualLoss(zoo.make(name), outliers="all")
    channels = perceptual.features.scaling.channels or 32
    target = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(6))
    prediction = (target + 0.5 * torch.randn_like(target)).requires_grad_()
    loss = perceptual(prediction, target, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_block_of_a_single_position_is_refused_where_it_would_be_divided_by_its_deviation(normalization: str) -> None:
    perceptual = LatentPerceptualLoss(zoo.make("stable_diffusion"), normalization=normalization)
    latents = torch.randn(2, 2, 4, 1, 1, generator=torch.Generator().manual_seed(6))
    if normalization in ("unit", "none"):
        assert 0 < perceptual(*latents, 1.0) < 100
    else:
        with pytest.raises(ValueError, match="a block has maps of 1 × 1 positions"):
            perceptual(*latents, 1.0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_constant_channels(normalization: str) -> None:
    class Constant(nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(latents), latents * 0 + 3.0, latents], dim=1)

    perceptual = LatentPerceptualLoss(nn.Sequential(Constant()), blocks=["0"], normalization=normalization)
    target = torch.randn(2, 4, 6, 6)
    prediction = (target + 0.1).requires_grad_()
    loss = perceptual(prediction, target, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_positions_dead_in_every_channel(reduction: str) -> None:
    """Under "unit" the target's norm is zero there."""
    target = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(9))
    target[:, :, 2:4] = 0
    prediction = (target + 0.1).requires_grad_()
    perceptual = LatentPerceptualLoss(
        nn.Sequential(nn.Identity()), blocks=["0"], normalization="unit", reduction=reduction, sigma_threshold=None
    )
    loss = perceptual(prediction, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_the_variance_floor_tames_channels_that_are_dead_in_the_prediction() -> None:
    """A live target over a prediction that hardly varies: magnified by 1/variance as printed, bounded by the floor."""

    class Features(nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.cat([latents, latents * torch.tensor([1e-4, 1, 1, 1]).view(1, 4, 1, 1)], dim=1)

    target = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(8))
    target = (target - target.mean(dim=(-2, -1), keepdim=True)) / target.std(dim=(-2, -1), correction=0, keepdim=True)
    prediction = target * torch.tensor([1e-3, 1, 1, 1]).view(1, 4, 1, 1)
    options = {"blocks": ["0"], "sigma_threshold": None, "outliers": "none"}
    printed = LatentPerceptualLoss(nn.Sequential(Features()), variance_floor=0.0, **options)(prediction, target)
    floored = LatentPerceptualLoss(nn.Sequential(Features()), **options)(prediction, target)
    # Two of eight channels differ, by 0.999 of the target; as printed each counts (0.999/0.001)².
    assert printed.item() == pytest.approx(2 / 8 * 999**2, rel=1e-3)
    # The mean variance is that of six live channels of eight; the second dead channel is dead in the target, too.
    assert floored.item() == pytest.approx(0.999**2 / (1e-3 * 6 / 8) / 8, rel=1e-3)


def test_depth_weights_are_relative_to_the_first_block_used(latents: tuple) -> None:
    model = zoo.make("stable_diffusion")
    alone = LatentPerceptualLoss(model, blocks=["up_blocks.2"])(*latents)
    both = LatentPerceptualLoss(model)(*latents, return_terms=True)
    assert both.blocks["up_blocks.2"].item() == pytest.approx(alone.item() / 8, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "batch"}, "normalization: got 'batch', takes 'prediction'"),
        ({"outliers": "some"}, "outliers: got 'some'"),
        ({"reduction": "max"}, "reduction: got 'max'"),
        ({"sigma_threshold": -1}, "sigma_threshold: got -1"),
        ({"variance_floor": -0.1}, "variance_floor: got -0.1"),
        ({"blocks": ["up_blocks.9"]}, "no block 'up_blocks.9'"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentPerceptualLoss(zoo.make("stable_diffusion"), **options)


@pytest.mark.parametrize(
    ("prediction", "target", "sigma", "message"),
    [
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 4), 1.0, r"target: got shape \(2, 4, 8, 4\)"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8), 1.0, r"prediction: got shape \(2, 3, 8, 8\)"),
        (torch.full((2, 4, 8, 8), torch.nan), torch.zeros(2, 4, 8, 8), 1.0, "prediction: holds NaN in 2"),
        (torch.zeros(2, 4, 8, 8), torch.full((2, 4, 8, 8), torch.nan), 1.0, "target: holds NaN"),
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), None, "sigma: missing"),
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), torch.ones(3), "sigma: got 3 numbers, takes one"),
        (torch.zeros(2, 4, 8, 8).int(), torch.zeros(2, 4, 8, 8), 1.0, "prediction: got torch.int32"),
    ],
)
def test_bad_inputs_are_named(prediction, target, sigma, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentPerceptualLoss(zoo.make("stable_diffusion"))(prediction, target, sigma)


def test_grows_with_the_noise_on_a_real_decoder_and_real_photographs(shared) -> None:
    """TAEF2 and scenes-128: every block's loss of (z0 + noise, z0) grows with the noise."""
    import io

    import pyarrow.parquet as parquet
    from PIL import Image

    table = parquet.read_table(shared / "data" / "scenes-128" / "test.parquet").slice(0, 8)
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    autoencoder = load_autoencoder(shared / "weights" / "taef2")
    assert isinstance(autoencoder.model, TAEF2)
    clean, _ = autoencoder.encode(images)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    perceptual = LatentPerceptualLoss(autoencoder.model, normalization="target")
    terms = [perceptual(clean + s * noise, clean, s, return_terms=True).blocks for s in (0.03, 0.1, 0.3, 1.0)]
    for block in perceptual.features.blocks:
        losses = [step[block].item() for step in terms]
        assert losses == sorted(losses), (block, losses)
        assert losses[0] > 0
