"""Whatever a scan says about its patient, nothing of it leaves by logs, pages, figures, rows or file names."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request

import dicom_series
import hand_made
import node as nodes
import peers
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

MARK = "Zqx"
# PS3.3 Tables C.7-1, C.7-3, C.7-4a and the people and places around the patient; sex and age make no marks.
PATIENT = {
    "PatientName": "ZqxName^Given", "PatientID": "ZqxPatientID", "IssuerOfPatientID": "ZqxIssuer",
    "PatientBirthDate": "19330307", "PatientBirthTime": "031733.987", "PatientBirthName": "ZqxBirth^Name",
    "PatientMotherBirthName": "ZqxMother^Name", "OtherPatientIDs": "ZqxOtherID",
    "OtherPatientNames": "ZqxOther^Name", "PatientAddress": "ZqxAddress", "PatientTelephoneNumbers": "ZqxPhone",
    "PatientComments": "ZqxComments", "EthnicGroup": "ZqxEthnic", "Occupation": "ZqxOccupation",
    "AdditionalPatientHistory": "ZqxHistory", "MedicalAlerts": "ZqxAlerts", "Allergies": "ZqxAllergies",
    "PatientReligiousPreference": "ZqxReligion", "MilitaryRank": "ZqxRank", "CountryOfResidence": "ZqxCountry",
    "RegionOfResidence": "ZqxRegion", "InsurancePlanIdentification": "ZqxInsurance",
    "ResponsiblePerson": "ZqxResponsible^Person", "PatientWeight": "87.65432", "PatientSize": "1.765432",
    "AdmissionID": "ZqxAdmission", "CurrentPatientLocation": "ZqxWard",
    "AdmittingDiagnosesDescription": "ZqxDiagnosis",
    "AccessionNumber": "ZqxAccession", "StudyID": "ZqxStudyID", "StudyDescription": "ZqxStudyText",
    "SeriesDescription": "ZqxSeriesText", "ProtocolName": "ZqxProtocol", "ImageComments": "ZqxImageText",
    "ReferringPhysicianName": "ZqxReferring^Doctor", "PerformingPhysicianName": "ZqxPerforming^Doctor",
    "OperatorsName": "ZqxOperator^Name", "RequestingPhysician": "ZqxRequesting^Doctor",
    "InstitutionName": "ZqxInstitution", "InstitutionAddress": "ZqxInstAddress", "StationName": "ZqxStation",
}  # fmt: skip
MARKS = [MARK.encode(), b"19330307", b"1933-03-07", b"031733.987", b"87.65432", b"1.765432"]
BROKEN = b"ZqxBroken!"
SERIES = "2.25.88"


def scan(folder, number, *, shape=(45, 16, 16), increment=3.0, **elements):
    """Write a series of the hand-made phantom with marks everywhere."""
    volume = hand_made.phantom(shape=shape)
    x, y, z = volume.geometry.origin_mm
    uids = {"StudyInstanceUID": f"{SERIES}.{number}.1", "SeriesInstanceUID": f"{SERIES}.{number}.2"}
    slices = dicom_series.series(
        volume.hu, z0=z, increment=increment, thickness=3.0, spacing=(1.0, 1.0), origin=(x, y),
        **(PATIENT | uids | elements),
    )  # fmt: skip
    for index, ds in enumerate(slices):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number}.3.{index}"
    return dicom_series.write(slices, folder / str(number))


def broken(paths, keyword, value):
    """Replace the value of an element in all files by text that its VR does not allow."""
    assert len(value) == len(BROKEN)
    for path in paths:
        raw = path.read_bytes()
        assert raw.count(value) == 1, keyword
        path.write_bytes(raw.replace(value, BROKEN))


def send(port, paths):
    """Send files whatever their content, and return the answers' statuses and comments."""
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="AGATSTON")
    assert association.is_established
    answers = [association.send_c_store(pydicom.dcmread(path)) for path in paths]
    association.release()
    return [(int(answer.Status), str(answer.get("ErrorComment", ""))) for answer in answers]


def page(running, path, accept, data=None):
    """Return headers and body of an answer, of an error too."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.http_port}{path}", data=data, headers={"Accept": accept}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.headers).encode() + answer.read()
    except urllib.error.HTTPError as error:
        return str(error.headers).encode() + error.read()


def told(where, content):
    found = [mark for mark in MARKS if mark in content]
    assert not found, (where, found, content[max(0, content.index(found[0]) - 200) :][:400])


def test_nothing_about_the_patient_leaves(tmp_path):
    weights = hand_made.save(tmp_path / "weights")
    files = tmp_path / "files"
    scored = scan(files, 1, shape=(100, 150, 170), increment=1.5)
    refused = scan(files, 2, ContrastBolusAgent="Omnipaque 350")
    unreadable = scan(files, 3, SliceThickness="3.00000000")
    broken(unreadable, "SliceThickness", b"3.00000000")
    two_patients = scan(files, 4) + scan(files / "b", 4, PatientID="ZqxAnother")[5:]
    for index, path in enumerate(two_patients[10:]):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.4.4.{index}"
        ds.save_as(path)
    lines = scan(files, 5, PixelData=b"ZqxPixels")  # and no pixels that could be read
    changed = pydicom.dcmread(scored[0])
    changed.PatientName = "ZqxChanged"
    changed.save_as(files / "changed.dcm")
    no_uid = scored[0].read_bytes().replace(f"{SERIES}.1.1".encode(), b"ZqxUID^Name")
    (files / "no-uid.dcm").write_bytes(no_uid)

    home = tmp_path / "home"
    settings = {"weights": weights, "log_level": "DEBUG", "series_idle_seconds": 2, "max_attempts": 1}
    with (
        peers.storescp(tmp_path / "pacs") as pacs,
        nodes.running_node(home, pacs=pacs.address, **settings) as running,
    ):
        for paths in (scored, refused, unreadable, two_patients, lines):
            assert {status for status, _ in send(running.dicom_port, paths)} == {0}
        for name in ("changed.dcm", "no-uid.dcm"):
            ((status, comment),) = send(running.dicom_port, [files / name])
            assert status != 0
            told("the answer to C-STORE", comment.encode())
        jobs = running.wait_for_jobs(5)
        states = {job["series_instance_uid"]: job["state"] for job in jobs}
        assert states[f"{SERIES}.1.2"] == "scored", states
        reasons = {job["reason_code"] for job in jobs}
        assert reasons == {None, "contrast_enhanced", "unreadable_instance", "mixed_series", "pixel_data"}, jobs
        # The report does carry the patient: that is where it belongs.
        peers.wait_for(
            lambda: any(b"ZqxName" in path.read_bytes() for path in pacs.folder.iterdir()),
            seconds=60, what="the report",
        )  # fmt: skip
        paths = [path for path in running.get("/api/v1/openapi.json")["paths"] if "{" not in path]
        paths += [
            "/",
            "/?tab=trouble",
            "/?tab=scored",
            "/search",
            "/sign-in",
            "/metrics",
            "/jobs/ZqQ",
            "/nothing",
        ]
        for job in jobs:
            paths += [f"/jobs/{job['id']}", f"/api/v1/jobs/{job['id']}", f"/fragments/jobs/{job['id']}"]
            paths += [f"/api/v1/jobs/{job['id']}/result", f"/api/v1/jobs/{job['id']}/result/csv"]
        for path in paths:
            for accept in ("text/html", "application/json"):
                told(path, page(running, path, accept))
        # What was asked for is not repeated, and not kept by the access log.
        told("/search", page(running, "/search", "text/html", b"series_instance_uid=ZqxName"))
        told("search", page(running, "/api/v1/jobs/search", "application/json", b'{"state": ["ZqxName"]}'))
        command = [sys.executable, "-m", "service.cli", "job", "list"]
        environment = {**os.environ, "AGATSTON_HOME": str(home)}
        listed = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
        assert f"{SERIES}.1.2".encode() in listed.stdout
        told("agatston job list", listed.stdout + listed.stderr)

    seen = 0
    for path in home.rglob("*"):
        told("a file's name", str(path.relative_to(home)).encode())
        if path.is_file() and "store" not in path.relative_to(home).parts:
            told(path, path.read_bytes())  # logs, rows and their journal, messages
            seen += 1
    assert seen >= 2
    assert b"DEBUG" in running.log.read_bytes()
