"""The second simulator: deterministic, with a truth that agrees with its image."""

from __future__ import annotations

import numpy as np
import pytest

from calcium.agatston import CALCIUM_HU, score_mask
from models.training import dataset
from models.training.sketch import SketchConfig, make_sketch
from models.training.sketch.body import draw_chest

SMALL = SketchConfig(crop_to_heart=12.0, pixel_mm=1.4, thickness_mm=3.0)


def test_the_same_seed_is_the_same_scan_and_another_is_not():
    first, again, other = (make_sketch(seed, config=SMALL) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.volume.hu, again.volume.hu)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.heart_box == again.heart_box
    assert first.heart_box != other.heart_box


@pytest.mark.parametrize("seed", range(10, 16))
def test_the_truth_is_in_the_image(seed):
    scan = make_sketch(seed, config=SMALL)
    assert (scan.resampled.hu[scan.labels > 0] >= CALCIUM_HU).all()
    score = score_mask(scan.resampled, scan.labels, (1, 2, 3))
    assert scan.agatston == score.agatston
    low, high = (
        scan.resampled.geometry.to_index(scan.heart_box.low),
        scan.resampled.geometry.to_index(scan.heart_box.high),
    )
    assert all(a >= -1 and b <= size for a, b, size in zip(low, high, scan.resampled.hu.shape, strict=True))
    middle = tuple(slice(int((a + b) / 2) - 3, int((a + b) / 2) + 4) for a, b in zip(low, high, strict=True))
    assert 10 < np.median(scan.resampled.hu[middle]) < 110, "blood or muscle in the middle of the box"


def test_some_scans_have_coronary_calcium_and_some_have_not_and_hearts_have_the_size_of_real_ones():
    scans = [make_sketch(seed, config=SMALL) for seed in range(20, 32)]
    scores = [scan.agatston for scan in scans]
    assert min(scores) == 0
    assert max(scores) > 100
    sizes = np.mean([np.subtract(scan.heart_box.high, scan.heart_box.low) for scan in scans], axis=0)
    # The boxes by eye of twelve real patients are so large on average, mm.
    np.testing.assert_allclose(sizes, (130, 107, 96), rtol=0.1)


def test_chests_are_as_deep_behind_the_heart_as_real_ones():
    chests = [draw_chest(np.random.default_rng(seed)) for seed in range(300)]
    # Twelve real scans: lungs 187 mm deep in the middle of the heart; 28 mm between heart and vertebrae in six.
    assert np.mean([2 * chest.cavity[1] * 0.9 for chest in chests]) == pytest.approx(187, rel=0.1)
    backs = [chest.heart_centre[1] + chest.heart_radii[1] for chest in chests]
    gaps = [chest.spine_y - 17 - back for chest, back in zip(chests, backs, strict=True)]
    assert np.median(gaps) == pytest.approx(28, abs=8)


def test_a_sketch_is_cached_as_a_case_for_scorers_and_for_the_localiser():
    ((name, task),) = dataset.tasks(7, 1, "localizer", "sketch")
    case = dataset.case_of(task)
    assert case.name == name == "sketch-localizer-0000007"
    assert case.coarse.size > 100_000
    assert case.coarse_geometry is not None
    assert case.coarse_geometry.spacing_mm == pytest.approx((3.0, 3.0, 3.0))
    assert case.description["aortic_calcium"] in (True, False)
