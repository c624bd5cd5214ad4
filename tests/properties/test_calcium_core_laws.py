"""Laws of the reference method and of resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calcium.agatston import credit_map, score_mask
from calcium.geometry import VolumeGeometry
from calcium.resample import overlap_weights, resample
from calcium.volume import CTVolume

SHAPE = (7, 8, 9)
SPACING = (1.5, 0.6, 0.7)
SPARSE = arrays.arrays(
    np.int16, SHAPE, elements=st.sampled_from([40, 40, 40, 40, 129, 130, 199, 200, 300, 450])
)
MASKS = arrays.arrays(np.bool_, SHAPE)


def score(hu, mask, spacing=SPACING):
    return score_mask(CTVolume(hu.copy(), VolumeGeometry((0.0, 0.0, 0.0), spacing, hu.shape), 3.0), mask)


@given(SPARSE, MASKS)
@settings(max_examples=60, deadline=None)
def test_flips_turns_and_shifts_change_no_total(hu, mask):
    total = score(hu, mask)
    for axis in range(3):
        turned = score(np.flip(hu, axis), np.flip(mask, axis))
        assert turned.agatston == pytest.approx(total.agatston)
        assert turned.volume_mm3 == pytest.approx(total.volume_mm3)
        assert len(turned.lesions) == len(total.lesions)
    assert score(np.flip(hu, 0), np.flip(mask, 0)).slice_agatston == pytest.approx(total.slice_agatston[::-1])
    padded = [np.pad(array, ((2, 1), (3, 0), (0, 4))) for array in (hu, mask)]
    assert score(*padded).agatston == pytest.approx(total.agatston)
    swapped = score(hu.transpose(0, 2, 1), mask.transpose(0, 2, 1), (1.5, 0.7, 0.6))
    assert swapped.agatston == pytest.approx(total.agatston)


@given(SPARSE, MASKS)
@settings(max_examples=60, deadline=None)
def test_the_total_is_the_sum_of_slices_and_of_lesions(hu, mask):
    found = score(hu, mask)
    assert found.agatston == pytest.approx(found.slice_agatston.sum() * 1.5 / 3.0)
    assert found.agatston == pytest.approx(sum(lesion.agatston for lesion in found.lesions))
    assert found.volume_mm3 == pytest.approx(found.slice_volume.sum())
    assert found.volume_mm3 == pytest.approx(sum(lesion.volume_mm3 for lesion in found.lesions))
    assert all(lesion.volume_mm3 >= 1.5 - 1e-6 for lesion in found.lesions)


@given(SPARSE, MASKS)
@settings(max_examples=60, deadline=None)
def test_a_part_of_the_mask_never_exceeds_the_classical_bound(hu, mask):
    volume = CTVolume(hu.copy(), VolumeGeometry((0.0, 0.0, 0.0), SPACING, SHAPE), 3.0)
    bound = credit_map(volume).sum(axis=(1, 2))
    assert (score(hu, mask).slice_agatston <= bound * (1 + 1e-5) + 1e-6).all()


@given(SPARSE)
@settings(max_examples=40, deadline=None)
def test_slabs_that_no_lesion_crosses_add_up(hu):
    hu = hu.copy()
    hu[3] = 0
    everything = np.ones(SHAPE, bool)
    parts = [score(part, np.ones(part.shape, bool)).agatston for part in (hu[:3], hu[4:])]
    assert score(hu, everything).agatston == pytest.approx(sum(parts))


GRIDS = st.tuples(
    st.integers(8, 60),
    st.floats(0.5, 3.0).map(lambda v: round(v, 2)),
    st.floats(0.6, 5.0).map(lambda v: round(v, 2)),
)


@given(GRIDS)
@settings(max_examples=150, deadline=None)
def test_weights_add_up_to_one_and_are_symmetric_for_a_symmetric_scan(grid):
    slices, increment, thickness = grid
    extent = thickness + increment * (slices - 1)
    if extent < 3:
        return
    weights = overlap_weights(VolumeGeometry((0, 0, 0), (increment, 1, 1), (slices, 1, 1)), thickness)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights >= 0).all()
    assert 3.0 + 1.5 * (len(weights) - 1) <= extent + 0.01 < 3.0 + 1.5 * len(weights) + 0.02


@given(GRIDS, st.integers(-1000, 3000))
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_and_means_stay_between_the_extremes(grid, value):
    slices, increment, thickness = grid
    if thickness + increment * (slices - 1) < 3:
        return
    rng = np.random.default_rng(abs(value))
    hu = np.full((slices, 2, 2), value, np.int16)
    hu[:, 1] = rng.integers(-1000, 1000, (slices, 2))
    found = resample(CTVolume(hu, VolumeGeometry((0, 0, 0), (increment, 1, 1), hu.shape), thickness))
    assert (found.hu[:, 0] == value).all()
    assert (found.hu[:, 1].max(axis=0) <= hu[:, 1].max(axis=0)).all()
    assert (found.hu[:, 1].min(axis=0) >= hu[:, 1].min(axis=0)).all()


@given(arrays.arrays(np.int16, (9, 3, 3), elements=st.integers(-1000, 2000)))
@settings(max_examples=60, deadline=None)
def test_resampling_what_is_resampled_is_the_identity_on_every_other_slice(hu):
    scan = CTVolume(hu.copy(), VolumeGeometry((0, 0, 5.0), (3.0, 1, 1), hu.shape), 3.0)
    found = resample(scan)
    assert np.array_equal(found.hu[::2], hu)
    assert found.geometry.origin_mm == scan.geometry.origin_mm
