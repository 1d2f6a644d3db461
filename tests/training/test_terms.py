"""Every kind of perceptual term in real training runs, and what a run that is resumed must not have changed."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import assert_same_result, rows_of
from torch import nn

from lpl import FlowOT, LatentPerceptualLoss
from lpl.autoencoders import load_autoencoder
from lpl.config import LatentClassifierConfig, ObjectiveConfig, PerceptualConfig, build_recipe
from lpl.training import ResumeError, train
from lpl.training.checkpoints import latest_checkpoint, read_state
from lpl.training.latent_classifier_training import classifier_of
from lpl.training.objective import Objective
from lpl.training.terms import (
    PERCEPTUAL_TERMS,
    LatentPrediction,
    TermError,
    TermParts,
    TermValues,
    TrainingBatch,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_loss.py"
CLASSIFIER = {"width": 2, "steps": 3, "batch_size": 4}


@pytest.fixture
def pretrained(tiny_recipe):
    """A run to start from."""
    return train(tiny_recipe("pretrained", training__steps=2, training__ema_start=1))


@pytest.fixture
def post_trained(tiny_recipe, pretrained):
    def make(name, perceptual, **settings):
        start = {"training__initial_checkpoint": str(pretrained)}
        return tiny_recipe(name, objective__perceptual=perceptual, **{**start, **settings})

    return make


def case(size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, noise, predicted = (torch.randn(size, 4, 8, 8, generator=generator) for _ in range(3))
    times = torch.linspace(0.05, 0.95, size)
    batch = TrainingBatch(clean, noise, times, torch.zeros(size, dtype=torch.long), seed=(1, 2, 3))
    return LatentPrediction(predicted, clean, FlowOT().sigma(times), batch)


KINDS = {
    "latent_lpips": {"kind": "latent_lpips", "classifier_training": CLASSIFIER},
    "latent_lpips, gated": {"kind": "latent_lpips", "classifier_training": CLASSIFIER, "sigma_threshold": 2.0},
    "self_perceptual": {"kind": "self_perceptual", "depth": 1},
    "self_perceptual, bfloat16": {"kind": "self_perceptual", "depth": "deep", "precision": "bfloat16"},
    "custom": {"kind": "custom", "term": f"{EXAMPLE}:FrequencyWeightedLoss", "settings": {"power": 2.0}},
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_trains_with_a_matched_weight_and_resumes_exactly(post_trained, name):
    settings = {**KINDS[name], "weight": "matched", "matching_batches": 2}
    whole = train(post_trained("whole", settings, training__steps=6))
    rows = rows_of(whole)
    assert rows[1]["perceptual_weight"] == 0  # steps 1 and 2 were being measured
    assert all(row["perceptual_weight"] > 0 and row["gradient_ratio"] > 0 for row in rows[2:])
    assert all(np.isfinite(row["loss/perceptual"]) and row["loss/perceptual"] > 0 for row in rows)
    assert ("passed" in rows[0]) == ("sigma_threshold" in settings)
    for steps in (4, 6):
        resumed = train(post_trained("resumed", settings, training__steps=steps))
    assert_same_result(resumed, whole)
    facts = read_state(latest_checkpoint(whole / "checkpoints"))["terms"]["perceptual"]
    assert facts == json.loads((whole / "run.json").read_text())["terms"]["perceptual"]
    assert facts


def test_self_perceptual_compares_in_the_weights_that_training_starts_from(post_trained, pretrained, tiny_recipe):
    raw, ema = (
        train(post_trained(weights, KINDS["self_perceptual"], training__initial_weights=weights))
        for weights in ("raw", "ema")
    )
    facts = [json.loads((run / "run.json").read_text())["terms"]["perceptual"] for run in (raw, ema)]
    assert [entry["block"] for entry in facts] == [1, 1]
    assert "model.safetensors" in facts[0]["frozen_denoiser"]
    assert "ema.safetensors" in facts[1]["frozen_denoiser"]
    # the frozen copy must not follow the weights in training, and not be whatever lies at that path later
    moved = pretrained.with_name("moved")
    shutil.move(pretrained, moved)
    longer = {"training__steps": 6, "training__initial_checkpoint": str(moved)}
    with pytest.raises(ResumeError, match=r"training.initial_checkpoint was"):
        train(post_trained("raw", KINDS["self_perceptual"], **longer))
    shutil.rmtree(moved)
    train(tiny_recipe("pretrained", training__steps=2, training__ema_start=1, seed=1))
    with pytest.raises(ResumeError, match="its objective depended on .*frozen_denoiser.* and now does on"):
        train(post_trained("raw", KINDS["self_perceptual"], training__steps=6))


def test_self_perceptual_needs_a_denoiser_to_start_from(tiny_recipe):
    with pytest.raises(ValueError, match=r"name it in training\.initial_checkpoint"):
        tiny_recipe(objective__perceptual={"kind": "self_perceptual"})


def test_a_block_that_does_not_exist_is_refused_before_training(post_trained):
    with pytest.raises(TermError, match=r"objective\.perceptual\.depth: got 9, .* 1 to 2"):
        train(post_trained("deep", {"kind": "self_perceptual", "depth": 9}))


def test_self_perceptual_noises_both_at_a_fresh_time_with_the_noise_of_the_step(monkeypatch):
    seen = []

    class Hidden(nn.Module):
        number, block = 1, "block"

        def forward(self, noisy, conditioning, labels):
            seen.append((noisy.detach(), conditioning))
            return noisy

    monkeypatch.setattr("lpl.training.terms.self_perceptual.hidden_states", lambda *_: Hidden())
    parts, prediction = TermParts(FlowOT(), denoiser=nn.Identity()), case()
    config = {"kind": "self_perceptual"}
    for timesteps in ("fresh", "fresh", "same"):
        section = ObjectiveConfig.model_validate({"perceptual": {**config, "timesteps": timesteps}}).perceptual
        PERCEPTUAL_TERMS[type(section)](section, parts)(prediction)
    (clean, fresh), (predicted, same_for_both), (_, again), _, (_, of_the_step), _ = seen
    assert torch.equal(fresh, same_for_both)
    assert torch.equal(fresh, again)  # a run that is resumed draws it anew
    assert torch.equal(of_the_step, 1000 * prediction.batch.timesteps)
    assert not torch.isclose(fresh, of_the_step).any()
    t = (fresh / 1000).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(clean, (1 - t) * prediction.clean + t * prediction.batch.noise)
    torch.testing.assert_close(predicted, (1 - t) * prediction.predicted + t * prediction.batch.noise)


def test_a_classifier_is_trained_once_and_shared_by_runs(tiny_recipe, capsys):
    settings = {"kind": "latent_lpips", "classifier_training": {**CLASSIFIER, "seed": 7}}
    runs = [train(tiny_recipe(name, objective__perceptual=settings)) for name in ("first", "second")]
    assert capsys.readouterr().err.count("right of") == 1
    first, second = (json.loads((run / "run.json").read_text())["terms"]["perceptual"] for run in runs)
    assert first == second
    assert first["classifier_accuracy"] >= 0


def test_a_classifier_of_another_autoencoder_is_refused(tiny_recipe, tmp_path):
    recipe, folder, other = tiny_recipe(), tmp_path / "own", tmp_path / "other"
    config = LatentClassifierConfig(**CLASSIFIER)
    classifier_of(recipe, load_autoencoder(recipe.autoencoder.path), config, folder, progress=False)
    shutil.copytree(folder, other)
    about = json.loads((other / "classifier.json").read_text())
    about["latents"]["autoencoder"] = "0123456789abcdef"
    (other / "classifier.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"was trained on the latents of another autoencoder \(fingerprint 0123"):
        train(tiny_recipe("other", objective__perceptual={"kind": "latent_lpips", "classifier": str(other)}))
    run = train(tiny_recipe("given", objective__perceptual={"kind": "latent_lpips", "classifier": str(folder)}))
    assert (run / "metrics.jsonl").is_file()


def test_published_weights_are_chosen_by_the_latents(monkeypatch):
    made = []

    def package(encoder, augment, verbose):
        made.append(encoder)
        weights = nn.Conv2d(2, 1, 1, bias=False).requires_grad_(False)
        weights.weight.abs_()  # as published ones are
        return types.SimpleNamespace(net=nn.Conv2d(4, 2, 1), lins=[weights])

    monkeypatch.setitem(sys.modules, "elatentlpips", types.SimpleNamespace(ELatentLPIPS=package))

    def term(channels, factor, **settings):
        scaling = types.SimpleNamespace(std=torch.tensor([1 / factor]))
        autoencoder = types.SimpleNamespace(latent_channels=channels, scaling=scaling)
        values = {"perceptual": {"kind": "latent_lpips", "classifier": "elatentlpips", **settings}}
        section = ObjectiveConfig.model_validate(values).perceptual
        return PERCEPTUAL_TERMS[type(section)](section, TermParts(FlowOT(), autoencoder))

    assert term(4, 0.18215).facts == {"published_encoder": "sd15"}
    assert term(4, 0.13025).facts == {"published_encoder": "sdxl"}
    assert term(4, 2.0, encoder="sd21").facts == {"published_encoder": "sd21"}
    assert made == ["sd15", "sdxl", "sd21"]
    with pytest.raises(TermError, match=r"4 channels, scaled by 2\) are none of those; set .*encoder"):
        term(4, 2.0)
    with pytest.raises(TermError, match="encoder=flux: its latents have 16 channels, and the autoencoder's have 4"):
        term(4, 2.0, encoder="flux")


def test_published_weights_without_their_package_are_refused_before_training(tiny_recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "elatentlpips", None)
    settings = {"kind": "latent_lpips", "classifier": "elatentlpips", "encoder": "sd15"}
    message = r"^objective\.perceptual\.classifier=elatentlpips: the published weights need the package"
    with pytest.raises(TermError, match=message):
        train(tiny_recipe(objective__perceptual=settings))


OWN = """
import torch
from torch import nn
from lpl.training import TermValues

class Plain:
    def __init__(self, parts, scale=1.0):
        self.scale = scale
    def __call__(self, prediction):
        return self.scale * (prediction.predicted - prediction.clean).square().mean((1, 2, 3))

class Detailed(Plain):
    def __call__(self, prediction):
        values = super().__call__(prediction)
        return TermValues(values.mean(), values.detach(), {"largest": values.max().detach()})

class Scalar(Plain):
    def __call__(self, prediction):
        return super().__call__(prediction).mean()

class Keeps(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.denoiser = parts.denoiser

class Inert:
    def __init__(self, parts):
        pass

class Refuses:
    def __init__(self, parts):
        raise ValueError("bad luck")

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)

    def make(name, parts=None, **settings):
        values = {"kind": "custom", "term": f"{file}:{name}", **settings}
        section = ObjectiveConfig.model_validate({"perceptual": values}).perceptual
        return PERCEPTUAL_TERMS[type(section)](section, parts or TermParts(FlowOT()))

    return make


@pytest.mark.parametrize("name", ["Plain", "Detailed"])
@pytest.mark.parametrize("threshold", [None, 2.0])
def test_a_custom_loss_is_gated_and_averaged_over_the_whole_batch(own, name, threshold):
    prediction = case()
    prediction.predicted.requires_grad_()
    values = own(name, settings={"scale": 3.0}, sigma_threshold=threshold)(prediction)
    kept = prediction.sigma <= (threshold or np.inf)
    errors = 3 * (prediction.predicted - prediction.clean).square().mean((1, 2, 3)) * kept
    torch.testing.assert_close(values.per_sample, errors.detach())
    torch.testing.assert_close(values.loss, errors.mean())
    (ours,) = torch.autograd.grad(values.loss, prediction.predicted)
    (theirs,) = torch.autograd.grad(errors.mean(), prediction.predicted)
    torch.testing.assert_close(ours, theirs)
    assert ("largest" in values.details) == (name == "Detailed")


def test_a_custom_loss_of_samples_that_are_all_beyond_the_gate_is_zero(own):
    values = own("Plain", sigma_threshold=1e-3)(case())
    assert values.loss == 0
    assert values.details == {"passed": 0}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Missing", {}, "the file has no Missing; it has .*Plain"),
        ("NUMBER", {}, "is a int, takes a class"),
        ("Plain", {"skale": 1}, r"settings: got an unexpected .*skale.*takes, after its parts: scale=1.0"),
        ("Refuses", {}, "can't be made: bad luck"),
        ("Keeps", {}, "keeps the denoiser that is about to be trained"),
        ("Inert", {}, r"needs a __call__\(prediction\)"),
    ],
)
def test_a_custom_loss_that_can_not_be_made_is_explained(own, name, settings, message):
    with pytest.raises(ValueError, match=message):
        own(name, TermParts(FlowOT(), denoiser=nn.Linear(1, 1)), settings=settings)


def test_a_custom_loss_that_returns_a_mean_is_refused(own):
    with pytest.raises(TermError, match=r"returned shape \(\), takes one loss a sample, floats of shape \(6,\)"):
        own("Scalar")(case())


def test_the_example_is_parsevals_mean_square_at_power_zero_and_favours_detail_above():
    values = {"kind": "custom", "term": f"{EXAMPLE}:FrequencyWeightedLoss"}

    def term(power):
        section = ObjectiveConfig.model_validate({"perceptual": {**values, "settings": {"power": power}}}).perceptual
        return PERCEPTUAL_TERMS[type(section)](section, TermParts(FlowOT()))

    prediction = case()
    squares = (prediction.predicted - prediction.clean).square().mean((1, 2, 3))
    torch.testing.assert_close(term(0)(prediction).per_sample, squares)
    checkers = torch.ones(8, 8)
    checkers[::2, ::2] = checkers[1::2, 1::2] = -1
    coarse, fine = (torch.zeros(1, 4, 8, 8) + pattern for pattern in (torch.ones(8, 8), checkers))
    losses = [
        term(1)(LatentPrediction(error, torch.zeros_like(error), torch.zeros(1), prediction.batch)).loss.item()
        for error in (coarse, fine)
    ]
    assert losses[1] / losses[0] == pytest.approx(np.hypot(0.5, 0.5) / (1 / 8))  # |k| over the lowest


def test_resuming_with_another_source_is_refused(tiny_recipe, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    settings = {"kind": "custom", "term": f"{file}:Plain"}
    train(tiny_recipe(objective__perceptual=settings))
    file.write_text(OWN.replace("self.scale = scale", "self.scale = 2 * scale"))
    with pytest.raises(ResumeError, match="its objective depended on .*source_sha256"):
        train(tiny_recipe(objective__perceptual=settings, training__steps=6))


class TestMeasuredGain:
    """Eq. (15) with the gain w_LPL · Var(LPL)/Var(ℓ2) measured over the first batches."""

    @staticmethod
    def config(weight, **perceptual):
        gauge = {"weight": weight, "matching_batches": 2, "variance_fraction": 0.3, "sigma_threshold": 2.0}
        gate = {"weighting": "gated", "gate_gain": "measured", "gate_sigma_threshold": 2.0}
        return ObjectiveConfig.model_validate({**gate, "gate_perceptual": {**gauge, **perceptual}})

    @pytest.mark.parametrize("weight", [0.7, "matched"])
    def test_is_the_weight_times_the_ratio_of_variances(self, tiny_autoencoder, weight):
        autoencoder = load_autoencoder(tiny_autoencoder)
        objective = Objective(FlowOT(), autoencoder, self.config(weight))
        compare = LatentPerceptualLoss(autoencoder.model, sigma_threshold=2.0)
        diffusion, perceptual = [], []
        for seed in range(2):
            prediction = case(seed=seed)
            output = torch.randn(prediction.clean.shape, generator=torch.Generator().manual_seed(9 + seed))
            loss, terms = objective(lambda *_, output=output: output, prediction.batch)
            assert terms["gate_gain"] == 0
            assert loss.item() == pytest.approx(terms["loss/diffusion"].item())
            batch = prediction.batch
            t = batch.timesteps.reshape(-1, 1, 1, 1)
            predicted = (1 - t) * batch.clean + t * batch.noise - t * output
            diffusion += (output - batch.noise + batch.clean).square().mean((1, 2, 3)).tolist()
            perceptual += compare(predicted, batch.clean, prediction.sigma, return_terms=True).per_sample.tolist()
            objective.end_step(lambda values: values)
        below, above = np.var(diffusion), np.var(perceptual)
        w = (0.3 * below / above) ** 0.5 if weight == "matched" else weight
        assert objective.gate_gain == pytest.approx(w * above / below, rel=1e-3)
        assert objective.gauge.term is None  # the decoder is let go
        loss, terms = objective(lambda *_: output, batch)
        errors = (output - batch.noise + batch.clean).square().mean((1, 2, 3))
        weights = 1 + objective.gate_gain * (prediction.sigma <= 2.0)
        assert loss.item() == pytest.approx((weights * errors).mean().item(), rel=1e-5)

    def test_survives_a_checkpoint_and_goes_with_a_term(self, tiny_autoencoder):
        autoencoder = load_autoencoder(tiny_autoencoder)
        values = self.config(0.7).model_dump()
        values["perceptual"] = {"weight": "matched", "matching_batches": 2}
        config = ObjectiveConfig.model_validate(values)
        first, second = (Objective(FlowOT(), autoencoder, config) for _ in range(2))
        for seed in range(2):
            batch = case(seed=seed).batch
            first(lambda z, *_: 0.5 * z, batch)
            first.end_step(lambda values: values)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.gate_gain == first.gate_gain > 0
        assert second.weight == first.weight > 0
        assert second.gauge.term is None

    def test_a_term_that_can_not_be_made_is_named_by_its_key(self):
        gauge = {"kind": "custom", "term": "none.py:A", "sigma_threshold": 2.0}
        config = self.config(0.7).model_dump()
        with pytest.raises(TermError, match=r"^objective\.gate_perceptual\.term=none\.py:A: no such file"):
            Objective(FlowOT(), None, ObjectiveConfig.model_validate({**config, "gate_perceptual": gauge}))

    @pytest.mark.usefixtures("one_thread")
    def test_trains(self, tiny_recipe):
        gate = {"weighting": "gated", "gate_gain": "measured", "gate_sigma_threshold": 2.0}
        gate["gate_perceptual"] = {"weight": "matched", "matching_batches": 2, "sigma_threshold": 2.0}
        rows = rows_of(train(tiny_recipe(objective=gate, training__steps=4, training__log_every=1)))
        assert [row["gate_gain"] > 0 for row in rows] == [False, False, True, True]
        assert "loss/perceptual" not in rows[0]


def test_old_checkpoints_without_kinds_and_facts_still_resume(tiny_recipe):
    recipe = tiny_recipe(objective__perceptual={"weight": 0.3})
    run = train(recipe)
    for checkpoint in (run / "checkpoints").iterdir():
        state = json.loads((checkpoint / "state.json").read_text())
        del state["terms"], state["recipe"]["objective"]["perceptual"]["kind"]
        del state["recipe"]["objective"]["gate_perceptual"]
        (checkpoint / "state.json").write_text(json.dumps(state))
    train(tiny_recipe(objective__perceptual={"weight": 0.3}, training__steps=6))
    assert rows_of(run)[-1]["step"] == 6


def test_lpl_is_the_kind_of_a_term_that_names_none():
    recipe = build_recipe({"objective": {"perceptual": {"weight": 2}}})
    assert isinstance(recipe.objective.perceptual, PerceptualConfig)
    assert TermValues(torch.zeros(()), torch.zeros(1)).details == {}
