"""Contrast without a tag, metal, noise and a cut heart, from pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK

from calcium.geometry import BoxMm, VolumeGeometry
from calcium.heart_checks import check_heart
from calcium.volume import CTVolume

BOX = BoxMm((-60.0, -60.0, 30.0), (60.0, 60.0, 130.0))


def heart(blood=40.0, muscle=45.0, noise=15.0, *, low_z=0.0, slices=107, seed=0):
    """Return a ball of muscle with ventricles in lungs, 3.0 mm every 1.5 mm."""
    shape = (slices, 120, 120)
    geometry = VolumeGeometry((-89.25, -89.25, low_z), (1.5, 1.5, 1.5), shape)
    z, y, x = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij", sparse=True)
    place = (z * 1.5 + low_z - 80) / 50, (y * 1.5 - 89.25) / 60, (x * 1.5 - 89.25) / 60
    radius = np.sqrt(sum(part**2 for part in place))
    hu = np.where(radius < 1, muscle, -850.0)
    hu[radius < 0.8] = blood
    hu[(radius > 0.95) & (radius < 1)] = -90
    hu += np.random.default_rng(seed).normal(0, noise, shape)
    return hu, geometry


def check(hu, geometry, box=BOX, **options):
    return check_heart(CTVolume(np.rint(hu).astype(np.int16), geometry, 3.0), box, **options)


def codes(found):
    return {caution.code for caution in found.cautions}


def test_a_plain_heart():
    found = check(*heart())
    assert found.blood_hu == pytest.approx(41, abs=3)
    assert found.noise_hu == pytest.approx(15, abs=2)
    assert found.refusal is None
    assert found.cautions == ()


@pytest.mark.parametrize(("blood", "muscle"), [(100, 80), (150, 90), (350, 100)])
def test_contrast_is_refused_with_the_figure(blood, muscle):
    found = check(*heart(blood, muscle))
    assert found.refusal is not None
    assert found.refusal.code == "contrast_in_blood"
    assert f"{found.blood_hu:.0f} HU" in found.refusal.text


def test_doubtful_blood():
    found = check(*heart(80, 70))
    assert found.refusal is None
    assert codes(found) == {"contrast_possible"}


def test_heavy_calcium_is_no_contrast():
    hu, geometry = heart()
    hu[40:60, 50:70, 40:80][np.random.default_rng(1).random((20, 20, 40)) < 0.2] = 900
    assert check(hu, geometry).refusal is None


def test_uncalibrated():
    assert codes(check(*heart(0, 5))) == {"hu_calibration"}


def test_noise():
    assert codes(check(*heart(noise=60))) == {"noise"}
    assert codes(check(*heart(noise=60), noise_limit_hu=80)) == set()


def test_metal_in_and_near_the_heart():
    hu, geometry = heart()
    hu[50, 60, 60:63] = 3000
    assert codes(check(hu, geometry)) == {"metal"}
    hu, geometry = heart()
    hu[50, 60, 60:63] = 1800  # dense calcium
    hu[100, 5, 5:10] = 3000  # far from the heart
    assert codes(check(hu, geometry)) == set()


def test_no_soft_tissue():
    hu, geometry = heart()
    assert codes(check(np.full_like(hu, -850), geometry)) == {"blood_unknown"}


@pytest.mark.parametrize(
    ("low_z", "slices", "end"), [(40.0, 80, "lower"), (0.0, 75, "upper"), (30.2, 90, "lower")], ids=str
)
def test_a_scan_that_ends_in_the_heart(low_z, slices, end):
    found = check(*heart(low_z=low_z, slices=slices))
    assert found.refusal is not None
    assert found.refusal.code == "heart_cut"
    assert end in found.refusal.text


def test_a_box_at_the_edge_of_the_images():
    found = check(*heart(), BoxMm((-95.0, -60.0, 30.0), (60.0, 60.0, 130.0)))
    assert found.refusal is not None
    assert "edge" in found.refusal.text


def test_a_box_outside():
    found = check(*heart(), BoxMm((500.0, 0.0, 0.0), (510.0, 10.0, 10.0)))
    assert found.refusal is not None
    assert found.blood_hu is None


def circle(hu, radius_mm, centre=(0.0, 0.0)):
    y = (np.arange(hu.shape[1]) * 1.5 - 89.25)[:, None] - centre[1]
    x = (np.arange(hu.shape[2]) * 1.5 - 89.25)[None, :] - centre[0]
    hu[:, x * x + y * y > radius_mm**2] = -1024


def test_the_corners_of_a_small_field_of_view_cut_no_heart():
    hu, geometry = heart()
    circle(hu, 75)
    assert check(hu, geometry).refusal is None


def test_a_field_of_view_that_cuts_the_heart():
    hu, geometry = heart()
    circle(hu, 75, centre=(30, 0))
    found = check(hu, geometry)
    assert found.refusal is not None
    assert "field of view" in found.refusal.text


def load(path):
    image = SimpleITK.ReadImage(path)
    hu = SimpleITK.GetArrayFromImage(image).astype(np.int16)
    return CTVolume(hu, VolumeGeometry(image.GetOrigin(), image.GetSpacing()[::-1], hu.shape), 3.0)


@pytest.mark.real_ct
@pytest.mark.parametrize(
    "name", ["lungx-ct004", "qin-lsc-0003", "qin-lsc-0049", "qin-lsc-0064", "qin-lung-01-0007"]
)
def test_real_contrast_at_low_resolution(real_ct, name):
    boxes = json.loads((real_ct / "contrast-lowres" / "heart_boxes.json").read_text())
    low, high = (tuple(float(value) for value in corner) for corner in boxes[name])
    found = check_heart(load(real_ct / "contrast-lowres" / f"{name}.nrrd"), BoxMm(low, high))
    assert found.refusal is not None
    assert found.refusal.code == "contrast_in_blood"
