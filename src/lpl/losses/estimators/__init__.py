"""Cheaper stand-ins for the exact loss, each called as it is: `estimator(prediction, target, sigma)`.

| estimator | computes | bias |
| --- | --- | --- |
| `EveryKth` | the loss at one step in k, times k | none over k steps |
| `GatedSubset` | some of the samples that pass the gate, reweighted | none |
| `RandomWindows` | a window of each latent, with a margin | none for a decoder of local operations; see there |

They take any loss of that call, each other included: `EveryKth(GatedSubset(LatentPerceptualLoss(vae), count=4), k=2)`.
A distilled decoder (`lpl.training.tiny_decoder`) needs no class: `LatentPerceptualLoss(tiny)` is the estimator.
"""

from .base import Estimator
from .periodic import EveryKth
from .subset import GatedSubset
from .windows import RandomWindows

__all__ = ["Estimator", "EveryKth", "GatedSubset", "RandomWindows"]
