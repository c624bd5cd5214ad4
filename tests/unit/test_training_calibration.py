"""Intervals and group probabilities learnt on validation scans."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calcium.risk import RiskGroup
from models.training.calibration import Calibration, fit


def _scans(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.lognormal(4, 1.5, count) * (rng.random(count) > 0.3)
    predicted = np.maximum(0, np.expm1(np.log1p(reference) + 0.15 * rng.standard_normal(count)))
    return reference, predicted


CALIBRATION = fit(*_scans(1, 500))


def test_new_scans_fall_into_the_interval_as_often_as_it_says():
    reference, predicted = _scans(2, 2000)
    intervals = [CALIBRATION.interval(value) for value in predicted]
    inside = [low <= true <= high for true, (low, high) in zip(reference, intervals, strict=True)]
    assert 0.92 <= np.mean(inside) <= 0.99


def test_probabilities_follow_the_prediction_and_doubt_at_a_border():
    assert np.argmax(CALIBRATION.probabilities(0)) == RiskGroup.VERY_LOW
    assert np.argmax(CALIBRATION.probabilities(200)) == RiskGroup.MODERATELY_HIGH
    assert max(CALIBRATION.probabilities(100)) < max(CALIBRATION.probabilities(220))


@given(st.floats(0, 10_000))
def test_an_interval_holds_its_prediction_and_probabilities_add_up(agatston: float):
    low, high = CALIBRATION.interval(agatston)
    assert 0 <= low <= agatston <= high
    probabilities = CALIBRATION.probabilities(agatston)
    assert sum(probabilities) == pytest.approx(1)
    assert min(probabilities) > 0


def test_json_keeps_the_table():
    values = json.loads(json.dumps(CALIBRATION.as_json()))
    back = Calibration(
        values["coverage"],
        tuple(values["knots"]),
        tuple(values["low"]),
        tuple(values["high"]),
        tuple(tuple(row) for row in values["group_probabilities"]),
    )
    assert back.interval(50) == pytest.approx(CALIBRATION.interval(50), rel=1e-3)


def test_too_few_scans_are_refused():
    with pytest.raises(ValueError, match="20 scans"):
        fit([1.0] * 5, [1.0] * 5)
