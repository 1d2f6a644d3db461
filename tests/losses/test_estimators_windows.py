from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

import zoo
from lpl import LatentPerceptualLoss
from lpl.losses.estimators import RandomWindows
from lpl.losses.estimators.windows import spans

LOCAL = {"normalization": "none", "outliers": "none"}
MARGIN = 7  # of `local_decoder`


def local_decoder() -> nn.Module:
    """A small decoder of convolutions, SiLUs and doublings alone, which looks far for its size."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4,),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1, 1, 1),
        act_fn="silu",
    )
    for parameter in model.decoder.parameters():
        parameter.data *= 3.0 if parameter.ndim > 1 else 1.0
    for block in model.decoder.modules():
        if hasattr(block, "fuse"):
            block.fuse = (
                nn.SiLU()
            )  # no position is dead in every channel, which would make normalization="unit" infinite
    return model.double().eval()


def latents(channels: int, height: int, width: int, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(samples, channels, height, width, generator=generator, dtype=torch.float64)
    return target + 0.3 * torch.randn(target.shape, generator=generator, dtype=torch.float64), target


def value_and_gradient(loss, pair: tuple, sigma=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = pair[0].clone().requires_grad_()
    value = loss(prediction, pair[1], sigma)
    (gradient,) = torch.autograd.grad(value, prediction)
    return value.detach(), gradient


def expectation(windows: RandomWindows, pair: tuple, sigma=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Over all windows: each drawn one's estimate times the probability with which `torch.multinomial` draws it."""
    drawn: list[torch.Tensor] = []
    total: list[torch.Tensor] = [torch.zeros(()), torch.zeros(())]
    with pytest.MonkeyPatch.context() as patch:
        for index in range(len(windows.windows(*pair[0].shape[-2:]))):

            def choose(probabilities, count, generator, index=index):
                drawn.append(probabilities)
                return torch.tensor([index])

            patch.setattr(torch, "multinomial", choose)
            for part, value in enumerate(value_and_gradient(windows, pair, sigma)):
                total[part] = total[part] + drawn[-1][index] * value
    assert drawn[-1].sum().item() == pytest.approx(1)
    return total[0], total[1]


@pytest.mark.parametrize("length", [1, 5, 16, 23])
@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("margin", [0, 3])
def test_every_position_is_in_one_window(length: int, window: int, margin: int) -> None:
    found = spans(length, window, margin)
    assert [position for span in found for position in range(span.start, span.stop)] == list(range(length))
    sizes = [span.stop - span.start for span in found]
    assert max(sizes) <= window
    assert max(sizes) - min(sizes) <= 1
    for span in found:
        assert span.first == max(0, span.start - margin)
        assert span.last == min(length, span.stop + margin)


class TestLocalDecoder:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("importance", ["uniform", "error"])
    @pytest.mark.parametrize("normalization", ["none", "unit"])
    def test_is_unbiased(self, reduction: str, importance: str, normalization: str) -> None:
        """The mean over all windows is the loss and its gradient to rounding, sizes that don't divide included."""
        options = {"normalization": normalization, "outliers": "none", "reduction": reduction}
        exact = LatentPerceptualLoss(local_decoder(), **options)
        windows = RandomWindows(exact, window=5, importance=importance)
        pair = latents(4, 12, 19)
        value, gradient = value_and_gradient(exact, pair)
        expected_value, expected_gradient = expectation(windows, pair)
        assert expected_value.item() == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(expected_gradient, gradient, rtol=1e-9, atol=1e-12 * gradient.abs().max().item())

    def test_needs_its_margin_and_no_more(self) -> None:
        exact = LatentPerceptualLoss(local_decoder(), **LOCAL)
        pair = latents(4, 30, 2)
        _, gradient = value_and_gradient(exact, pair)

        def error(margin: int | None) -> float:
            windows = RandomWindows(exact, window=10, margin=margin)
            return ((expectation(windows, pair)[1] - gradient).norm() / gradient.norm()).item()

        assert RandomWindows(exact, window=10).margin == MARGIN
        assert error(None) < 1e-14
        errors = [error(margin) for margin in (MARGIN - 1, 3, 1, 0)]
        assert errors == sorted(errors)
        assert errors[0] > 1e-12

    def test_statistics_and_masks_are_the_windows_own(self) -> None:
        """What is compared is the whole decode's features, cut, then normalised and masked as maps of their own."""
        options = {"outliers": "all", "normalization": "target"}
        exact = LatentPerceptualLoss(local_decoder(), **options)
        windows = RandomWindows(exact, window=12)
        prediction, target = latents(4, 24, 12)
        maps = [list(exact.features(values).values()) for values in (target, prediction)]
        scaled = [list(zip(blocks, (1, 2, 4), strict=True)) for blocks in maps]
        by_hand = 0.0
        for rows in (window.rows for window in windows.windows(24, 12)):
            cut = [[block[..., rows.start * f : rows.stop * f, :] for block, f in blocks] for blocks in scaled]
            given = LatentPerceptualLoss(Given(cut), ["block0", "block1", "block2"], upscaling=4, **options)
            by_hand += given(prediction[..., :12, :], target[..., :12, :], 1.0).item() / 2
        assert expectation(windows, (prediction, target))[0].item() == pytest.approx(by_hand, rel=1e-10)


class Given(nn.Module):
    """A decoder whose blocks output given features: the target's at the first call, the prediction's at the second."""

    def __init__(self, maps: list[list[torch.Tensor]]) -> None:
        super().__init__()
        self.maps = list(maps)
        self.block0, self.block1, self.block2 = nn.Identity(), nn.Identity(), nn.Identity()

    def decode(self, latents: torch.Tensor) -> None:
        given = self.maps[0] if len(latents) == 1 else self.maps.pop(0)  # the first, of one sample, is a look ahead
        for block, maps in zip((self.block0, self.block1, self.block2), given, strict=True):
            block(maps)


class TestGlobalDecoder:
    def test_estimates_are_biased_as_documented(self) -> None:
        exact = LatentPerceptualLoss(zoo.kl(levels=2).double().eval(), **LOCAL)
        pair = latents(4, 40, 2)
        value, _ = value_and_gradient(exact, pair)
        windows = RandomWindows(exact, window=10)
        assert expectation(windows, pair)[0].item() == pytest.approx(value.item(), rel=0.2)
        assert expectation(windows, pair)[0].item() != pytest.approx(value.item(), rel=1e-6)


def test_packed_latents_and_every_option() -> None:
    """FLUX.2's latents are packed two by two, so that a window of latents is of twice the decoder's positions."""
    exact = LatentPerceptualLoss(zoo.make("flux2").double(), outliers="all")
    pair = latents(32, 8, 9)
    terms = RandomWindows(exact, window=4, margin=2)(*pair, 1.0, return_terms=True)
    assert torch.isfinite(terms.loss)
    assert terms.per_sample.mean().item() == pytest.approx(terms.loss.item(), rel=1e-12)
    assert sum(value.item() for value in terms.blocks.values()) == pytest.approx(terms.loss.item(), rel=1e-12)


def test_only_the_window_and_its_margin_are_decoded_and_get_a_gradient() -> None:
    exact = LatentPerceptualLoss(local_decoder().float(), sigma_threshold=3.0)
    windows = RandomWindows(exact, window=4, margin=2)
    seen: list[torch.Size] = []
    exact.features.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape))
    prediction, target = (value.float() for value in latents(4, 16, 16))
    _, gradient = value_and_gradient(windows, (prediction, target), torch.tensor([1.0, 5.0]))
    assert seen == [seen[0]] * 2
    assert seen[0][0] == 1
    assert max(seen[0][-2:]) <= 8
    assert gradient[0].abs().amax(dim=0).count_nonzero() <= seen[0][-1] * seen[0][-2]
    assert gradient[1].count_nonzero() == 0


def test_latents_no_larger_than_a_window_are_compared_whole() -> None:
    exact = LatentPerceptualLoss(zoo.make("stable_diffusion").double())
    pair = latents(4, 6, 6)
    for own, other in zip(
        value_and_gradient(RandomWindows(exact, window=6), pair), value_and_gradient(exact, pair), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-15)


def test_an_empty_gate_is_zero() -> None:
    windows = RandomWindows(LatentPerceptualLoss(local_decoder()), window=4, importance="error")
    value, gradient = value_and_gradient(windows, latents(4, 8, 8), 99.0)
    assert value == 0
    assert gradient.abs().sum() == 0


def test_refuses_what_it_cannot_do() -> None:
    exact = LatentPerceptualLoss(local_decoder())
    for options, message in (
        ({"window": 0}, "window: got 0"),
        ({"window": 4, "margin": -1}, "margin: got -1"),
        ({"window": 4, "importance": "sigma"}, "importance: got 'sigma', takes 'uniform' or 'error'"),
        ({"window": 4, "uniform_share": 0.0}, "uniform_share: got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            RandomWindows(exact, **options)
    with pytest.raises(ValueError, match="loss: got RandomWindows, takes a LatentPerceptualLoss"):
        RandomWindows(RandomWindows(exact, window=4), window=4)


class TestStatisticsOfTheTarget:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("normalization", ["target", "unit", "none"])
    def test_is_unbiased_for_a_local_decoder(self, reduction: str, normalization: str) -> None:
        """Channel statistics and masks are the whole target's, so that nothing of the loss depends on the window."""
        options = {"normalization": normalization, "outliers": "all", "reduction": reduction}
        exact = LatentPerceptualLoss(local_decoder(), **options)
        prediction, target = latents(4, 12, 19, samples=3)
        target[0, :, 5, 5] *= 8  # something to mask
        pair, sigma = (prediction, target), torch.tensor([0.5, 7.0, 2.0])
        terms = exact(*pair, sigma, return_terms=True)
        assert sum(terms.outlier_share.values()) > 0
        windows = RandomWindows(exact, window=7, statistics="target")
        for own, other in zip(expectation(windows, pair, sigma), value_and_gradient(exact, pair, sigma), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12 * other.abs().max().item())

    def test_with_the_whole_as_margin_nothing_is_left_to_differ(self) -> None:
        """Stable Diffusion's decoder with the whole latent as margin: nothing at all is left to differ."""
        exact = LatentPerceptualLoss(zoo.make("stable_diffusion").double(), normalization="target", outliers="all")
        pair = latents(4, 6, 6)
        value, gradient = value_and_gradient(exact, pair)
        windows = RandomWindows(exact, window=3, margin=6, statistics="target")
        own_value, own_gradient = expectation(windows, pair)
        assert own_value.item() == pytest.approx(value.item(), rel=1e-10)
        torch.testing.assert_close(own_gradient, gradient, rtol=1e-8, atol=1e-12)

    def test_a_perfect_prediction_has_neither_loss_nor_gradient(self) -> None:
        exact = LatentPerceptualLoss(zoo.make("stable_diffusion").double(), normalization="target")
        _, target = latents(4, 6, 6)
        value, gradient = value_and_gradient(
            RandomWindows(exact, window=3, margin=1, statistics="target"), (target, target)
        )
        assert value == 0
        assert gradient.abs().max() == 0

    def test_refuses_the_predictions_statistics(self) -> None:
        with pytest.raises(ValueError, match="statistics: 'target' can't give those of normalization='prediction'"):
            RandomWindows(LatentPerceptualLoss(local_decoder()), window=4, statistics="target")


def test_positions_at_which_all_channels_are_dead_leave_unit_unbiased() -> None:
    """Their norm is taken from the whole map's, of which a window knows nothing."""
    decoder = nn.Sequential(nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU())).double()
    nn.init.constant_(decoder[0][0].bias, -0.5)
    exact = LatentPerceptualLoss(decoder, ["0"], normalization="unit", outliers="none", upscaling=1)
    pair = latents(4, 9, 7)
    assert (exact.features(pair[1])["0"].amax(dim=1) == 0).any()
    value, gradient = value_and_gradient(exact, pair)
    windows = RandomWindows(exact, window=4, margin=0, statistics="target")
    expected_value, expected_gradient = expectation(windows, pair)
    assert expected_value.item() == pytest.approx(value.item(), rel=1e-10)
    torch.testing.assert_close(expected_gradient, gradient, rtol=1e-9, atol=1e-12 * gradient.abs().max().item())
