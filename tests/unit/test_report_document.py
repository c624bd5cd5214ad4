"""The document around the content: identifiers, time, patient, evidence; the same result is the same bytes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pydicom
import pytest
import report_samples as samples
import sr_reader
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from worker.companions.summary import build_summary
from worker.encoding import file_bytes
from worker.report import patient
from worker.report.document import Predecessor, build_report, local_time


def read_back(document: pydicom.Dataset) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(file_bytes(document)))


@pytest.fixture(scope="module")
def source():
    return samples.series()


@pytest.fixture(scope="module")
def result(source):
    return samples.result(source)


@pytest.mark.parametrize("kind", ["sr3d", "sr"])
def test_the_same_result_is_the_same_bytes_in_another_process(kind):
    script = (
        "import sys, hashlib, report_samples as s\n"
        "from worker.report.document import build_report\n"
        "from worker.encoding import file_bytes\n"
        "series = s.series()\n"
        "d = build_report(series, s.result(series), kind=sys.argv[1], config=s.CONFIG)\n"
        "print(hashlib.sha256(file_bytes(d)).hexdigest())"
    )
    support = samples.__file__.rsplit("/", 1)[0]
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, kind],
            env={**os.environ, "PYTHONPATH": support, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def uid_of(source, result, **changes):
    config = replace(
        samples.CONFIG, **{key: changes.pop(key) for key in ("made_at", "predecessors") if key in changes}
    )
    return build_report(source, result, config=config, **changes).SOPInstanceUID


def test_uids_follow_the_content_and_not_the_time(source, result):
    base = uid_of(source, result)
    assert base == uid_of(source, result, made_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert base == uid_of(replace(source, instances=source.instances[::-1]), result)
    others = [
        uid_of(source, result, kind="sr"),
        uid_of(source, replace(result, agatston=result.agatston + 0.01)),
        uid_of(source, replace(result, cautions=())),
        uid_of(source, replace(result, weights=replace(result.weights, sha256="f" * 64))),
        uid_of(replace(source, instances=source.instances[1:]), result),
        uid_of(samples.series(SeriesInstanceUID="1.2.3"), result),
        uid_of(source, result, predecessors=(Predecessor("1.2", "1.3", "1.4"),)),
    ]
    assert len({base, *others}) == 1 + len(others)
    for uid in (base, *others):
        assert pydicom.uid.UID(uid).is_valid
        assert len(uid) <= 64


@pytest.mark.parametrize("kind", ["sr3d", "sr"])
def test_evidence_is_every_source_instance_and_the_picture(source, result, kind):
    document = read_back(build_report(source, result, kind=kind, config=samples.CONFIG))
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == source.header.StudyInstanceUID
    evidence = {
        one.SeriesInstanceUID: [
            (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in one.ReferencedSOPSequence
        ]
        for one in study.ReferencedSeriesSequence
    }
    picture = build_summary(source, result, samples.CONFIG)
    assert evidence == {
        source.header.SeriesInstanceUID: [
            (samples.CT_IMAGE_STORAGE, one.sop_instance_uid) for one in source.instances
        ],
        picture.SeriesInstanceUID: [("1.2.840.10008.5.1.4.1.1.7", picture.SOPInstanceUID)],
    }
    assert sr_reader.read(document).totals.pictures == [picture.SOPInstanceUID]


def test_it_is_preliminary_and_nobody_verified_it(source, result):
    document = build_report(source, result, config=samples.CONFIG)
    assert (document.CompletionFlag, document.PreliminaryFlag, document.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip


def test_every_container_is_separate(source, result):
    def containers(item):
        if item.ValueType == "CONTAINER":
            yield item.ContinuityOfContent
        for child in item.get("ContentSequence", ()):
            yield from containers(child)

    document = read_back(build_report(source, result, config=samples.CONFIG))
    assert set(containers(document)) == {"SEPARATE"}


def test_predecessors(source, result):
    earlier = Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.77", "1.2.3.7")
    document = read_back(
        build_report(source, result, config=replace(samples.CONFIG, predecessors=(earlier,), revision=2))
    )
    (study,) = document.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == source.header.StudyInstanceUID
    (of_series,) = study.ReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == "1.2.3.7"
    (reference,) = of_series.ReferencedSOPSequence
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (
        "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.77",
    )  # fmt: skip
    assert document.InstanceNumber == 2


def test_the_private_scheme_is_declared(source, result):
    document = build_report(source, result, config=samples.CONFIG)
    (scheme,) = document.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99AGATSTON"
    assert scheme.CodingSchemeName


def test_no_stamp_of_clock_or_library(source, result):
    document = build_report(source, result, config=samples.CONFIG)
    text = str(document) + str(document.file_meta)
    assert "highdicom" not in text.lower()
    assert {document.ContentDate, document.InstanceCreationDate, document.SeriesDate} == {
        local_time(samples.CONFIG.made_at, source.header).strftime("%Y%m%d")
    }


def test_time_stands_in_the_zone_of_the_source(result):
    source = samples.series(TimezoneOffsetFromUTC="-0330")
    document = build_report(source, result, config=samples.CONFIG)
    assert (document.ContentDate, document.ContentTime) == ("20261125", "053001.234567")
    assert document.TimezoneOffsetFromUTC == "-0330"


# One name in each script, in the character set that a scanner there would write it in (PS3.5 annexes H to K).
NAMES = {
    "latin": ("ISO_IR 100", "Müller^Jürgen"),
    "greek": ("ISO_IR 126", "Διονυσιος"),
    "cyrillic": ("ISO_IR 144", "Иванов^Иван"),
    "arabic": ("ISO_IR 127", "قباني^لنزار"),
    "hebrew": ("ISO_IR 138", "שרון^דבורה"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "japanese katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "chinese gbk": ("GBK", "Wang^XiaoDong=王^小东"),
    "utf-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "no character set": (None, "Plain^Name"),
}


@pytest.mark.parametrize("script", NAMES)
@pytest.mark.parametrize("from_file", [True, False])
def test_names_of_every_script_round_trip(script, from_file, result, tmp_path):
    character_set, name = NAMES[script]
    source = samples.series(SpecificCharacterSet=character_set, PatientName=name, ReferringPhysicianName=name)
    if script not in {"no character set", "chinese gbk"}:
        source.header.StudyDescription = name.split("=")[-1][:60].replace("^", " ")
    description = source.header.StudyDescription
    if from_file:  # as the reader of series gives it: raw elements, decoded when asked for
        (first, *_) = samples.write_source(replace(source, instances=source.instances[:1]), tmp_path)
        header = pydicom.dcmread(first, stop_before_pixels=True)
        source = replace(source, header=header)
    document = read_back(build_report(source, result, config=samples.CONFIG))
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert str(document.PatientName) == name
    assert str(document.ReferringPhysicianName) == name
    assert document.StudyDescription == description


COPIED = {
    "PatientID": "PAT-4711",
    "IssuerOfPatientID": "HOSPITAL-A",
    "PatientBirthDate": "19600229",
    "PatientSex": "M",
    "PatientAge": "066Y",
    "PatientSize": 1.83,
    "PatientWeight": 81.5,
    "StudyDate": "20261120",
    "StudyTime": "101112",
    "StudyID": "S1",
    "StudyDescription": "Lung screening",
    "AccessionNumber": "ACC-1",
}


def test_patient_and_study_are_those_of_the_source(source, result):
    document = read_back(build_report(source, result, config=samples.CONFIG))
    assert {keyword: document[keyword].value for keyword in COPIED} == COPIED
    assert document.StudyInstanceUID == source.header.StudyInstanceUID


def test_a_bare_source_gets_empty_attributes(result):
    bare = samples.series(**dict.fromkeys([*patient.REQUIRED, *patient.OPTIONAL]), SpecificCharacterSet=None)
    document = read_back(build_report(bare, result, config=samples.CONFIG))
    for keyword in patient.REQUIRED:
        assert keyword in document
        assert document[keyword].is_empty
    for keyword in patient.OPTIONAL:
        assert keyword not in document


def test_values_of_the_wrong_form_do_not_get_into_the_report(result):
    with pytest.warns(UserWarning, match="Invalid value"):
        source = samples.series(
            PatientSex="UNKNOWN", PatientBirthDate="29.02.1960", PatientAge="66 years", StudyTime="10:11:12 Uhr"
        )
    document = read_back(build_report(source, result, config=samples.CONFIG))
    assert document.PatientSex == ""
    assert document["PatientBirthDate"].is_empty
    assert document["StudyTime"].is_empty
    assert "PatientAge" not in document


def test_identifiers_stay_as_they_are_whatever_their_form(result):
    long = "X" * 70
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        source = samples.series(PatientID=long)
    document = build_report(source, result, config=samples.CONFIG)
    assert document.PatientID == long


def test_sequences_are_copied_with_their_text(result):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTTHX", "99LOCAL", "CT Thorax für Müller"
    source = samples.series(ProcedureCodeSequence=Sequence([code]))
    document = read_back(build_report(source, result, config=samples.CONFIG))
    assert document.ProcedureCodeSequence[0].CodeMeaning == "CT Thorax für Müller"


def test_the_source_is_left_alone(source, result):
    before = str(source.header)
    build_report(source, result, config=samples.CONFIG)
    assert str(source.header) == before
