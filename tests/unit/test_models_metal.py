"""Metal gets no credit: clips, wires and leads are not calcium; the densest plaques are."""

from __future__ import annotations

import numpy as np
import pytest

from calcium.heart_checks import METAL_HU
from models.lesions import without_metal


@pytest.fixture
def scene():
    """A dense plaque and a clip: HU, credit, and where each lies."""
    hu = np.full((12, 64, 64), 40, np.int16)
    plaque, clip = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool)
    plaque[4:7, 20:24, 20:24] = True
    clip[4:7, 40:46, 40:46] = True
    hu[plaque | clip] = 400
    hu[5, 22, 22] = hu[5, 42, 42] = METAL_HU
    return hu, np.where(hu >= 130, hu / 100, 0).astype(np.float32), plaque, clip


def test_a_component_that_reaches_metal_counts_only_where_most_of_it_looks_coronary(scene):
    hu, credit, plaque, clip = scene
    weights = np.where(plaque, 0.9, 0).astype(np.float32)
    weights[4, 40:46, 40:46] = 0.8  # the light around a clip, in one of its slices
    found = without_metal(weights, credit, hu)
    assert np.array_equal(found[plaque], weights[plaque])
    assert not found[clip].any()


def test_below_metal_nothing_changes(scene):
    hu, credit, _, _ = scene
    weights = np.where(credit > 0, 0.3, 0).astype(np.float32)
    assert np.array_equal(without_metal(weights, credit, np.minimum(hu, METAL_HU - 1)), weights)


def test_metal_without_credit_does_not_matter(scene):
    hu, credit, plaque, clip = scene
    hu[plaque] = 400
    credit[clip] = 0
    weights = np.where(plaque, 0.3, 0).astype(np.float32)
    assert np.array_equal(without_metal(weights, credit, hu), weights)
