"""The latent perceptual loss in part: recipes that estimate it, or take it a few samples at a time."""

from __future__ import annotations

import pytest
import torch
from run_files import assert_same_result

import zoo
from lpl import FlowOT
from lpl.autoencoders import Autoencoder
from lpl.config import PerceptualConfig, RecipeError, build_recipe
from lpl.training import train
from lpl.training.terms import LatentPrediction, TermParts, TrainingBatch
from lpl.training.terms.latent_perceptual import LatentPerceptualTerm
from lpl.training.weighting import WeightedTerm


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    return Autoencoder(zoo.make("stable_diffusion"))


def case(step: int, slot: int = 0, size: int = 6) -> LatentPrediction:
    generator = torch.Generator().manual_seed(0)
    clean, noise, predicted = (torch.randn(size, 4, 8, 8, generator=generator) for _ in range(3))
    times = torch.linspace(0.05, 0.6, size)
    batch = TrainingBatch(clean, noise, times, torch.zeros(size, dtype=torch.long), seed=(1, step, slot, 1))
    return LatentPrediction(predicted, clean, FlowOT().sigma(times), batch)


def term_of(autoencoder: Autoencoder, **perceptual):
    return LatentPerceptualTerm(PerceptualConfig(**perceptual), TermParts(FlowOT(), autoencoder))


def value(term, *arguments) -> float:
    return term(case(*arguments)).loss.item()


def test_every_third_step(autoencoder) -> None:
    exact = value(term_of(autoencoder), 0)
    term = term_of(autoencoder, estimator={"every": 3})
    assert [value(term, step) for step in (3, 4, 5, 6)] == pytest.approx([3 * exact, 0, 0, 3 * exact])
    assert value(term, 6, 1) == pytest.approx(3 * exact)  # another part of the same step's batch


def test_some_of_the_samples(autoencoder) -> None:
    term = term_of(autoencoder, estimator={"fraction": 0.5, "importance": "error"})
    values = [term(case(step, slot)).per_sample for step, slot in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert all((losses > 0).sum() == 3 for losses in values)
    assert torch.equal(values[0], values[3])
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_windows_of_some_of_the_samples(autoencoder) -> None:
    term = term_of(autoencoder, estimator={"every": 2, "fraction": 0.5, "window": 4, "margin": 1})
    entered = []
    term.loss.loss.loss.loss.features.register_forward_pre_hook(lambda _m, inputs: entered.append(inputs[0].shape))
    assert value(term, 2) > 0
    assert {shape[0] for shape in entered} == {3}
    assert all(max(shape[-2:]) <= 5 for shape in entered)  # a window of 4 in a corner, with a margin of 1


def test_a_weight_is_matched_to_the_loss_whatever_estimates_it(autoencoder) -> None:
    weights = []
    for estimator in ({}, {"every": 4, "fraction": 0.5, "importance": "sigma"}, {"window": 4}):
        config = PerceptualConfig(weight="matched", matching_batches=3, estimator=estimator)
        term = WeightedTerm(config, TermParts(FlowOT(), autoencoder))
        for step in range(3):
            prediction = case(step)
            errors = (prediction.predicted - prediction.clean).square().flatten(1).mean(dim=1)
            term(prediction, errors)
            term.end_step(lambda losses: losses)
        assert term.weight > 0
        weights.append(term.weight)
    assert weights[1:] == pytest.approx(weights[:1] * 2)


def test_a_few_samples_at_a_time(autoencoder) -> None:
    assert value(term_of(autoencoder, micro_batch=2), 0) == pytest.approx(value(term_of(autoencoder), 0), rel=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_draws_what_one_that_went_on_would(tiny_recipe) -> None:
    perceptual = {"weight": 0.1, "estimator": {"every": 2, "fraction": 0.5}}
    settings = {"objective__perceptual": perceptual, "training__checkpoint_every": 3, "training__log_every": 1}
    whole = train(tiny_recipe("whole", training__steps=6, **settings))
    train(tiny_recipe("parts", training__steps=3, **settings))
    parts = train(tiny_recipe("parts", training__steps=6, **settings))
    assert_same_result(whole, parts)


def test_what_windows_cannot_be_drawn_by_is_refused() -> None:
    estimator = {"window": 4, "importance": "sigma"}
    with pytest.raises(RecipeError, match="estimator: importance=sigma"):
        build_recipe({"objective": {"perceptual": {"estimator": estimator}}})
