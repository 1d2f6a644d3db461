from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import zoo
from layouts import channels_last
from lpl import DecoderFeatures
from lpl.autoencoders import TAEF2, Autoencoder, LatentScaling

# What each model's pipeline does to the diffusion model's latents before `decode`, written out from the pipelines.
DECODE_OPTIONS = {"vq_spatial": {"force_not_quantize": True}}


def undo_scaling(name: str, model: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    config = getattr(model, "config", None)
    if name == "taef2":
        return latents
    if name == "flux2":
        std = torch.sqrt(model.bn.running_var.view(1, -1, 1, 1) + config.batch_norm_eps)
        latents = latents * std + model.bn.running_mean.view(1, -1, 1, 1)
        b, c, h, w = latents.shape
        latents = latents.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return latents.reshape(b, c // 4, 2 * h, 2 * w)
    if name == "playground":
        mean = torch.tensor(config.latents_mean).view(1, 4, 1, 1)
        std = torch.tensor(config.latents_std).view(1, 4, 1, 1)
        return latents * std / config.scaling_factor + mean
    if name == "vq_spatial":  # Kandinsky's pipelines: movq.decode(latents, force_not_quantize=True)
        return latents
    return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


def latents_for(features: DecoderFeatures, batch: int = 2, height: int = 6, width: int = 4) -> torch.Tensor:
    channels = features.scaling.channels or 32
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def hooked(name: str, model: nn.Module, latents: torch.Tensor, blocks: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Outputs of the blocks seen by hooks inside the model's own decode."""
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for block in blocks:
        module = model.decoder.get_submodule(block)
        hooks.append(module.register_forward_hook(lambda _m, _i, output, block=block: seen.update({block: output})))
    with torch.no_grad():
        model.decode(undo_scaling(name, model, latents), **DECODE_OPTIONS.get(name, {}))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", zoo.ZOO)
def test_features_equal_what_hooks_see_inside_decode(name: str) -> None:
    model = zoo.make(name)
    features = DecoderFeatures(model)
    latents = latents_for(features)
    expected = hooked(name, model, latents, features.blocks)
    actual = features(latents)
    assert list(actual) == list(features.blocks)
    assert len(actual) >= 3
    for block, value in actual.items():
        torch.testing.assert_close(value, expected[block], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_upscaling_is_that_of_the_decoded_image(name: str) -> None:
    model = zoo.make(name)
    features = DecoderFeatures(model)
    latents = latents_for(features, batch=1)
    with torch.no_grad():
        decoded = model.decode(undo_scaling(name, model, latents))
    image = getattr(decoded, "sample", decoded)
    assert image.shape[-2] == latents.shape[-2] * features.scaling.patch * features.upscaling


def test_stable_diffusion_has_the_papers_five_blocks() -> None:
    blocks = DecoderFeatures(zoo.make("stable_diffusion")).blocks
    assert blocks == ("mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2", "up_blocks.3")


def test_nothing_past_the_last_block_is_run_or_kept() -> None:
    model = zoo.make("stable_diffusion")
    features = DecoderFeatures(model, blocks=["up_blocks.0", "mid_block"])
    assert features.blocks == ("mid_block", "up_blocks.0")
    names = [name for name, _ in features.named_parameters()]
    kept = sum(p.numel() for p in features.parameters())
    used = [model.post_quant_conv, model.decoder.conv_in, model.decoder.mid_block, model.decoder.up_blocks[0]]
    assert kept == sum(p.numel() for module in used for p in module.parameters()), names


def test_the_callers_autoencoder_is_left_as_it_was() -> None:
    model = zoo.make("stable_diffusion").train()
    before = copy.deepcopy(model.state_dict())
    features = DecoderFeatures(model)
    latents = latents_for(features).requires_grad_()
    sum(value.square().mean() for value in features(latents).values()).backward()
    features.to(torch.bfloat16)
    assert model.training
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(not p.requires_grad for p in features.parameters())
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_the_copy_shares_the_weights_memory() -> None:
    model = zoo.make("stable_diffusion")
    features = DecoderFeatures(model)
    own = {p.data_ptr() for p in features.parameters()}
    assert own <= {p.data_ptr() for p in model.parameters()}


def test_training_mode_of_the_original_does_not_reach_the_features() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, padding=1)).train()
    features = DecoderFeatures(model, blocks=["2"]).train()
    latents = torch.randn(2, 4, 5, 5)
    assert torch.equal(features(latents)["2"], features(latents)["2"])


def test_force_upcast_weights_in_half_precision_run_in_float32() -> None:
    features = DecoderFeatures(zoo.make("sdxl").half())
    assert features.dtype == torch.float32
    assert DecoderFeatures(zoo.make("taef2").half()).dtype == torch.float16


def test_another_precision_leaves_the_original_and_the_scaling_as_they_are() -> None:
    model = zoo.make("playground")
    features = DecoderFeatures(model, dtype=torch.bfloat16)
    exact = DecoderFeatures(model)
    assert features.dtype == torch.bfloat16
    assert exact.dtype == next(model.parameters()).dtype == torch.float32
    assert torch.equal(features.scaling.std, exact.scaling.std)
    assert torch.equal(DecoderFeatures(model).bfloat16().scaling.std, exact.scaling.std)
    latents = latents_for(features)
    for block, value in features(latents).items():
        expected = exact(latents)[block]
        assert value.dtype == torch.bfloat16
        assert (value - expected).norm() < 0.05 * expected.norm()


def test_an_override_of_the_scaling() -> None:
    model = zoo.make("stable_diffusion")
    latents = torch.randn(1, 4, 4, 4)
    plain = DecoderFeatures(model, scaling=LatentScaling())
    for block, value in DecoderFeatures(model)(latents * 0.18215).items():
        torch.testing.assert_close(value, plain(latents)[block], rtol=1e-4, atol=1e-5)


def test_straight_through_gradient_of_quantised_latents() -> None:
    features = DecoderFeatures(zoo.make("vq"))
    latents = latents_for(features).requires_grad_()
    features(latents)["up_blocks.1"].square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ["mid_blok"]}, "did you mean 'mid_block'"),
        ({"blocks": []}, "non-empty"),
        ({"blocks": "mid_block"}, "non-empty list"),
        ({"blocks": ["mid_block", "decoder.up_blocks.0"]}, "not a mixture"),
    ],
)
def test_unknown_blocks_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderFeatures(zoo.make("stable_diffusion"), **arguments)


def test_an_unknown_kind_needs_block_names() -> None:
    with pytest.raises(ValueError, match="blocks: needed for Sequential"):
        DecoderFeatures(nn.Sequential(nn.Conv2d(4, 4, 1)))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(1, 3, 4, 4), r"latents: got shape \(1, 3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 4, dtype=torch.int64), "latents: got torch.int64"),
        (torch.zeros(4), "latents: got shape"),
        (torch.zeros(1, 4, 4), r"latents: got shape \(1, 4, 4\), AutoencoderKL takes \(B, 4, h, w\)$"),
        (torch.zeros(1, 4, 2, 4, 4), r"takes \(B, 4, h, w\); frames of a video go into the batch"),
        (torch.zeros(1, 4, 4, 4, device="meta"), "latents: on meta"),
    ],
)
def test_latents_that_do_not_fit_are_refused(latents: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderFeatures(zoo.make("stable_diffusion"))(latents)


def test_real_taef2_features(shared) -> None:
    model = TAEF2.from_folder(shared / "weights" / "taef2")
    features = DecoderFeatures(model)
    assert features.blocks == ("5", "10", "15", "18")
    latents = torch.randn(1, 32, 8, 8)
    expected = hooked("taef2", model, latents, features.blocks)
    for block, value in features(latents).items():
        torch.testing.assert_close(value, expected[block], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["flux2", "vq_spatial", "taef2"])
def test_an_autoencoder_stands_for_the_model_in_it(name: str) -> None:
    """Its own `decode` keeps no gradient."""
    autoencoder = Autoencoder(zoo.make(name))
    expected, features = DecoderFeatures(autoencoder.model), DecoderFeatures(autoencoder)
    latents = latents_for(expected).requires_grad_()
    maps = features(latents)
    for block, value in expected(latents).items():
        assert torch.equal(maps[block], value)
    assert all(value.requires_grad for value in maps.values())


def test_an_autoencoders_scaling_is_its_own() -> None:
    autoencoder = Autoencoder(zoo.make("sd3"))
    autoencoder.scaling = LatentScaling(std=2.0)
    latents = torch.randn(1, 16, 4, 4)
    expected = DecoderFeatures(autoencoder.model, scaling=LatentScaling())(2 * latents)
    assert torch.equal(DecoderFeatures(autoencoder)(latents)["mid_block"], expected["mid_block"])
    overridden = DecoderFeatures(autoencoder, scaling=LatentScaling())(2 * latents)
    assert torch.equal(overridden["mid_block"], expected["mid_block"])


@pytest.mark.parametrize("name", ["stable_diffusion", "tiny"])
def test_a_first_look_in_inference_mode_does_not_spoil_training(name: str) -> None:
    features = DecoderFeatures(zoo.make(name))
    with torch.inference_mode():
        features(latents_for(features))
    latents = latents_for(features).requires_grad_()
    sum(value.square().mean() for value in features(latents).values()).backward()
    assert latents.grad is not None


def test_weights_loaded_in_inference_mode_can_be_trained_through() -> None:
    with torch.inference_mode():
        features = DecoderFeatures(zoo.make("playground"), dtype=torch.bfloat16)
        features(latents_for(features))
    latents = latents_for(features).requires_grad_()
    sum(value.float().square().mean() for value in features(latents).values()).backward()
    assert latents.grad is not None


def test_features_follow_weights_written_behind_autograds_back() -> None:
    """As fused optimizers and averaged weights' `data.copy_` write them."""
    model = zoo.make("stable_diffusion")
    features = DecoderFeatures(model)
    latents = latents_for(features)
    features(latents)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data + 0.05 * torch.randn_like(parameter))
    expected = DecoderFeatures(model)(latents)
    assert all(torch.equal(value, expected[block]) for block, value in features(latents).items())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_channels_last_latents_give_the_same_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As half-precision latents are laid out on a GPU."""
    features = DecoderFeatures(zoo.make(name))
    latents = latents_for(features).requires_grad_()
    expected = features(latents)
    (expected_gradient,) = torch.autograd.grad(sum(maps.square().mean() for maps in expected.values()), latents)
    monkeypatch.setattr("lpl.autoencoders.features.laid_out", channels_last)
    found = features(latents)
    (gradient,) = torch.autograd.grad(sum(maps.square().mean() for maps in found.values()), latents)
    for block, maps in found.items():
        torch.testing.assert_close(maps, expected[block], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5 * float(expected_gradient.abs().max()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stabilityai/sd-vae",), "autoencoder: got str, takes a module; load it first"),
        (
            (zoo.make("stable_diffusion"), [0, 1]),
            r"blocks: got \[0, 1\], takes a non-empty list of different block names",
        ),
        ((zoo.make("stable_diffusion"), True), "blocks: got True, takes a number of blocks"),
        ((zoo.make("stable_diffusion"), ["nosuch"]), r"has no block 'nosuch'\. It has: mid_block, up_blocks.0"),
        (
            (zoo.make("stable_diffusion"), 1, None, None, "bfloat16"),
            "dtype: got 'bfloat16', takes a floating-point type",
        ),
        (
            (zoo.make("stable_diffusion"), 1, None, None, torch.int8),
            "dtype: got torch.int8, takes a floating-point type",
        ),
    ],
)
def test_what_is_no_autoencoder_or_none_of_its_blocks_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderFeatures(*arguments)


def test_a_compiled_autoencoder_is_the_one_inside() -> None:
    model = zoo.make("stable_diffusion")
    compiled = torch.compile(model)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected, actual = DecoderFeatures(model)(latents), DecoderFeatures(compiled)(latents)
    assert list(actual) == list(expected)
    for name, maps in expected.items():
        torch.testing.assert_close(actual[name], maps)
