from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from lpl.data.order import batch_indices, epoch_order, seeded_generator


@given(length=st.integers(1, 60), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_an_epoch_is_a_permutation(length: int, seed: int, epoch: int):
    order = epoch_order(length, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(length))
    assert torch.equal(order, epoch_order(length, seed, epoch))


@given(
    length=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_all_ranks_together_walk_through_the_epochs(length: int, batch_size: int, world_size: int, seed: int):
    steps = 2 + 3 * length // (batch_size * world_size)
    walked = torch.cat(
        [
            batch_indices(length, batch_size, seed, step, rank, world_size)
            for step in range(steps)
            for rank in range(world_size)
        ]
    )
    epochs = len(walked) // length
    assert epochs >= 3
    for epoch in range(epochs):
        assert torch.equal(walked[epoch * length : (epoch + 1) * length], epoch_order(length, seed, epoch))


def test_a_batch_may_span_several_epochs():
    indices = batch_indices(3, 10, seed=0, step=0)
    assert np.bincount(indices).min() >= 3


def test_orders_of_seeds_and_epochs_differ():
    orders = {tuple(epoch_order(20, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_first_sample_is_uniform_over_seeds():
    counts = np.bincount([int(epoch_order(8, seed, 0)[0]) for seed in range(2000)], minlength=8)
    assert ((counts - 250) ** 2 / 250).sum() < chi2.ppf(0.999, 7)


def test_changing_a_returned_order_changes_no_other():
    order = epoch_order(10, 1, 2)
    kept = order.clone()
    order.zero_()
    assert torch.equal(epoch_order(10, 1, 2), kept)


def test_generators_differ_by_every_word_and_by_their_number():
    words = [(0,), (0, 0), (0, 0, 0), (1, 0), (0, 1), (2**40,), (7, 2**40)]
    draws = {float(torch.rand((), generator=seeded_generator(*w), dtype=torch.float64)) for w in words}
    assert len(draws) == len(words)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epoch_order(0, 0, 0), "length: got 0"),
        (lambda: epoch_order(3, 0, -1), "non-negative"),
        (lambda: batch_indices(3, 0, 0, 0), "batch_size: got 0"),
        (lambda: batch_indices(3, 1, 0, -1), "step, rank: got -1, 0"),
        (lambda: batch_indices(3, 1, 0, 0, rank=2, world_size=2), "rank from 0 to 1"),
        (seeded_generator, "one or more"),
    ],
)
def test_arguments_out_of_range_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
