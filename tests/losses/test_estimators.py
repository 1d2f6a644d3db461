from __future__ import annotations

import itertools
from unittest import mock

import pytest
import torch
from torch import nn

import zoo
from lpl import LatentPerceptualLoss
from lpl.losses import LatentLPIPS
from lpl.losses.estimators import EveryKth, GatedSubset, RandomWindows
from lpl.losses.estimators.sampling import systematic_sample

SIGMA = torch.tensor([0.4, 9.0, 1.1, 2.0, 0.7])  # one of five is closed by the gate


@pytest.fixture(scope="module")
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(5, 4, 4, 5, generator=generator, dtype=torch.float64)
    error = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.2], dtype=torch.float64).view(-1, 1, 1, 1)
    return target + error * torch.randn(target.shape, generator=generator, dtype=torch.float64), target


@pytest.fixture(scope="module")
def exact() -> LatentPerceptualLoss:
    """Of float64, so that unbiased means equal to rounding; its normalisation and mask are as in training."""
    torch.manual_seed(0)
    return LatentPerceptualLoss(zoo.kl(levels=2, scaling_factor=0.5).double().eval())


def value_and_gradient(loss: nn.Module, latents: tuple, sigma=SIGMA) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = latents[0].clone().requires_grad_()
    value = loss(prediction, latents[1], sigma)
    (gradient,) = torch.autograd.grad(value, prediction)
    return value.detach(), gradient


def assert_close(actual: tuple, expected: tuple) -> None:
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-8, atol=1e-12)


def expectation(pairs: list[tuple[float, tuple[torch.Tensor, torch.Tensor]]]) -> tuple[torch.Tensor, torch.Tensor]:
    assert sum(weight for weight, _ in pairs) == pytest.approx(1)
    return tuple(sum(weight * pair[part] for weight, pair in pairs) for part in (0, 1))


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 3)

    def forward(self, latents: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(latents).tanh()
        return [first, self.second(first)]


class TestGatedSubset:
    @pytest.mark.parametrize("importance", ["uniform", "error", "sigma", lambda p, t, s: s.square()])
    @pytest.mark.parametrize("count", [1, 3])
    def test_is_unbiased_over_all_subsets(self, exact, latents, importance, count: int) -> None:
        """Every subset that the draw can give, found by walking through all starting points, times its probability."""
        subset = GatedSubset(exact, count=count, importance=importance)
        pairs = []
        with mock.patch("lpl.losses.estimators.subset.draw") as drawing:
            drawing.side_effect = lambda inclusion, generator: inclusions.append(inclusion) or torch.arange(count)
            inclusions: list[torch.Tensor] = []
            subset(*latents, SIGMA)
            changes = sorted({0.0, 1.0, *(float(end % 1) for end in inclusions[0].cumsum(0))})
            for low, high in itertools.pairwise(changes):
                drawing.side_effect = lambda inclusion, generator, at=(low + high) / 2: systematic_sample(inclusion, at)
                pairs.append((high - low, value_and_gradient(subset, latents)))
        assert len(pairs) > 1
        assert_close(expectation(pairs), value_and_gradient(exact, latents))

    def test_is_unbiased_over_all_equal_subsets(self, exact, latents) -> None:
        subset = GatedSubset(exact, count=2)
        pairs = []
        for chosen in itertools.combinations(range(4), 2):
            with mock.patch("lpl.losses.estimators.subset.draw", return_value=torch.tensor(chosen)):
                pairs.append((1 / 6, value_and_gradient(subset, latents)))
        assert_close(expectation(pairs), value_and_gradient(exact, latents))

    @pytest.mark.parametrize("wrap", [lambda loss: loss, lambda loss: RandomWindows(loss, window=2, margin=1)])
    def test_terms_are_consistent(self, exact, latents, wrap) -> None:
        subset = GatedSubset(wrap(exact), count=2, importance="error", seed=3)
        terms = subset(*latents, SIGMA, return_terms=True)
        assert terms.passed == 4
        assert terms.per_sample.count_nonzero() == 2
        assert terms.per_sample[1] == 0
        assert terms.per_sample.mean().item() == pytest.approx(terms.loss.item(), rel=1e-12)
        assert sum(block.item() for block in terms.blocks.values()) == pytest.approx(terms.loss.item(), rel=1e-10)

    @pytest.mark.parametrize(
        "wrap", [lambda loss: GatedSubset(loss, count=3), lambda loss: RandomWindows(loss, window=2, margin=1)]
    )
    def test_streamed_losses_are_estimated_alike(self, latents, wrap) -> None:
        model = zoo.kl(levels=2).double().eval()
        whole, streamed = (LatentPerceptualLoss(model, micro_batch=size) for size in (None, 1))
        assert_close(value_and_gradient(wrap(streamed), latents), value_and_gradient(wrap(whole), latents))

    def test_drawing_all_is_the_exact_loss(self, exact, latents) -> None:
        for subset in (GatedSubset(exact, count=4, importance="error"), GatedSubset(exact, fraction=1.0)):
            assert_close(value_and_gradient(subset, latents), value_and_gradient(exact, latents))

    def test_only_the_drawn_samples_enter_the_decoder(self, exact, latents) -> None:
        seen: list[int] = []
        handle = exact.features.register_forward_pre_hook(lambda _m, inputs: seen.append(len(inputs[0])))
        GatedSubset(exact, fraction=0.3)(*latents, SIGMA)  # of four, rounded up
        handle.remove()
        assert seen == [2, 2]

    def test_takes_other_gated_losses(self, latents) -> None:
        """Latent LPIPS, whose shares are called layers and whose gate is its own."""
        torch.manual_seed(0)
        lpips = LatentLPIPS(TwoLayers(), sigma_threshold=3.0).double()
        subset = GatedSubset(EveryKth(lpips, k=1), count=2, importance="error")
        pairs = []
        for chosen in itertools.combinations(range(4), 2):
            uniform = GatedSubset(lpips, count=2)
            with mock.patch("lpl.losses.estimators.subset.draw", return_value=torch.tensor(chosen)):
                pairs.append((1 / 6, value_and_gradient(uniform, latents)))
        assert_close(expectation(pairs), value_and_gradient(lpips, latents))
        terms = subset(*latents, SIGMA, return_terms=True)
        assert sum(layer.item() for layer in terms.layers.values()) == pytest.approx(terms.loss.item(), rel=1e-10)

    def test_an_empty_gate_and_a_perfect_prediction(self, exact, latents) -> None:
        subset = GatedSubset(exact, count=1, importance="error")
        value, gradient = value_and_gradient(subset, latents, torch.full((5,), 50.0))
        assert value == 0
        assert gradient.abs().sum() == 0
        value, gradient = value_and_gradient(subset, (latents[1], latents[1]))
        assert value == 0
        assert torch.isfinite(gradient).all()

    def test_importance_lowers_the_variance(self, exact, latents) -> None:
        """Errors small enough for the loss to be quadratic, and of very different sizes; over many steps."""
        near = (latents[1] + 0.05 * (latents[0] - latents[1]), latents[1])
        _, gradient = value_and_gradient(exact, near)

        def scatter(importance: str) -> float:
            torch.manual_seed(0)
            subset = GatedSubset(exact, count=1, importance=importance)
            return sum((value_and_gradient(subset, near)[1] - gradient).square().sum().item() for _ in range(100))

        assert scatter("error") < 0.8 * scatter("uniform")

    def test_refuses_what_it_cannot_do(self, exact, latents) -> None:
        for options in ({}, {"count": 1, "fraction": 0.5}, {"count": 0}, {"fraction": 1.5}, {"fraction": 0.0}):
            with pytest.raises(ValueError, match="count|fraction"):
                GatedSubset(exact, **options)
        with pytest.raises(ValueError, match="importance: got 'loss', takes 'uniform', 'error', 'sigma'"):
            GatedSubset(exact, count=1, importance="loss")
        with pytest.raises(ValueError, match="importance: gave"):
            GatedSubset(exact, count=1, importance=lambda p, t, s: -s)(*latents, SIGMA)
        with pytest.raises(ValueError, match="sigma: missing"):
            GatedSubset(exact, count=1)(*latents)
        with pytest.raises(ValueError, match="count: got 1.5"):
            GatedSubset(exact, count=1.5)
        prediction, target = latents
        subset = GatedSubset(exact, count=1, importance="error")
        with pytest.raises(ValueError, match="prediction: holds NaN"):
            subset(prediction * torch.nan, target, SIGMA)
        with pytest.raises(ValueError, match="target: got shape .* takes that of prediction"):
            subset(prediction, target[..., :-1], SIGMA)
        with pytest.raises(ValueError, match="loss: got Linear, takes a loss"):
            GatedSubset(torch.nn.Linear(1, 1), count=1)


class TestEveryKth:
    def test_sums_to_the_loss_over_k_steps(self, exact, latents) -> None:
        expected = value_and_gradient(exact, latents)
        periodic = EveryKth(exact, k=3)
        for _ in range(2):
            pairs = [(1 / 3, value_and_gradient(periodic, latents)) for _ in range(3)]
            assert [bool(pair[0] > 0) for _, pair in pairs] == [True, False, False]
            assert_close(expectation(pairs), expected)

    def test_random_steps_come_once_in_k_and_alike_on_every_rank(self, exact) -> None:
        one, other = EveryKth(exact, k=4, at_random=True), EveryKth(exact, k=4, at_random=True)
        chosen = []
        for step in range(2000):
            one.step = other.step = step
            assert one.computes == other.computes
            chosen.append(one.computes)
        assert sum(chosen) == pytest.approx(500, abs=5 * (2000 * 0.25 * 0.75) ** 0.5)
        other = EveryKth(exact, k=4, at_random=True, seed=1)
        assert chosen[:50] != [setattr(other, "step", step) or other.computes for step in range(50)]

    def test_between_steps_nothing_is_decoded_and_the_zero_has_a_gradient(self, exact, latents) -> None:
        periodic = EveryKth(exact, k=2)
        periodic.step = 1
        handle = exact.features.register_forward_pre_hook(lambda *_: pytest.fail("entered the decoder"))
        prediction = latents[0].clone().requires_grad_()
        terms = periodic(prediction, latents[1], SIGMA, return_terms=True)
        terms.loss.backward()
        handle.remove()
        assert terms.loss.item() == 0
        assert prediction.grad.abs().sum() == 0
        assert terms.per_sample.tolist() == [0] * 5
        assert list(terms.blocks) == list(exact.features.blocks)

    def test_without_rescaling(self, exact, latents) -> None:
        assert_close(
            value_and_gradient(EveryKth(exact, k=5, rescale=False), latents), value_and_gradient(exact, latents)
        )

    def test_refuses_what_it_cannot_do(self, exact) -> None:
        for k in (0, 1.5):
            with pytest.raises(ValueError, match=f"k: got {k}"):
                EveryKth(exact, k=k)


class TestSteps:
    @staticmethod
    def nested(exact: LatentPerceptualLoss) -> EveryKth:
        return EveryKth(GatedSubset(RandomWindows(exact, window=2, margin=1), count=2), k=2, at_random=True)

    def test_a_resumed_run_draws_what_an_uninterrupted_one_does(self, exact, latents) -> None:
        losses = [loss for whole in [self.nested(exact)] for loss in (whole(*latents, SIGMA).item() for _ in range(8))]
        assert len(set(losses)) > 3
        first, resumed, told = (self.nested(exact) for _ in range(3))
        for _ in range(5):
            first(*latents, SIGMA)
        resumed.load_state_dict(first.state_dict())
        told.step = 5
        for loss in (resumed, told):
            assert [loss(*latents, SIGMA).item() for _ in range(3)] == losses[5:]

    def test_evaluation_is_exact_and_counts_no_step(self, exact, latents) -> None:
        loss = self.nested(exact).eval()
        assert_close(value_and_gradient(loss, latents), value_and_gradient(exact, latents))
        assert loss.step == 0

    def test_the_global_random_state_is_left_alone(self, exact, latents) -> None:
        state = torch.random.get_rng_state()
        self.nested(exact)(*latents, SIGMA)
        assert torch.equal(state, torch.random.get_rng_state())
