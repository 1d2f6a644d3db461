"""LPIPS in latent space: a distance between the features of a classifier of latents.

Reference: Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, CVPR 2018 (LPIPS);
Kang et al., *Distilling Diffusion Models into Conditional GANs*, ECCV 2024 (E-LatentLPIPS, whose augmentations of the
compared latents are left out here, as in appendix A.4 of the latent perceptual loss):

    d(ẑ, z) = Σ_l 1/(H_l W_l) Σ_{h,w} Σ_c w_{l,c} (û_{l,c,h,w} − u_{l,c,h,w})²,   u = f / ‖f‖ over channels

"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.features import frozen_copy
from ..autoencoders.lean import make_lean
from .gate import GatedTerms, check_pair, check_threshold, nothing_passed, over_batch, passing, refuse_nan
from .latent_vgg import FrozenTrunk, LatentVGG

EPSILON = 1e-6  # added to ‖f‖²: where all channels are (nearly) zero, a direction and its gradient mean nothing
PUBLISHED = {"sd15": 4, "sd21": 4, "sdxl": 4, "sd3": 16, "flux": 16}  # encoder → latent channels


class LatentLPIPS(nn.Module):
    """Compares what a classifier of latents makes of a predicted clean latent and of the true one.

    The weights w of channels are uniform (1) by default: LPIPS fits them to human judgements of pairs, of which there
    are none for one's own latents. `LatentLPIPS.published` has those of E-LatentLPIPS.

    Args:
        classifier: a trained `LatentVGG`, or any module that maps latents (B, C, h, w) to a sequence of feature maps
            (B, C_l, H_l, W_l). It is not changed: a frozen copy in evaluation mode is used.
        sigma_threshold: τ_σ. Samples with σ_t above it contribute zero and never enter the classifier. None: no gate.
        channel_weights: w_l for each layer, (C_l,), not negative, as many as the classifier gives maps; by default 1.
        dtype: floating-point type that the classifier runs in; by default its own. Distances are always computed in
            float32 at least.

    Raises:
        ValueError: a threshold that is not positive, or negative weights.

    Example:
        >>> distance = LatentLPIPS(classifier)
        >>> loss = mse + 0.1 * distance(clean_hat, clean)
    """

    def __init__(
        self,
        classifier: nn.Module,
        sigma_threshold: float | None = None,
        channel_weights: Sequence[Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_threshold(sigma_threshold)
        self.sigma_threshold = sigma_threshold
        if isinstance(classifier, LatentVGG):
            self.network: nn.Module = FrozenTrunk(classifier, dtype)
        else:
            self.network = make_lean(frozen_copy(classifier).to(dtype))
        self._weighted = 0 if channel_weights is None else len(channel_weights)
        for number, weights in enumerate(channel_weights or ()):
            if not bool((weights >= 0).all()):
                raise ValueError(
                    f"channel_weights: those of layer {number + 1} hold {weights.min():g}, takes none below 0"
                )
            self.register_buffer(f"weights{number + 1}", weights.detach().reshape(1, -1, 1, 1).clone())
        self.eval()

    @classmethod
    def published(
        cls, encoder: str, sigma_threshold: float | None = None, dtype: torch.dtype | None = None
    ) -> LatentLPIPS:
        """E-LatentLPIPS with its authors' weights, which its package downloads into the folder `ckpt`.

        Args:
            encoder: whose latents are compared: "sd15", "sd21", "sdxl", "sd3" or "flux". Latents are those that the
                diffusion model sees.
            sigma_threshold: τ_σ, or None.
            dtype: floating-point type that the classifier runs in.

        Raises:
            ImportError: the package `elatentlpips` is missing; the message says how to install it. The weights are
                licensed for non-commercial use.
            ValueError: there is no such encoder.
        """
        if encoder not in PUBLISHED:
            raise ValueError(f"encoder: got {encoder!r}, takes {', '.join(map(repr, PUBLISHED))}")
        try:
            package: Any = importlib.import_module("elatentlpips")
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that doesn't match torch
            raise ImportError(
                "the published weights need the package elatentlpips, an optional extra: "
                f'pip install "latent-perceptual-loss[elatentlpips]" (importing it failed: {error})'
            ) from error
        model = package.ELatentLPIPS(encoder=encoder, augment=None, verbose=False)
        weights = [next(iter(layer.parameters())) for layer in model.lins]  # each a dropout and one 1×1 convolution
        return cls(model.net, sigma_threshold, weights, dtype)

    def forward(
        self, prediction: Tensor, target: Tensor, sigma: Tensor | float | None = None, return_terms: bool = False
    ) -> Any:
        """The distance of predicted clean latents; its gradient flows to `prediction` alone.

        Args:
            prediction: ẑ0, (B, C, h, w), as the diffusion model sees latents.
            target: z0, of the same shape.
            sigma: σ_t = b_t/a_t of each sample, (B,), or one number for all. Needed only where there is a threshold.
            return_terms: also return what the loss is made of.

        Returns:
            The loss, a scalar of at least float32: the sum over samples that pass the gate, divided by B; or
            `GatedTerms` that hold it.

        Raises:
            ValueError: shapes that differ, a missing or misshapen `sigma`, a latent that passes the gate and holds
                NaN, or a classifier that gives anything but feature maps, one for each layer that has weights.
        """
        check_pair(prediction, target)
        passed = passing(sigma, self.sigma_threshold, prediction)
        if len(passed) == 0:
            terms = nothing_passed(prediction)
        else:
            terms = self._compare(prediction[passed], target[passed].detach(), passed, len(prediction))
        return terms if return_terms else terms.loss

    def train(self, mode: bool = True) -> LatentLPIPS:
        """Stays in evaluation mode: the classifier is frozen."""
        return super().train(False)

    def _compare(self, prediction: Tensor, target: Tensor, passed: Tensor, batch_size: int) -> GatedTerms:
        """The loss of the samples that passed the gate, as a mean over the whole batch."""
        refuse_nan("prediction", prediction)
        refuse_nan("target", target)
        with torch.no_grad():
            targets = [_unit(features) for features in self._maps(target)]
        by_layer = [
            self._distance(number, _unit(features), true)
            for number, (features, true) in enumerate(zip(self._maps(prediction), targets, strict=True), start=1)
        ]
        loss, per_sample = over_batch(torch.stack(by_layer).sum(dim=0), passed, batch_size)
        layers = {f"layer{number}": value.detach().sum() / batch_size for number, value in enumerate(by_layer, start=1)}
        return GatedTerms(loss, layers, len(passed), per_sample)

    def _maps(self, latents: Tensor) -> Sequence[Tensor]:
        """What the classifier makes of latents (B, C, h, w): maps (B, C_l, H_l, W_l) of each layer."""
        maps = self.network(latents)
        takes = "takes a sequence of feature maps (B, C, H, W), one a layer"
        if isinstance(maps, Tensor):
            raise ValueError(f"classifier: gave a tensor of shape {tuple(maps.shape)}, {takes}")
        shapes = [tuple(features.shape) for features in maps]
        if any(len(shape) != 4 or shape[0] != len(latents) for shape in shapes):
            raise ValueError(f"classifier: gave {shapes}, {takes}")
        if self._weighted not in (0, len(maps)):
            raise ValueError(f"channel_weights: got those of {self._weighted} layers, the classifier has {len(maps)}")
        return maps

    def _distance(self, number: int, prediction: Tensor, target: Tensor) -> Tensor:
        """1/(HW) Σ_{h,w} Σ_c w_c (û − u)² of each sample, (B,)."""
        squares = (prediction - target).square()
        if self._weighted:
            squares = squares * self.get_buffer(f"weights{number}").to(squares.dtype)
        return squares.sum(dim=1).mean(dim=(-2, -1))


def _unit(features: Tensor) -> Tensor:
    """f / ‖f‖ over channels at each position, in float32 at least."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + EPSILON)
