"""Augmentation of heart crops: labels, grid and box go with the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume
from models.training.augmentation import AugmentationConfig, Crop, augment, grown_labels

STILL = AugmentationConfig(
    rotation_degrees=0,
    scale=0,
    anisotropy=0,
    face_mm=0,
    rise_mm=0,
    shift_hu=0,
    gain=0,
    noise_hu=0,
    blur_pixels=0,
)


def _crop() -> Crop:
    geometry = VolumeGeometry((-50.0, -40.0, 10.0), (1.5, 0.8, 0.8), (20, 100, 120))
    hu = np.full(geometry.shape, 40, np.int16)
    labels = np.zeros(geometry.shape, np.uint8)
    hu[8:12, 60:64, 30:34] = 400
    labels[8:12, 60:64, 30:34] = 2
    box = BoxMm(geometry.to_mm(4, 20, 20), geometry.to_mm(16, 80, 100))
    return Crop(CTVolume(hu, geometry, 3.0), grown_labels(hu, labels), box)


def test_grown_labels_cover_the_rim_but_no_other_calcium():
    hu = np.full((1, 7, 7), 40, np.int16)
    hu[0, 3, 3], hu[0, 3, 4] = 400, 300
    labels = np.zeros_like(hu, np.uint8)
    labels[0, 3, 3] = 1
    grown = grown_labels(hu, labels)
    assert grown[0, 3, 4] == 0  # calcium of its own, unlabelled: e.g. bone
    assert grown[0, 2:5, 2:4].all()
    assert grown.sum() == 8


def test_without_changes_nothing_changes():
    crop = _crop()
    same = augment(crop, STILL, np.random.default_rng(1))
    assert (same.volume.hu == crop.volume.hu).all()
    assert (same.labels == crop.labels).all()
    assert same.volume.geometry == crop.volume.geometry
    assert same.box == crop.box


@pytest.mark.parametrize("seed", range(12))
def test_labels_stay_on_their_plaque_and_the_box_in_the_crop(seed: int):
    crop = _crop()
    changed = augment(crop, AugmentationConfig(), np.random.default_rng(seed))
    bright = changed.volume.hu >= 200
    components, count = ndimage.label(ndimage.binary_opening(bright))
    assert count == 1
    inside = changed.labels[components > 0]
    assert (inside == 2).mean() > 0.95
    geometry = changed.volume.geometry
    first, last = geometry.to_mm(0, 0, 0), geometry.to_mm(*(n - 1 for n in geometry.shape))
    assert all(a <= b for a, b in zip(first, changed.box.low, strict=True))
    assert all(a >= b for a, b in zip(last, changed.box.high, strict=True))
    # Never mirrored: the plaque stays on its side of the box.
    middle = (changed.box.low[0] + changed.box.high[0]) / 2
    columns = np.flatnonzero(components.any(axis=(0, 1)))
    assert geometry.to_mm(0, 0, float(columns.mean()))[0] < middle


def test_the_same_seed_gives_the_same_scan():
    one, two = (augment(_crop(), AugmentationConfig(), np.random.default_rng(4)) for _ in range(2))
    assert (one.volume.hu == two.volume.hu).all()
    assert one.box == two.box


def test_the_upper_face_rises_and_no_other():
    crop, rising = _crop(), replace(STILL, rise_mm=4.0)
    rises = set()
    for seed in range(8):
        box = augment(crop, rising, np.random.default_rng(seed)).box
        assert box.low == crop.box.low
        assert box.high[:2] == crop.box.high[:2]
        rises.add(round(box.high[2] - crop.box.high[2], 3))
    assert len(rises) > 1
    assert all(0 <= rise <= 4 for rise in rises)
