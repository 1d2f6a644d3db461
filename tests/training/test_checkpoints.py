"""Checkpoints: whole or not at all, damage noticed, weights of another model refused."""

from __future__ import annotations

import json
import logging
import os
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lpl.training.checkpoints import (
    CheckpointError,
    complete_checkpoints,
    flatten_optimizer,
    initialize,
    latest_checkpoint,
    load_weights,
    read_state,
    resolve_checkpoint,
    restore_optimizer,
    save_checkpoint,
)


class Model(nn.Module):
    """A parameter, and a buffer named as positional embeddings are."""

    def __init__(self, width=3, positions=4):
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.embed = nn.Module()
        self.embed.register_buffer("pos_embed", torch.arange(float(positions)))


def _save(folder, step, keep=3, value=None):
    tensors = {"model": {"w": torch.full((500,), float(step if value is None else value))}, "ema": {}}
    return save_checkpoint(folder, step, tensors, {"seconds": 1.5}, keep)


def test_saved_tensors_and_state_come_back(tmp_path):
    path = _save(tmp_path, 1000)
    assert path == tmp_path / "step-00001000"
    assert torch.equal(load_weights(path, "raw")["w"], torch.full((500,), 1000.0))
    state = read_state(path)
    assert (state["step"], state["seconds"]) == (1000, 1.5)
    assert sorted(entry.name for entry in path.iterdir()) == ["model.safetensors", "state.json"]


def test_the_newest_are_kept_and_leftovers_of_a_killed_write_removed(tmp_path):
    (tmp_path / ".incomplete-step-00000004").mkdir()
    for step in (1, 2, 3, 4):
        _save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def _truncate(path):
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(100)


def _flip_a_byte(path):
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


DAMAGE = {
    "model.safetensors has 100 bytes": _truncate,
    "model.safetensors is missing": lambda path: (path / "model.safetensors").unlink(),
    "model.safetensors is damaged": _flip_a_byte,
    "state.json is missing": lambda path: (path / "state.json").unlink(),
    "state.json is damaged": lambda path: (path / "state.json").write_text("{", encoding="utf-8"),
    "not of format": lambda path: (path / "state.json").write_text('{"format": 99}', encoding="utf-8"),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_damage_is_refused_by_name_and_the_one_before_is_taken_in_its_place(tmp_path, caplog, reason):
    folder = tmp_path / "checkpoints"
    _save(folder, 1)
    newest = _save(folder, 2)
    DAMAGE[reason](newest)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(folder) == folder / "step-00000001"
    assert reason in caplog.text
    assert str(newest) in caplog.text
    with pytest.raises(CheckpointError, match=reason):
        resolve_checkpoint(newest)
    assert resolve_checkpoint(tmp_path) == folder / "step-00000001"


def test_resolving_explains_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no averaged weights yet"):
        load_weights(_save(tmp_path, 1), "ema")
    with pytest.raises(ValueError, match="weights: got 'average'"):
        load_weights(tmp_path, "average")


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    _flip_a_byte(_save(tmp_path, 5))
    _save(tmp_path, 5, value=7)
    assert float(load_weights(latest_checkpoint(tmp_path), "raw")["w"][0]) == 7


def test_a_damaged_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path):
    _save(tmp_path, 100)
    _flip_a_byte(_save(tmp_path, 200))
    newest = _save(tmp_path, 137, keep=1)
    assert latest_checkpoint(tmp_path) == newest
    assert not (tmp_path / "step-00000100").exists()
    _save(tmp_path, 200, keep=1, value=7)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000200"]
    assert float(load_weights(latest_checkpoint(tmp_path), "raw")["w"][0]) == 7


def test_checkpoints_of_which_none_can_be_used_are_no_new_beginning(tmp_path):
    folder = tmp_path / "checkpoints"
    assert latest_checkpoint(folder) is None
    _flip_a_byte(_save(folder, 1))
    (_save(folder, 2) / "state.json").write_text('{"format": 2}', encoding="utf-8")
    both = (
        r"00002: state.json is not of format 1.*00001: model.safetensors is damaged.*delete this folder or give another"
    )
    for look in (lambda: latest_checkpoint(folder), lambda: resolve_checkpoint(tmp_path)):
        with pytest.raises(CheckpointError, match=both):
            look()


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = _save(tmp_path / "run" / "checkpoints", 1)
    assert resolve_checkpoint("~/run") == resolve_checkpoint("~/run/checkpoints/step-00000001") == path


def _write_for_ever(folder):
    torch.set_num_threads(1)
    for step in range(1, 1_000_000):
        tensors = {name: {"w": torch.full((200_000,), float(step))} for name in ("model", "ema", "optimizer")}
        save_checkpoint(folder, step, tensors, {}, keep=2)


def test_a_writer_killed_at_any_moment_leaves_only_whole_checkpoints(tmp_path, forks):
    for attempt, delay in enumerate((0.0, 0.013, 0.11, 0.24)):
        folder = tmp_path / str(attempt)
        writer = forks.Process(target=_write_for_ever, args=(folder,))
        writer.start()
        while not list(folder.glob("step-*")):
            time.sleep(0.001)
        time.sleep(delay)
        writer.kill()
        writer.join()
        named = sorted(folder.glob("step-*"))
        assert complete_checkpoints(folder) == named
        assert named
        for path in named:
            files = [load_file(path / f"{name}.safetensors")["w"] for name in ("model", "ema", "optimizer")]
            step = json.loads((path / "state.json").read_text())["step"]
            assert all(torch.equal(tensor, torch.full((200_000,), float(step))) for tensor in files)


def test_initialization_takes_everything_but_positional_embeddings():
    source, model = Model(positions=4), Model(positions=9)
    initialize(model, source.state_dict(), "run")
    assert torch.equal(model.linear.weight, source.linear.weight)
    assert model.embed.pos_embed.tolist() == list(range(9))


def test_weights_of_another_model_are_listed_with_their_shapes():
    weights = Model(width=5).state_dict()
    weights["extra.bias"] = torch.zeros(2)
    del weights["linear.bias"]
    model = Model()
    before = model.linear.weight.clone()
    expected = (
        r"runs/a: .*linear\.bias is missing.*extra\.bias \(2,\) has no place.*"
        r"linear\.weight has shape \(2, 5\), the model takes \(2, 3\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        initialize(model, weights, "runs/a")
    assert torch.equal(model.linear.weight, before)


def _train(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        model.linear(torch.full((1, 3), float(step + 1))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_optimizer_continues_bit_for_bit_from_its_flat_state(tmp_path, fused):
    torch.manual_seed(0)
    whole = Model()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1, fused=fused)
    _train(whole, optimizer, 3)
    saved = {"model": whole.state_dict(), "optimizer": flatten_optimizer(optimizer, whole)}
    path = save_checkpoint(tmp_path, 3, saved, {}, keep=1)
    _train(whole, optimizer, 2)

    resumed = Model()
    resumed.load_state_dict(load_weights(path, "raw"))
    other = torch.optim.AdamW(resumed.parameters(), lr=0.1, fused=fused)
    restore_optimizer(other, resumed, load_file(path / "optimizer.safetensors"))
    _train(resumed, other, 2)
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
    assert torch.equal(resumed.linear.bias, whole.linear.bias)


def test_optimizer_state_of_another_model_is_refused():
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(CheckpointError, match=r"exp_avg/other\.weight"):
        restore_optimizer(optimizer, model, {"exp_avg/other.weight": torch.zeros(1)})
