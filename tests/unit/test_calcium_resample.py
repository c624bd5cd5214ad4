"""Resampling to 3.0 mm every 1.5 mm: cases by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from calcium.geometry import VolumeGeometry
from calcium.resample import overlap_weights, resample, slice_count
from calcium.volume import CTVolume


def volume(values, *, increment, thickness, origin=(10.0, 20.0, 100.0), rows=2, columns=3):
    hu = np.repeat(np.asarray(values, np.int16), rows * columns).reshape(len(values), rows, columns)
    return CTVolume(hu, VolumeGeometry(origin, (increment, 0.8, 0.7), hu.shape), thickness)


def first(found):
    assert (found.hu == found.hu[:, :1, :1]).all()
    return found.hu[:, 0, 0].tolist()


def test_contiguous_slices_of_3_mm_come_back_with_their_means_between():
    found = resample(volume([0, 100, 50], increment=3, thickness=3))
    assert first(found) == [0, 50, 100, 75, 50]
    assert found.geometry.origin_mm == (10, 20, 100)
    assert found.geometry.spacing_mm == (1.5, 0.8, 0.7)
    assert found.slice_thickness_mm == 3.0


def test_contiguous_slices_of_1_mm():
    # [0, 3): slices 0, 1, 2; [1.5, 4.5): half of 1, 2, 3, half of 4
    found = resample(volume([0, 30, 60, 90, 120, 150], increment=1, thickness=1))
    assert first(found) == [30, round((15 + 60 + 90 + 60) / 3), 120]
    assert found.geometry.origin_mm[2] == 100 - 0.5 + 1.5


def test_overlapping_slices_of_2_mm_every_1_mm():
    # slabs [0, 2), [1, 3), [2, 4), [3, 5): T = 5; the first new slice [0, 3) overlaps by 2, 2, 1
    found = resample(volume([0, 100, 200, 300], increment=1, thickness=2))
    assert found.geometry.origin_mm[2] == 100 - 1 + 1.5  # the lower face of the first slab stays
    assert first(found) == [80, 182]  # [1.5, 4.5) overlaps by 0.5, 1.5, 2, 1.5: 1000 / 5.5


def test_gapped_slices_of_1_mm_every_2_mm():
    # slabs [0, 1), [2, 3), [4, 5): [0, 3) overlaps 1, 1; [1.5, 4.5) overlaps 1 and 0.5
    assert first(resample(volume([0, 100, 200], increment=2, thickness=1))) == [50, 133]


def test_a_gap_wider_than_a_new_slice_takes_the_nearest():
    found = resample(volume([0, 100], increment=9, thickness=1))
    assert first(found)[0] == 0
    assert set(first(found)) == {0, 100}


@pytest.mark.parametrize(
    ("extent", "count"),
    [(3.0, 1), (4.49, 1), (4.5, 2), (300.0, 199), (1.25 * 261, 216), (2.999999999, 1), (262.0, 173), (2.9, 0)],
)
def test_number_of_slices(extent, count):
    assert slice_count(extent) == count


def test_decimal_fuzz_neither_drops_nor_adds_a_slice():
    for increment, thickness, slices in ((0.7, 1.0, 301), (0.625, 1.25, 401), (0.3, 0.6, 11), (1.1, 1.1, 101)):
        geometry = VolumeGeometry((0, 0, 0), (increment, 1, 1), (slices, 1, 1))
        exact = (round(thickness * 1e6) + round(increment * 1e6) * (slices - 1) - 3_000_000) // 1_500_000 + 1
        assert overlap_weights(geometry, thickness).shape == (exact, slices)


def test_too_short():
    with pytest.raises(ValueError, match="shorter"):
        resample(volume([0, 1], increment=1, thickness=1))


def test_rounds_to_whole_hu():
    assert first(resample(volume([10, 11, 11], increment=1, thickness=1))) == [11]  # 10.67


def test_300_slices_within_a_second():
    hu = np.zeros((300, 512, 512), np.int16)
    scan = CTVolume(hu, VolumeGeometry((0, 0, 0), (1.0, 0.7, 0.7), hu.shape), 1.25)
    start = time.process_time()
    resample(scan)
    assert time.process_time() - start < 1.0
