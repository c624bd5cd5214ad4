"""Codes of the exported results: those of the Structured Report (worker.report.codes), without its library."""

from __future__ import annotations

from typing import NamedTuple

from calcium.risk import RiskGroup

SCHEME = "99AGATSTON"


class Code(NamedTuple):
    """Code value, coding scheme designator (PS3.16 section 8), meaning."""

    value: str
    scheme: str
    meaning: str


REPORT = Code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE = Code("169069000", "SCT", "CT of chest")
CALCIUM_SCORE = Code("450360000", "SCT", "Coronary artery calcium score")
CALCIUM_VOLUME = Code("122660", "DCM", "Calcium Volume")
METHOD_AGATSTON = Code("112055", "DCM", "Agatston scoring method")
METHOD_VOLUME = Code("112056", "DCM", "Volume scoring method")
CORONARY_ARTERY = Code("41801008", "SCT", "Coronary artery")
AGATSTON_LOW = Code("AGATSTON-LOW", SCHEME, "Predicted Agatston score, lower limit of its interval")
AGATSTON_HIGH = Code("AGATSTON-HIGH", SCHEME, "Predicted Agatston score, upper limit of its interval")
RISK_GROUP = Code("RISK-GROUP", SCHEME, "Risk group by predicted Agatston score, five groups")
STUDY_UID = Code("110180", "DCM", "Study Instance UID")
SERIES_UID = Code("112002", "DCM", "Series Instance UID")
ALGORITHM = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
COMMENT = Code("121106", "DCM", "Comment")
NO_UNITS = Code("1", "UCUM", "no units")
MM3 = Code("mm3", "UCUM", "cubic millimeter")

RISK_GROUPS = {
    RiskGroup.VERY_LOW: Code("RG-VERY-LOW", SCHEME, "very low: Agatston score below 1"),
    RiskGroup.LOW: Code("RG-LOW", SCHEME, "low: Agatston score 1 to below 10"),
    RiskGroup.MODERATE: Code("RG-MODERATE", SCHEME, "moderate: Agatston score 10 to below 100"),
    RiskGroup.MODERATELY_HIGH: Code("RG-MOD-HIGH", SCHEME, "moderately high: Agatston score 100 to below 400"),
    RiskGroup.HIGH: Code("RG-HIGH", SCHEME, "high: Agatston score 400 or more"),
}
RISK_LEVELS = {  # PS3.16 CID 3118
    RiskGroup.VERY_LOW: Code("427986001", "SCT", "Normal risk"),
    RiskGroup.LOW: Code("75976002", "SCT", "Low risk"),
    RiskGroup.MODERATE: Code("25594002", "SCT", "Moderate risk"),
    RiskGroup.MODERATELY_HIGH: Code("429557002", "SCT", "Moderate to high risk"),
    RiskGroup.HIGH: Code("15508007", "SCT", "High risk"),
}

RESEARCH = "AI estimate, not verified by a physician; research use, not for diagnosis"
SITE_VALIDATED = "AI estimate, not verified by a physician; weights validated by the site"


def group_of(label: str) -> RiskGroup:
    """Return the group of its label."""
    return next(group for group in RiskGroup if group.label == label)
