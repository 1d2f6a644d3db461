"""Makes a frozen network lean: which modules have a lean computation, and how they get it."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from .blocks import LeanAttention, LeanGatedConvolution, LeanResnetBlock, LeanTinyBlock, LeanUpsample2D
from .modules import Lean, LeanConvolution, LeanReLU, LeanRMSNorm, LeanSequential, frozen, observed

ModuleType = TypeVar("ModuleType", bound=nn.Module)

# By qualified name, so that no library need be imported to recognise its modules. A subclass may compute something
# else and is left alone; a further module is one class in `modules` or `blocks` and one line here.
_LEAN: dict[str, type[Lean]] = {
    "torch.nn.modules.conv.Conv1d": LeanConvolution,
    "torch.nn.modules.conv.Conv2d": LeanConvolution,
    "torch.nn.modules.conv.Conv3d": LeanConvolution,
    "torch.nn.modules.conv.ConvTranspose1d": LeanConvolution,
    "torch.nn.modules.conv.ConvTranspose2d": LeanConvolution,
    "torch.nn.modules.conv.ConvTranspose3d": LeanConvolution,
    "torch.nn.modules.activation.ReLU": LeanReLU,
    "torch.nn.modules.container.Sequential": LeanSequential,
    "diffusers.models.normalization.RMSNorm": LeanRMSNorm,
    "diffusers.models.attention_processor.Attention": LeanAttention,
    "diffusers.models.resnet.ResnetBlock2D": LeanResnetBlock,
    "diffusers.models.resnet.TemporalResnetBlock": LeanResnetBlock,
    "diffusers.models.upsampling.Upsample2D": LeanUpsample2D,
    "diffusers.models.unets.unet_2d_blocks.AutoencoderTinyBlock": LeanTinyBlock,
    "diffusers.models.transformers.sana_transformer.GLUMBConv": LeanGatedConvolution,
    "lpl.autoencoders.taef2.Block": LeanTinyBlock,
}

_CLASSES: dict[tuple[type[Lean], type[nn.Module]], type[Lean]] = {}


def make_lean(module: ModuleType, fold_upsampling: bool = True) -> ModuleType:
    """Replaces, in place, the forward computation of a frozen network's modules by lean ones.

    Weights, names, attributes and `isinstance` relations stay as they are; only what is computed in `forward`, and what
    that keeps for backward, changes. Left as they are, to be differentiated as usual: modules of other classes and of
    subclasses (quantised and adapted layers among them), modules with hooks, a patched `forward` or parametrised
    weights, and modules with a parameter that requires a gradient. Hooks added later are honoured.

    The gradient with respect to weights is not computed, and there is no second derivative.

    Args:
        module: a network whose parameters need no gradient, such as a frozen copy of a decoder's blocks. It must not be
            the caller's own, since the change is in place.
        fold_upsampling: whether doubling by nearest neighbour is folded into the convolution after it. That saves 5/9
            of this convolution's multiplications and the doubled map, takes a further kernel of 16/9 its weight,
            and sums in another order: values differ by rounding. Without it, networks of convolutions and ReLUs compute
            bit by bit what the plain ones do.

    Returns:
        The same module.

    Example:
        >>> decoder = make_lean(copy.deepcopy(vae.decoder).requires_grad_(False).eval())
        >>> features = decoder.mid_block(hidden)  # same values, a third of the memory for the gradient to `hidden`
    """
    for child in module.children():
        make_lean(child, fold_upsampling)
    lean = _LEAN.get(_qualified_name(type(module)))
    if lean is not None and _replaceable(module) and lean.accepts(module):
        _adopt(module, lean)
    if isinstance(module, LeanConvolution):
        module.fold = fold_upsampling
    return module


def _adopt(module: Any, lean: type[Lean]) -> None:
    """Gives the module the joint class, its attributes untouched."""
    module.__class__ = _lean_class(lean, type(module))
    module.prepare()


def _qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _replaceable(module: nn.Module) -> bool:
    plain_weights = all(type(parameter) in (nn.Parameter, Tensor) for parameter in module.parameters(recurse=False))
    patched = "forward" in vars(module)
    return plain_weights and frozen(module) and not observed(module) and not patched


def _lean_class(lean: type[Lean], plain: type[nn.Module]) -> type[Lean]:
    if (lean, plain) not in _CLASSES:
        attributes = {"lean": lean, "plain": plain, "__reduce_ex__": _reduce}
        _CLASSES[lean, plain] = type(f"{lean.__name__}Of{plain.__name__}", (lean, plain), attributes)
    return _CLASSES[lean, plain]


def _reduce(module: Lean, protocol: Any) -> tuple[Any, ...]:
    """Copies and pickles by the two classes it is made of: the joint class has no importable name."""
    return _blank, (module.lean, module.plain), vars(module)


def _blank(lean: type[Lean], plain: type[nn.Module]) -> Lean:
    kind = _lean_class(lean, plain)
    return kind.__new__(kind)
