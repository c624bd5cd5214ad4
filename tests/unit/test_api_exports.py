"""FHIR and HL7 v2 of a result: what another system reads equals what the job says."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydicom.dataset import Dataset

from calcium.risk import RiskGroup
from service.api import codes, exports, fhir, hl7
from service.api.schemas import ResultOut

UIDS = {"study_instance_uid": "1.2.3.4", "series_instance_uid": "1.2.3.5"}


def report(**attributes) -> Dataset:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName, made.PatientID, made.IssuerOfPatientID = "Müller^Anna^B^Dr", "P|1&2", "Hosp^1"
    made.PatientBirthDate, made.PatientSex = "19600229", "F"
    made.StudyDate, made.StudyTime, made.AccessionNumber = "20261124", "101500.250", "ACC\\1"[:3] + "7"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def scored(agatston=412.5, patient=None, **columns) -> exports.Scored:
    result = ResultOut(
        job_id="11111111-1111-4111-8111-111111111111", status="scored", reason_code=None, reason=None,
        agatston=agatston, agatston_low=agatston / 2, agatston_high=agatston * 2, volume_mm3=agatston * 0.8,
        risk_group=RiskGroup.of(agatston).label, warnings=[{"code": "c", "text": "a|b^c&d~e\\f\rOBX|99"}],
        weights={"name": "first", "version": "1", "training_data": "simulated"}, **UIDS, **columns,
    )  # fmt: skip
    patient = exports.read_patient(report()) if patient is None else patient
    return exports.Scored(result, "1.2.3.6", datetime(2026, 11, 25, 8, 30, tzinfo=UTC), patient, "AGATSTON")


def parse(message: str) -> list[list[str]]:
    """A small independent reader: segments end with CR, fields with |; MSH-1 is the separator itself."""
    assert message.endswith("\r")
    segments = [segment.split("|") for segment in message[:-1].split("\r")]
    segments[0].insert(1, "|")
    return segments


def unescape(text: str) -> str:
    for escaped, plain in (("\\F\\", "|"), ("\\S\\", "^"), ("\\T\\", "&"), ("\\R\\", "~"), ("\\E\\", "\\")):
        text = text.replace(escaped, plain)
    return text


def test_the_message_names_patient_study_and_score():
    msh, pid, obr, *observations = parse(hl7.message(scored()))
    assert (msh[2], msh[9], msh[12], msh[18]) == ("^~\\&", "ORU^R01^ORU_R01", "2.5.1", "UNICODE UTF-8")
    assert pid[3] == "P\\F\\1\\T\\2^^^Hosp\\S\\1"
    assert pid[5] == "Müller^Anna^B^^Dr"
    assert (pid[7], pid[8]) == ("19600229", "F")
    assert (obr[3], obr[7], obr[25]) == ("1.2.3.6", "20261124101500", "P")
    values = {one[3].split("^")[0]: one for one in observations}
    assert float(values["450360000"][5]) == 412.5
    assert values["450360000"][17] == "112055^Agatston scoring method^DCM"
    assert float(values["122660"][5]) == pytest.approx(330)
    assert values["RISK-GROUP"][5].split("^")[0] == "RG-HIGH"
    assert values["112002"][5] == "1.2.3.5"
    assert all(one[0] == "OBX" and one[11] == "P" for one in observations)
    assert [one[1] for one in observations] == [str(number + 1) for number in range(len(observations))]


def test_delimiters_in_a_value_start_no_field_and_no_segment():
    *_, last = parse(hl7.message(scored()))
    assert unescape(last[5]) == "a|b^c&d~e\\f OBX|99"


@given(st.floats(0, 20_000), st.text(max_size=30), st.text(max_size=30))
def test_any_name_and_score_give_a_message_of_the_same_shape(agatston, family, identifier):
    patient = dataclasses.replace(exports.read_patient(report()), family=family, patient_id=identifier or "x")
    segments = parse(hl7.message(scored(agatston, patient)))
    assert [one[0] for one in segments][:3] == ["MSH", "PID", "OBR"]
    assert {one[0] for one in segments[3:]} == {"OBX"}
    assert "e" not in segments[3][5], "HL7 numbers have no exponent"
    assert float(segments[3][5]) == pytest.approx(agatston, abs=0.05 + 1e-9)


def test_without_a_patient_no_message_is_made():
    with pytest.raises(exports.NoScoreError):
        hl7.message(dataclasses.replace(scored(), patient=None))


def resources(bundle):
    return {one["fullUrl"]: one["resource"] for one in bundle["entry"]}


def references(value):
    if isinstance(value, dict):
        if "reference" in value:
            yield value["reference"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_bundle_holds_what_it_refers_to():
    bundle = json.loads(fhir.bundle(scored()))
    found = resources(bundle)
    assert set(references(bundle)) <= set(found)
    assert len(found) == len(bundle["entry"])
    first = bundle["entry"][0]["resource"]
    assert first["resourceType"] == "DiagnosticReport"
    assert first["status"] == "preliminary"
    assert [found[one["reference"]]["resourceType"] for one in first["result"]] == ["Observation"] * 3
    assert "not for diagnosis" in first["conclusion"]


def test_the_observations_equal_the_result():
    observations = {
        one["resource"]["code"]["coding"][0]["code"]: one["resource"]
        for one in json.loads(fhir.bundle(scored()))["entry"]
        if one["resource"]["resourceType"] == "Observation"
    }
    score = observations["450360000"]
    assert score["valueQuantity"] == {
        "value": 412.5, "unit": "no units", "system": "http://unitsofmeasure.org", "code": "1",
    }  # fmt: skip
    assert [one["valueQuantity"]["value"] for one in score["component"]] == [206.25, 825.0]
    assert observations["122660"]["valueQuantity"]["value"] == 330.0
    assert [one["code"] for one in observations["RISK-GROUP"]["valueCodeableConcept"]["coding"]] == [
        "RG-HIGH",
        "15508007",
    ]
    assert all(one["status"] == "preliminary" for one in observations.values())


def test_the_patient_comes_from_the_report():
    (patient,) = (
        one["resource"]
        for one in json.loads(fhir.bundle(scored()))["entry"]
        if one["resource"]["resourceType"] == "Patient"
    )
    assert patient["name"] == [{"family": "Müller", "given": ["Anna", "B"], "prefix": ["Dr"]}]
    assert patient["identifier"][0]["value"] == "P|1&2"
    assert (patient["gender"], patient["birthDate"]) == ("female", "1960-02-29")


def test_names_of_other_scripts_survive():
    patient = exports.read_patient(report(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"))
    assert (patient.family, patient.ideographic) == ("Yamada", "山田^太郎")
    names = fhir._patient(patient)["name"]
    assert names[1]["text"] == "山田 太郎"


def test_without_the_report_the_bundle_still_identifies_the_study():
    bundle = json.loads(fhir.bundle(dataclasses.replace(scored(), patient=None)))
    kinds = [one["resource"]["resourceType"] for one in bundle["entry"]]
    assert "Patient" not in kinds
    (study,) = (one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "ImagingStudy")
    assert study["identifier"][0]["value"] == "urn:oid:1.2.3.4"
    assert study["series"][0]["uid"] == "1.2.3.5"


def test_the_same_result_is_the_same_bundle_and_message():
    assert fhir.bundle(scored()) == fhir.bundle(scored())
    assert hl7.message(scored()) == hl7.message(scored())


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientName": ""}, {"PatientBirthDate": ""}, {"PatientSex": "X"}, {"StudyDate": ""},
        {"StudyTime": "24"}, {"PatientName": "^^^^"}, {"PatientName": "=山田"},
        {"IssuerOfPatientID": ""}, {"AccessionNumber": ""},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_report_does_not_say_is_left_out(attributes):
    patient = exports.read_patient(report(**attributes))
    bundle = fhir.resources(scored(patient=patient))
    assert not [path for path, value in leaves(bundle) if value in ("", [], {}, None)]
    hl7.message(scored(patient=patient))


def leaves(value, path=""):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


def test_the_codes_are_those_of_the_structured_report():
    theirs = pytest.importorskip("worker.report.codes")
    for ours, there in (
        (codes.REPORT, theirs.TITLE), (codes.PROCEDURE, theirs.PROCEDURE),
        (codes.CALCIUM_SCORE, theirs.CALCIUM_SCORE), (codes.CALCIUM_VOLUME, theirs.CALCIUM_VOLUME),
        (codes.METHOD_AGATSTON, theirs.METHOD_AGATSTON), (codes.METHOD_VOLUME, theirs.METHOD_VOLUME),
        (codes.CORONARY_ARTERY, theirs.CORONARY_ARTERY), (codes.AGATSTON_LOW, theirs.AGATSTON_LOW),
        (codes.AGATSTON_HIGH, theirs.AGATSTON_HIGH), (codes.RISK_GROUP, theirs.RISK_GROUP),
        (codes.COMMENT, theirs.COMMENT), (codes.NO_UNITS, theirs.NO_UNITS), (codes.MM3, theirs.MM3),
        *((codes.RISK_GROUPS[group], theirs.RISK_GROUPS[group]) for group in RiskGroup),
        *((codes.RISK_LEVELS[group], theirs.RISK_LEVELS[group]) for group in RiskGroup),
    ):  # fmt: skip
        assert tuple(ours) == (there.value, there.scheme_designator, there.meaning)
