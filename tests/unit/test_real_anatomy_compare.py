"""Predicted scores and boxes beside read ones; insertion into the real series."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK

from calcium.agatston import score_mask
from calcium.errors import NotEligibleError
from calcium.geometry import BoxMm
from calcium.resample import resample
from models.results import ScoringResult, WeightsIdentity
from models.training.compare_real import (
    BoxComparison,
    SeriesComparison,
    boxes_markdown,
    compare_boxes,
    compare_series,
    mask_box,
    scores_markdown,
)
from models.training.real_anatomy import AugmentConfig, augment_case, load_real_cases

ROW = SeriesComparison("a", best=150.0, low=120.0, high=420.0, predicted=410.0, volume_mm3=1.0, iou=0.8)


@pytest.mark.parametrize(
    ("predicted", "right"),
    [(410.0, True), (110.0, True), (420.04, True), (420.06, False), (99.0, False), (None, False)],
)
def test_a_score_is_right_inside_the_range_or_in_the_group(predicted, right):
    assert replace(ROW, predicted=predicted).right is right


@pytest.mark.parametrize(("predicted", "right"), [(0.0, True), (9.9, True), (10.0, False)])
def test_without_calcium_the_score_stays_below_ten(predicted, right):
    row = SeriesComparison("b", best=0.0, low=0.0, high=0.0, predicted=predicted, volume_mm3=0.0, iou=0.9)
    assert row.right is right


def test_tables_say_what_was_refused():
    row = replace(ROW, predicted=None, iou=None, refusal="heart not found")
    table = scores_markdown([ROW, row])
    assert "| a | 150.0 (120 to 420) | 410.0 | moderately high | high | yes | 0.80 |" in table
    assert "refused: heart not found" in table
    boxes = boxes_markdown(
        [
            BoxComparison("c", 0.65, 3.0, 4.0, 0.7, 0.61),
            BoxComparison("d", None, None, None, 0.7, refusal="cut"),
        ]
    )
    assert "| c | 0.65 | 0.7 | 3.0 | 4.0 | **no** | 0.61 |" in boxes
    assert "refused: cut" in boxes


def write(path, array, origin=(-30.0, -40.0, 100.0)):
    image = SimpleITK.GetImageFromArray(array)
    image.SetOrigin(origin)
    image.SetSpacing((3.0, 3.0, 3.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def test_boxes_of_masks_and_of_drawings_are_compared(tmp_path):
    mask = np.zeros((12, 20, 25), np.uint8)
    mask[2:8, 5:15, 4:20] = 1
    mask[9, 9, 9] = 3
    write(tmp_path / "deepcac-lowres" / "1_msk_3mm.nrrd", mask)
    write(tmp_path / "deepcac-lowres" / "1_img_3mm.nrrd", np.zeros_like(mask, dtype=np.int16))
    write(tmp_path / "contrast-lowres" / "x.nrrd", np.zeros((6, 7, 8), np.int16))
    write(tmp_path / "contrast-lowres" / "y.nrrd", np.zeros((7, 7, 8), np.int16))
    drawn = {"note": "", "x": [[-30, -40, 100], [-10, -20, 115]], "y": [[-30, -40, 100], [-10, -20, 120]]}
    (tmp_path / "contrast-lowres" / "heart_boxes.json").write_text(json.dumps(drawn), encoding="utf-8")
    wanted = BoxMm((-19.5, -26.5, 104.5), (28.5, 3.5, 122.5))
    assert mask_box(tmp_path / "deepcac-lowres" / "1_msk_3mm.nrrd") == wanted

    def located(rise):
        def locate(volume):
            if volume.hu.shape[0] == 6:
                raise NotEligibleError("heart_not_found", "no heart")
            if volume.hu.shape[0] == 7:
                return BoxMm((-30, -40, 100), (-10, -20, 120 + rise))
            return BoxMm((-19.5, -26.5, 104.5), (28.5, 3.5, 120.5 + rise))

        return locate

    contrast, by_eye, masked = compare_boxes(located(0), located(5), tmp_path)
    assert (contrast.right, contrast.refusal) == (False, "no heart")
    assert (by_eye.iou, by_eye.scored_iou) == pytest.approx((1, 20 / 25))  # by eye: judged without the rise
    assert masked.scored_iou == masked.iou
    assert masked.iou == pytest.approx(18 / 21)
    assert masked.wall_mm == pytest.approx(0.5)
    assert masked.centre_mm == pytest.approx(1.5)
    assert masked.right


@pytest.mark.real_ct
def test_the_read_scores_compare_right_with_themselves(real_ct):
    """The labels themselves, scored by the reference method, are right, and the drawn box overlaps itself."""
    name = "qin-lsc-0055"
    reference = json.loads((real_ct / name / "reference" / "reference.json").read_text(encoding="utf-8"))
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(real_ct / name / "reference" / "labels.nrrd")))
    identity = WeightsIdentity("test", "0", "", "none")

    def score(volume):
        resampled = resample(volume)
        found = score_mask(resampled, labels, (1, 2, 3))
        box = BoxMm(*(tuple(map(float, corner)) for corner in reference["heart_box_mm"]))
        return ScoringResult(found.agatston, found.volume_mm3, box, (), identity, resampled)

    (row,) = compare_series(score, real_ct, [name])
    assert row.predicted == pytest.approx(reference["agatston"], abs=1)
    assert row.right
    assert row.iou == pytest.approx(1)


@pytest.mark.real_ct
def test_a_real_scan_keeps_loses_and_gains_calcium(real_ct):
    (case,) = load_real_cases(real_ct, ["qin-lsc-0055"])
    plain = AugmentConfig(margin_mm=20, untouched=1.0, clean=0.0, no_plaques=1.0, distractors=False)
    kept = augment_case(case, np.random.default_rng(0), config=plain)
    assert kept.agatston == pytest.approx(case.reference["agatston"], abs=1)  # same voxels, same grid
    assert kept.heart_box.iou(case.heart_box) > 0.999
    cleaned = augment_case(case, np.random.default_rng(0), config=replace(plain, clean=1.0))
    assert cleaned.agatston == 0
    # What no label explains must not shine where calcium was: else the network learns to overlook it.
    window = np.isin(kept.labels, (1, 2, 3))
    assert (cleaned.resampled.hu[window] >= 130).mean() < 0.02
    config = replace(plain, clean=1.0, no_plaques=0.0, burden=(5.0, 0.1))
    gained = [augment_case(case, np.random.default_rng(seed), config=config).agatston for seed in range(7)]
    # Motion takes some below 130 HU, as in ungated scans.
    assert 20 < np.median(gained) < 300
