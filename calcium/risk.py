"""The five cardiovascular risk groups of De Vos et al. 2017, section "Data"."""

from __future__ import annotations

import math
from enum import IntEnum


class RiskGroup(IntEnum):
    """Risk group by total Agatston score; other schemes (CAC-DRS, MESA) are other types."""

    VERY_LOW = 0
    LOW = 1
    MODERATE = 2
    MODERATELY_HIGH = 3
    HIGH = 4

    @property
    def label(self) -> str:
        """The group's name in words, as JSON, reports and pages print it: ``moderately high``."""
        return self.name.lower().replace("_", " ")

    @property
    def bounds(self) -> tuple[float, float]:
        """Half-open range [low, high) of total Agatston scores of this group."""
        edges = (0.0, *RISK_THRESHOLDS, math.inf)
        return (edges[self], edges[self + 1])

    @classmethod
    def of(cls, agatston: float) -> RiskGroup:
        """Return the group of a total Agatston score.

        Raises
        ------
        ValueError
            The score is negative or not finite: unknown is not zero.
        """
        if not math.isfinite(agatston) or agatston < 0:
            raise ValueError(f"a total Agatston score must be finite and not negative, not {agatston}")
        return cls(sum(agatston >= threshold for threshold in RISK_THRESHOLDS))


# Lower bounds of all groups but the first (seed, section "Data": <1, 1-10, 10-100, 100-400, >=400).
RISK_THRESHOLDS = (1.0, 10.0, 100.0, 400.0)
