"""Trains a denoiser: from random weights, or from a checkpoint (post-training), with any objective.

Every number that training depends on is a function of the recipe, the step and the last checkpoint, so that a run that
is killed at any moment and resumed ends with the weights of a run that never stopped (bit for bit on a CPU in float32).
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..config import Recipe, TrainingConfig
from .batches import prefetched
from .checkpoints import read_state
from .clock import StopSignals
from .display import say
from .metrics import diverged
from .objective import NonFiniteLoss, Objective, Terms, TrainingBatch
from .preparation import make_accelerator, prepare
from .recorder import Recorder, TrainingInterrupted
from .run_folder import RunFolder, timestamp
from .schedule import learning_rate
from .state import TrainingState

COMPLETE = ("steps", "time_budget")  # endings after which there is nothing left to do


def train(recipe: Recipe, resume: bool = True) -> Path:
    """Trains what a recipe describes, or carries on with it.

    Each optimiser step minimises L_tot = weighting(t) · L_diff + w_LPL · L_LPL over `batch_size` · `accumulation`
    samples a process, by AdamW. The run's folder receives recipe.yaml, run.json, metrics.jsonl (a line holds means over
    the steps since the line before), tensorboard/, checkpoints/ and, with `sample_every`, previews/. Under `accelerate
    launch` all processes train.

    On SIGINT or SIGTERM the step under way is finished and saved. `time_budget` counts the seconds in which steps were
    trained, over all sessions; encoding, checkpoints, previews and, with `compile`, each session's first step don't
    count.

    Args:
        recipe: what to train.
        resume: carry on from the newest intact checkpoint in the run's folder; False refuses a folder that has one.

    Returns:
        The run's folder.

    Raises:
        ResumeError: the folder holds a run of a recipe that differs in what changes the result, or another process is
            training there.
        CheckpointError: the initial checkpoint is missing, damaged or of another model; or the folder holds
            checkpoints, and none can be used.
        TrainingDiverged: the loss became NaN or infinite; the last checkpoint is from before.
        TrainingInterrupted: a signal asked it to stop.
    """
    accelerator = make_accelerator(recipe.training)
    run = RunFolder(recipe, write=accelerator.is_main_process)
    with run.held():
        checkpoint = run.checkpoint(resume)
        if checkpoint is not None and (ending := ending_of(checkpoint, recipe.training)):
            say(f"{run.path}: is complete already, {checkpoint.name} is its last checkpoint", run.write)
            if run.information.get("status") != "complete":  # killed between its last checkpoint and its last word
                run.update(**_figures(checkpoint), status="complete", ended=timestamp(), ended_by=ending)
        else:
            _train(recipe, accelerator, run, checkpoint)
    return run.path


def _train(recipe: Recipe, accelerator: Accelerator, run: RunFolder, checkpoint: Path | None) -> None:
    """Trains from the checkpoint, or from the start, to the end."""
    training = recipe.training
    state, batches = prepare(recipe, accelerator, run, checkpoint)
    model, optimizer = accelerator.prepare(state.denoiser, state.optimizer)

    ending = "steps"
    with StopSignals() as signals, Recorder(run, state, accelerator.device, gather_object) as recorder:
        for step, micro_batches in prefetched(batches.step, state.step + 1, training.steps):
            logged = step == 1 or step % training.log_every == 0 or step == training.steps
            rate = learning_rate(step, training)
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                terms = compute_gradients(accelerator, model, state.objective, micro_batches, gradient_ratio=logged)
                norm = accelerator.clip_grad_norm_(state.denoiser.parameters(), training.clip_norm or float("inf"))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                state.end_step([{**values, "gradient_norm": norm} for values in terms], accelerator.gather)
            except NonFiniteLoss as error:
                raise diverged(step, error.term) from error
            recorder.end_step()

            # An ordinary step ends here; the device is waited for only where something is written.
            ending = how_it_ends(accelerator, state, training, signals, agreeing=logged)
            if logged or ending == "time_budget":
                recorder.log(rate)
            if ending or is_saved(step, training):
                recorder.save()
            if training.sample_every is not None and step % training.sample_every == 0:
                recorder.preview()
            if ending:
                break
        recorder.finish(ending)
    accelerator.wait_for_everyone()
    if ending not in COMPLETE:
        raise TrainingInterrupted(128 + signal.Signals[ending])


def compute_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    objective: Objective,
    micro_batches: list[TrainingBatch],
    gradient_ratio: bool,
) -> list[Terms]:
    """Forward and backward over a step's batches; the gradients are of the mean of their losses.

    Returns:
        The terms of each batch.
    """
    terms = []
    for number, batch in enumerate(micro_batches, start=1):
        # Processes exchange gradients once a step, in the last backward pass.
        exchange = contextlib.nullcontext() if number == len(micro_batches) else accelerator.no_sync(model)
        with exchange:
            loss, values = objective(model, batch.to(accelerator.device), gradient_ratio)
            accelerator.backward(loss / len(micro_batches))
        terms.append(values)
    return terms


def how_it_ends(
    accelerator: Accelerator, state: TrainingState, training: TrainingConfig, signals: StopSignals, agreeing: bool
) -> str:
    """Why training ends after this step: "steps", "time_budget", a signal's name, or "" where it goes on.

    Several processes must agree lest one wait for the others, and do so only where `agreeing`: on logged steps.
    """
    if state.step >= training.steps:
        return "steps"
    votes = [(state.clock.seconds, signals.received)]
    if accelerator.num_processes > 1:
        votes = gather_object(votes) if agreeing else [(0.0, 0)]
    received = max(vote[1] for vote in votes)
    if received:
        return signal.Signals(received).name
    # The first process's clock decides, because it is the one that checkpoints record.
    return "time_budget" if training.time_budget is not None and votes[0][0] >= training.time_budget else ""


def is_saved(step: int, training: TrainingConfig) -> bool:
    """Whether a checkpoint is written after this step."""
    return any(every is not None and step % every == 0 for every in (training.checkpoint_every, training.keep_every))


def ending_of(checkpoint: Path, training: TrainingConfig) -> str:
    """How a run ended with this checkpoint: "steps", "time_budget", or "" where it goes on from there."""
    state = read_state(checkpoint)
    if state["step"] >= training.steps:
        return "steps"
    return "time_budget" if training.time_budget is not None and state["seconds"] >= training.time_budget else ""


def _figures(checkpoint: Path) -> dict[str, Any]:
    """What run.json says of a run that ended with this checkpoint."""
    state = read_state(checkpoint)
    return {
        "name": state["recipe"]["name"],
        "step": state["step"],
        "seconds": round(state["seconds"], 3),
        "images": state["images"],
    }
