"""The class-conditional MMDiT that is trained here: diffusers' SD3 transformer with classes in the place of text.

Reference: Esser et al., *Scaling Rectified Flow Transformers*, 2024 (MMDiT, SD3); Peebles & Xie, *Scalable Diffusion
Models with Transformers*, 2023 (widths and depths, adaLN-Zero, initialisation, the null label).

**How the class enters.** MMDiT reads a prompt twice: pooled into one vector, which with the time embedding modulates
every block, and token by token, in a stream of its own that attends jointly with the image. A class does the same: it
has one learned pooled vector and `context_tokens` learned tokens. The null label `num_classes` has its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PresetName = Literal["T", "S", "B", "L", "XL"]


class Preset(NamedTuple):
    """The size of a denoiser."""

    width: int
    depth: int
    heads: int


# S to XL are DiT's (XL is the paper's: 28 blocks of width 1152 with 16 heads); T is for a CPU.
PRESETS: dict[str, Preset] = {
    "T": Preset(width=192, depth=6, heads=3),
    "S": Preset(width=384, depth=12, heads=6),
    "B": Preset(width=768, depth=12, heads=12),
    "L": Preset(width=1024, depth=24, heads=16),
    "XL": Preset(width=1152, depth=28, heads=16),
}
PATCH_SIZES = (1, 2, 4)


class ClassConditionalMMDiT(nn.Module):
    """An MMDiT conditioned on a class.

    No weight depends on `latent_size` or `max_tokens_per_side`: positions are counted in tokens from the centre of the
    latent, so a checkpoint may be post-trained at any resolution that `max_tokens_per_side` allows.

    Args:
        latent_channels: C, channels of the latent.
        num_classes: how many classes there are; labels run from 0 to num_classes − 1.
        preset: "T" (192 wide, 6 deep), "S", "B", "L" or "XL" (the paper's), see `PRESETS`.
        patch_size: side of the square of latent pixels that makes one token: 1, 2 or 4.
        latent_size: side of the latents this model is meant for, in latent pixels.
        qk_norm: RMS-normalise queries and keys, as SD3.5 does.
        max_tokens_per_side: tokens a side up to which positions exist.
        label_dropout: share of labels that `drop_labels` replaces, for classifier-free guidance.
        context_tokens: tokens a class has in the context stream.

    Example:
        >>> denoiser = ClassConditionalMMDiT(latent_channels=4, num_classes=1000, preset="XL", latent_size=64)
        >>> output = denoiser(noisy, path.conditioning(timesteps), denoiser.drop_labels(labels))
    """

    def __init__(
        self,
        latent_channels: int,
        num_classes: int,
        preset: PresetName = "S",
        patch_size: int = 2,
        latent_size: int = 32,
        qk_norm: bool = True,
        max_tokens_per_side: int = 64,
        label_dropout: float = 0.1,
        context_tokens: int = 4,
    ) -> None:
        super().__init__()
        self._config: dict[str, Any] = {
            "latent_channels": latent_channels,
            "num_classes": num_classes,
            "preset": preset,
            "patch_size": patch_size,
            "latent_size": latent_size,
            "qk_norm": qk_norm,
            "max_tokens_per_side": max_tokens_per_side,
            "label_dropout": label_dropout,
            "context_tokens": context_tokens,
        }
        _check_config(self._config)
        self.latent_channels = latent_channels
        self.null_label = num_classes
        self.label_dropout = label_dropout
        self.patch_size = patch_size
        self.max_tokens_per_side = max_tokens_per_side
        self.context_tokens = context_tokens
        self._check_size("latent_size", latent_size, latent_size)

        width, depth, heads = PRESETS[preset]
        self.class_vector = nn.Embedding(num_classes + 1, width)
        self.class_tokens = nn.Embedding(num_classes + 1, context_tokens * width)
        self.transformer = SD3Transformer2DModel(
            sample_size=latent_size,
            patch_size=patch_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_layers=depth,
            attention_head_dim=width // heads,
            num_attention_heads=heads,
            joint_attention_dim=width,
            caption_projection_dim=width,
            pooled_projection_dim=width,
            pos_embed_max_size=max_tokens_per_side,
            qk_norm="rms_norm" if qk_norm else None,
        )
        self._centre_positions(width)
        self._initialise()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments from which `ClassConditionalMMDiT(**config)` builds this model again; plain JSON values."""
        return dict(self._config)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.transformer.transformer_blocks)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations, or stops doing so."""
        if enabled:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    def compile_blocks(self) -> None:
        """Compiles every block, in place.

        All but the last share one compilation, which takes a fraction of the whole model's and runs as fast.
        """
        for block in self.transformer.transformer_blocks:
            block.compile()

    def drop_labels(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Replaces each label by the null label with probability `label_dropout`.

        Args:
            labels: int64, shape (B,).
            generator: a CPU generator; the draw is made on the CPU so that a seed means the same on every device.

        Returns:
            Labels of the same shape, on the same device.
        """
        drop = torch.rand(labels.shape, generator=generator) < self.label_dropout
        return labels.masked_fill(drop.to(labels.device), self.null_label)

    def forward(self, latents: Tensor, conditioning: Tensor, labels: Tensor) -> Tensor:
        """Predicts what the diffusion path makes the target.

        Args:
            latents: z_t, float, shape (B, C, h, w); h and w divisible by the patch size, and not necessarily equal.
            conditioning: `path.conditioning(timesteps)`, float in [0, 1000], shape (B,).
            labels: int64 in [0, num_classes], shape (B,); num_classes is the null label.

        Returns:
            The output, shape (B, C, h, w).

        Raises:
            ValueError: a shape, type, size or label that this model does not take. Labels are checked on the CPU only:
                elsewhere looking at them would make every step wait for the device.
        """
        self._check_inputs(latents, conditioning, labels)
        context, pooled = self._class_condition(labels)
        output: Tensor = self.transformer(
            hidden_states=latents,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=conditioning,
            return_dict=False,
        )[0]
        return output

    def features(
        self, latents: Tensor, conditioning: Tensor, labels: Tensor, depths: Iterable[int]
    ) -> dict[int, Tensor]:
        """The image tokens after given blocks; no block past the deepest of them is run.

        Args:
            latents: as for `forward`.
            conditioning: as for `forward`.
            labels: as for `forward`.
            depths: numbers of blocks, from 1 to `depth`.

        Returns:
            For each depth, tokens of shape (B, h·w / patch², width), in rows from the top.

        Raises:
            ValueError: no depth, or one outside 1 … `depth`; or inputs that `forward` refuses.
        """
        wanted = sorted(set(depths))
        if not wanted or wanted[0] < 1 or wanted[-1] > self.depth:
            raise ValueError(f"depths: got {wanted}, takes one or more numbers of blocks from 1 to {self.depth}")
        self._check_inputs(latents, conditioning, labels)
        context, pooled = self._class_condition(labels)
        tokens = self.transformer.pos_embed(latents).contiguous()
        time_and_class = self.transformer.time_text_embed(conditioning, pooled)
        context = self.transformer.context_embedder(context)
        features = {}
        for number, block in enumerate(self.transformer.transformer_blocks[: wanted[-1]], start=1):
            context, tokens = self._run_block(block, tokens, context, time_and_class)
            if number in wanted:
                features[number] = tokens
        return features

    def _run_block(self, block: nn.Module, tokens: Tensor, context: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        if self.transformer.gradient_checkpointing and torch.is_grad_enabled():
            outputs: tuple[Tensor, Tensor] = checkpoint(block, tokens, context, embedding, use_reentrant=False)
            return outputs
        context, tokens = block(tokens, context, embedding)
        return context, tokens

    def _class_condition(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The class's context tokens (B, K, width) and pooled vector (B, width)."""
        return self.class_tokens(labels).unflatten(1, (self.context_tokens, -1)), self.class_vector(labels)

    def _centre_positions(self, width: int) -> None:
        """Replaces the positional table of diffusers, from which it crops the middle.

        Its own spaces tokens (base size / maximum size) apart, so that all of a small latent would have nearly the same
        position, and saves the table with the weights, which would tie a checkpoint to one base and maximum size.
        """
        table = centred_positions(width, self.max_tokens_per_side)
        self.transformer.pos_embed.register_buffer("pos_embed", table, persistent=False)

    def _initialise(self) -> None:
        """DiT's initialisation (its §3 and code): adaLN-Zero, so that every block starts as the identity."""
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patches = self.transformer.pos_embed.proj
        nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
        nn.init.zeros_(patches.bias)
        time = self.transformer.time_text_embed.timestep_embedder
        for layer in (time.linear_1, time.linear_2, self.class_vector, self.class_tokens):
            nn.init.normal_(layer.weight, std=0.02)
        for module in self.transformer.modules():
            if isinstance(module, (AdaLayerNormZero, AdaLayerNormContinuous)):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def _check_inputs(self, latents: Tensor, conditioning: Tensor, labels: Tensor) -> None:
        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(f"latents: got shape {tuple(latents.shape)}, takes (B, {self.latent_channels}, h, w)")
        self._check_size("latents", *latents.shape[2:])
        batch = latents.shape[0]
        if conditioning.shape != (batch,) or not conditioning.is_floating_point():
            raise ValueError(
                f"conditioning: got {conditioning.dtype} of shape {tuple(conditioning.shape)}, takes floats of shape "
                f"({batch},), as path.conditioning(timesteps) gives"
            )
        if labels.shape != (batch,) or labels.is_floating_point():
            raise ValueError(
                f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, takes integers of shape ({batch},)"
            )
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_labels(labels)

    def _check_labels(self, labels: Tensor) -> None:
        wrong = labels[(labels < 0) | (labels > self.null_label)]
        if wrong.numel():
            raise ValueError(
                f"labels: got {wrong[0].item()}, takes 0 to {self.null_label - 1}, or {self.null_label} for no class"
            )

    def _check_size(self, argument: str, height: int, width: int) -> None:
        patch, side = self.patch_size, self.max_tokens_per_side
        if height % patch or width % patch:
            raise ValueError(f"{argument}: got {height}x{width} latent pixels, takes sides divisible by {patch=}")
        if max(height, width) > side * patch:
            raise ValueError(
                f"{argument}: got {height}x{width} latent pixels, takes at most {side * patch} a side with "
                f"patch_size={patch} and max_tokens_per_side={side}; a larger max_tokens_per_side changes no weight"
            )


def centred_positions(width: int, side: int) -> Tensor:
    """Sine and cosine embeddings of a square of positions, one token apart, with 0 in its middle (at side // 2).

    Args:
        width: channels of a token, divisible by 4; the first half embeds the column, the second half the row.
        side: tokens a side.

    Returns:
        float32, shape (1, side², width), in rows from the top.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    coordinates = torch.arange(side, dtype=torch.float64) - side // 2
    angles = coordinates[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = axis[None, :].expand(side, side, -1)
    rows = axis[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, side * side, width).float()


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """How many numbers a module's parameters hold; with `trainable`, only those that are trained."""
    return sum(value.numel() for value in module.parameters() if value.requires_grad or not trainable)


def _check_config(config: dict[str, Any]) -> None:
    """Refuses impossible arguments before anything is built."""
    if config["preset"] not in PRESETS:
        raise ValueError(f"preset: got {config['preset']!r}, takes {', '.join(PRESETS)}")
    if config["patch_size"] not in PATCH_SIZES:
        raise ValueError(f"patch_size: got {config['patch_size']}, takes {', '.join(map(str, PATCH_SIZES))}")
    for name in ("latent_channels", "num_classes", "latent_size", "max_tokens_per_side", "context_tokens"):
        if config[name] < 1:
            raise ValueError(f"{name}: got {config[name]}, takes a positive integer")
    if not 0 <= config["label_dropout"] <= 1:
        raise ValueError(f"label_dropout: got {config['label_dropout']}, takes a share from 0 to 1")
