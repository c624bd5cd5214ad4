"""Scoring scans with references: attention shares, box jitter, verdicts on real series."""

from __future__ import annotations

import numpy as np
import pytest

from calcium.geometry import BoxMm
from models.training.evaluation_scans import RealResult, attention, box_table, jittered, kinds_table, real_table
from models.training.localizer_training import box_error


def test_attention_by_hand():
    labels = np.zeros((5, 40, 40), np.uint8)
    labels[2, 10, 10] = 1
    labels[2, 30, 30] = 4
    response = np.zeros(labels.shape, np.float32)
    response[2, 10, 14] = 6.0  # 4 mm from the plaque
    response[2, 30, 31] = 3.0  # 1 mm from the aorta's calcium
    response[2, 20, 20] = 1.0  # far from both
    assert attention(response, labels, (1.5, 1.0, 1.0)) == (pytest.approx(0.6), pytest.approx(0.3))
    assert attention(np.zeros_like(response), labels, (1.5, 1.0, 1.0)) is None


def test_attention_near_both_counts_as_coronary():
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 10, 10], labels[0, 10, 13] = 1, 5
    response = np.zeros(labels.shape, np.float32)
    response[0, 10, 12] = 1.0
    assert attention(response, labels, (1.5, 1.0, 1.0)) == (1.0, 0.0)


def test_a_jittered_box_is_seeded_and_near():
    box = BoxMm((0, 0, 0), (120, 100, 90))
    again = jittered(box, 3)
    assert again == jittered(box, 3)
    assert again != jittered(box, 4)
    overlaps = [box.iou(jittered(box, seed)) for seed in range(40)]
    assert min(overlaps) > 0.75
    assert np.mean(overlaps) < 0.95


@pytest.mark.parametrize(
    ("reference", "low", "high", "agatston", "right"),
    [
        (479, 410, 505, 430.0, True),
        (479, 410, 505, 800.0, True),  # in its group
        (479, 410, 505, 390.0, False),
        (246, 46, 388, 60.0, True),  # in the range
        (0, 0, 0, 9.0, True),
        (0, 0, 0, 11.0, False),
        (479, 410, 505, None, False),
    ],
)
def test_a_real_score_is_right_in_its_range_or_group(reference, low, high, agatston, right):
    result = RealResult("s", reference, low, high, agatston, 0.9, "" if agatston is not None else "heart_cut")
    assert result.right is right
    assert ("yes" if right else "no") in real_table([result])


def test_the_table_of_heart_boxes_by_hand():
    true = BoxMm((0, 0, 0), (120, 100, 90))
    near, far = BoxMm((0, 0, 0), (120, 100, 96)), BoxMm((0, 0, -3), (120, 100, 108))
    errors = [box_error("a", near, true)] * 9 + [box_error("b", far, true), box_error("c", None, true)]
    table = box_table(errors)
    assert "Heart found: 0.909" in table
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in table.splitlines() if " | " in row}
    assert rows["IoU"][0] == "0.938"
    assert rows["IoU"][2].startswith("0.811")
    assert rows["upper face, mm"][0] == "6.0"
    assert rows["upper face, mm"][2].startswith("18.0")
    assert rows["lower face, mm"][2].startswith("3.0")
    assert rows["wall distance, mm"][0] == "1.0"
    assert rows["centroid distance, mm"][0] == "3.0"
    assert "|" not in box_table([box_error("c", None, true)])


def test_heart_boxes_are_told_apart_by_the_kind_of_scan():
    true, near = BoxMm((0, 0, 0), (120, 100, 90)), BoxMm((0, 0, 0), (120, 100, 96))
    found = [("heart", box_error("a", near, true)), ("chest", box_error("b", None, true))] * 2
    rows = kinds_table([*found, ("heart", box_error("c", true, true))]).splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [["| chest", "2", "0"], ["| heart", "3", "3"]]
    assert "| 0.94 (0.94) | 1.0 | 3.0 |" in rows[1]
    assert rows[0].endswith("| - | - | - |")
