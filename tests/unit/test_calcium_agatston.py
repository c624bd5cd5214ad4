"""Reference scores: cases by hand, and the references of the real series."""

from __future__ import annotations

import numpy as np
import pytest

from calcium.agatston import credit_map, score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume


def scan(shape=(6, 10, 10), spacing=(1.5, 0.5, 0.5), fill=40):
    return np.full(shape, fill, np.int16), VolumeGeometry((0.0, 0.0, 0.0), spacing, shape)


def score(hu, geometry, mask=None, labels=None):
    return score_mask(
        CTVolume(hu.copy(), geometry, 3.0), np.ones(hu.shape, bool) if mask is None else mask, labels
    )


@pytest.mark.parametrize(
    ("peak", "weight"), [(130, 1), (199, 1), (200, 2), (299, 2), (300, 3), (399, 3), (400, 4), (2000, 4)]
)
def test_weight_comes_from_the_maximum_of_the_lesion_in_the_slice(peak, weight):
    hu, geometry = scan()
    hu[2, 3, 3:7] = 130
    hu[2, 3, 4] = peak
    found = score(hu, geometry)
    # 4 voxels of 0.25 mm2; 1.5 mm slices: half of the slice score counts
    assert found.slice_agatston.tolist() == pytest.approx([0, 0, 4 * 0.25 * weight, 0, 0, 0])
    assert found.agatston == pytest.approx(4 * 0.25 * weight / 2)
    assert found.volume_mm3 == pytest.approx(4 * 0.375)


def test_the_weight_of_one_slice_does_not_reach_the_next():
    hu, geometry = scan()
    hu[2, 3, 3:5] = 450
    hu[3, 3, 3:5] = 150
    found = score(hu, geometry)
    assert found.slice_agatston.tolist() == pytest.approx([0, 0, 2.0, 0.5, 0, 0])
    assert found.slice_volume.tolist() == pytest.approx([0, 0, 0.75, 0.75, 0, 0])
    (lesion,) = found.lesions
    assert lesion.maximum_hu == 450
    assert lesion.agatston == pytest.approx(found.agatston) == pytest.approx(2.5 / 2)
    assert lesion.centroid_mm == pytest.approx((1.75, 1.5, 3.75))


def test_two_lesions_of_one_slice_keep_their_own_weights():
    hu, geometry = scan()
    hu[2, 1, 1:5] = 150
    hu[2, 5, 1:5] = 420
    found = score(hu, geometry)
    assert found.slice_agatston[2] == pytest.approx(1.0 + 4.0)
    assert [lesion.maximum_hu for lesion in found.lesions] == [420, 150]


def test_lesions_hold_together_over_corners():
    hu, geometry = scan()
    for step in range(4):  # a staircase over corners: one lesion of exactly 1.5 mm3
        hu[step, step, step] = 200
    assert len(score(hu, geometry).lesions) == 1
    hu[1, 1, 1] = 40
    assert score(hu, geometry).lesions == ()  # pieces of 0.375 and 0.75 mm3


@pytest.mark.parametrize(("voxels", "counts"), [(3, False), (4, True)])
def test_lesions_below_1_5_mm3_do_not_count(voxels, counts):
    hu, geometry = scan()
    hu[2, 3, 3 : 3 + voxels] = 1000
    assert bool(score(hu, geometry).agatston) is counts


def test_a_volume_of_exactly_1_5_mm3_counts_in_spite_of_rounding():
    hu, geometry = scan(spacing=(1.5, 0.1**0.5, 0.1**0.5))
    hu[2, 3, :10] = 200
    assert score(hu, geometry).volume_mm3 == pytest.approx(1.5)


def test_129_hu_is_no_calcium_and_the_mask_decides():
    hu, geometry = scan()
    hu[2] = 129
    hu[3, 2:6, 2:6] = 200
    mask = np.zeros(hu.shape, np.uint8)
    mask[2:4, 2:6, 2:4] = 3
    mask[2:4, 2:6, 4:6] = 7
    assert score(hu, geometry, mask).volume_mm3 == pytest.approx(16 * 0.375)
    assert score(hu, geometry, mask, (3,)).volume_mm3 == pytest.approx(8 * 0.375)
    assert score(hu, geometry, mask, (1, 2)).agatston == 0


def test_contiguous_slices_count_in_full():
    hu, geometry = scan(spacing=(3.0, 0.5, 0.5))
    hu[2, 3, 3:7] = 300
    assert score(hu, geometry).agatston == pytest.approx(3.0)


def test_nothing():
    hu, geometry = scan()
    found = score(hu, geometry)
    assert (found.agatston, found.volume_mm3, found.lesions) == (0, 0, ())
    assert found.slice_agatston.shape == (6,)


def test_another_shape_is_refused():
    hu, geometry = scan()
    with pytest.raises(ValueError, match="shape"):
        score(hu, geometry, np.ones((1, 1, 1), bool))


def test_credit_adds_up_to_the_classical_score():
    rng = np.random.default_rng(3)
    hu, geometry = scan((8, 30, 30))
    hu[...] = rng.integers(0, 500, hu.shape) * (rng.random(hu.shape) < 0.1)
    volume = CTVolume(hu, geometry, 3.0)
    credit, found = credit_map(volume), score(hu, geometry)
    assert credit.dtype == np.float32
    assert credit.sum(axis=(1, 2)) == pytest.approx(found.slice_agatston, rel=1e-5)
    assert not credit[hu < 130].any()


def test_credit_of_a_box_is_the_score_of_its_inside():
    rng = np.random.default_rng(4)
    hu, geometry = scan((8, 30, 30))
    hu[...] = rng.integers(0, 500, hu.shape) * (rng.random(hu.shape) < 0.2)
    box = BoxMm((3.0, 2.0, 3.0), (9.0, 8.0, 9.0))
    inside = np.zeros(hu.shape, bool)
    inside[2:7, 4:17, 6:19] = True
    credit = credit_map(CTVolume(hu.copy(), geometry, 3.0), box)
    assert credit.sum(axis=(1, 2)) == pytest.approx(score(hu, geometry, inside).slice_agatston, rel=1e-5)
