"""Lesions that are not certain, or too small, do not count."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.lesions import certain_lesions

WEIGHTS = arrays(np.float32, (3, 5, 5), elements=st.floats(0, 1, width=32))


def _lesion(shape: tuple[int, int, int], *voxels: tuple[tuple[int, int, int], float]):
    weights = np.zeros(shape, np.float32)
    for place, weight in voxels:
        weights[place] = weight
    return weights


def test_a_lesion_counts_whole_where_one_voxel_is_certain():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.6), ((1, 1, 2), 0.95), ((1, 2, 2), 0.55), ((1, 6, 6), 0.8))
    credit = np.ones_like(weights)
    found = certain_lesions(weights, credit, 0.8, 0.9)
    assert found[1, 1, 1] == weights[1, 1, 1]
    assert found[1, 2, 2] == weights[1, 2, 2]
    assert found[1, 6, 6] == 0, "nothing in this lesion reaches 0.9"


def test_a_lesion_below_the_least_volume_does_not_count():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.99), ((1, 1, 2), 0.99))
    credit = np.ones_like(weights)
    assert not certain_lesions(weights, credit, 0.7, 0.9).any(), "1.4 mm3"
    assert certain_lesions(weights, credit, 0.75, 0.9).sum() > 1.9, "1.5 mm3"


def test_voxels_without_credit_do_not_join_lesions():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.6), ((1, 1, 2), 0.6), ((1, 1, 3), 0.9), ((1, 1, 4), 0.99))
    credit = np.ones_like(weights)
    credit[1, 1, 3] = 0
    found = certain_lesions(weights, credit, 2.0, 0.9)
    assert not found[1, 1, 1:4].any()
    assert found[1, 1, 4] > 0.98


@given(WEIGHTS, st.floats(0.5, 1))
def test_nothing_grows_and_more_certainty_never_adds(weights, certain):
    credit = (weights > 0.2).astype(np.float32)
    some = certain_lesions(weights, credit, 1.0, certain)
    assert ((some == 0) | (some == weights)).all()
    fewer = certain_lesions(weights, credit, 1.0, min(1.0, certain + 0.1))
    assert (fewer <= some).all()
    assert certain_lesions(weights, credit, 1.0, 0.0) is weights
