"""From a predicted total to an interval and a probability for each risk group, learnt on validation scans.

The reference's distribution around a prediction is taken from validation scans with similar predictions, on the
scale t = ln(score + 1): a kernel-weighted form of split conformal prediction (Lei et al., JASA 2018; weights as
in Guan, Biometrika 2023). It is stored as a small table of knots, so that inference needs no training code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calcium.risk import RiskGroup

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KNOTS = np.log1p([0.0, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 400.0, 1000.0, 4000.0])
# Width of the kernel over t: a factor of about two in score.
KERNEL_WIDTH = 0.6
# Fewer scans make no calibration; the kernel widens until it holds this many.
MINIMUM_SCANS = 20
KERNEL_SCANS = 8.0
# Least share of the kernel's scans beyond each limit: without it, scans far away would set a limit.
LEAST_TAIL = 0.005
# Added to every group before normalising (a flat Dirichlet prior worth one scan), so that no probability is 0.
PRIOR = 0.2


@dataclass(frozen=True, slots=True)
class Calibration:
    """A table over t = ln(predicted + 1), linear between knots.

    Parameters
    ----------
    coverage
        Of the interval.
    knots
        Rising t.
    low, high
        ln(limit + 1) minus t at each knot.
    group_probabilities
        Probabilities of the five groups at each knot.
    """

    coverage: float
    knots: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    group_probabilities: tuple[tuple[float, ...], ...]

    def interval(self, agatston: float) -> tuple[float, float]:
        """Return (low, high) of the reference for a predicted total; never below 0, holds the prediction."""
        t = float(np.log1p(agatston))
        low = float(np.expm1(t + np.interp(t, self.knots, self.low)))
        high = float(np.expm1(t + np.interp(t, self.knots, self.high)))
        return (max(0.0, min(low, agatston)), max(high, agatston))

    def probabilities(self, agatston: float) -> tuple[float, ...]:
        """Return the probability of each of the five groups for a predicted total."""
        t = float(np.log1p(agatston))
        columns = np.array(self.group_probabilities).T
        values = np.array([np.interp(t, self.knots, column) for column in columns])
        return tuple(float(value) for value in values / values.sum())

    def as_json(self) -> dict[str, Any]:
        """Return the table as the manifest stores it."""
        return {
            "coverage": self.coverage,
            "knots": [round(value, 5) for value in self.knots],
            "low": [round(value, 5) for value in self.low],
            "high": [round(value, 5) for value in self.high],
            "group_probabilities": [[round(value, 5) for value in row] for row in self.group_probabilities],
        }


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> float:
    """Return the weighted quantile of `values`, on the safe side of a finite sample."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, level)), values.size - 1)])


def fit(reference: ArrayLike, predicted: ArrayLike, coverage: float = 0.95) -> Calibration:
    """Learn the table from the totals of validation scans.

    Parameters
    ----------
    reference, predicted
        Totals of scans that were in no training set, at least 20.
    coverage
        Of the interval.

    Raises
    ------
    ValueError
        Fewer than 20 scans.
    """
    true, found = np.asarray(reference, np.float64), np.asarray(predicted, np.float64)
    if found.size < MINIMUM_SCANS:
        raise ValueError(f"a calibration needs at least {MINIMUM_SCANS} scans, not {found.size}")
    t = np.log1p(found)
    residual = np.log1p(true) - t
    groups = np.array([int(RiskGroup.of(float(value))) for value in true])
    low, high, probabilities = [], [], []
    for knot in KNOTS:
        width = KERNEL_WIDTH
        weights = np.exp(-0.5 * ((t - knot) / width) ** 2)
        while weights.sum() < KERNEL_SCANS and width < 10:
            width *= 1.2
            weights = np.exp(-0.5 * ((t - knot) / width) ** 2)
        # (n + 1) of conformal prediction: half of the missing scan stands at either end.
        tail = max(LEAST_TAIL, (1 - coverage) / 2 - 0.5 / (weights.sum() + 1))
        low.append(_quantile(residual, weights, tail))
        high.append(_quantile(residual, weights, 1 - tail))
        counts = np.bincount(groups, weights, len(RiskGroup)) + PRIOR
        probabilities.append(tuple(float(value) for value in counts / counts.sum()))
    return Calibration(
        coverage, tuple(float(knot) for knot in KNOTS), tuple(low), tuple(high), tuple(probabilities)
    )
