from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import zoo
from lpl import DecoderFeatures, LatentPerceptualLoss


def latents(batch: int = 2, side: int = 6) -> torch.Tensor:
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(1))


def convolution() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Steps(nn.Module):
    """Three convolutions; subclasses decide how they are run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = convolution(), convolution(), convolution()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(z)))


def test_stops_after_the_last_block() -> None:
    """The first decode is preceded by a whole one of one sample."""
    ran: list[tuple[str, int]] = []

    class Watched(Steps):
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            for name, layer in self.named_children():
                ran.append((name, len(z)))
                z = layer(z)
            return z

    features = DecoderFeatures(Watched(), blocks=["second", "first"])
    assert set(features(latents())) == {"first", "second"}
    assert ran == [("first", 1), ("second", 1), ("third", 1), ("first", 2), ("second", 2)]
    features(latents())
    assert ran[5:] == [("first", 2), ("second", 2)]


def test_tiling_and_slicing_do_not_change_the_features() -> None:
    model = zoo.make("stable_diffusion")
    model.enable_tiling()
    model.enable_slicing()
    by_path = DecoderFeatures(model, blocks=["decoder.mid_block"])
    by_name = DecoderFeatures(model, blocks=["mid_block"])
    large = latents(side=24)
    torch.testing.assert_close(by_path(large)["decoder.mid_block"], by_name(large)["mid_block"])
    assert model.use_tiling
    assert model.use_slicing


def test_movq_is_decoded_as_by_its_pipelines() -> None:
    model = zoo.make("vq_spatial")
    z = torch.randn(1, 3, 4, 4)
    by_path = DecoderFeatures(model, blocks=["decoder.mid_block"])(z)["decoder.mid_block"]
    torch.testing.assert_close(by_path, DecoderFeatures(model)(z)["mid_block"])


class WithoutGradient(Steps):
    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return super().decode(z)


class Inferring(Steps):
    @torch.inference_mode()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return super().decode(z)


class DetachingHalfway(Steps):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(z).detach())


@pytest.mark.parametrize(
    ("kind", "named"), [(WithoutGradient, "first, second"), (Inferring, "first, second"), (DetachingHalfway, "second")]
)
def test_a_decode_without_gradient_is_refused_where_one_is_wanted(kind: type[Steps], named: str) -> None:
    features = DecoderFeatures(kind(), blocks=["first", "second"])
    with pytest.raises(ValueError, match=f"^blocks: no gradient reaches the latents from {named}, .* {kind.__name__}"):
        features(latents().requires_grad_())
    assert features(latents())["first"].shape == (2, 4, 6, 6)
    with torch.no_grad():
        features(latents().requires_grad_())


class Repeating(Steps):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            z = self.first(z)
        return self.second(z)


@pytest.mark.parametrize("blocks", [["first"], ["first", "second"]])
def test_a_block_that_runs_twice_is_refused(blocks: list[str]) -> None:
    with pytest.raises(ValueError, match="^blocks: first runs more than once in a decode"):
        DecoderFeatures(Repeating(), blocks=blocks)(latents())
    DecoderFeatures(Repeating(), blocks=["second"])(latents())


def test_blocks_that_are_not_run_are_named() -> None:
    with pytest.raises(ValueError, match="^blocks: decoding did not run third; takes submodules that DetachingHalfway"):
        DecoderFeatures(DetachingHalfway(), blocks=["third"])(latents())


class Adding(Steps):
    """A residual stream that is added to in place, as in many a network."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        hidden = self.first(z)
        hidden += self.second(z)
        return self.third(hidden).relu_()


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (lambda: nn.Sequential(convolution(), nn.ReLU(inplace=True), convolution()), ["0", "2"]),
        (Adding, ["first", "third"]),
    ],
)
def test_features_are_those_before_they_are_written_over(make, blocks: list[str], lean: bool) -> None:
    model = make()
    together = DecoderFeatures(model, blocks=blocks, lean=lean)
    alone = DecoderFeatures(model, blocks=blocks[:1], lean=lean)
    expected = model.get_submodule(blocks[0])(latents())
    with torch.inference_mode():
        together(latents())  # where writes are not counted
    torch.testing.assert_close(alone(latents())[blocks[0]], expected)
    torch.testing.assert_close(together(latents())[blocks[0]], expected)
    assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


def test_copies_and_pickles_report_to_themselves() -> None:
    loss = LatentPerceptualLoss(zoo.make("stable_diffusion"), blocks=["decoder.mid_block", "decoder.up_blocks.0"])
    expected = loss(latents(), latents() + 0.1, 0.5)
    averaged = torch.optim.swa_utils.AveragedModel(loss).module
    for copied in (copy.deepcopy(loss), averaged, pickle.loads(pickle.dumps(loss))):
        assert torch.equal(copied(latents(), latents() + 0.1, 0.5), expected)
        assert torch.equal(loss(latents(), latents() + 0.1, 0.5), expected)


def test_a_decode_put_in_the_classs_place_is_left_out() -> None:
    """A compiled one, say, runs the original, whose hooks are not ours."""
    model = zoo.make("stable_diffusion")
    expected = DecoderFeatures(model, blocks=["decoder.mid_block"])(latents())
    own = model.decode
    model.decode = lambda z: own(z)
    features = DecoderFeatures(model, blocks=["decoder.mid_block"])(latents())
    assert torch.equal(features["decoder.mid_block"], expected["decoder.mid_block"])


def test_compiled_as_plain() -> None:
    features = DecoderFeatures(zoo.make("stable_diffusion"), blocks=["decoder.mid_block"])
    expected = features(latents())["decoder.mid_block"]
    torch.testing.assert_close(torch.compile(features, backend="eager")(latents())["decoder.mid_block"], expected)
