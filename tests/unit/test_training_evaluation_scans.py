"""Scoring scans with references: attention shares, box jitter, verdicts on real series."""

from __future__ import annotations

import numpy as np
import pytest

from calcium.geometry import BoxMm
from models.training.evaluation_scans import RealResult, attention, jittered, real_table


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
