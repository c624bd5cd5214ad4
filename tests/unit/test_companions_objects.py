"""What the companions hold, read back from their bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import report_samples as samples

from worker.companions import BUILDERS, NoPlanesError
from worker.companions.base import SERIES
from worker.encoding import file_bytes
from worker.report import patient
from worker.report.document import build_report


def read_back(dataset):
    return pydicom.dcmread(io.BytesIO(file_bytes(dataset)))


@pytest.fixture(scope="module")
def source():
    return samples.series()


@pytest.fixture(scope="module")
def result(source):
    return samples.result(source)


@pytest.fixture(scope="module")
def built(source, result):
    return {kind: build(source, result, samples.CONFIG) for kind, build in BUILDERS.items()}


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_same_result_is_the_same_bytes(kind, built, source, result):
    assert file_bytes(built[kind]) == file_bytes(BUILDERS[kind](source, result, samples.CONFIG))


@pytest.mark.parametrize("kind", BUILDERS)
def test_other_results_are_other_objects(kind, built, source, result):
    other = BUILDERS[kind](source, replace(result, agatston=result.agatston + 1), samples.CONFIG)
    assert other.SOPInstanceUID != built[kind].SOPInstanceUID
    assert other.SeriesInstanceUID == built[kind].SeriesInstanceUID


@pytest.mark.parametrize("kind", BUILDERS)
def test_patient_study_time_and_equipment_are_those_of_the_report(kind, built, source, result):
    report = read_back(build_report(source, result, config=samples.CONFIG))
    companion = read_back(built[kind])
    keywords = [*patient.REQUIRED, *patient.OPTIONAL, "StudyInstanceUID", "SpecificCharacterSet"]
    keywords += ["Manufacturer", "ManufacturerModelName", "SoftwareVersions", "InstanceCreationDate"]
    keywords += ["InstanceCreationTime", "ContributingEquipmentSequence"]
    for keyword in keywords:
        assert companion.get(keyword) == report.get(keyword), keyword
    assert "highdicom" not in str(companion.file_meta).lower()


def test_kinds_and_their_series_are_apart(built):
    assert {kind: one.Modality for kind, one in built.items()} == {
        kind: modality for kind, (modality, _, _) in SERIES.items()
    }
    assert len({one.SeriesInstanceUID for one in built.values()}) == len(built)
    assert len({one.SeriesNumber for one in built.values()}) == len(built)
    assert len({one.SOPInstanceUID for one in built.values()}) == len(built)


def test_summary_is_plain_rgb_and_says_that_text_is_burnt_in(built, source):
    summary = read_back(built["summary"])
    assert summary.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert summary.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert summary.BurnedInAnnotation == "YES"
    assert summary.pixel_array.shape == (1024, 1024, 3)
    uids = {one.sop_instance_uid for one in source.instances}
    assert {one.ReferencedSOPInstanceUID for one in summary.SourceImageSequence} <= uids


def test_segmentation_is_the_box_on_the_planes_of_the_source(built, source, result):
    seg = read_back(built["seg"])
    box = result.heart_box
    inside = [one for one in source.instances if box.low[2] <= one.z_mm <= box.high[2]]
    mask = seg.pixel_array
    assert mask.shape == (len(inside), samples.ROWS, samples.ROWS)
    centres = -80.0 + 2.5 * np.arange(samples.ROWS)
    columns = (centres >= box.low[0]) & (centres <= box.high[0])
    rows = (centres >= box.low[1]) & (centres <= box.high[1])
    assert np.array_equal(mask, np.broadcast_to(rows[:, None] & columns, mask.shape))
    heights = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(heights) == [one.z_mm for one in inside]
    assert seg.FrameOfReferenceUID == source.header.FrameOfReferenceUID
    (segment,) = seg.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "80891009"


def test_key_objects_are_the_slices_that_contribute_most(built, source, result):
    document = read_back(built["key_objects"])
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if item.ValueType == "IMAGE"
    }
    assert 1 <= len(named) <= 3
    z_of = {one.sop_instance_uid: one.z_mm for one in source.instances}
    best = max(result.slice_scores, key=lambda one: one.agatston)
    assert min(abs(z_of[uid] - best.z_mm) for uid in named) <= 1.25


def test_marks_draw_the_box_on_every_image_of_the_heart(built, source, result):
    marks = read_back(built["gsps"])
    box = result.heart_box
    inside = {one.sop_instance_uid for one in source.instances if box.low[2] <= one.z_mm <= box.high[2]}
    outline = marks.GraphicAnnotationSequence[0]
    assert {one.ReferencedSOPInstanceUID for one in outline.ReferencedImageSequence} == inside
    (graphic,) = outline.GraphicObjectSequence
    points = (np.reshape(graphic.GraphicData, (-1, 2)) - 0.5) * 2.5 - 80
    np.testing.assert_allclose(points.min(axis=0), box.low[:2], atol=1e-4)
    np.testing.assert_allclose(points.max(axis=0), box.high[:2], atol=1e-4)
    texts = [one.TextObjectSequence[0].UnformattedTextValue for one in marks.GraphicAnnotationSequence[1:]]
    assert texts
    assert all(text.startswith("AI estimate") for text in texts)


def test_the_pdf_is_a_pdf_without_a_date(built):
    document = read_back(built["pdf"])
    content = document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in content


def test_heat_map_holds_the_response_where_it_belongs(built, source, result):
    heat = read_back(built["heat_map"])
    pixels = np.frombuffer(heat.FloatPixelData, np.float32).reshape(
        heat.NumberOfFrames, heat.Rows, heat.Columns
    )
    geometry, start = result.resampled.geometry, result.heat_map.box.start
    for index, frame in enumerate(heat.PerFrameFunctionalGroupsSequence):
        x, y, z = map(float, frame.PlanePositionSequence[0].ImagePositionPatient)
        where = geometry.to_index((x, y, z))
        np.testing.assert_allclose(where[1:], start[1:], atol=1e-6)
        which = round(where[0]) - start[0]
        np.testing.assert_array_equal(pixels[index], result.heat_map.response[which])


@pytest.mark.parametrize("kind", ["seg", "gsps", "heat_map"])
def test_a_multi_frame_source_has_no_planes(kind, result):
    source = samples.series(ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    with pytest.raises(NoPlanesError):
        BUILDERS[kind](source, result, samples.CONFIG)


def test_without_heat_map_there_is_no_parametric_map(source, result):
    with pytest.raises(NoPlanesError, match="no heat map"):
        BUILDERS["heat_map"](source, replace(result, heat_map=None), samples.CONFIG)
