"""The project's statistics against two published libraries, and against figures by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix

from models.training.statistics import (
    accuracy,
    bland_altman,
    bootstrap,
    confusion,
    icc_absolute,
    linear_kappa,
    wilson,
)


def _scores(seed: int, bias: float, noise: float, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.lognormal(4, 1.5, count) * (rng.random(count) > 0.3)
    return reference, np.maximum(0, reference * (1 + noise * rng.standard_normal(count)) + bias)


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.1), (30.0, 0.3), (5.0, 1.0)])
def test_icc_and_its_interval_agree_with_pingouin(bias: float, noise: float):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pingouin's own imports
        pd = pytest.importorskip("pandas")
        pingouin = pytest.importorskip("pingouin")

        reference, predicted = _scores(3, bias, noise)
        frame = pd.DataFrame(
            {
                "scan": np.tile(np.arange(reference.size), 2),
                "reader": np.repeat(["reference", "network"], reference.size),
                "score": np.concatenate([reference, predicted]),
            }
        )
        table = pingouin.intraclass_corr(frame, targets="scan", raters="reader", ratings="score")
    row = table[table["Type"].isin(["ICC2", "ICC(A,1)"])].iloc[0]
    low, high = row["CI95%"] if "CI95%" in table else row["CI95"]
    ours = icc_absolute(reference, predicted)
    assert ours.value == pytest.approx(float(row["ICC"]), abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx(
        (float(low), float(high)), abs=0.0051
    )  # pingouin rounds to 0.01


def test_icc_of_shrout_and_fleiss_by_hand():
    # Judges 1 and 3 of Shrout and Fleiss 1979, Table 2: mean squares by hand.
    first, third = np.array([9, 6, 8, 7, 10, 6.0]), np.array([5, 3, 6, 2, 6, 4.0])
    both = np.stack([first, third])
    ms_rows = 2 * both.mean(0).var(ddof=1)
    ms_columns = 6 * both.mean(1).var(ddof=1)
    ms_error = ((both - both.mean(0) - both.mean(1)[:, None] + both.mean()) ** 2).sum() / 5
    expected = (ms_rows - ms_error) / (ms_rows + ms_error + 2 / 6 * (ms_columns - ms_error))
    assert icc_absolute(first, third).value == pytest.approx(expected)


def test_icc_of_equal_scores_is_one_and_of_constant_scores_undefined():
    assert icc_absolute([0, 1, 50], [0, 1, 50]).value == pytest.approx(1)
    assert math.isnan(icc_absolute([3, 3, 3], [3, 3, 3]).value)
    with pytest.raises(ValueError, match="two scans"):
        icc_absolute([1], [1])


def test_icc_sees_a_bias_that_correlation_does_not():
    reference, _ = _scores(1, 0, 0)
    assert icc_absolute(reference, reference + 200).value < icc_absolute(reference, reference + 5).value < 1


def test_kappa_accuracy_and_confusion_agree_with_scikit_learn():
    rng = np.random.default_rng(5)
    reference = rng.integers(0, 5, 200)
    predicted = np.clip(reference + rng.integers(-1, 2, 200), 0, 4)
    kappa = linear_kappa(reference, predicted, 5, bootstraps=300)
    assert kappa.value == pytest.approx(cohen_kappa_score(reference, predicted, weights="linear"))
    assert kappa.low < kappa.value < kappa.high
    assert accuracy(reference, predicted).value == pytest.approx(accuracy_score(reference, predicted))
    assert (confusion(reference, predicted, 5) == confusion_matrix(reference, predicted, labels=range(5))).all()


def test_wilson_interval_by_hand():
    # Newcombe, Statistics in Medicine 1998, Table I: 81 of 263 by method 3 (Wilson's score): 0.2553 to 0.3662.
    estimate = wilson(81, 263)
    assert (estimate.low, estimate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert math.isnan(wilson(0, 0).value)


def test_bland_altman_by_hand():
    agreement = bland_altman([0, 10, 20], [1, 12, 23])
    assert agreement.bias == pytest.approx(2)
    assert (agreement.low, agreement.high) == pytest.approx((2 - 1.96, 2 + 1.96))


def test_bootstrap_interval_of_a_mean_covers_it():
    data = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap(lambda rows: float(data[rows].mean()), data.size, bootstraps=500)
    assert low < data.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert all(math.isnan(limit) for limit in bootstrap(lambda _: 0.0, 0))
