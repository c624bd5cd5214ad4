"""Every value of a result stands in its report, under codes that stay; read back by a reader of our own."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import highdicom.sr
import numpy as np
import pydicom
import pytest
import report_samples as samples
import sr_reader

from models.results import Caution
from worker.encoding import file_bytes
from worker.report import content
from worker.report.document import build_not_eligible_report, build_report

OWN = "99AGATSTON"


def read_back(document: pydicom.Dataset) -> pydicom.Dataset:
    """Return what an archive would have."""
    return pydicom.dcmread(io.BytesIO(file_bytes(document)))


@pytest.fixture(scope="module")
def source():
    return samples.series()


@pytest.fixture(scope="module")
def result(source):
    return samples.result(source)


@pytest.fixture(scope="module", params=["sr3d", "sr"])
def document(request, source, result):
    return read_back(build_report(source, result, kind=request.param, config=samples.CONFIG))


def test_totals_interval_and_probabilities_are_exact(document, result):
    totals = sr_reader.read(document).totals
    low, high = result.agatston_interval
    assert totals.numbers == {
        ("SCT", "450360000"): result.agatston,
        ("DCM", "122660"): result.volume_mm3,
        (OWN, "AGATSTON-LOW"): low,
        (OWN, "AGATSTON-HIGH"): high,
        (OWN, "COVERAGE"): result.interval_coverage,
        (OWN, "P-VERY-LOW"): 0.01,
        (OWN, "P-LOW"): 0.02,
        (OWN, "P-MODERATE"): 0.03,
        (OWN, "P-MOD-HIGH"): 0.14,
        (OWN, "P-HIGH"): 0.8,
    }
    assert totals.units["SCT", "450360000"] == ("UCUM", "1")
    assert totals.units["DCM", "122660"] == ("UCUM", "mm3")
    assert totals.modifiers["SCT", "450360000"] == {
        ("SCT", "370129005"): ("DCM", "112055"),
        ("DCM", "121401"): ("SCT", "255619001"),
    }
    assert totals.modifiers["DCM", "122660"][("SCT", "370129005")] == ("DCM", "112056")
    assert totals.codes[("DCM", "121071")] == ("SCT", "237897009")
    assert totals.codes[("SCT", "363698007")] == ("SCT", "41801008")


@pytest.mark.parametrize(
    ("agatston", "own", "level"),
    [
        (0.0, "RG-VERY-LOW", "427986001"),
        (0.999, "RG-VERY-LOW", "427986001"),
        (1.0, "RG-LOW", "75976002"),
        (10.0, "RG-MODERATE", "25594002"),
        (100.0, "RG-MOD-HIGH", "429557002"),
        (399.99, "RG-MOD-HIGH", "429557002"),
        (400.0, "RG-HIGH", "15508007"),
    ],
)
def test_both_codes_of_the_risk_group(source, result, agatston, own, level):
    report = build_report(source, replace(result, agatston=agatston), config=samples.CONFIG)
    totals = sr_reader.read(report).totals
    assert totals.codes[(OWN, "RISK-GROUP")] == (OWN, own)
    assert totals.codes[("SCT", "395112001")] == ("SCT", level)


def test_a_total_without_interval_and_probabilities_has_none(source, result):
    bare = replace(result, agatston_interval=None, group_probabilities=None)
    totals = sr_reader.read(build_report(source, bare, config=samples.CONFIG)).totals
    assert set(totals.numbers) == {("SCT", "450360000"), ("DCM", "122660")}


def test_slice_scores_above_zero_with_their_images(document, result, source):
    slices = sr_reader.read(document).slices
    scoring = [one for one in result.slice_scores if one.agatston > 0]
    assert scoring
    assert [
        (
            group.numbers[(OWN, "SLICE-Z")],
            group.numbers[(OWN, "SLICE-AGATSTON")],
            group.numbers[(OWN, "SLICE-VOLUME")],
        )
        for group in slices
    ] == [(one.z_mm, one.agatston, one.volume_mm3) for one in scoring]
    z_of = {one.sop_instance_uid: one.z_mm for one in source.instances}
    for group, one in zip(slices, scoring, strict=True):
        (image,) = group.images
        assert abs(z_of[image] - one.z_mm) <= 1.25  # half an increment


def test_traces_of_a_score_are_no_scoring_slices(source, result):
    traces = tuple(replace(one, agatston=0.0049, volume_mm3=0.01) for one in result.slice_scores)
    told = (*traces[:-1], replace(traces[-1], agatston=0.005))
    report = build_report(source, replace(result, agatston=0.2, slice_scores=told), config=samples.CONFIG)
    (only,) = sr_reader.read(report).slices
    assert only.numbers[OWN, "SLICE-Z"] == told[-1].z_mm


def test_nobody_takes_a_slice_for_the_total(document):
    found = [
        item for item in sr_reader.walk(document)
        if item.ValueType == "NUM" and sr_reader.name(item) in {("SCT", "450360000"), ("DCM", "122660")}
    ]  # fmt: skip
    assert len(found) == 2


def test_heart_box_by_bounds_and_coordinates(document, result):
    box = sr_reader.read(document).box
    for axis in range(3):
        assert box.numbers[(OWN, f"BOX-{'XYZ'[axis]}-LOW")] == result.heart_box.low[axis]
        assert box.numbers[(OWN, f"BOX-{'XYZ'[axis]}-HIGH")] == result.heart_box.high[axis]
    assert box.codes[("DCM", "130400")] == ("SCT", "75958009")
    if document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34":
        points = np.concatenate([np.reshape(one.GraphicData, (-1, 3)) for one in box.coordinates])
        assert all(
            one.ReferencedFrameOfReferenceUID == samples.header().FrameOfReferenceUID for one in box.coordinates
        )
        np.testing.assert_allclose(points.min(axis=0), result.heart_box.low, rtol=1e-6)
        np.testing.assert_allclose(points.max(axis=0), result.heart_box.high, rtol=1e-6)
    else:
        (region,) = box.coordinates
        # x = -80 + (column - 0.5) * 2.5: PS3.3 C.18.6.1.1 puts the first pixel's centre at 0.5.
        points = (np.reshape(region.GraphicData, (-1, 2)) - 0.5) * 2.5 - 80
        np.testing.assert_allclose(points.min(axis=0), result.heart_box.low[:2], atol=1e-4)
        np.testing.assert_allclose(points.max(axis=0), result.heart_box.high[:2], atol=1e-4)


def test_a_turned_source_gets_its_rectangle_in_its_own_pixels(result):
    prone = samples.series(
        ImageOrientationPatient=[-1, 0, 0, 0, -1, 0], ImagePositionPatient=[77.5, 77.5, -300.0]
    )
    report = build_report(prone, result, kind="sr", config=samples.CONFIG)
    (region,) = sr_reader.read(report).box.coordinates
    points = 77.5 - (np.reshape(region.GraphicData, (-1, 2)) - 0.5) * 2.5
    np.testing.assert_allclose(points.min(axis=0), result.heart_box.low[:2], atol=1e-4)
    np.testing.assert_allclose(points.max(axis=0), result.heart_box.high[:2], atol=1e-4)


def test_without_frame_of_reference_the_box_is_a_rectangle(result):
    report = build_report(samples.series(FrameOfReferenceUID=None), result, config=samples.CONFIG)
    (region,) = sr_reader.read(report).box.coordinates
    assert region.ValueType == "SCOORD"


def test_a_multi_frame_source_without_plane_keeps_the_bounds(result):
    source = samples.series(ImagePositionPatient=None, PixelSpacing=None, ImageOrientationPatient=None)
    box = sr_reader.read(build_report(source, result, kind="sr", config=samples.CONFIG)).box
    assert box.coordinates == []
    assert box.numbers[(OWN, "BOX-X-LOW")] == result.heart_box.low[0]


def test_cautions_are_limitations_and_lower_the_quality(document, result):
    report = sr_reader.read(document)
    assert report.limitations == [(OWN, "FEW-SLICES"), (OWN, "NOISE")]
    assert report.comments == [caution.text for caution in result.cautions]
    assert report.quality == ("DCM", "122742")


@pytest.mark.parametrize("cautions", [(), (Caution("kvp_unknown", "The tube voltage is not told."),)])
def test_without_flaws_of_the_image_the_quality_is_good(source, result, cautions):
    report = sr_reader.read(build_report(source, replace(result, cautions=cautions), config=samples.CONFIG))
    assert report.quality == ("DCM", "122741")
    assert len(report.limitations) == len(cautions)


def test_the_cautions_that_lower_the_quality_exist():
    root = Path(content.__file__).parents[2] / "calcium"
    source = "".join(path.read_text(encoding="utf-8") for path in root.glob("*.py"))
    assert [code for code in content.QUALITY_CODES if f'"{code}"' not in source] == []


def test_algorithm_device_and_weights(document, result):
    report = sr_reader.read(document)
    totals, contribution = report.totals, document.ContributingEquipmentSequence[0]
    (version,) = totals.texts[("DCM", "111003")]
    assert "simulated-2026 1.2" in version
    assert contribution.SoftwareVersions in version
    assert f"weights sha256 {result.weights.sha256}" in totals.texts[("DCM", "111002")]
    assert totals.codes[("DCM", "111000")] == ("DCM", "123110")
    # IHE AIR: the contributing equipment says the same as TID 1004.
    assert sr_reader.code(contribution.PurposeOfReferenceCodeSequence[0]) == ("DCM", "109102")
    assert report.observer["121012"] == contribution.DeviceUID
    assert report.observer["121014"] == contribution.Manufacturer == document.Manufacturer
    assert report.observer["121015"] == contribution.ManufacturerModelName == document.ManufacturerModelName


def test_it_says_what_it_is(document):
    totals = sr_reader.read(document).totals
    (comment,) = totals.texts[("DCM", "121106")]
    assert "research use, not for diagnosis" in comment
    assert "trained on simulated scans" in comment
    assert totals.codes[(OWN, "RESULT-STATUS")] == (OWN, "AI-ESTIMATE")


def test_a_site_that_validated_its_weights_is_not_told_research_use(source, result):
    own = replace(result, weights=replace(result.weights, validated_by_site=True))
    totals = sr_reader.read(build_report(source, own, config=samples.CONFIG)).totals
    (comment,) = totals.texts[("DCM", "121106")]
    assert "research" not in comment
    assert "Not verified by a physician" in comment
    assert totals.codes[(OWN, "RESULT-STATUS")] == (OWN, "AI-ESTIMATE-SITE")


def test_tracking_uids_are_the_same_for_every_report_on_a_series(source, result):
    first = sr_reader.read(build_report(source, result, kind="sr3d", config=samples.CONFIG))
    second = sr_reader.read(
        build_report(source, replace(result, agatston=result.agatston + 1), kind="sr", config=samples.CONFIG)
    )
    assert [one.tracking_uid for one in first.groups] == [one.tracking_uid for one in second.groups]
    assert len({one.tracking_uid for one in first.groups}) == len(first.groups)


def test_highdicom_reads_it_too(document, result):
    read = highdicom.sr.srread(io.BytesIO(file_bytes(document)))
    groups = read.content.get_image_measurement_groups()
    assert len(groups) == 1 + len([one for one in result.slice_scores if one.agatston > 0])
    scores = [one for group in groups for one in group.get_measurements() if one.name.value == "450360000"]
    assert [one.value for one in scores] == [result.agatston]


def test_a_series_without_score_has_no_number_but_a_reason(source):
    reason = Caution("contrast_enhanced", "Contrast medium in the blood: 214 HU in the heart.")
    document = read_back(build_not_eligible_report(source, reason, config=samples.CONFIG))
    assert not [item for item in sr_reader.walk(document) if item.ValueType == "NUM"]
    totals = sr_reader.read(document).totals
    assert totals.codes[(OWN, "NOT-SCORED")] == (OWN, "CONTRAST-ENHANCED")
    assert totals.texts[("DCM", "121106")] == [f"No calcium score was made. {reason.text}"]
    assert highdicom.sr.srread(io.BytesIO(file_bytes(document))).content is not None


def test_a_long_reason_is_cut_in_its_code_and_whole_in_its_text(source):
    reason = Caution("missing_slices", "A gap. " * 30)
    document = build_not_eligible_report(source, reason, config=samples.CONFIG)
    (item,) = [one for one in sr_reader.walk(document) if sr_reader.name(one) == (OWN, "NOT-SCORED")]
    assert len(item.ConceptCodeSequence[0].CodeMeaning) <= 64
