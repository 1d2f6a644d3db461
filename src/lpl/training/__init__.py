"""Training: the objective, the trainer, checkpoints, the averaged weights, and sampling from a run."""

from .checkpoints import CheckpointError, resolve_checkpoint
from .ema import EMA
from .loading import load_denoiser
from .metrics import TrainingDiverged
from .objective import Objective
from .recorder import TrainingInterrupted
from .run_folder import ResumeError
from .sampling import sample_run
from .terms import PERCEPTUAL_TERMS, LatentPrediction, TermParts, TermValues, TrainingBatch
from .trainer import train

__all__ = [
    "EMA",
    "PERCEPTUAL_TERMS",
    "CheckpointError",
    "LatentPrediction",
    "Objective",
    "ResumeError",
    "TermParts",
    "TermValues",
    "TrainingBatch",
    "TrainingDiverged",
    "TrainingInterrupted",
    "load_denoiser",
    "resolve_checkpoint",
    "sample_run",
    "train",
]
