"""Lesions that are not certain, too small, or the edge of something larger do not count."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from models.lesions import certain_lesions

WEIGHTS = arrays(np.float32, (3, 5, 5), elements=st.floats(0, 1, width=32))


def _lesion(shape: tuple[int, int, int], *voxels: tuple[tuple[int, int, int], float]):
    weights = np.zeros(shape, np.float32)
    for place, weight in voxels:
        weights[place] = weight
    return weights


def test_a_lesion_counts_whole_where_one_voxel_is_certain():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.6), ((1, 1, 2), 0.95), ((1, 2, 2), 0.55), ((1, 6, 6), 0.8))
    credit = (weights > 0).astype(np.float32)
    found = certain_lesions(weights, credit, 0.8, 0.9)
    assert found[1, 1, 1] == found[1, 1, 2] == found[1, 2, 2] == 1
    assert found[1, 6, 6] == 0, "nothing in this lesion reaches 0.9"


def test_a_lesion_below_the_least_volume_does_not_count():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.99), ((1, 1, 2), 0.99))
    credit = (weights > 0).astype(np.float32)
    assert not certain_lesions(weights, credit, 0.7, 0.9).any(), "1.4 mm3"
    assert certain_lesions(weights, credit, 0.75, 0.9).sum() > 1.9, "1.5 mm3"


def test_voxels_without_credit_do_not_join_lesions():
    weights = _lesion((3, 9, 9), ((1, 1, 1), 0.6), ((1, 1, 2), 0.6), ((1, 1, 3), 0.9), ((1, 1, 4), 0.99))
    credit = (weights > 0).astype(np.float32)
    credit[1, 1, 3] = 0
    found = certain_lesions(weights, credit, 2.0, 0.9)
    assert not found[1, 1, 1:4].any()
    assert found[1, 1, 4] > 0.98


def _bar(length: int):
    """Return credit of a bar of 4 x 3 x `length` voxels, and weights of its first two voxels along it."""
    credit = np.zeros((6, 6, 30), np.float32)
    credit[1:5, 1:4, 1 : 1 + length] = 1
    weights = np.zeros_like(credit)
    weights[1:5, 1:4, 1:3] = 0.99
    return weights, credit


def test_the_edge_of_something_larger_does_not_count():
    weights, credit = _bar(2)
    assert (certain_lesions(weights, credit, 1.0, 0.9) == credit).all(), "stands alone"
    weights, credit = _bar(20)
    assert not certain_lesions(weights, credit, 1.0, 0.9).any(), "12 voxels adjoin 24"
    weights[1:5, 1:4, 3:5] = 0.99
    assert (certain_lesions(weights, credit, 1.0, 0.9) == weights).all(), "12 voxels adjoin 48"


def test_a_plaque_that_something_larger_just_touches_counts():
    weights, credit = _bar(2)
    credit[2, 2, 3:30] = 1
    assert (certain_lesions(weights, credit, 1.0, 0.9) == weights).all()


def test_a_component_counts_as_a_whole_where_certain_lesions_have_half_of_its_credit():
    weights, credit = _bar(4)
    weights[weights > 0] = 1
    assert (certain_lesions(weights, credit, 1.0, 0.9) == credit).all(), "half"
    credit[1, 1, 4] = 1.01
    assert (certain_lesions(weights, credit, 1.0, 0.9) == weights).all(), "less than half"
    weights[1:5, 1:4, 3] = 0.8
    assert (certain_lesions(weights, credit, 1.0, 0.9) == (credit > 0)).all(), "its edge belongs to it"


def test_a_lesion_is_an_edge_only_where_certain_lesions_have_less_than_a_quarter():
    weights, credit = _bar(8)
    weights[weights > 0] = 1
    assert (certain_lesions(weights, credit, 1.0, 0.9) == weights).all(), "a quarter"
    credit[1, 1, 8] = 1.01
    assert not certain_lesions(weights, credit, 1.0, 0.9).any(), "less, and 12 voxels adjoin 24"
    weights[1:5, 1:4, 8] = 1
    assert (certain_lesions(weights, credit, 1.0, 0.9) == weights).all(), "two lesions have more than a quarter"


def test_what_is_not_certain_does_not_make_a_component_count():
    weights, credit = _bar(4)
    weights[weights > 0] = 0.8
    assert not certain_lesions(weights, credit, 1.0, 0.9).any()


@given(WEIGHTS, arrays(np.float32, (3, 5, 5), elements=st.sampled_from([0, 0, 1, 3])), st.floats(0.5, 1))
def test_each_component_is_judged_by_itself(weights, credit, certain):
    found = certain_lesions(weights, credit, 1.0, certain)
    components, count = ndimage.label(credit > 0, np.ones((3, 3, 3)))
    assert not found[components == 0].any()
    for number in range(1, count + 1):
        one = components == number
        alone = certain_lesions(weights, np.where(one, credit, np.float32(0)), 1.0, certain)
        assert (alone == np.where(one, found, np.float32(0))).all()
        if not (found[one] == 1).all():
            assert ((found[one] == 0) | (found[one] == weights[one])).all(), "a part counts as it was weighed"
            assert (found * credit)[one].sum() < 0.5 * credit[one].sum()


@given(WEIGHTS, st.floats(0.5, 1))
def test_more_certainty_never_adds(weights, certain):
    credit = (weights > 0.2).astype(np.float32)
    some = certain_lesions(weights, credit, 1.0, certain)
    fewer = certain_lesions(weights, credit, 1.0, min(1.0, certain + 0.1))
    assert (fewer <= some).all()
    assert certain_lesions(weights, credit, 1.0, 0.0) is weights
