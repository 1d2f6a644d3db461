from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from lpl.autoencoders import DecoderFeatures, load_autoencoder
from lpl.autoencoders.lean import count_flops
from lpl.config import PerceptualConfig
from lpl.diffusion import make_path
from lpl.losses import LatentPerceptualLoss
from lpl.training.flops import FlopsError, denoiser_flops, iteration_flops, perceptual_flops
from lpl.training.loading import build_denoiser
from lpl.training.objective import Objective, TrainingBatch
from lpl.training.terms import LatentPrediction, TermParts
from lpl.training.terms.latent_perceptual import LatentPerceptualTerm


def test_operations_of_known_layers():
    """Forward, gradient to the weight and gradient to the input: a product of matrices each."""
    linear, x = nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 3 * 5 * 7
    convolution, image = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8, requires_grad=True)
    assert count_flops(lambda: convolution(image).sum().backward()) == 3 * 2 * 2 * 64 * 4 * 6 * 9
    convolution.requires_grad_(False)
    assert count_flops(lambda: convolution(image).sum().backward()) == 2 * 2 * 2 * 64 * 4 * 6 * 9


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_two_products_forward_and_four_backward(device):
    """Whichever fused kernel the device has."""
    queries, keys, values = (torch.randn(1, 2, 10, 8, device=device, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 10 * 10 * 8
    attention = lambda: F.scaled_dot_product_attention(queries, keys, values)  # noqa: E731
    assert count_flops(attention) == 2 * product
    assert count_flops(lambda: attention().sum().backward()) == 6 * product


def test_a_denoiser_is_counted_without_being_computed(tiny_recipe):
    """As many as on the CPU."""
    recipe, shape = tiny_recipe(), (4, 8, 8)
    denoiser = build_denoiser(recipe, 3, shape)
    inputs = torch.randn(1, *shape), torch.tensor([500.0]), torch.tensor([1])
    assert denoiser_flops(recipe, shape) == count_flops(lambda: denoiser(*inputs).sum().backward())


def test_gradient_checkpointing_runs_the_blocks_once_more(tiny_recipe):
    plain, again = (denoiser_flops(tiny_recipe(denoiser__gradient_checkpointing=on), (4, 8, 8)) for on in (False, True))
    blocks = build_denoiser(tiny_recipe(), 1, (4, 8, 8)).transformer.transformer_blocks
    tokens, context, embedding = torch.randn(1, 4, 32), torch.randn(1, 4, 32), torch.randn(1, 32)

    def forward():
        hidden, words = tokens, context
        for block in blocks:
            words, hidden = block(hidden, words, embedding)

    assert again - plain == count_flops(forward)


def test_the_xl_model_costs_what_dit_s_paper_says(tiny_recipe):
    """524.6 · 10⁹ multiply-adds for DiT-XL/2 at 512²; MMDiT's four context tokens add half a per cent."""
    forward = denoiser_flops(tiny_recipe(denoiser={"preset": "XL", "patch_size": 2}), (4, 64, 64)) / 3
    assert forward / 2 / 1e9 == pytest.approx(524.6, rel=0.01)


@pytest.mark.parametrize("kind", ["stable_diffusion", "taef2", "dc", "flux2"])
@pytest.mark.parametrize("lean", [True, False])
def test_a_decoder_on_meta_costs_what_it_costs(kind, lean):
    model = zoo.make(kind)
    features = DecoderFeatures(model, lean=lean)
    channels = features.scaling.channels or 32
    clean, predicted = torch.randn(2, 1, channels, 8, 8)
    predicted.requires_grad_()

    def three_passes():
        with torch.no_grad():
            features(clean)
        torch.stack([value.sum() for value in features(predicted).values()]).sum().backward()

    counted = count_flops(three_passes)
    assert counted > 0
    assert perceptual_flops(DecoderFeatures(model, lean=lean), (channels, 8, 8)) == counted


def test_autograd_functions_of_the_lean_passes_are_counted():
    """What they save is the upsamplers' folding and nothing else: 16 instead of 36 products a position."""
    model = zoo.make("stable_diffusion")
    plain, lean = (perceptual_flops(DecoderFeatures(model, lean=on), (4, 8, 8)) for on in (False, True))
    saved = 0
    side = 8
    for block in model.decoder.up_blocks:
        for upsampler in block.upsamplers or []:
            channels = upsampler.conv.in_channels * upsampler.conv.out_channels
            saved += 3 * 2 * side**2 * channels * (36 - 16)
            side *= 2
    assert saved > 0
    assert plain - lean == saved


def test_the_loss_adds_next_to_nothing_to_its_features():
    """So that counting the features counts the loss."""
    model = zoo.make("stable_diffusion")
    loss = LatentPerceptualLoss(model, sigma_threshold=None)
    clean, predicted = torch.randn(2, 2, 4, 8, 8)
    predicted.requires_grad_()
    counted = count_flops(lambda: loss(predicted, clean).backward()) / 2
    assert counted == pytest.approx(perceptual_flops(DecoderFeatures(model), (4, 8, 8)), rel=0.03)


@pytest.mark.parametrize("path", ["flow_ot", "ddpm"])
def test_an_iteration_is_what_its_objective_runs(tiny_recipe, path):
    """Counted on the CPU with a batch of which half passes the gate."""
    sampling = {"method": "ddim" if path == "ddpm" else "euler"}
    perceptual = {"weight": 0.5, "sigma_threshold": 2.0}
    settings = {"diffusion__path": path, "sampling": sampling, "objective__perceptual": perceptual}
    recipe = tiny_recipe(training__batch_size=4, training__accumulation=3, **settings)
    count = iteration_flops(recipe, with_perceptual=True)
    objective = Objective(make_path(recipe.diffusion), load_autoencoder(recipe.autoencoder.path), recipe.objective)
    denoiser = build_denoiser(recipe, 2, (4, 8, 8))
    clean, noise = torch.randn(2, 4, 4, 8, 8)
    timesteps = torch.tensor([10, 20, 990, 995]) if path == "ddpm" else torch.tensor([0.1, 0.2, 0.95, 0.99])
    batch = TrainingBatch(clean, noise, timesteps, torch.zeros(4, dtype=torch.int64))
    real = count_flops(lambda: objective(denoiser, batch)[0].backward())
    assert real == pytest.approx(4 * count.denoiser + 2 * count.perceptual, rel=0.02)
    assert count.samples == 12
    assert count.passing == pytest.approx(objective.path.probability_below(2.0))
    assert count.total == 12 * (count.denoiser + count.passing * count.perceptual)


def test_estimators_are_counted_for_what_they_compute(tiny_recipe):
    """By the samples and windows that really enter the decoder, over many drawn batches."""
    perceptual = {"sigma_threshold": 1.0, "estimator": {"every": 2, "fraction": 0.4, "window": 3, "margin": 1}}
    recipe = tiny_recipe(objective__perceptual=perceptual, training__batch_size=6)
    count = iteration_flops(recipe, with_perceptual=True)
    codec, path = load_autoencoder(recipe.autoencoder.path), make_path(recipe.diffusion)
    term = LatentPerceptualTerm(recipe.objective.perceptual, TermParts(path, codec))
    entered = []
    term.loss.loss.loss.loss.features.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0].shape))
    generator = torch.Generator().manual_seed(0)
    clean = torch.zeros(6, 4, 8, 8)
    batches = 100
    for step in range(batches):
        times = path.sample_timesteps(6, generator)
        batch = TrainingBatch(clean, clean, times, torch.zeros(6, dtype=torch.int64), seed=(1, step, 0, 1))
        term(LatentPrediction(clean + 1, clean, path.sigma(times), batch))
    by_shape = Counter()
    for shape in entered:
        by_shape[tuple(shape[1:])] += shape[0] / 2  # of the target's and the prediction's features
    assert sum(by_shape.values()) / (6 * batches) == pytest.approx(count.passing, rel=0.1)
    each = {shape: perceptual_flops(DecoderFeatures(codec.model), shape) for shape in by_shape}
    counted = sum(each[shape] * times for shape, times in by_shape.items())
    assert len(each) > 1
    assert counted / (6 * batches) == pytest.approx(count.passing * count.perceptual, rel=0.1)


def test_other_terms_are_refused_not_miscounted(tiny_recipe):
    recipe = tiny_recipe(objective__perceptual={"kind": "latent_lpips"})
    with pytest.raises(FlopsError, match="got a LatentLPIPSConfig"):
        iteration_flops(recipe, with_perceptual=True)
    assert iteration_flops(recipe, with_perceptual=False).total > 0


def test_without_the_term_only_the_denoiser_counts(tiny_recipe):
    plain, added = (iteration_flops(tiny_recipe(), with_perceptual=on) for on in (False, True))
    assert (plain.perceptual, plain.passing) == (0, 0.0)
    assert plain.total == plain.samples * added.denoiser
    share = make_path(tiny_recipe().diffusion).probability_below(PerceptualConfig().sigma_threshold)
    assert added.passing == pytest.approx(share)
    assert added.total > plain.total


def test_no_gate_lets_every_sample_pass(tiny_recipe):
    recipe = tiny_recipe(objective__perceptual={"sigma_threshold": None})
    assert iteration_flops(recipe, with_perceptual=True).passing == 1.0
