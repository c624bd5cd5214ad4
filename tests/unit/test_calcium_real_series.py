"""The real series, each read once: reference scores, heart checks, eligibility."""

from __future__ import annotations

import json

import pytest
import SimpleITK

from calcium.agatston import score_mask
from calcium.eligibility import cautions, screen
from calcium.errors import NotEligibleError
from calcium.geometry import BoxMm
from calcium.heart_checks import check_heart
from calcium.resample import resample
from calcium.series import read_headers, read_series

pytestmark = pytest.mark.real_ct

# Folder -> slices, thickness, increment, codes of its warnings (README of the folder).
PLAIN = {
    "qin-lsc-0055": (125, 3.0, 3.0, set()),
    "covidctmd-cap002": (131, 2.0, 2.0, {"kvp"}),
    "4d-lung-113": (99, 3.0, 3.0, {"kvp_unknown", "kernel_unknown", "few_slices"}),
    "covidctmd-normal001": (154, 2.0, 2.0, {"kvp"}),
    "lidc-0002": (261, 1.25, 1.25, set()),
}


@pytest.fixture(scope="module", params=PLAIN)
def plain(request, real_ct):
    folder = real_ct / request.param
    series = read_series(folder.glob("*.dcm"))
    return request.param, folder, series, resample(series.volume)


def test_grid(plain):
    name, _, series, _ = plain
    slices, thickness, increment, _ = PLAIN[name]
    assert series.volume.hu.shape == (slices, 512, 512)
    assert series.volume.slice_thickness_mm == thickness
    assert series.volume.geometry.spacing_mm[0] == pytest.approx(increment)
    assert len(series.instances) == slices
    assert series.notes == ()
    assert -1024 <= series.volume.hu.min() <= -1000
    assert series.volume.hu.max() > 1000


def test_reference_scores(plain):
    _, folder, _, volume = plain
    reference = json.loads((folder / "reference" / "reference.json").read_text())
    labels = SimpleITK.ReadImage(folder / "reference" / "labels.nrrd")
    assert labels.GetOrigin() == pytest.approx(volume.geometry.origin_mm)
    assert labels.GetSpacing() == pytest.approx(volume.geometry.spacing_mm[::-1])
    found = score_mask(volume, SimpleITK.GetArrayFromImage(labels), (1, 2, 3))
    assert found.agatston == pytest.approx(reference["agatston"], abs=0.06)
    assert found.volume_mm3 == pytest.approx(reference["volume_mm3"], abs=0.06)
    slices = {round(item["z_mm"], 2): item["agatston"] for item in reference["slice_scores"]}
    for index, value in enumerate(found.slice_agatston):
        assert value == pytest.approx(slices.get(round(volume.geometry.z_mm(index), 2), 0.0), abs=0.006)


def test_heart(plain):
    _, folder, _, volume = plain
    reference = json.loads((folder / "reference" / "reference.json").read_text())
    low, high = (tuple(float(value) for value in corner) for corner in reference["heart_box_mm"])
    found = check_heart(volume, BoxMm(low, high))
    assert found.refusal is None
    assert found.cautions == ()
    assert 30 < found.blood_hu < 50
    assert 5 < found.noise_hu < 30


def test_eligibility(plain):
    name, folder, series, _ = plain
    screen(read_headers(sorted(folder.glob("*.dcm"))))
    assert {caution.code for caution in cautions(series)} == PLAIN[name][3]


@pytest.mark.parametrize(
    ("name", "code"), [("lidc-0001-contrast", "contrast_enhanced"), ("lungdx-a0001-5mm", "too_thick")]
)
def test_not_eligible(real_ct, name, code):
    with pytest.raises(NotEligibleError) as caught:
        screen(read_headers(sorted((real_ct / name).glob("*.dcm"))))
    assert caught.value.code == code


def test_contrast_is_found_without_the_tag(real_ct):
    volume = resample(read_series((real_ct / "lidc-0001-contrast").glob("*.dcm")).volume)
    found = check_heart(volume, BoxMm((-30.0, -70.0, -215.0), (75.0, 20.0, -130.0)))  # by eye
    assert found.refusal is not None
    assert found.refusal.code == "contrast_in_blood"
    assert found.blood_hu > 300


def test_philips_5_mm_is_readable_all_the_same(real_ct):
    assert read_series((real_ct / "lungdx-a0001-5mm").glob("*.dcm")).volume.slice_thickness_mm == 5.0
