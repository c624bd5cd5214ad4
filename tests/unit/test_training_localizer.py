"""Training data of the localiser and the errors of its boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calcium.geometry import BoxMm, VolumeGeometry
from models.networks.localizer import SliceClassifierConfig
from models.training.localizer_training import (
    NOWHERE,
    CoarseScan,
    LocalizerOptions,
    Sampler,
    augment,
    box_error,
    targets,
)


def _scan() -> CoarseScan:
    geometry = VolumeGeometry((-150.0, -120.0, 0.0), (3.0, 3.0, 3.0), (90, 80, 100))
    hu = np.full(geometry.shape, -850, np.int16)
    box = BoxMm((-30.0, -60.0, 90.0), (90.0, 50.0, 190.0))
    z, y, x = (int(v) for v in geometry.to_index(box.low))
    z1, y1, x1 = (int(v) for v in geometry.to_index(box.high))
    hu[z : z1 + 1, y : y1 + 1, x : x1 + 1] = 40  # the heart is the only soft tissue
    return CoarseScan("s", "s", hu, geometry, box)


def test_targets_are_one_inside_zero_outside_and_half_at_a_face():
    scan = _scan()
    axial = targets(scan.geometry, scan.box, 0)
    assert axial[45] == 1
    assert axial[10] == 0
    assert axial[30] == pytest.approx(0.5)  # z = 90 mm
    assert targets(scan.geometry, scan.box, 2)[60] == 1  # x = 30 mm


@pytest.mark.parametrize("seed", range(30))
def test_the_box_goes_with_the_image(seed: int):
    scan = _scan()
    hu, geometry, box = augment(scan, np.random.default_rng(seed))
    soft = hu > -300
    if box is NOWHERE:
        assert not soft[1:-1].any(), "no heart, but its slices beside the cut may be blurred"
        assert all(targets(geometry, box, axis).max() == 0 for axis in range(3))
        return
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(soft.mean(axis=others) > 0.3 * soft.mean(axis=others).max())
        expected = np.flatnonzero(targets(geometry, box, axis) >= 0.5)
        assert abs(occupied[0] - expected[0]) <= 3
        assert abs(occupied[-1] - expected[-1]) <= 3


def test_some_crops_hold_no_heart_and_some_end_in_it():
    scan = _scan()
    drawn = [augment(scan, np.random.default_rng(seed)) for seed in range(200)]
    nowhere = [box is NOWHERE for _, _, box in drawn]
    assert 5 <= sum(nowhere) <= 40
    cut = [targets(geometry, box, 0)[[0, -1]].max() == 1 for _, geometry, box in drawn if box is not NOWHERE]
    assert sum(cut) >= 5


def test_a_batch_serves_all_three_axes():
    config = SliceClassifierConfig()
    sampler = Sampler([_scan()], LocalizerOptions(1, 2, 12), config, seed=1)
    (batch,) = sampler.batches(1)
    assert set(batch) == {"axial", "coronal", "sagittal"}
    for slices, target in batch.values():
        assert slices.shape[:2] == (24, len(config.offsets))
        assert target.shape == (24,)
        assert 0 < float(target.mean()) < 1
    (again,) = sampler.batches(1)
    assert (again["axial"][0] == batch["axial"][0]).all()


def test_box_errors_by_hand():
    true = BoxMm((0, 0, 0), (100, 100, 100))
    error = box_error("s", BoxMm((-10, 0, 0), (100, 100, 106)), true)
    assert error.iou == pytest.approx(1e6 / (110 * 100 * 106))
    assert error.wall_mm == pytest.approx(16 / 6)
    assert error.centroid_mm == pytest.approx(math.hypot(5, 3))
    assert error.faces_mm == (10, 0, 0, 0, 0, 6)
    assert not box_error("s", None, true).found
