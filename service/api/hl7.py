"""A result as an HL7 v2.5.1 message ORU^R01, for reporting systems that listen to no FHIR.

Chapters and sections are those of HL7 v2.5.1: 2 (control), 3 (patient), 7 (observations).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from service.api import codes
from service.api.codes import Code
from service.api.exports import NoScoreError, Patient, Scored

# Section 2.7.1: delimiters inside values are escaped, the escape character first.
ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
CONTROL_ID = 20  # characters of MSH-10


def message(scored: Scored) -> str:
    """Return the message; its segments end with a carriage return (section 2.5.4).

    Raises
    ------
    NoScoreError
        The report, and with it the patient's identifier, is no longer in the outbox.
    """
    if scored.patient is None or not scored.patient.patient_id:
        raise NoScoreError("the report in the outbox names no patient: an ORU message could not be matched")
    observations = [_obx(number, one) for number, one in enumerate(_observations(scored), start=1)]
    segments = [_msh(scored), _pid(scored.patient), _obr(scored, scored.patient), *observations]
    return "".join(segment.rstrip("|") + "\r" for segment in segments)


def _text(value: str) -> str:
    escaped = "".join(ESCAPES.get(character, character) for character in value)
    return " ".join(escaped.split())  # no control character may end a segment early


def _coded(*codes_of_one: Code) -> str:
    """Write a CWE (section 2.A.13): identifier, text, coding system; and the same again in another system."""
    return "^".join(_text(part) for one in codes_of_one for part in (one.value, one.meaning, one.scheme))


def _moment(moment: datetime | None) -> str:
    """Write a TS (section 2.A.77); one without a zone stays so."""
    if moment is None:
        return ""
    return f"{moment:%Y%m%d%H%M%S}" if moment.tzinfo is None else f"{moment.astimezone(UTC):%Y%m%d%H%M%S}+0000"


def _segment(name: str, fields: dict[int, str]) -> str:
    """Write a segment from its fields by number."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))])


def _msh(scored: Scored) -> str:
    control = hashlib.sha256(scored.report_uid.encode()).hexdigest()[:CONTROL_ID]
    # MSH-1 is the separator itself, so that the fields counted here begin with MSH-2.
    return _segment(
        "MSH",
        {
            1: "^~\\&", 2: "AGATSTON", 3: _text(scored.sender), 6: _moment(scored.scored_at),
            8: "ORU^R01^ORU_R01", 9: control, 10: "P", 11: "2.5.1", 17: "UNICODE UTF-8",
        },
    )  # fmt: skip


def _pid(patient: Patient) -> str:
    name = (patient.family, patient.given, patient.middle, patient.suffix, patient.prefix)
    return _segment(
        "PID",
        {
            1: "1",
            3: f"{_text(patient.patient_id)}^^^{_text(patient.issuer)}".rstrip("^"),
            5: "^".join(map(_text, name)).rstrip("^"),
            7: patient.birth_date,
            8: patient.sex,
        },
    )


def _obr(scored: Scored, patient: Patient) -> str:
    return _segment(
        "OBR",
        {
            1: "1",
            3: _text(scored.report_uid),
            4: _coded(codes.PROCEDURE),
            7: _moment(patient.studied_at),
            18: _text(patient.accession_number),  # IHE RAD: OBR-18 carries the accession number
            22: _moment(scored.scored_at),
            24: "CT",
            25: "P",  # preliminary (table 0123): nobody verified it
        },
    )


def _observations(scored: Scored) -> list[tuple[str, str, str, str, str]]:
    """Return (value type, code, value, units, method) of each observation."""
    result = scored.result
    group = codes.group_of(result.risk_group or "")
    score, none = _coded(codes.CALCIUM_SCORE), _coded(codes.NO_UNITS)
    agatston = _coded(codes.METHOD_AGATSTON)
    rows = [("NM", score, f"{scored.agatston:.1f}", none, agatston)]
    for code, value in ((codes.AGATSTON_LOW, result.agatston_low), (codes.AGATSTON_HIGH, result.agatston_high)):
        if value is not None:
            rows.append(("NM", _coded(code), f"{value:.1f}", none, agatston))
    if result.volume_mm3 is not None:
        volume = _coded(codes.METHOD_VOLUME)
        rows.append(("NM", _coded(codes.CALCIUM_VOLUME), f"{result.volume_mm3:.1f}", _coded(codes.MM3), volume))
    both = _coded(codes.RISK_GROUPS[group], codes.RISK_LEVELS[group])
    rows.append(("CWE", _coded(codes.RISK_GROUP), both, "", ""))
    weights = result.weights or {}
    for code, text in (
        (codes.ALGORITHM, f"{weights.get('name', '')}"),
        (codes.ALGORITHM_VERSION, f"{weights.get('version', '')}"),
        (codes.STUDY_UID, result.study_instance_uid),
        (codes.SERIES_UID, result.series_instance_uid),
    ):
        rows.append(("ST", _coded(code), _text(text), "", ""))
    notes = [codes.SITE_VALIDATED if scored.validated else codes.RESEARCH]
    notes += [warning.get("text", "") for warning in result.warnings]
    rows += [("TX", _coded(codes.COMMENT), _text(note), "", "") for note in notes]
    return rows


def _obx(number: int, observation: tuple[str, str, str, str, str]) -> str:
    value_type, code, value, units, method = observation
    fields = {1: str(number), 2: value_type, 3: code, 4: str(number), 5: value, 6: units, 11: "P", 17: method}
    return _segment("OBX", fields)
