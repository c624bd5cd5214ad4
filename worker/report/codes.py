"""Codes of the report, as tables. Paths and codes stay stable: reporting systems map on them."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code

from calcium.risk import RiskGroup

# The private scheme, declared in Coding Scheme Identification Sequence (0008,0110).
SCHEME = "99AGATSTON"
SCHEME_NAME = "Agatston node: predicted calcium scores, five risk groups, limitations"
SCHEME_VERSION = "1"


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


# Units of measure (UCUM)
NO_UNITS = Code("1", "UCUM", "no units")
MM = Code("mm", "UCUM", "mm")
MM3 = Code("mm3", "UCUM", "cubic millimeter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")

# Document
TITLE = _dcm("126000", "Imaging Measurement Report")
PROCEDURE = _sct("169069000", "CT of chest")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500 row 9
COMMENT = _dcm("121106", "Comment")
STUDY_QUALITY = _dcm("122739", "Overall study quality")
QUALITY_GOOD = _dcm("122741", "Good image quality")  # CID 3114
QUALITY_POOR = _dcm("122742", "Poor image quality")  # CID 3114

# What is scored
CALCIFICATION = _sct("237897009", "Vascular calcification")
CORONARY_ARTERY = _sct("41801008", "Coronary artery")
HEART = _sct("80891009", "Heart")
BOUNDED_BY = _sct("75958009", "Bounded by")  # CID 219

# Totals: exactly one item of each of these two names stands in a report
CALCIUM_SCORE = _sct("450360000", "Coronary artery calcium score")
CALCIUM_VOLUME = _dcm("122660", "Calcium Volume")
METHOD_AGATSTON = _dcm("112055", "Agatston scoring method")
METHOD_VOLUME = _dcm("112056", "Volume scoring method")
TOTAL = _sct("255619001", "Total")
THRESHOLD = _dcm("122657", "Agatston Score Threshold")

# Algorithm
AI_FAMILY = _dcm("123110", "Artificial Intelligence")  # CID 7162
VISUAL_EXPLANATION = _dcm("130401", "Visual explanation")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")  # CID 7005

# Private concepts
AGATSTON_LOW = _own("AGATSTON-LOW", "Predicted Agatston score, lower limit of its interval")
AGATSTON_HIGH = _own("AGATSTON-HIGH", "Predicted Agatston score, upper limit of its interval")
INTERVAL_COVERAGE = _own("COVERAGE", "Coverage of the prediction interval")
SLICE_AGATSTON = _own("SLICE-AGATSTON", "Predicted Agatston score of one slice")
SLICE_VOLUME = _own("SLICE-VOLUME", "Predicted calcium volume of one slice")
SLICE_Z = _own("SLICE-Z", "z of the slice centre, patient coordinates")
RESULT_STATUS = _own("RESULT-STATUS", "Status of the result")
AI_ESTIMATE = _own("AI-ESTIMATE", "AI estimate, not verified; research use")
AI_ESTIMATE_SITE = _own("AI-ESTIMATE-SITE", "AI estimate, not verified; weights validated by site")
LIMITATION = _own("LIMITATION", "Limitation of the result")
NOT_SCORED = _own("NOT-SCORED", "Reason why no score was made")
RISK_GROUP = _own("RISK-GROUP", "Risk group by predicted Agatston score, five groups")
BOX_BOUNDS = {
    (axis, side): _own(f"BOX-{axis.upper()}-{side.upper()}", f"Heart box, {word} {axis}, patient coordinates")
    for axis in "xyz"
    for side, word in (("low", "lowest"), ("high", "highest"))
}

# Members of the five-group concept, with their thresholds (seed, section "Data")
RISK_GROUPS = {
    RiskGroup.VERY_LOW: _own("RG-VERY-LOW", "very low: Agatston score below 1"),
    RiskGroup.LOW: _own("RG-LOW", "low: Agatston score 1 to below 10"),
    RiskGroup.MODERATE: _own("RG-MODERATE", "moderate: Agatston score 10 to below 100"),
    RiskGroup.MODERATELY_HIGH: _own("RG-MOD-HIGH", "moderately high: Agatston score 100 to below 400"),
    RiskGroup.HIGH: _own("RG-HIGH", "high: Agatston score 400 or more"),
}
GROUP_PROBABILITIES = {
    group: _own(f"P-{code.value[3:]}", f"Probability of the group {group.label}")
    for group, code in RISK_GROUPS.items()
}

# The same as a standard level, CID 3118
RISK = _sct("395112001", "Cardiovascular event risk")
RISK_LEVELS = {
    RiskGroup.VERY_LOW: _sct("427986001", "Normal risk"),
    RiskGroup.LOW: _sct("75976002", "Low risk"),
    RiskGroup.MODERATE: _sct("25594002", "Moderate risk"),
    RiskGroup.MODERATELY_HIGH: _sct("429557002", "Moderate to high risk"),
    RiskGroup.HIGH: _sct("15508007", "High risk"),
}


def limitation(code: str, text: str) -> CodedConcept:
    """Return a member of the private scheme for a caution or reason.

    Its value is the stable code with hyphens and capitals, a Long Code Value where it has more than 16
    characters (PS3.3 section 8.1); its meaning is the text cut to the 64 characters of VR LO.
    """
    meaning = text if len(text) <= 64 else text[:61].rstrip() + "..."
    return CodedConcept(code.upper().replace("_", "-"), SCHEME, meaning)
