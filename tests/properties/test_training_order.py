"""The order in which the paper's networks see slices: random, or half of each batch with calcium."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from models.training.regressor_training import order_of

SLICES = st.lists(st.booleans(), min_size=4, max_size=200).map(np.array)
BATCHES = st.integers(2, 20)


@given(SLICES, BATCHES, st.integers(0, 9))
def test_the_papers_order_shows_every_slice_once(calcified, batch, seed):
    order = order_of(calcified, batch, np.random.default_rng(seed), balanced=False)
    assert sorted(order) == list(range(len(calcified)))


@given(SLICES, BATCHES, st.integers(0, 9))
def test_half_of_each_balanced_batch_has_calcium(calcified, batch, seed):
    assume(0 < calcified.sum() < len(calcified) and len(calcified) >= batch)
    steps = len(calcified) // batch
    order = order_of(calcified, batch, np.random.default_rng(seed), balanced=True)
    assert len(order) == steps * batch
    assert np.all(calcified[order.reshape(steps, batch)].sum(axis=1) == batch // 2)


@given(SLICES, BATCHES, st.integers(0, 9))
def test_balanced_slices_are_repeated_evenly(calcified, batch, seed):
    assume(0 < calcified.sum() < len(calcified) and len(calcified) >= batch)
    times = np.bincount(
        order_of(calcified, batch, np.random.default_rng(seed), balanced=True), minlength=len(calcified)
    )
    for kind in (calcified, ~calcified):
        assert times[kind].max() - times[kind].min() <= 1


@given(st.booleans(), BATCHES)
def test_slices_of_one_kind_are_all_shown(calcium, batch):
    order = order_of(np.full(30, calcium), batch, np.random.default_rng(0), balanced=True)
    assert sorted(order) == list(range(30))


@given(SLICES, BATCHES, st.booleans())
def test_the_order_is_that_of_its_seed(calcified, batch, balanced):
    one, same, other = (
        order_of(calcified, batch, np.random.default_rng(seed), balanced=balanced) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert len(calcified) < 20 or not np.array_equal(one, other)
