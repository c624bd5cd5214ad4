"""One job, all its forms: row, both reports, HL7, FHIR, JSON and CSV say the same, exactly."""

from __future__ import annotations

import csv
import io
import json
import math

import highdicom.sr
import pydicom
import pytest
import report_samples as samples
import sr_reader
import worker_rows
from api_client import serving
from pydicom.dataset import Dataset

from service.api import exports, fhir, hl7
from service.tables import Delivery, Job, OutputObject, Result
from worker.companions import BUILDERS
from worker.report import patient

OWN = "99AGATSTON"
SCORE, VOLUME = ("SCT", "450360000"), ("DCM", "122660")
ALL_KINDS = ["sr3d", "sr", *BUILDERS]
GROUPS = {  # label in the row -> private code, level of CID 3118
    "very low": ("RG-VERY-LOW", "427986001"),
    "low": ("RG-LOW", "75976002"),
    "moderate": ("RG-MODERATE", "25594002"),
    "moderately high": ("RG-MOD-HIGH", "429557002"),
    "high": ("RG-HIGH", "15508007"),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A scored job of a node with a destination that asks for everything: (node, id, forms from the API)."""
    node = worker_rows.node(
        tmp_path_factory.mktemp("home"),
        role="worker", destinations=worker_rows.destination("all", "ALL", 9, kinds=ALL_KINDS),
    )  # fmt: skip
    worker_rows.scored_job(node)
    with node.database.reading() as session:
        job_id = session.query(Job).one().id
    with serving(node.settings, node.database) as api:
        forms = {
            form: api.get(f"/api/v1/jobs/{job_id}/result{path}")
            for form, path in (("json", ""), ("csv", "/csv"), ("fhir", "/fhir"), ("hl7", "/hl7"))
        }
        assert {form: answer.status_code for form, answer in forms.items()} == dict.fromkeys(forms, 200)
        yield node, job_id, {form: answer.text for form, answer in forms.items()}
    node.close()


@pytest.fixture(scope="module")
def row(scored):
    node, job_id, _ = scored
    with node.database.reading() as session:
        return session.query(Result).filter_by(job_id=job_id).one()


def objects(node) -> dict[str, OutputObject]:
    with node.database.reading() as session:
        return {one.kind: one for one in session.query(OutputObject)}


def test_a_destination_gets_every_kind_that_it_asks_for_but_one_report(scored):
    node, _, _ = scored
    made = objects(node)
    assert set(made) == set(ALL_KINDS)
    with node.database.reading() as session:
        planned = [one.object_id for one in session.query(Delivery)]
    assert sorted(planned) == sorted(one.id for kind, one in made.items() if kind != "sr")
    for one in made.values():
        written = pydicom.dcmread(node.store.path(one.key))
        assert (written.SOPInstanceUID, written.SOPClassUID) == (one.sop_instance_uid, one.sop_class_uid)


@pytest.mark.parametrize("kind", ["sr3d", "sr"])
def test_every_value_of_the_row_stands_in_the_report(scored, row, kind):
    node, _, _ = scored
    path = node.store.path(objects(node)[kind].key)
    report = sr_reader.read(pydicom.dcmread(path))
    totals = report.totals
    expected = {
        SCORE: row.agatston,
        VOLUME: row.volume_mm3,
        (OWN, "AGATSTON-LOW"): row.agatston_low,
        (OWN, "AGATSTON-HIGH"): row.agatston_high,
    }
    names = ("P-VERY-LOW", "P-LOW", "P-MODERATE", "P-MOD-HIGH", "P-HIGH")
    expected |= {(OWN, name): value for name, value in zip(names, row.group_probabilities, strict=True)}
    assert {name: totals.numbers[name] for name in expected} == expected
    own, level = GROUPS[row.risk_group]
    assert totals.codes[OWN, "RISK-GROUP"] == (OWN, own)
    assert totals.codes["SCT", "395112001"] == ("SCT", level)
    box = report.box.numbers
    low, high = row.heart_box_mm
    assert [box[OWN, f"BOX-{axis}-LOW"] for axis in "XYZ"] == low
    assert [box[OWN, f"BOX-{axis}-HIGH"] for axis in "XYZ"] == high
    told = [
        (one.numbers[OWN, "SLICE-Z"], one.numbers[OWN, "SLICE-AGATSTON"], one.numbers[OWN, "SLICE-VOLUME"])
        for one in report.slices
    ]
    assert told == [
        (one["z_mm"], one["agatston"], one["volume_mm3"]) for one in row.slice_scores if one["agatston"] > 0
    ]
    assert math.isclose(sum(one[1] for one in told) * 1.5 / 3.0, row.agatston)
    assert report.comments == [warning["text"] for warning in row.warnings]
    assert report.limitations == [(OWN, warning["code"].upper().replace("_", "-")) for warning in row.warnings]
    assert f"weights sha256 {row.weights['sha256']}" in totals.texts["DCM", "111002"]
    # The same by another library.
    read = highdicom.sr.srread(path)
    values = {
        (item.name.scheme_designator, item.name.value): item.value
        for group in read.content.get_image_measurement_groups(tracking_uid=totals.tracking_uid)
        for item in group.get_measurements()
    }
    assert {name: values[name] for name in expected} == expected


def test_every_export_equals_the_row(scored, row):
    _, job_id, forms = scored
    result = json.loads(forms["json"])
    for name in (
        "agatston",
        "agatston_low",
        "agatston_high",
        "volume_mm3",
        "risk_group",
        "slice_scores",
        "warnings",
    ):
        assert result[name] == getattr(row, name), name
    (line,) = csv.DictReader(io.StringIO(forms["csv"]))
    assert line["job_id"] == job_id
    for name in ("agatston", "agatston_low", "agatston_high", "volume_mm3"):
        assert float(line[name]) == getattr(row, name), name
    assert line["risk_group"] == row.risk_group

    own, level = GROUPS[row.risk_group]
    observations = {
        one["resource"]["code"]["coding"][0]["code"]: one["resource"]
        for one in json.loads(forms["fhir"])["entry"]
        if one["resource"]["resourceType"] == "Observation"
    }
    six = {"rel": 5e-6}  # FHIR decimals have six digits
    assert observations["450360000"]["valueQuantity"]["value"] == pytest.approx(row.agatston, **six)
    assert observations["122660"]["valueQuantity"]["value"] == pytest.approx(row.volume_mm3, **six)
    limits = [one["valueQuantity"]["value"] for one in observations["450360000"]["component"]]
    assert limits == pytest.approx([row.agatston_low, row.agatston_high], **six)
    coded = observations["RISK-GROUP"]["valueCodeableConcept"]["coding"]
    assert [one["code"] for one in coded] == [own, level]

    segments = [segment.split("|") for segment in forms["hl7"].rstrip("\r").split("\r")]
    values = {one[3].split("^")[0]: one[5] for one in segments if one[0] == "OBX"}
    assert float(values["450360000"]) == pytest.approx(row.agatston, abs=0.05)
    assert float(values["122660"]) == pytest.approx(row.volume_mm3, abs=0.05)
    assert values["RISK-GROUP"].split("^")[0] == own
    (pid,) = (one for one in segments if one[0] == "PID")
    assert pid[5] == "Müller^Jürgen"


# The character set that a scanner of the country writes, and a name in it.
SCRIPTS = {
    "latin": ("ISO_IR 100", "Müller^Jürgen"),
    "greek": ("ISO_IR 126", "Διονυσιος^Νικος"),
    "cyrillic": ("ISO_IR 144", "Иванов^Иван"),
    "arabic": ("ISO_IR 127", "قباني^لنزار"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_of_every_script_reach_the_exports(scored, script):
    node, job_id, _ = scored
    character_set, name = SCRIPTS[script]
    document = Dataset()
    patient.copy_into(document, samples.header(SpecificCharacterSet=character_set, PatientName=name))
    buffer = io.BytesIO()
    document.save_as(buffer, implicit_vr=False, little_endian=True)
    read = pydicom.dcmread(io.BytesIO(buffer.getvalue()), force=True)
    with node.database.reading() as session:
        one = exports.scored(session.get_one(Job, job_id), node.settings)
    one = exports.Scored(one.result, one.report_uid, one.scored_at, exports.read_patient(read), one.sender)
    alphabetic, _, others = name.partition("=")
    family, given = alphabetic.split("^")
    assert f"|{family}^{given}|" in hl7.message(one)
    (person,) = (
        entry["resource"]
        for entry in json.loads(fhir.bundle(one))["entry"]
        if entry["resource"]["resourceType"] == "Patient"
    )
    assert person["name"][0] == {"family": family, "given": [given]}
    if others:
        assert person["name"][1]["text"] == others.split("=")[0].replace("^", " ")
