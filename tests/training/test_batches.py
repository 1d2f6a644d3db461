"""Batches depend on the seed and the step alone."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from lpl.autoencoders import load_autoencoder
from lpl.data import build_latent_cache, seeded_generator
from lpl.denoisers import ClassConditionalMMDiT
from lpl.diffusion import FlowOT
from lpl.training.batches import BatchSource, prefetched


@pytest.fixture
def source(tiny_recipe, tiny_autoencoder):
    cache = build_latent_cache(tiny_recipe().data, load_autoencoder(tiny_autoencoder), 4, progress=False)
    denoiser = ClassConditionalMMDiT(4, 2, preset="T", patch_size=4, latent_size=8, label_dropout=0.4)
    return BatchSource(cache=cache, path=FlowOT(), denoiser=denoiser, seed=3, batch_size=5)


def _equal(first, second):
    same = all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())
    return same and first.seed == second.seed


def test_a_step_is_the_same_whenever_it_is_asked_for(source):
    earlier = [source.step(step)[0] for step in (1, 2, 3)]
    assert _equal(source.step(3)[0], earlier[2])
    assert _equal(source.step(1)[0], earlier[0])
    assert not torch.equal(earlier[0].noise, earlier[1].noise)
    assert not torch.equal(earlier[0].noise, replace(source, seed=4).step(1)[0].noise)


def test_two_processes_see_what_one_process_accumulates(source):
    alone = replace(source, accumulation=4).step(2)
    first, second = (replace(source, accumulation=2, rank=rank, processes=2).step(2) for rank in range(2))
    assert all(_equal(one, other) for one, other in zip(alone, [first[0], second[0], first[1], second[1]], strict=True))


class Numbered:
    """A cache whose latents say which they are."""

    labels = torch.zeros(12, dtype=torch.long)

    def __len__(self):
        return 12

    def latents(self, indices, flips, generator):
        return indices.float().reshape(-1, 1, 1, 1).expand(-1, 4, 8, 8)


def test_an_epoch_takes_every_sample_once(source):
    numbered = replace(source, cache=Numbered(), batch_size=2, accumulation=2, processes=3)
    ranks = [replace(numbered, rank=rank) for rank in range(3)]
    taken = [int(value) for one in ranks for batch in one.step(5) for value in batch.clean[:, 0, 0, 0]]
    assert sorted(taken) == list(range(12))
    assert taken != list(range(12))


def test_half_of_the_samples_are_mirrored_and_labels_dropped(source):
    batch = replace(source, batch_size=600).batch(1, 0)
    dropped = (batch.labels == source.denoiser.null_label).float().mean().item()
    assert dropped == pytest.approx(0.4, abs=0.08)
    flips = (torch.rand(600, generator=seeded_generator(source.seed, 1, 0)) < 0.5).float().mean().item()
    assert flips == pytest.approx(0.5, abs=0.08)
    plain = replace(source, batch_size=600, flip=False).batch(1, 0)
    changed = (plain.clean != batch.clean).flatten(1).any(dim=1).float().mean().item()
    assert changed == pytest.approx(flips, abs=1e-6)
    assert torch.equal(plain.noise, batch.noise)


def test_noise_and_times_follow_their_distributions(source):
    batch = replace(source, batch_size=600).batch(7, 0)
    assert batch.noise.std().item() == pytest.approx(1, abs=0.02)
    assert torch.logit(batch.timesteps).mean().item() == pytest.approx(0, abs=0.15)


def test_prefetching_keeps_the_order_and_stays_one_ahead():
    made, threads, ahead = [], set(), threading.Event()

    def make(number):
        made.append(number)
        threads.add(threading.current_thread())
        if number == 3:
            ahead.set()
        return number * 10

    seen = []
    for number, item in prefetched(make, 2, 6):
        if number == 2:
            assert ahead.wait(5)  # made while 2 is in use
            assert 4 not in made
        seen.append((number, item))
    assert seen == [(n, 10 * n) for n in range(2, 7)]
    assert made == [2, 3, 4, 5, 6]
    assert threading.main_thread() not in threads


def test_prefetching_passes_errors_on_and_takes_an_empty_range():
    def make(number):
        if number == 2:
            raise OSError("the disk is gone")
        return number

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetched(make, 1, 3))
    assert list(prefetched(make, 4, 3)) == []
