"""Adapters that give published diffusers denoisers the calling convention used here.

Every denoiser here is called as `denoiser(latents, conditioning, labels, **condition) -> output`: `conditioning` is
`path.conditioning(timesteps)`, `output` has the latents' shape. The models differ: some take the time in [0, 1], one
takes packed tokens, some predict a variance too, some need text. `adapt` hides all of that. Conditions other than
labels, such as text embeddings, go by the names that diffusers gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor, nn
from torch.nn import functional

from lpl.denoisers.mmdit import ClassConditionalMMDiT

TEXT = "encoder_hidden_states"


class Adapter(nn.Module):
    """A diffusers model behind the calling convention of this package; `adapt` picks the right subclass.

    Its output has as many channels as the latents: where a model also predicts a variance ("learned sigma"), that half
    is split off. `null_label` is the label for no class, or None where the model has none.

    Args:
        model: the diffusers model; kept as `.model`, not copied.
    """

    takes: ClassVar[tuple[str, ...]] = ()  # conditions, beside labels
    takes_labels: ClassVar[bool] = False
    model: Any  # diffusers' models share no typed base class

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.latent_channels = self._input_channels()
        self.null_label: int | None = None
        outputs = self._output_channels()
        if outputs not in (self.latent_channels, 2 * self.latent_channels):
            raise ValueError(
                f"model: this {type(model).__name__} takes {self.latent_channels} channels and gives {outputs}; "
                "adapt takes models that give as many channels as they take, or twice as many (learned variance)"
            )

    def forward(self, latents: Tensor, conditioning: Tensor, labels: Tensor | None = None, **condition: Any) -> Tensor:
        """Calls the model.

        Args:
            latents: z_t, float, shape (B, C, h, w).
            conditioning: `path.conditioning(timesteps)`, float in [0, 1000], shape (B,).
            labels: int64, shape (B,), for models that take a class.
            condition: what else the model takes, by diffusers' names; see `takes`.

        Returns:
            The model's prediction, shape (B, C, h, w), without a predicted variance.

        Raises:
            ValueError: a shape the model does not take, a condition it does not know, or one it needs and did not get.
        """
        if labels is not None:
            condition["labels"] = labels
        self._check_condition(condition)
        self._check_latents(latents)
        output = self._call_model(latents, conditioning, condition)
        return output[:, : self.latent_channels]

    def _call_model(self, latents: Tensor, conditioning: Tensor, condition: dict[str, Any]) -> Tensor:
        """The model's whole output as (B, C or 2C, h, w); `condition` has passed `_check_condition`."""
        if "labels" in condition:
            condition["class_labels"] = condition.pop("labels")
        output: Tensor = self.model(latents, timestep=conditioning, return_dict=False, **condition)[0]
        return output

    def _needs(self) -> list[str]:
        """The conditions without which the model can't run."""
        return []

    def _multiple(self) -> int:
        """What the latents' sides must be divisible by."""
        return 1

    def _input_channels(self) -> int:
        return int(self.model.config.in_channels)

    def _output_channels(self) -> int:
        """Diffusers writes None for as many as go in."""
        return int(self.model.config.out_channels or self.model.config.in_channels)

    def _check_condition(self, condition: dict[str, Any]) -> None:
        known = (*(["labels"] if self.takes_labels else []), *self.takes)
        name = type(self.model).__name__
        unknown = [key for key in condition if key not in known]
        if unknown:
            raise ValueError(f"condition: got {', '.join(unknown)}; {name} takes {', '.join(known) or 'none'}")
        missing = [key for key in self._needs() if condition.get(key) is None]
        if missing:
            raise ValueError(f"condition: {name} needs {', '.join(missing)}; got {', '.join(condition) or 'none'}")

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents: got shape {tuple(latents.shape)}, takes (B, {self.latent_channels}, h, w)")
        multiple = self._multiple()
        if latents.shape[2] % multiple or latents.shape[3] % multiple:
            raise ValueError(
                f"latents: got {latents.shape[2]}x{latents.shape[3]} latent pixels, "
                f"{type(self.model).__name__} takes sides divisible by {multiple} here"
            )


Registered = TypeVar("Registered", bound=type[Adapter])
_ADAPTERS: dict[type[Any], type[Adapter]] = {}


def register(model_class: type[Any]) -> Callable[[Registered], Registered]:
    """Class decorator: `adapt` uses this `Adapter` for models of `model_class` and of its subclasses."""

    def add(adapter: Registered) -> Registered:
        _ADAPTERS[model_class] = adapter
        return adapter

    return add


def supported_models() -> list[str]:
    """Names of the diffusers classes that `adapt` takes."""
    return sorted(model_class.__name__ for model_class in _ADAPTERS)


def adapt(model: nn.Module) -> nn.Module:
    """Wraps a diffusers denoiser so that it is called as all denoisers here are.

    Args:
        model: a diffusers model of one of the classes in `supported_models()`; wrap it before compiling it. A model
            that already speaks the convention is returned as it is.

    Returns:
        A module called as `module(latents, conditioning, labels, **condition)`.

    Raises:
        TypeError: no adapter is registered for the model's class.
        ValueError: the model's configuration does not fit the convention.

    Example:
        >>> denoiser = adapt(DiTTransformer2DModel.from_pretrained("facebook/DiT-XL-2-256", subfolder="transformer"))
        >>> epsilon = denoiser(noisy, path.conditioning(timesteps), labels)
    """
    if isinstance(model, (Adapter, ClassConditionalMMDiT)):
        return model
    for model_class in type(model).__mro__:
        if model_class in _ADAPTERS:
            return _ADAPTERS[model_class](model)
    raise TypeError(
        f"model: got {type(model).__name__}, takes {', '.join(supported_models())}; for another class write an Adapter "
        "and put @register(ThatClass) above it"
    )


def _refuse_fourier_time(model: Any) -> None:
    """Such models are told log σ, which no path here passes on."""
    if model.config.time_embedding_type == "fourier":
        raise ValueError(
            f"model: this {type(model).__name__} has time_embedding_type='fourier', takes 'positional' or 'learned'"
        )


@register(UNet2DModel)
class UNet2DAdapter(Adapter):
    """An unconditional or class-conditional U-Net (DDPM, LDM); labels where it was built with classes."""

    takes_labels = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _refuse_fourier_time(model)

    def _call_model(self, latents: Tensor, conditioning: Tensor, condition: dict[str, Any]) -> Tensor:
        if self.model.config.time_embedding_type == "learned":
            conditioning = conditioning.round().long()  # a table with one row a step
        return super()._call_model(latents, conditioning, condition)

    def _needs(self) -> list[str]:
        return ["labels"] if self.model.class_embedding is not None else []

    def _multiple(self) -> int:
        return 2 ** (len(self.model.config.block_out_channels) - 1)


@register(UNet2DConditionModel)
class UNet2DConditionAdapter(Adapter):
    """A text-conditional U-Net (Stable Diffusion 1, 2 and XL; XL's size and pooled text are `added_cond_kwargs`)."""

    takes_labels = True
    takes = (
        TEXT,
        "encoder_attention_mask",
        "attention_mask",
        "added_cond_kwargs",
        "timestep_cond",
        "cross_attention_kwargs",
    )

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _refuse_fourier_time(model)

    def _needs(self) -> list[str]:
        return [TEXT, *(["labels"] if self.model.class_embedding is not None else [])]


@register(DiTTransformer2DModel)
class DiTAdapter(Adapter):
    """DiT. In training mode diffusers' DiT drops labels by itself, so don't drop them before as well."""

    takes_labels = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.null_label = int(model.config.num_embeds_ada_norm)

    def _needs(self) -> list[str]:
        return ["labels"]

    def _multiple(self) -> int:
        return int(self.model.config.patch_size)

    def _check_latents(self, latents: Tensor) -> None:
        super()._check_latents(latents)
        if latents.shape[2] != latents.shape[3]:  # diffusers takes the square root of the number of tokens for the side
            raise ValueError(f"latents: got {latents.shape[2]}x{latents.shape[3]} latent pixels, DiT takes squares")


@register(PixArtTransformer2DModel)
class PixArtAdapter(Adapter):
    """PixArt-α and -Σ. The α models at 1024² also need `added_cond_kwargs` (resolution and aspect_ratio)."""

    takes = (TEXT, "encoder_attention_mask", "attention_mask", "added_cond_kwargs", "cross_attention_kwargs")

    def _call_model(self, latents: Tensor, conditioning: Tensor, condition: dict[str, Any]) -> Tensor:
        # Diffusers looks the two up in this mapping even where the model has no use for them.
        condition.setdefault("added_cond_kwargs", {"resolution": None, "aspect_ratio": None})
        return super()._call_model(latents, conditioning, condition)

    def _needs(self) -> list[str]:
        return [TEXT, *(["added_cond_kwargs"] if self.model.use_additional_conditions else [])]

    def _multiple(self) -> int:
        return int(self.model.config.patch_size)


@register(SD3Transformer2DModel)
class SD3Adapter(Adapter):
    """Stable Diffusion 3 and 3.5; its output is the velocity ε − z0 of `lpl.FlowOT`."""

    takes = (TEXT, "pooled_projections", "joint_attention_kwargs", "skip_layers")

    def _needs(self) -> list[str]:
        return [TEXT, "pooled_projections"]

    def _multiple(self) -> int:
        return int(self.model.config.patch_size)


@register(FluxTransformer2DModel)
class FluxAdapter(Adapter):
    """FLUX.1; its output is the velocity ε − z0 of `lpl.FlowOT`.

    The model sees 2x2 latent pixels as one token, and the time in [0, 1]. `guidance`, shape (B,), is the scale that the
    guidance-distilled models (FLUX.1-dev) are told.
    """

    takes = (TEXT, "pooled_projections", "guidance", "txt_ids", "joint_attention_kwargs")

    def _call_model(self, latents: Tensor, conditioning: Tensor, condition: dict[str, Any]) -> Tensor:
        rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
        condition.setdefault("txt_ids", latents.new_zeros(condition[TEXT].shape[1], 3))
        tokens = self.model(
            pack(latents),
            timestep=conditioning / 1000,
            img_ids=_token_positions(rows, columns).to(latents.device),
            return_dict=False,
            **condition,
        )[0]
        return unpack(tokens, rows, columns)

    def _check_condition(self, condition: dict[str, Any]) -> None:
        super()._check_condition(condition)
        if condition.get("guidance") is not None and not self.model.config.guidance_embeds:
            raise ValueError(
                f"condition: got guidance, which this {type(self.model).__name__} has no embedding for "
                "(guidance_embeds is false); leave it out"
            )

    def _needs(self) -> list[str]:
        needs = [TEXT, "pooled_projections"]
        return [*needs, "guidance"] if self.model.config.guidance_embeds else needs

    def _multiple(self) -> int:
        return 2

    def _input_channels(self) -> int:
        return int(self.model.config.in_channels) // 4

    def _output_channels(self) -> int:
        return super()._output_channels() // 4


def pack(latents: Tensor) -> Tensor:
    """FLUX's tokens of 2x2 latent pixels: (B, C, h, w) to (B, h·w / 4, 4·C), in rows from the top."""
    return functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`: (B, rows · columns, 4·C) to (B, C, 2 · rows, 2 · columns)."""
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def _token_positions(rows: int, columns: int) -> Tensor:
    """(0, row, column) of each token, float32 of shape (rows · columns, 3)."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return functional.pad(grid.reshape(-1, 2), (1, 0))
