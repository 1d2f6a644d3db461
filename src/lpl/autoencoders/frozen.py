"""Frozen copies of networks, which share the originals' weights and nothing else."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

from torch import Tensor, nn

ModuleType = TypeVar("ModuleType", bound=nn.Module)


def frozen_copy(module: ModuleType) -> ModuleType:
    """A copy in evaluation mode whose parameters and buffers share the original's memory and take no gradient.

    The original keeps its mode, its `requires_grad` and its hooks; the copy's modules may be replaced freely. Hooks are
    not copied: they belong to whoever watches the original. Those of `torch.nn.utils`, which compute weights, are. No
    module of the copy writes over its input, which somebody may have kept.
    """
    taken: dict[int, Any] = {}
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:
            taken[id(parameter)] = nn.Parameter(_shared(parameter), requires_grad=False)
    for buffer in module.buffers():
        taken[id(buffer)] = _shared(buffer)
    for part in module.modules():
        taken |= _instead_of_attributes(part)
    copied = copy.deepcopy(module, taken).requires_grad_(False).eval()
    parts: Any = copied.modules()
    for part in parts:
        if getattr(part, "inplace", None) is True:
            part.inplace = False
    return copied


def _shared(tensor: Tensor) -> Tensor:
    """The same memory, apart from tensors made under `torch.inference_mode()`, which autograd refuses."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _instead_of_attributes(module: nn.Module) -> dict[int, Any]:
    """What stands in the copy for attributes that are not to be copied, by their identity."""
    instead: dict[int, Any] = {}
    for name, value in vars(module).items():
        if "_hooks" in name and isinstance(value, dict):
            instead[id(value)] = OrderedDict((key, hook) for key, hook in value.items() if _computes_weights(hook))
        elif isinstance(value, Tensor) and value.grad_fn is not None:  # a weight computed by a hook, say
            instead[id(value)] = value.detach()
    return instead


def _computes_weights(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.nn.utils.")
