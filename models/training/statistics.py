"""Agreement between reference and predicted scores: the figures of the paper's Tables 1 and 2, and more.

All functions take plain numbers and know nothing of images. They are checked against pingouin and scikit-learn
in ``tests/unit/test_statistics.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval.

    Parameters
    ----------
    value, low, high
        The figure and the limits of its interval; not-a-number where too few data allow none.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Bias and limits of agreement of predicted minus reference (Bland and Altman, Lancet 1986).

    Parameters
    ----------
    bias
        Mean difference.
    low, high
        95 % limits of agreement, bias -+ 1.96 standard deviations.
    """

    bias: float
    low: float
    high: float


def icc_absolute(reference: ArrayLike, predicted: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Return the two-way intraclass correlation for absolute agreement of single measures, ICC(A,1).

    McGraw and Wong, Psychological Methods 1996, Tables 4 and 7 (case 2A). It is what the paper's Table 1 lists.

    Parameters
    ----------
    reference, predicted
        One number for each scan, same length of at least 2.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        The lengths differ, or there are fewer than two scans.
    """
    scores = np.stack([np.asarray(reference, np.float64), np.asarray(predicted, np.float64)], axis=1)
    n, k = scores.shape
    if n < 2:
        raise ValueError("an ICC needs at least two scans")
    grand = scores.mean()
    rows, columns = scores.mean(axis=1), scores.mean(axis=0)
    ms_rows = k * ((rows - grand) ** 2).sum() / (n - 1)
    ms_columns = n * ((columns - grand) ** 2).sum() / (k - 1)
    residual = scores - rows[:, None] - columns[None, :] + grand
    ms_error = (residual**2).sum() / ((n - 1) * (k - 1))
    denominator = ms_rows + (k - 1) * ms_error + k / n * (ms_columns - ms_error)
    if denominator <= 0:  # all scores are equal: agreement cannot be told from no variation
        return Estimate(math.nan, math.nan, math.nan)
    icc = float((ms_rows - ms_error) / denominator)
    if 1 - icc < 1e-12:
        return Estimate(icc, icc, icc)
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    freedom = (a * ms_columns + b * ms_error) ** 2 / (
        (a * ms_columns) ** 2 / (k - 1) + (b * ms_error) ** 2 / ((n - 1) * (k - 1))
    )
    quantile = 1 - (1 - confidence) / 2
    f_low = stats.f.ppf(quantile, n - 1, freedom)
    f_high = stats.f.ppf(quantile, freedom, n - 1)
    other = k * ms_columns + (k * n - k - n) * ms_error
    low = n * (ms_rows - f_low * ms_error) / (f_low * other + n * ms_rows)
    high = n * (f_high * ms_rows - ms_error) / (other + n * f_high * ms_rows)
    return Estimate(icc, float(low), float(high))


def confusion(reference: ArrayLike, predicted: ArrayLike, groups: int) -> NDArray[np.int64]:
    """Return the table of counts, (reference group, predicted group), shape (groups, groups)."""
    table = np.zeros((groups, groups), np.int64)
    np.add.at(table, (np.asarray(reference, np.int64), np.asarray(predicted, np.int64)), 1)
    return table


def accuracy(reference: ArrayLike, predicted: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Return the share of equal groups with Wilson's interval."""
    same = np.asarray(reference) == np.asarray(predicted)
    return wilson(int(same.sum()), same.size, confidence)


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson, JASA 1927)."""
    if trials == 0:
        return Estimate(math.nan, math.nan, math.nan)
    share = successes / trials
    z = float(stats.norm.ppf(1 - (1 - confidence) / 2))
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Estimate(share, low, high)


def _kappa_of(table: NDArray[np.float64]) -> float:
    groups = len(table)
    index = np.arange(groups)
    weights = np.abs(index[:, None] - index[None, :])  # linear disagreement
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chance = float((weights * expected).sum())
    return 1 - float((weights * table).sum()) / chance if chance > 0 else math.nan


def linear_kappa(
    reference: ArrayLike, predicted: ArrayLike, groups: int, *, bootstraps: int = 2000, seed: int = 0
) -> Estimate:
    """Return Cohen's linearly weighted kappa with a percentile bootstrap interval over scans.

    Parameters
    ----------
    reference, predicted
        Group of each scan, 0 to `groups` - 1.
    groups
        Number of groups.
    bootstraps
        Resamples of the scans; 0 for no interval.
    seed
        Of the resampling.
    """
    value = _kappa_of(confusion(reference, predicted, groups).astype(np.float64))

    def one(rows: NDArray[np.int64]) -> float:
        return _kappa_of(
            confusion(np.asarray(reference)[rows], np.asarray(predicted)[rows], groups).astype(float)
        )

    low, high = bootstrap(one, np.asarray(reference).size, bootstraps=bootstraps, seed=seed)
    return Estimate(value, low, high)


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    bootstraps: int = 2000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of `figure(rows)` over resampled row indices."""
    if bootstraps == 0 or count == 0:
        return (math.nan, math.nan)
    rng = np.random.default_rng(seed)
    values = np.array([figure(rng.integers(0, count, count)) for _ in range(bootstraps)])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return (math.nan, math.nan)
    tail = (1 - confidence) / 2
    return (float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))


def bland_altman(reference: Sequence[float], predicted: Sequence[float]) -> BlandAltman:
    """Return bias and 95 % limits of agreement of predicted minus reference."""
    difference = np.asarray(predicted, np.float64) - np.asarray(reference, np.float64)
    bias = float(difference.mean())
    spread = 1.96 * float(difference.std(ddof=1)) if difference.size > 1 else math.nan
    return BlandAltman(bias, bias - spread, bias + spread)
