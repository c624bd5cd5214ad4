"""A result as an HL7 FHIR R4 (4.0.1) bundle: DiagnosticReport, its Observations, and what they refer to.

Everything is preliminary: nobody verified it. Identifiers derive from the report's UID, so that the same result
is the same bundle.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from service.api import codes
from service.api.codes import Code
from service.api.exports import Patient, Scored

SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    codes.SCHEME: "urn:agatston:codes",
}
DICOM_UID = "urn:dicom:uid"
SEX = {"M": "male", "F": "female", "O": "other"}  # value set administrative-gender
CATEGORY = ("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")
SERVICE = ("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")
ACCESSION = ("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN", "Accession ID")
REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"

Resource = dict[str, Any]


def bundle(scored: Scored) -> str:
    """Return the bundle as JSON."""
    return json.dumps(resources(scored), ensure_ascii=False, indent=1)


def resources(scored: Scored) -> Resource:
    """Return the bundle, a collection that begins with its DiagnosticReport."""
    result = scored.result
    study, device, group = _study(scored), _device(scored), result.risk_group
    entries = {"study": study, "device": device}
    common: Resource = {"status": "preliminary", "issued": _instant(scored)}
    common["device"] = {"reference": _url(scored, "device")}
    if scored.patient is not None:
        entries["patient"] = _patient(scored.patient)
        study["subject"] = {"reference": _url(scored, "patient")}
        common["subject"] = {"reference": _url(scored, "patient")}
        if scored.patient.studied_at is not None:
            # The images carry no zone, and a FHIR dateTime with a clock needs one: the day alone is certain.
            common["effectiveDateTime"] = scored.patient.studied_at.date().isoformat()
    for name, observation in _observations(scored).items():
        entries[name] = {
            "resourceType": "Observation",
            **common,
            "category": [{"coding": [_coding_of(*CATEGORY)]}],
            "bodySite": _concept(codes.CORONARY_ARTERY),
            "derivedFrom": [{"reference": _url(scored, "study")}],
            **observation,
        }
    report: Resource = {
        "resourceType": "DiagnosticReport",
        **{key: value for key, value in common.items() if key != "device"},
        "identifier": [{"system": DICOM_UID, "value": f"urn:oid:{scored.report_uid}"}],
        "category": [{"coding": [_coding_of(*SERVICE)]}],
        "code": _concept(codes.REPORT, text="Predicted coronary artery calcium score"),
        "imagingStudy": [{"reference": _url(scored, "study")}],
        "result": [{"reference": _url(scored, name)} for name in _observations(scored)],
        "conclusion": f"Predicted Agatston score {scored.agatston:.1f}, {group}. {_status(scored)}.",
        "conclusionCode": [_group(scored)],
    }
    if scored.patient is not None and scored.patient.accession_number:
        kind = {"coding": [_coding_of(*ACCESSION)]}
        order = {"type": kind, "value": scored.patient.accession_number}
        report["basedOn"] = [{"type": "ServiceRequest", "identifier": order}]
    return {
        "resourceType": "Bundle",
        "id": str(_uuid(scored, "bundle")),
        "type": "collection",
        "timestamp": _instant(scored),
        "entry": [
            {"fullUrl": _url(scored, name), "resource": resource}
            for name, resource in ({"report": report} | entries).items()
        ],
    }


def _observations(scored: Scored) -> dict[str, Resource]:
    result = scored.result
    found: dict[str, Resource] = {
        "score": {
            "code": _concept(codes.CALCIUM_SCORE),
            "method": _concept(codes.METHOD_AGATSTON),
            "valueQuantity": _quantity(scored.agatston, codes.NO_UNITS),
            "note": [
                {"text": text} for text in (_status(scored), *(one.get("text", "") for one in result.warnings))
            ],
        }
    }
    limits = [
        {"code": _concept(code), "valueQuantity": _quantity(value, codes.NO_UNITS)}
        for code, value in (
            (codes.AGATSTON_LOW, result.agatston_low),
            (codes.AGATSTON_HIGH, result.agatston_high),
        )
        if value is not None
    ]
    if limits:
        found["score"]["component"] = limits
    if result.volume_mm3 is not None:
        found["volume"] = {
            "code": _concept(codes.CALCIUM_VOLUME),
            "method": _concept(codes.METHOD_VOLUME),
            "valueQuantity": _quantity(result.volume_mm3, codes.MM3),
        }
    found["group"] = {"code": _concept(codes.RISK_GROUP), "valueCodeableConcept": _group(scored)}
    return found


def _study(scored: Scored) -> Resource:
    result = scored.result
    return {
        "resourceType": "ImagingStudy",
        "status": "available",
        "identifier": [{"system": DICOM_UID, "value": f"urn:oid:{result.study_instance_uid}"}],
        # R4 wants a subject of every study; without the report's file none is known.
        "subject": {"display": "unknown: the report is no longer in the outbox"},
        "series": [{
            "uid": result.series_instance_uid,
            "modality": _coding_of(SYSTEMS["DCM"], "CT", "Computed Tomography"),
        }],
    }  # fmt: skip


def _device(scored: Scored) -> Resource:
    weights = scored.result.weights or {}
    return {
        "resourceType": "Device",
        "deviceName": [{"name": "Agatston node", "type": "user-friendly-name"}],
        "version": [{"value": f"weights {weights.get('name', '')} {weights.get('version', '')}".strip()}],
        "note": [{"text": f"weights trained on: {weights.get('training_data', 'unknown data')}"}],
    }


def _patient(patient: Patient) -> Resource:
    found: Resource = {"resourceType": "Patient"}
    if patient.patient_id:
        identifier: Resource = {"value": patient.patient_id}
        if patient.issuer:
            identifier["assigner"] = {"display": patient.issuer}
        found["identifier"] = [identifier]
    parts = {
        "family": patient.family,
        "given": [one for one in (*patient.given.split(), *patient.middle.split()) if one],
        "prefix": [patient.prefix] if patient.prefix else [],
        "suffix": [patient.suffix] if patient.suffix else [],
    }
    names: list[Resource] = [{key: value for key, value in parts.items() if value}]
    if patient.ideographic:
        names.append({
            "text": patient.ideographic.replace("^", " ").strip(),
            "extension": [{"url": REPRESENTATION, "valueCode": "IDE"}],
        })  # fmt: skip
    found["name"] = [name for name in names if name]
    if not found["name"]:
        del found["name"]
    if patient.sex:
        found["gender"] = SEX[patient.sex]
    if patient.birth_date:
        found["birthDate"] = f"{patient.birth_date[:4]}-{patient.birth_date[4:6]}-{patient.birth_date[6:]}"
    return found


def _status(scored: Scored) -> str:
    return codes.SITE_VALIDATED if scored.validated else codes.RESEARCH


def _group(scored: Scored) -> Resource:
    group = codes.group_of(scored.result.risk_group or "")
    return _concept(codes.RISK_GROUPS[group], codes.RISK_LEVELS[group], text=scored.result.risk_group)


def _coding_of(system: str, code: str, display: str) -> Resource:
    return {"system": system, "code": code, "display": display}


def _concept(*coded: Code, text: str | None = None) -> Resource:
    found: Resource = {"coding": [_coding_of(SYSTEMS[one.scheme], one.value, one.meaning) for one in coded]}
    return found | ({"text": text} if text else {})


def _quantity(value: float, unit: Code) -> Resource:
    return {"value": float(f"{value:.6g}"), "unit": unit.meaning, "system": SYSTEMS["UCUM"], "code": unit.value}


def _instant(scored: Scored) -> str:
    return scored.scored_at.astimezone(UTC).isoformat(timespec="seconds")


def _uuid(scored: Scored, name: str) -> Any:
    return uuid5(NAMESPACE_OID, f"{scored.report_uid}/{name}")


def _url(scored: Scored, name: str) -> str:
    return f"urn:uuid:{_uuid(scored, name)}"
