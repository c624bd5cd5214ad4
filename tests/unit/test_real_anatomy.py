"""Augmented scans: deformation, insertion, labels; on a synthetic chest, so that no real series is needed."""

import numpy as np
import pytest

from calcium.agatston import score_mask
from calcium.geometry import VolumeGeometry
from calcium.resample import resample
from calcium.volume import CTVolume
from models.training.anatomy import Annotation, load_annotations
from models.training.real_anatomy import AugmentConfig, augment_case, draw_body, dress
from models.training.real_cases import prepare, without
from models.training.warp import Warp, draw_warp, see

SERIES = ("4d-lung-113", "covidctmd-cap002", "covidctmd-normal001", "lidc-0002", "qin-lsc-0055")
NOISY = AugmentConfig(margin_mm=20, untouched=0.0, clean=1.0, no_plaques=0.0)
PLAIN = AugmentConfig(margin_mm=20, untouched=1.0, clean=0.0, no_plaques=1.0, distractors=False)


def circle(z, x=0.0, y=0.0, r=12.0):
    return [x, y, z, r]


@pytest.fixture(scope="module")
def annotation():
    arc = np.linspace(0, np.pi, 30)
    lad = np.column_stack((20 + 25 * np.sin(arc), -20 - 10 * np.sin(arc), 25 - 50 * arc / np.pi))
    rca = np.column_stack((-20 - 20 * np.sin(arc), -20 + 10 * np.sin(arc), 25 - 50 * arc / np.pi))
    lcx = np.column_stack((20 + 20 * np.sin(arc), 10 + 10 * np.sin(arc), 25 - 40 * arc / np.pi))
    return Annotation(
        series="synthetic",
        source="test",
        licence="none",
        centrelines={"LAD": lad, "LCX": lcx, "RCA": rca},
        ascending_aorta=np.array([circle(10), circle(40)]),
        descending_aorta=np.array([circle(-40, 10, 40), circle(40, 10, 40)]),
        aortic_valve=np.array([0.0, 0.0, 10.0]),
        valve_radius_mm=11.0,
        mitral_annulus=np.array([[10.0, 0, 5], [25, 10, 0], [20, 20, -10]]),
        pulmonary_bifurcation_z_mm=45.0,
        psf_fwhm_mm=1.4,
    )


@pytest.fixture(scope="module")
def case(annotation):
    """An ellipsoid of soft tissue in fat with noise, and one plaque of 400 HU on the LAD."""
    geometry = VolumeGeometry((-90.0, -85.0, -80.0), (2.0, 0.8, 0.8), (80, 212, 225))
    z, y, x = np.meshgrid(
        *(
            geometry.origin_mm[2 - a] + np.arange(n) * geometry.spacing_mm[a]
            for a, n in enumerate(geometry.shape)
        ),
        indexing="ij",
        sparse=True,
    )
    heart = (x / 55) ** 2 + (y / 45) ** 2 + (z / 40) ** 2 < 1
    hu = np.where(heart, 45.0, -90.0) + np.random.default_rng(1).normal(0, 9, geometry.shape)
    middle = annotation.centrelines["LAD"][10]
    plaque = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 + ((z - middle[2]) / 1.5) ** 2 < 9
    hu[plaque] = 400
    volume = CTVolume(np.rint(hu).astype(np.int16), geometry, 2.0)
    resampled = resample(volume)
    labels = np.where(resampled.hu >= 130, 1, 0).astype(np.uint8)
    return prepare(volume, labels, {"heart_box_mm": [[-55, -45, -40], [55, 45, 40]]}, annotation)


def test_the_annotations_of_all_five_series_are_there_with_their_licence():
    annotations = load_annotations()
    assert set(annotations) == {
        "4d-lung-113",
        "covidctmd-cap002",
        "covidctmd-normal001",
        "lidc-0002",
        "qin-lsc-0055",
    }
    for annotation in annotations.values():
        assert {"LM", "LAD", "LCX", "RCA"} <= set(annotation.centrelines)
        assert annotation.licence.startswith("CC BY")


@pytest.mark.parametrize(
    "name", ["4d-lung-113", "covidctmd-cap002", "covidctmd-normal001", "lidc-0002", "qin-lsc-0055"]
)
def test_vessels_are_continuous_and_run_downwards(name):
    lines = load_annotations()[name].centrelines
    for line in lines.values():
        assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 7.0
    assert np.linalg.norm(lines["LM"][-1] - lines["LAD"][0]) < 0.1
    assert lines["LAD"][0, 2] - lines["LAD"][-1, 2] > 30
    assert lines["RCA"][0, 2] - lines["RCA"][-1, 2] > 30


@pytest.mark.parametrize("seed", range(4))
def test_a_deformation_and_its_inverse_cancel(seed):
    rng = np.random.default_rng(seed)
    warp = draw_warp(rng, np.array([10.0, -60.0, -200.0]))
    points = np.array([10.0, -60.0, -200.0]) + rng.uniform(-70, 70, (50, 3))
    assert np.abs(warp.to_old(warp.to_new(points)) - points).max() < 0.02


def test_the_identity_shows_every_voxel_as_it_is():
    geometry = VolumeGeometry((-5.0, 3.0, 7.0), (1.5, 0.7, 0.7), (9, 20, 30))
    hu = np.random.default_rng(0).integers(-900, 900, geometry.shape).astype(np.int16)
    labels = (hu > 800).astype(np.uint8)
    identity = Warp(np.zeros(3), np.eye(3), np.zeros((3, 7, 7, 7)))
    seen, named = see(hu, geometry, identity, geometry, labels)
    assert np.abs(seen - hu).max() < 0.5
    assert np.array_equal(named, labels)


def test_a_point_moves_with_the_image():
    geometry = VolumeGeometry((-40.0, -40.0, -40.0), (1.0, 1.0, 1.0), (81, 81, 81))
    z, y, x = np.meshgrid(*(np.arange(-40, 41),) * 3, indexing="ij")
    spot = np.array([12.0, -7.0, 9.0])
    hu = (1000 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2 + (z - spot[2]) ** 2) / 18)).astype(np.int16)
    warp = draw_warp(np.random.default_rng(5), np.zeros(3))
    seen, _ = see(hu, geometry, warp, geometry)
    brightest = np.unravel_index(seen.argmax(), seen.shape)
    found = np.array(geometry.to_mm(*(float(i) for i in brightest)))
    assert np.linalg.norm(found - warp.to_new(spot[None])[0]) < 1.6


def test_the_same_seed_gives_the_same_scan(case):
    first, second = (augment_case(case, np.random.default_rng(9), config=NOISY) for _ in range(2))
    assert np.array_equal(first.resampled.hu, second.resampled.hu)
    assert np.array_equal(first.labels, second.labels)
    assert first.description == second.description
    assert first.description["noise_hu"] > 0


def test_an_untouched_scan_keeps_its_score_and_its_box(case):
    scan = augment_case(case, np.random.default_rng(0), config=PLAIN)
    own = score_mask(case.resampled, case.labels)
    assert own.agatston > 20
    assert scan.agatston == pytest.approx(own.agatston, rel=0.15)
    assert scan.heart_box.iou(case.heart_box) > 0.97


def test_without_its_own_and_without_inserted_plaques_nothing_scores(case):
    config = AugmentConfig(margin_mm=20, clean=1.0, no_plaques=1.0, distractors=True)
    for seed in range(4):
        scan = augment_case(case, np.random.default_rng(seed), config=config)
        assert scan.agatston == 0
        assert not np.isin(scan.labels, (1, 2, 3)).any()


def test_labels_are_calcium_and_the_totals_are_theirs(case):
    config = AugmentConfig(margin_mm=20, clean=1.0, no_plaques=0.0, burden=(5.5, 0.3))
    scored = 0
    for seed in range(4, 8):
        scan = augment_case(case, np.random.default_rng(seed), config=config)
        assert (scan.resampled.hu[scan.labels > 0] >= 130).all()
        again = score_mask(scan.resampled, scan.labels, (1, 2, 3))
        assert scan.agatston == again.agatston
        assert scan.slice_agatston.sum() / 2 == pytest.approx(scan.agatston)
        scored += scan.agatston > 30
    assert scored >= 3


def test_inserted_plaques_lie_on_the_deformed_vessels(case):
    config = AugmentConfig(
        margin_mm=20, clean=1.0, no_plaques=0.0, distractors=False, untouched=1.0, burden=(6.0, 0.2)
    )
    lines = np.concatenate(list(case.annotation.centrelines.values()))
    scan = augment_case(case, np.random.default_rng(8), config=config)
    where = np.argwhere(scan.labels > 0)
    points = np.array([scan.resampled.geometry.to_mm(*(float(i) for i in index)) for index in where])
    distance = np.linalg.norm(points[:, None] - lines[None], axis=2).min(axis=1)
    assert np.quantile(distance, 0.9) < 8.0  # calibre, wandering line, motion and blur together


def test_what_is_taken_out_leaves_tissue_with_noise():
    geometry = VolumeGeometry((0.0, 0.0, 0.0), (0.75, 0.7, 0.7), (20, 80, 80))
    rng = np.random.default_rng(2)
    hu = rng.normal(45, 15, geometry.shape)
    hu[8:12, 38:44, 38:44] = 600
    gone = hu > 500
    filled = without(np.rint(hu).astype(np.int16), gone, geometry)
    assert abs(filled[gone].mean() - 45) < 10
    assert 7 < filled[gone].std() < 25
    untouched = np.ones_like(gone)
    untouched[2:18, 28:54, 28:54] = False
    assert np.array_equal(filled[untouched], np.rint(hu).astype(np.int16)[untouched])


def test_labels_off_the_resampled_grid_are_refused(case, annotation):
    with pytest.raises(ValueError, match="labels of shape"):
        prepare(case.volume, case.labels[1:], case.reference, annotation)


def test_several_scans_of_one_body_share_it_and_leave_it_alone(case):
    rng = np.random.default_rng(4)
    body = draw_body(case, rng, config=NOISY)
    before = body.image.copy()
    first, second = (dress(body, rng, config=NOISY) for _ in range(2))
    assert first.resampled.geometry == second.resampled.geometry
    assert first.heart_box == second.heart_box
    assert not np.array_equal(first.resampled.hu, second.resampled.hu)
    assert np.array_equal(body.image, before)
