"""The class-conditional MMDiT against closed forms, diffusers' own pieces and hooks."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lpl.denoisers import PRESETS, ClassConditionalMMDiT, Preset, count_parameters
from lpl.denoisers.mmdit import centred_positions

CLASSES = 5


def build(randomise: bool = True, **settings) -> ClassConditionalMMDiT:
    """A small model; randomised, so that its zero-initialised parts do not hide anything."""
    torch.manual_seed(0)
    defaults = {"latent_channels": 3, "num_classes": CLASSES, "preset": "T", "latent_size": 8}
    model = ClassConditionalMMDiT(**{**defaults, **settings})
    if randomise:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.05)
    return model


def inputs(batch: int = 3, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 3, height, width, generator=generator)
    return latents, torch.rand(batch, generator=generator) * 1000, torch.arange(batch) % (CLASSES + 1)


def expected_parameters(channels: int, classes: int, patch: int, width: int, depth: int, tokens: int) -> int:
    """MMDiT's size with biases and RMS-normalised queries and keys of 64 channels, counted by hand."""

    def linear(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    feed_forward = linear(width, 4 * width) + linear(4 * width, width)
    stream = linear(width, 6 * width) + 4 * linear(width, width) + feed_forward + 2 * 64
    last_context = linear(width, 2 * width) + 3 * linear(width, width) + 2 * 64
    blocks = (2 * depth - 1) * stream + last_context
    ends = linear(channels * patch**2, width) + linear(width, 2 * width) + linear(width, channels * patch**2)
    embeddings = linear(256, width) + linear(width, width) + 2 * linear(width, width) + linear(width, width)
    return blocks + ends + embeddings + (classes + 1) * (1 + tokens) * width


def expected_flops(channels: int, patch: int, width: int, depth: int, image: int, context: int) -> int:
    """Two per multiplication of one sample's forward pass."""
    both = image + context
    modulation = (
        12 * width**2 * depth - 4 * width**2
    )  # the last block's context has a shift and scale for attention only
    projections = 4 * both * width**2 * depth - context * width**2  # and no output projection
    feed_forward = 8 * both * width**2 * depth - 8 * context * width**2  # and no feed-forward
    attention = 2 * both**2 * width * depth
    ends = 2 * image * channels * patch**2 * width + 2 * width**2
    embeddings = 256 * width + width**2 + 2 * width**2 + context * width**2
    return 2 * (modulation + projections + feed_forward + attention + ends + embeddings)


def test_presets_have_the_published_widths_and_depths():
    assert PRESETS["XL"] == (1152, 28, 16)
    assert [PRESETS[name] for name in ("S", "B", "L")] == [(384, 12, 6), (768, 12, 12), (1024, 24, 16)]


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_parameter_count_is_that_of_the_architecture(patch):
    model = build(patch_size=patch)
    assert count_parameters(model) == expected_parameters(3, CLASSES, patch, width=192, depth=6, tokens=4)
    model.class_vector.requires_grad_(False)
    assert count_parameters(model) - count_parameters(model, trainable=True) == (CLASSES + 1) * 192


def test_xl_runs_on_the_meta_device_with_the_floating_point_operations_of_the_architecture():
    with torch.device("meta"):
        model = ClassConditionalMMDiT(4, 1000, preset="XL", patch_size=2, latent_size=64)
        latents, conditioning, labels = torch.empty(2, 4, 64, 64), torch.empty(2), torch.empty(2, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            assert model(latents, conditioning, labels).shape == latents.shape
    assert model.depth == 28
    assert model.transformer.transformer_blocks[0].attn.heads == 16
    assert counter.get_total_flops() == 2 * expected_flops(4, 2, width=1152, depth=28, image=32**2, context=4)


def test_positions_are_diffusers_embedding_of_coordinates_counted_from_the_middle():
    side, width = 6, 16
    coordinates = torch.arange(side).float() - 3
    columns, rows = torch.meshgrid(coordinates, coordinates, indexing="xy")
    expected = get_2d_sincos_pos_embed_from_grid(width, torch.stack([columns, rows])[:, None], output_type="pt")
    torch.testing.assert_close(centred_positions(width, side)[0], expected.float())


def test_neighbouring_tokens_of_a_small_latent_have_distinct_positions():
    model = build(patch_size=1, max_tokens_per_side=64)
    positions = model.transformer.pos_embed.cropped_pos_embed(8, 8)[0]
    distances = torch.cdist(positions, positions) + 100 * torch.eye(64)
    assert distances.min() > 1


def test_starts_as_zero_with_every_block_the_identity():
    model = build(randomise=False)
    latents, conditioning, labels = inputs()
    assert model(latents, conditioning, labels).abs().max() == 0
    features = model.features(latents, conditioning, labels, [1, 6])
    torch.testing.assert_close(features[1], model.transformer.pos_embed(latents))
    torch.testing.assert_close(features[6], features[1])


def test_every_parameter_is_in_the_gradient():
    model = build()
    model(*inputs()).square().mean().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_learns_what_a_class_looks_like_and_when(monkeypatch):
    monkeypatch.setitem(PRESETS, "T", Preset(width=64, depth=2, heads=2))
    model = build(randomise=False, latent_channels=2, latent_size=4)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 2, 4, 4, generator=generator)
    labels = torch.arange(CLASSES).repeat(4)
    conditioning = torch.tensor([100.0, 900.0]).repeat_interleave(2 * CLASSES)
    target = patterns[labels] * torch.where(conditioning < 500, 1.0, -1.0)[:, None, None, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(120):
        noise = torch.randn(len(labels), 2, 4, 4, generator=generator)
        loss = (model(noise, conditioning, labels) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.square().mean()


def test_a_sample_depends_on_its_own_label_and_time_only():
    model = build()
    latents, conditioning, labels = inputs()
    with torch.no_grad():
        before = model(latents, conditioning, labels)
        labels[1] = model.null_label
        conditioning[2] += 200
        after = model(latents, conditioning, labels)
    change = (after - before).flatten(1).abs().amax(1)
    assert change[0] < 1e-5
    assert change[1:].min() > 1e-2


def test_config_builds_the_same_model_again():
    model = build(patch_size=1, qk_norm=False, max_tokens_per_side=20, label_dropout=0.3, context_tokens=2)
    again = ClassConditionalMMDiT(**json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(*inputs()), model(*inputs()), rtol=0, atol=0)
    assert again.config == model.config


def test_weights_serve_another_resolution_and_maximum():
    model = build(latent_size=8, max_tokens_per_side=8)
    larger = build(latent_size=32, max_tokens_per_side=64)
    larger.load_state_dict(model.state_dict())
    torch.testing.assert_close(larger(*inputs()), model(*inputs()))
    assert larger(*inputs(height=32, width=12)).shape == (3, 3, 32, 12)


def test_larger_latents_keep_the_positions_of_their_middle():
    positions = build().transformer.pos_embed
    small = positions.cropped_pos_embed(8, 8).reshape(4, 4, -1)
    large = positions.cropped_pos_embed(16, 16).reshape(8, 8, -1)
    torch.testing.assert_close(large[2:6, 2:6], small)


def test_features_are_the_tokens_after_each_block():
    model = build()
    seen = {}
    for number, block in enumerate(model.transformer.transformer_blocks, start=1):
        block.register_forward_hook(lambda _m, _i, output, number=number: seen.update({number: output[1]}))
    model(*inputs())
    expected = dict(seen)
    features = model.features(*inputs(), depths=[5, 2, 6, 2])
    assert list(features) == [2, 5, 6]
    for depth, value in features.items():
        assert value.shape == (3, 16, 192)
        torch.testing.assert_close(value, expected[depth])


def test_features_run_no_block_past_the_deepest():
    model = build()
    ran = []
    for number, block in enumerate(model.transformer.transformer_blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.features(*inputs(), depths=[3])
    assert ran == [1, 2, 3]


@pytest.mark.parametrize("depths", [[], [0], [7], [2, -1]])
def test_features_refuse_other_depths(depths):
    with pytest.raises(ValueError, match=r"^depths: .*from 1 to 6"):
        build().features(*inputs(), depths=depths)


@pytest.mark.parametrize("use", ["forward", "features"])
def test_checkpointing_runs_blocks_twice_and_gives_the_same_gradients(use):
    model = build()
    runs = []
    model.transformer.transformer_blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))

    def gradients() -> list[Tensor]:
        latents, conditioning, labels = inputs()
        latents.requires_grad_()
        result = model(latents, conditioning, labels)
        if use == "features":
            result = model.features(latents, conditioning, labels, [2])[2]
        weight = model.class_vector.weight
        return list(torch.autograd.grad(result.square().mean(), [latents, weight]))

    plain, plain_runs = gradients(), len(runs)
    model.set_gradient_checkpointing()
    recomputed = gradients()
    assert len(runs) - plain_runs == plain_runs + 1
    torch.testing.assert_close(recomputed, plain)
    model.set_gradient_checkpointing(False)
    gradients()
    assert len(runs) == 3 * plain_runs + 1


def test_compiles_without_a_graph_break(monkeypatch):
    monkeypatch.setitem(PRESETS, "T", Preset(width=64, depth=2, heads=2))
    model = build()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs()), model(*inputs()))


def test_bfloat16_autocast_is_close_to_float32():
    model = build()
    exact = model(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*inputs())
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.03 * exact.norm()


def test_drop_labels_replaces_the_stated_share_and_repeats_with_its_seed():
    model = build(label_dropout=0.25)
    labels = torch.zeros(20_000, dtype=torch.long)
    dropped = model.drop_labels(labels, torch.Generator().manual_seed(0))
    share = (dropped == model.null_label).float().mean().item()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    assert set(dropped.tolist()) == {0, CLASSES}
    assert torch.equal(dropped, model.drop_labels(labels, torch.Generator().manual_seed(0)))
    assert labels.sum() == 0


@pytest.mark.parametrize(("share", "expected"), [(0.0, 2), (1.0, CLASSES)])
def test_drop_labels_at_its_ends(share, expected):
    dropped = build(randomise=False, label_dropout=share).drop_labels(torch.full((64,), 2))
    assert torch.equal(dropped, torch.full((64,), expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "M"}, "preset: got 'M', takes T, S, B, L, XL"),
        ({"patch_size": 3}, "patch_size: got 3, takes 1, 2, 4"),
        ({"num_classes": 0}, "num_classes: got 0"),
        ({"label_dropout": 1.5}, "label_dropout: got 1.5"),
        ({"latent_size": 7}, "latent_size: got 7x7 latent pixels, takes sides divisible by patch=2"),
        ({"latent_size": 130}, "latent_size: got 130x130 latent pixels, takes at most 128 a side"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"latents: got shape \(2, 4, 8, 8\), takes \(B, 3, h, w\)"),
        ({"latents": torch.zeros(2, 3, 8, 9)}, "latents: got 8x9 latent pixels, takes sides divisible by patch=2"),
        ({"latents": torch.zeros(2, 3, 34, 8)}, "latents: got 34x8 latent pixels, takes at most 32 a side"),
        ({"conditioning": torch.zeros(1)}, r"conditioning: .*shape \(2,\)"),
        ({"conditioning": torch.zeros(2, dtype=torch.long)}, r"conditioning: .*takes floats"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels: .*shape \(2,\)"),
        ({"labels": torch.tensor([0, 6])}, "labels: got 6, takes 0 to 4, or 5 for no class"),
        ({"labels": torch.tensor([-1, 6])}, "labels: got -1"),
    ],
)
def test_inputs_of_the_wrong_kind_are_refused(change, message):
    model = build(randomise=False, max_tokens_per_side=16)
    good = {
        "latents": torch.zeros(2, 3, 8, 8),
        "conditioning": torch.zeros(2),
        "labels": torch.zeros(2, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=f"^{message}"):
        model(**{**good, **change})
