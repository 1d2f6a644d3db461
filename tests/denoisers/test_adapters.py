"""Adapters against direct calls of tiny diffusers models with random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn

from lpl.denoisers import ClassConditionalMMDiT, adapters
from lpl.denoisers.adapters import Adapter, adapt, pack, register, supported_models, unpack

BATCH, WIDTH, WORDS = 2, 12, 5
TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}


def random_(model: nn.Module) -> nn.Module:
    """Random weights throughout, so that no part of the input is without effect; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def unet(**settings) -> nn.Module:
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return random_(
        UNet2DModel(**{**blocks, **kinds, "in_channels": 4, "out_channels": 4, "add_attention": False, **settings})
    )


def text_unet(**settings) -> nn.Module:
    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 4}
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return random_(UNet2DConditionModel(**{**blocks, **kinds, "cross_attention_dim": WIDTH, **settings}))


def dit(**settings) -> nn.Module:
    return random_(DiTTransformer2DModel(**{**TRANSFORMER, "out_channels": 8, "num_embeds_ada_norm": 10, **settings}))


def pixart(**settings) -> nn.Module:
    text = {"cross_attention_dim": 16, "caption_channels": WIDTH}
    return random_(PixArtTransformer2DModel(**{**TRANSFORMER, **text, **settings}))


def sd3() -> nn.Module:
    text = {"joint_attention_dim": WIDTH, "caption_projection_dim": 16, "pooled_projection_dim": 6}
    return random_(SD3Transformer2DModel(**TRANSFORMER, **text, in_channels=4, out_channels=4, pos_embed_max_size=8))


def flux(**settings) -> nn.Module:
    text = {"joint_attention_dim": WIDTH, "pooled_projection_dim": 6, "axes_dims_rope": (2, 2, 4)}
    size = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    return random_(FluxTransformer2DModel(**{**size, **text, "in_channels": 16, **settings}))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS = draw(BATCH, 4, 8, 8, seed=1)
CONDITIONING = torch.tensor([120.0, 730.5])
LABELS = torch.tensor([3, 7])
TEXT = draw(BATCH, WORDS, WIDTH, seed=2)
POOLED = draw(BATCH, 6, seed=3)
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
SIZES = {"resolution": torch.tensor([[512.0, 512.0]] * 2), "aspect_ratio": torch.tensor([[1.0]] * 2)}
XL = {"text_embeds": POOLED, "time_ids": torch.arange(12.0).reshape(2, 6)}
XL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 30,
}

# model, what the adapter is given, what the model itself is given
CASES = {
    "unet": (unet, {}, {}),
    "unet with classes": (lambda: unet(num_class_embeds=10), {"labels": LABELS}, {"class_labels": LABELS}),
    "unet with variance": (lambda: unet(out_channels=8), {}, {}),
    "text unet": (text_unet, {"encoder_hidden_states": TEXT}, {"encoder_hidden_states": TEXT}),
    "text unet with sizes": (
        lambda: text_unet(**XL_UNET),
        {"encoder_hidden_states": TEXT, "added_cond_kwargs": XL},
        {"encoder_hidden_states": TEXT, "added_cond_kwargs": XL},
    ),
    "text unet with classes": (
        lambda: text_unet(num_class_embeds=10),
        {"encoder_hidden_states": TEXT, "labels": LABELS},
        {"encoder_hidden_states": TEXT, "class_labels": LABELS},
    ),
    "dit with variance": (dit, {"labels": LABELS}, {"class_labels": LABELS}),
    "dit": (lambda: dit(out_channels=4), {"labels": LABELS}, {"class_labels": LABELS}),
    "pixart": (
        pixart,
        {"encoder_hidden_states": TEXT, "encoder_attention_mask": MASK},
        {
            "encoder_hidden_states": TEXT,
            "encoder_attention_mask": MASK,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "pixart with sizes": (
        lambda: pixart(
            use_additional_conditions=True, num_attention_heads=3, attention_head_dim=8, cross_attention_dim=24
        ),
        {"encoder_hidden_states": TEXT, "added_cond_kwargs": SIZES},
        {"encoder_hidden_states": TEXT, "added_cond_kwargs": SIZES},
    ),
    "sd3": (
        sd3,
        {"encoder_hidden_states": TEXT, "pooled_projections": POOLED},
        {"encoder_hidden_states": TEXT, "pooled_projections": POOLED},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gives_what_the_model_itself_gives(case):
    build, given, own = CASES[case]
    model = build()
    with torch.no_grad():
        expected = model(LATENTS, timestep=CONDITIONING, **own).sample[:, :4]
        output = adapt(model)(LATENTS, CONDITIONING, **given)
        other_time = adapt(model)(LATENTS, CONDITIONING + 100, **given)
    assert output.shape == LATENTS.shape
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert (other_time - output).abs().max() > 1e-4


@pytest.mark.parametrize("guidance", [None, torch.tensor([3.5, 1.0])])
def test_flux_is_packed_and_unpacked_as_its_pipeline_does(guidance):
    model = flux(guidance_embeds=guidance is not None)
    latents = draw(BATCH, 4, 6, 10)
    text = {"encoder_hidden_states": TEXT, "pooled_projections": POOLED}
    with torch.no_grad():
        tokens = model(
            FluxPipeline._pack_latents(latents, BATCH, 4, 6, 10),
            timestep=CONDITIONING / 1000,
            guidance=guidance,
            img_ids=FluxPipeline._prepare_latent_image_ids(BATCH, 3, 5, "cpu", torch.float32),
            txt_ids=torch.zeros(WORDS, 3),
            **text,
        ).sample
        expected = FluxPipeline._unpack_latents(tokens, 6, 10, vae_scale_factor=1)
        condition = text if guidance is None else {**text, "guidance": guidance}
        output = adapt(model)(latents, CONDITIONING, **condition)
    torch.testing.assert_close(output, expected)


def test_pack_and_unpack_are_the_pipeline_s_and_inverse():
    latents = draw(2, 16, 6, 8)
    torch.testing.assert_close(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 6, 8), rtol=0, atol=0)
    torch.testing.assert_close(unpack(pack(latents), 3, 4), latents, rtol=0, atol=0)


def test_learned_time_table_is_read_at_the_step():
    model = unet(time_embedding_type="learned", num_train_timesteps=1000)
    steps = torch.tensor([120, 730])
    with torch.no_grad():
        expected = model(LATENTS, timestep=steps).sample
        torch.testing.assert_close(adapt(model)(LATENTS, steps.float()), expected, rtol=0, atol=0)


def test_gradients_reach_the_model_s_weights_and_the_latents():
    adapter = adapt(dit())
    latents = LATENTS.clone().requires_grad_()
    adapter(latents, CONDITIONING, LABELS).square().mean().backward()
    assert latents.grad.abs().max() > 0
    assert adapter.model.proj_out_2.weight.grad.abs().max() > 0


def test_null_label_is_the_last_row_of_dit_s_table_and_unknown_elsewhere():
    model = dit()
    assert adapt(model).null_label == 10
    assert model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.num_embeddings == 11
    assert adapt(unet()).null_label is None


def test_a_model_that_speaks_the_convention_is_returned_as_it_is():
    mmdit = ClassConditionalMMDiT(4, 2, preset="T", latent_size=4)
    adapter = adapt(unet())
    assert adapt(mmdit) is mmdit
    assert adapt(adapter) is adapter


def test_unknown_models_are_refused_with_a_list_of_the_known():
    with pytest.raises(
        TypeError, match=r"^model: got Linear, takes DiT.*, Flux.*, PixArt.*, SD3.*, UNet2DCond.*, UNet2DM"
    ):
        adapt(nn.Linear(2, 2))


def test_subclasses_are_known_and_new_classes_can_be_registered(monkeypatch):
    class MyUNet(UNet2DModel):
        pass

    class Doubler(nn.Module):
        pass

    monkeypatch.setattr(adapters, "_ADAPTERS", dict(adapters._ADAPTERS))

    @register(Doubler)
    class DoublerAdapter(Adapter):
        def _call_model(self, latents, conditioning, condition):
            return 2 * latents

        def _input_channels(self):
            return 4

        def _output_channels(self):
            return 4

    assert "Doubler" in supported_models()
    torch.testing.assert_close(adapt(Doubler())(LATENTS, CONDITIONING), 2 * LATENTS)
    assert isinstance(
        adapt(MyUNet(block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))),
        Adapter,
    )


@pytest.mark.parametrize(
    ("build", "condition", "message"),
    [
        (dit, {}, "condition: DiTTransformer2DModel needs labels; got none"),
        (dit, {"labels": LABELS, "text": TEXT}, "condition: got text; DiTTransformer2DModel takes labels"),
        (unet, {"encoder_hidden_states": TEXT}, "condition: got encoder_hidden_states; UNet2DModel takes labels"),
        (sd3, {"encoder_hidden_states": TEXT}, "condition: SD3Transformer2DModel needs pooled_projections"),
        (sd3, {"labels": LABELS}, "condition: got labels; SD3Transformer2DModel takes encoder_hidden_states, pooled"),
        (text_unet, {}, "condition: UNet2DConditionModel needs encoder_hidden_states; got none"),
        (
            lambda: flux(guidance_embeds=True),
            {"encoder_hidden_states": TEXT, "pooled_projections": POOLED},
            "condition: FluxTransformer2DModel needs guidance",
        ),
        (
            flux,
            {"encoder_hidden_states": TEXT, "pooled_projections": POOLED, "guidance": torch.full((BATCH,), 3.5)},
            "condition: got guidance, which this FluxTransformer2DModel has no embedding for .*; leave it out",
        ),
        (
            lambda: pixart(use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24),
            {"encoder_hidden_states": TEXT},
            "condition: PixArtTransformer2DModel needs added_cond_kwargs",
        ),
    ],
)
def test_conditions_that_are_missing_or_unknown_are_refused(build, condition, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        adapt(build())(LATENTS, CONDITIONING, **condition)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (dit, (2, 3, 8, 8), r"latents: got shape \(2, 3, 8, 8\), takes \(B, 4, h, w\)"),
        (dit, (2, 4, 8, 12), "latents: got 8x12 latent pixels, DiT takes squares"),
        (dit, (2, 4, 9, 9), "latents: got 9x9 latent pixels, DiTTransformer2DModel takes sides divisible by 2"),
        (lambda: unet(num_class_embeds=10), (2, 4, 8, 7), "latents: .*UNet2DModel takes sides divisible by 2"),
    ],
)
def test_latents_that_do_not_fit_are_refused(build, shape, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        adapt(build())(torch.zeros(shape), CONDITIONING, LABELS)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: unet(in_channels=9), "model: this UNet2DModel takes 9 channels and gives 4"),
        (lambda: unet(time_embedding_type="fourier"), "model: .*time_embedding_type='fourier'"),
    ],
)
def test_models_outside_the_convention_are_refused(build, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        adapt(build())
