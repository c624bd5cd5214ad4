"""From scores of scans to the paper's tables: plain records in, figures out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from calcium.risk import RiskGroup
from models.training.statistics import (
    BlandAltman,
    Estimate,
    accuracy,
    bland_altman,
    confusion,
    icc_absolute,
    linear_kappa,
    wilson,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

GROUPS = len(RiskGroup)
# Rows of the paper's tables: experiment -> (separate kernels or shared, target).
EXPERIMENTS = {
    "i": ("separate", "y"),
    "ii": ("shared", "y"),
    "iii": ("separate", "ln(y + 1)"),
    "iv": ("shared", "ln(y + 1)"),
}
KINDS = ("agatston", "volume")


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """Reference and predicted scores of one scan.

    Parameters
    ----------
    name, patient, origin
        As in the cache.
    agatston, volume_mm3
        Reference totals.
    predicted_agatston, predicted_volume_mm3
        Network name -> predicted total; a network may give only one of the two.
    interval
        (low, high) of the default network's total, or None.
    attention
        (share of the response within 5 mm of coronary plaques, share on aortic and valve calcium), or None.
    description
        What breakdowns go by.
    """

    name: str
    patient: str
    origin: str
    agatston: float
    volume_mm3: float
    predicted_agatston: dict[str, float] = field(default_factory=dict)
    predicted_volume_mm3: dict[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    attention: tuple[float, float] | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def reference(self, kind: str) -> float:
        """Return the reference total of a kind of score."""
        return self.agatston if kind == "agatston" else self.volume_mm3

    def predicted(self, kind: str) -> dict[str, float]:
        """Return the predicted totals of a kind of score, by network."""
        return self.predicted_agatston if kind == "agatston" else self.predicted_volume_mm3


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of one network on one set of scans; the risk groups are those of Agatston scores only.

    Parameters
    ----------
    scans
        How many.
    icc
        ICC(A,1) of the totals.
    bland_altman
        Of predicted minus reference totals.
    accuracy, kappa
        Over the five groups; None for volume scores.
    confusion
        (reference group, predicted group) counts; None for volume scores.
    """

    scans: int
    icc: Estimate
    bland_altman: BlandAltman
    accuracy: Estimate | None
    kappa: Estimate | None
    confusion: NDArray[np.int64] | None


def agreement(records: Sequence[ScanRecord], network: str, kind: str) -> Agreement | None:
    """Return the figures of a network, or None where it scored fewer than two of the scans."""
    scored = [record for record in records if network in record.predicted(kind)]
    if len(scored) < 2:
        return None
    reference = [record.reference(kind) for record in scored]
    predicted = [record.predicted(kind)[network] for record in scored]
    icc, limits = icc_absolute(reference, predicted), bland_altman(reference, predicted)
    if kind != "agatston":
        return Agreement(len(scored), icc, limits, None, None, None)
    groups = [int(RiskGroup.of(value)) for value in reference]
    found = [int(RiskGroup.of(value)) for value in predicted]
    return Agreement(
        len(scored),
        icc,
        limits,
        accuracy(groups, found),
        linear_kappa(groups, found, GROUPS),
        confusion(groups, found, GROUPS),
    )


def networks_of(records: Sequence[ScanRecord], kind: str) -> list[str]:
    """Return the names of all networks that gave a score of this kind, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.predicted(kind)))


def breakdown(
    records: Sequence[ScanRecord], network: str, group_of: Callable[[ScanRecord], str | None]
) -> dict[str, Agreement]:
    """Return the figures of a network for each group of scans, groups in order of their names."""
    parts: dict[str, list[ScanRecord]] = defaultdict(list)
    for record in records:
        group = group_of(record)
        if group is not None:
            parts[group].append(record)
    figures = {group: agreement(parts[group], network, "agatston") for group in sorted(parts)}
    return {group: figure for group, figure in figures.items() if figure is not None}


def stays_without_calcium(records: Sequence[ScanRecord], network: str) -> Estimate:
    """Return the share of scans with non-coronary but no coronary calcium that stay in the very low group."""
    tempted = [
        record.predicted_agatston[network]
        for record in records
        if network in record.predicted_agatston
        and RiskGroup.of(record.agatston) is RiskGroup.VERY_LOW
        and record.description.get("non_coronary_mm3", 0) > 0
    ]
    kept = sum(RiskGroup.of(value) is RiskGroup.VERY_LOW for value in tempted)
    return wilson(kept, len(tempted))


def interval_coverage(records: Sequence[ScanRecord]) -> Estimate:
    """Return the share of reference totals inside the default network's interval."""
    given = [(record.agatston, record.interval) for record in records if record.interval is not None]
    inside = sum(low <= value <= high for value, (low, high) in given)
    return wilson(inside, len(given))


def attention_shares(records: Sequence[ScanRecord]) -> tuple[float, float, int]:
    """Return the mean shares near coronary and on other calcium, and over how many scans with the former."""
    shares = [record.attention for record in records if record.attention is not None and record.agatston >= 1]
    if not shares:
        return (float("nan"), float("nan"), 0)
    near, other = np.mean(np.array(shares), axis=0)
    return (float(near), float(other), len(shares))
