"""Laws of the report: whatever the result, it reads back exactly; whatever the header, there is a report."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import pydicom
import report_samples as samples
import sr_reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from models.results import Caution
from worker.encoding import file_bytes
from worker.report import patient
from worker.report.document import build_report, object_uid, scoring_digest

SOURCE = samples.series()
RESULT = samples.result(SOURCE)
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))  # each writes a report
many = settings(max_examples=150, deadline=None)
scores = st.floats(0, 1e5, allow_nan=False)


def read_back(document):
    return pydicom.dcmread(io.BytesIO(file_bytes(document)))


@few
@given(agatston=scores, volume=scores, low=scores, high=scores, kind=st.sampled_from(["sr3d", "sr"]))
def test_every_total_reads_back_exactly(agatston, volume, low, high, kind):
    result = replace(
        RESULT, agatston=agatston, volume_mm3=volume, agatston_interval=(low, high), slice_scores=()
    )
    totals = sr_reader.read(read_back(build_report(SOURCE, result, kind=kind, config=samples.CONFIG))).totals
    assert totals.numbers["SCT", "450360000"] == agatston
    assert totals.numbers["DCM", "122660"] == volume
    assert totals.numbers["99AGATSTON", "AGATSTON-LOW"] == low
    assert totals.numbers["99AGATSTON", "AGATSTON-HIGH"] == high


@few
@given(
    code=st.from_regex(r"[a-z][a-z_]{0,40}", fullmatch=True),
    text=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=300),
)
def test_every_caution_is_told(code, text):
    result = replace(RESULT, cautions=(Caution(code, text),), slice_scores=())
    report = sr_reader.read(read_back(build_report(SOURCE, result, config=samples.CONFIG)))
    assert report.limitations == [("99AGATSTON", code.upper().replace("_", "-"))]
    assert [comment.rstrip() for comment in report.comments] == [text.rstrip()]


hostile = st.one_of(st.text(max_size=80), st.binary(max_size=80), st.none())
META = build_report(SOURCE, replace(RESULT, slice_scores=()), config=samples.CONFIG).file_meta
KEYWORDS = [
    keyword
    for keyword in (*patient.REQUIRED, *patient.OPTIONAL)
    if pydicom.datadict.dictionary_VR(pydicom.datadict.tag_for_keyword(keyword)) != "SQ"
]


@many
@given(
    values=st.dictionaries(st.sampled_from(KEYWORDS), hostile, max_size=8),
    character_set=st.sampled_from([None, "ISO_IR 100", "ISO 2022 IR 87", "NONSENSE", ["", "ISO 2022 IR 149"]]),
)
def test_no_header_keeps_us_from_its_attributes(values, character_set):
    header = samples.header(SpecificCharacterSet=character_set)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            # As a reader finds it: bytes under a tag.
            tag = pydicom.datadict.tag_for_keyword(keyword)
            vr = pydicom.datadict.dictionary_VR(tag)
            raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            header[tag] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(tag), vr, len(raw or b""), raw or b"", 0, False, True
            )
    document = Dataset()
    document.file_meta = META
    patient.copy_into(document, header)
    document = read_back(document)
    for keyword in patient.REQUIRED:
        assert keyword in document
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert document.PatientSex in {"", "M", "F", "O"}


@given(order=st.permutations(range(len(SOURCE.instances))))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_slices_does_not_matter(order):
    turned = replace(SOURCE, instances=tuple(SOURCE.instances[index] for index in order))
    digest = scoring_digest(RESULT)
    assert object_uid(turned, "sr3d", samples.CONFIG, digest) == object_uid(
        SOURCE, "sr3d", samples.CONFIG, digest
    )
