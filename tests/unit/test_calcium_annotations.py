"""Annotations of other tools: every file is made here and comes back as the mask that made it."""

from __future__ import annotations

import plistlib

import highdicom
import numpy as np
import pytest
import SimpleITK
from dicom_series import pattern, series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from calcium.agatston import score_mask
from calcium.annotations.coca import read_plist, read_totals
from calcium.annotations.dicom_seg import read_seg
from calcium.annotations.files import read_labels
from calcium.annotations.grids import fill_polygon, to_resampled
from calcium.annotations.label_maps import read_label_map
from calcium.annotations.rtstruct import read_rtstruct
from calcium.annotations.totals import Totals, read_csv
from calcium.annotations.vessels import Vessel, vessel_of
from calcium.errors import AnnotationError
from calcium.geometry import VolumeGeometry
from calcium.resample import resample
from calcium.volume import CTVolume

SHAPE = (6, 40, 36)
# The grid of dicom_series.series: z0 -50, increment 2, spacing (0.8, 0.7), origin (-100, -120).
GEOMETRY = VolumeGeometry((-100.0, -120.0, -50.0), (2.0, 0.8, 0.7), SHAPE)


@pytest.fixture
def labels():
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 5:9, 10:16] = Vessel.LAD
    mask[4, 20:22, 3:5] = Vessel.RCA
    mask[2, 30, 30] = Vessel.LCX
    return mask


@pytest.fixture
def volume():
    return CTVolume(np.full(SHAPE, 300, np.int16), GEOMETRY, 2.0)


# Names


@pytest.mark.parametrize(
    ("name", "vessel"),
    [
        ("Right Coronary Artery", 3),
        ("Left Anterior Descending Artery", 1),
        ("Left Circumflex Artery", 2),
        ("Left Coronary Artery", 1),
        ("LM", 1),
        ("calcium_LCX", 2),
        ("RCA 2", 3),
        ("LAD/LM", 1),
        ("Aorta", None),
        ("Left Atrium", None),
        ("", None),
    ],
)
def test_names(name, vessel):
    assert vessel_of(name) == vessel


def test_own_names_come_first():
    assert vessel_of("Koronar rechts", {"Koronar rechts": 3}) == 3
    assert vessel_of("LAD", {"LAD": 2}) == 2


# Polygons


def test_a_rectangle_between_pixel_centres():
    mask = fill_polygon([(1.5, 0.5), (4.5, 0.5), (4.5, 2.5), (1.5, 2.5)], 6, 7)
    expected = np.zeros((6, 7), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(mask, expected)


def test_turning_round_a_polygon_changes_nothing():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(point) for point in rng.uniform(-3, 12, (rng.integers(3, 9), 2))]
        first = fill_polygon(points, 10, 9)
        assert np.array_equal(first, fill_polygon(points[::-1], 10, 9))
        assert np.array_equal(first, fill_polygon(points[2:] + points[:2], 10, 9))


def test_a_polygon_within_one_pixel_is_that_pixel():
    assert np.argwhere(fill_polygon([(3.1, 4.1), (3.2, 4.1), (3.2, 4.3)], 9, 9)).tolist() == [[4, 3]]


def test_polygons_outside_and_empty():
    assert not fill_polygon([(50, 50), (60, 50), (60, 60)], 9, 9).any()
    assert not fill_polygon([], 9, 9).any()


# COCA


def outline(mask):
    """Return the corners, (column, row), half a pixel outside a rectangle of True."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min() - 0.5, rows.max() + 0.5, columns.min() - 0.5, columns.max() + 0.5
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


NAMES = {1: "Left Anterior Descending Artery", 2: "Left Circumflex Artery", 3: "Right Coronary Artery"}


def write_plist(path, labels, **changes):
    images = []
    for index, image in enumerate(labels):
        rois = [
            {
                "Name": NAMES[value],
                "NumberOfPoints": 4,
                "Area": 0.1,
                "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in outline(image == value)],
            }
            for value in np.unique(image[image > 0]).tolist()
        ]
        rois.append({"Name": NAMES[1], "NumberOfPoints": 0, "Point_px": []})  # empty ROIs are common
        images.append({"ImageIndex": index, "NumberOfROIs": len(rois), "ROIs": rois})
    images[1]["ROIs"][0].update(changes)
    path.write_bytes(plistlib.dumps({"Images": images}))
    return path


def test_coca_gated(tmp_path, labels, volume):
    assert np.array_equal(read_plist(write_plist(tmp_path / "0.xml", labels), volume), labels)


def test_coca_marks_calcium_only(tmp_path, labels):
    hu = np.full(SHAPE, 300, np.int16)
    hu[1, 6, 11] = 129
    found = read_plist(write_plist(tmp_path / "0.xml", labels), CTVolume(hu, GEOMETRY, 2.0))
    labels[1, 6, 11] = 0
    assert np.array_equal(found, labels)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Name": "Femoral Artery"}, "no known artery"),
        ({"Point_px": ["(1, 2)", "3, 4"]}, "no list"),
        ({"Point_px": ["(1e999, 2)"]}, "not finite"),
    ],
)
def test_coca_faults(tmp_path, labels, volume, change, match):
    with pytest.raises(AnnotationError, match=match):
        read_plist(write_plist(tmp_path / "0.xml", labels, **change), volume)


def test_coca_slice_outside_the_scan(tmp_path, labels, volume):
    part = CTVolume(volume.hu[:3].copy(), VolumeGeometry((0, 0, 0), (2, 1, 1), (3, *SHAPE[1:])), 2.0)
    with pytest.raises(AnnotationError, match="3 slices"):
        read_plist(write_plist(tmp_path / "0.xml", labels), part)


@pytest.mark.parametrize("content", [b"", b"<plist>", b"no xml", plistlib.dumps({"a": 1}), plistlib.dumps([1])])
def test_no_plist(tmp_path, volume, content):
    (tmp_path / "0.xml").write_bytes(content)
    with pytest.raises(AnnotationError):
        read_plist(tmp_path / "0.xml", volume)


def write_xlsx(path, *lines, head=("filename ", "LCA", "LAD", "LCX", "RCA", "total")):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in (head, *lines):
        book.active.append(line)
    book.save(path)
    return path


def test_coca_totals(tmp_path):
    path = write_xlsx(
        tmp_path / "scores.xlsx", ("12.dcm", 0, 10.5, 0, 2, 12.5), (13, 0, 0, 0, 0, 0), (None, None, None)
    )
    found = read_totals(path)
    assert found == {
        "12": Totals(12.5, {"LCA": 0.0, "LAD": 10.5, "LCX": 0.0, "RCA": 2.0}),
        "13": Totals(0.0, {"LCA": 0.0, "LAD": 0.0, "LCX": 0.0, "RCA": 0.0}),
    }


def test_coca_totals_faults(tmp_path):
    with pytest.raises(AnnotationError, match="row 2"):
        read_totals(write_xlsx(tmp_path / "a.xlsx", ("1", 0, 0, 0, 0, -1)))
    with pytest.raises(AnnotationError, match="columns"):
        read_totals(write_xlsx(tmp_path / "b.xlsx", head=("name", "total")))
    with pytest.raises(AnnotationError, match="another score"):
        read_totals(write_xlsx(tmp_path / "c.xlsx", ("1", 0, 0, 0, 0, 1), ("1", 0, 0, 0, 0, 2)))
    (tmp_path / "d.xlsx").write_bytes(b"PK no zip")
    with pytest.raises(AnnotationError, match="no xlsx"):
        read_totals(tmp_path / "d.xlsx")


# Label maps


def image_of(labels, kind=np.uint8):
    image = SimpleITK.GetImageFromArray(labels.astype(kind))
    image.SetOrigin(GEOMETRY.origin_mm)
    image.SetSpacing(GEOMETRY.spacing_mm[::-1])
    return image


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mhd", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_label_maps(tmp_path, labels, suffix, kind):
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(image_of(labels, kind), str(path))
    assert np.array_equal(read_label_map(path, GEOMETRY), labels)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPI", "RPS", "PLS", "SLP", "IRA"])
def test_label_maps_in_other_axes(tmp_path, labels, axes):
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image_of(labels), axes), str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_label_map(tmp_path / "a.nrrd", GEOMETRY), labels)


def test_a_cropped_label_map_comes_to_its_place(tmp_path, labels):
    part = image_of(labels)[5:25, 2:32, 1:5]
    SimpleITK.WriteImage(part, str(tmp_path / "a.nrrd"))
    expected = np.zeros_like(labels)
    expected[1:5, 2:32, 5:25] = labels[1:5, 2:32, 5:25]
    assert np.array_equal(read_label_map(tmp_path / "a.nrrd", GEOMETRY), expected)


def test_other_values_are_mapped(tmp_path, labels):
    SimpleITK.WriteImage(image_of(labels * 10), str(tmp_path / "a.nrrd"))
    found = read_label_map(tmp_path / "a.nrrd", GEOMETRY, {10: 1, 30: 3})
    assert np.array_equal(found, np.where(labels == 2, 0, labels))


def test_label_map_faults(tmp_path, labels):
    image = image_of(labels)
    image.SetOrigin((900.0, 0.0, 0.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(AnnotationError, match="outside"):
        read_label_map(tmp_path / "a.nrrd", GEOMETRY)
    SimpleITK.WriteImage(image_of(labels, np.float32) * 0.5, str(tmp_path / "b.nrrd"))
    with pytest.raises(AnnotationError, match="whole numbers"):
        read_label_map(tmp_path / "b.nrrd", GEOMETRY)
    image = image_of(labels)
    image.SetDirection((1, 0, 0, 0, 0.9659258, -0.2588190, 0, 0.2588190, 0.9659258))
    SimpleITK.WriteImage(image, str(tmp_path / "c.nrrd"))
    with pytest.raises(AnnotationError, match="axial"):
        read_label_map(tmp_path / "c.nrrd", GEOMETRY)
    (tmp_path / "d.nrrd").write_bytes(b"nothing")
    with pytest.raises(AnnotationError, match="not readable"):
        read_label_map(tmp_path / "d.nrrd", GEOMETRY)


# DICOM SEG, written by highdicom

SEGMENTS = {1: "LAD", 2: "Left Circumflex", 3: "RCA", 4: "Aorta"}


def write_seg(path, labels, kind="BINARY", names=SEGMENTS):
    sources = series(pattern(*SHAPE))
    for ds in sources:
        ds.PositionReferenceIndicator = ""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="test", version="1", family=codes.DCM.ArtificialIntelligence
    )
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Calcification
            if hasattr(codes.SCT, "Calcification")
            else codes.SCT.Mass,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in names.items()
    ]
    stack = np.stack([labels == number for number in names], axis=-1)
    seg = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=stack.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_dicom_seg(tmp_path, labels, kind):
    with_aorta = labels.copy()
    with_aorta[5, 1:9, 1:9] = 4
    assert np.array_equal(read_seg(write_seg(tmp_path / "s.dcm", with_aorta, kind), GEOMETRY), labels)


def test_dicom_seg_with_own_names(tmp_path, labels):
    names = {1: "vorn", 2: "links", 3: "rechts"}
    path = write_seg(tmp_path / "s.dcm", labels, names=names)
    with pytest.raises(AnnotationError, match="no segment"):
        read_seg(path, GEOMETRY)
    assert np.array_equal(read_seg(path, GEOMETRY, {"vorn": 1, "links": 2, "rechts": 3}), labels)


def test_dicom_seg_elsewhere(tmp_path, labels):
    path = write_seg(tmp_path / "s.dcm", labels)
    far = VolumeGeometry((-100.0, -120.0, 500.0), GEOMETRY.spacing_mm, SHAPE)
    with pytest.raises(AnnotationError, match="within the volume"):
        read_seg(path, far)


def test_what_is_no_seg(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    ds = series(pattern(2))[0]
    ds.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    for name in ("a.dcm", "b.dcm"):
        for read in (read_seg, read_rtstruct):
            with pytest.raises(AnnotationError):
                read(tmp_path / name, GEOMETRY)


# RTSTRUCT


def write_rtstruct(path, labels, *, hole=False, tilt=0.0, names=NAMES):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, "2.25.1"
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence(), Sequence()
    for value, name in {**names, 9: "Heart"}.items():
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = value, name
        contours.ReferencedROINumber, contours.ContourSequence = value, Sequence()
        for index in range(len(labels)):
            mask = labels[index] == value
            if not mask.any():
                continue
            shapes = [outline(mask)]
            if hole:
                inner = np.zeros_like(mask)
                inner[6:8, 12:14] = True
                shapes.append(outline(inner))
            for shape in shapes:
                contour = Dataset()
                contour.ContourGeometricType = "CLOSED_PLANAR"
                points = [GEOMETRY.to_mm(index, row, column) for column, row in shape]
                contour.ContourData = [
                    f"{value:.4f}" for n, (x, y, z) in enumerate(points) for value in (x, y, z + tilt * n)
                ]
                contour.NumberOfContourPoints = len(points)
                contours.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(contours)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_rtstruct(tmp_path, labels):
    assert np.array_equal(read_rtstruct(write_rtstruct(tmp_path / "r.dcm", labels), GEOMETRY), labels)


def test_rtstruct_inner_contours_are_holes(tmp_path, labels):
    only = np.where(labels == Vessel.LAD, labels, 0).astype(np.uint8)
    found = read_rtstruct(write_rtstruct(tmp_path / "r.dcm", only, hole=True), GEOMETRY)
    only[1:3, 6:8, 12:14] = 0
    assert np.array_equal(found, only)


def test_rtstruct_faults(tmp_path, labels):
    with pytest.raises(AnnotationError, match="axial plane"):
        read_rtstruct(write_rtstruct(tmp_path / "a.dcm", labels, tilt=1.0), GEOMETRY)
    with pytest.raises(AnnotationError, match="no ROI"):
        read_rtstruct(write_rtstruct(tmp_path / "b.dcm", labels, names={1: "Lung"}), GEOMETRY)
    with pytest.raises(AnnotationError, match="no closed contour"):
        read_rtstruct(write_rtstruct(tmp_path / "c.dcm", np.zeros_like(labels)), GEOMETRY)


# By what a file is


def test_every_format_by_what_it_is(tmp_path, labels, volume):
    SimpleITK.WriteImage(image_of(labels), str(tmp_path / "m.nii.gz"))
    paths = [
        write_plist(tmp_path / "p.xml", labels),
        tmp_path / "m.nii.gz",
        write_seg(tmp_path / "seg", labels),
        write_rtstruct(tmp_path / "rt.dcm", labels),
    ]
    for path in paths:
        assert np.array_equal(read_labels(path, volume), labels), path
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(AnnotationError, match=r"x\.txt is no"):
        read_labels(tmp_path / "x.txt", volume)


# CSV


@pytest.mark.parametrize(
    "content",
    [
        "SeriesInstanceUID,score\n1.2.3,12.5\n1.2.4,0\n",
        "\ufeffPatientID;Agatston\n1.2.3;12.5\n1.2.4;0\n",
        "note\tseries_instance_uid\ttotal\nx\t1.2.3\t12.5\ny\t1.2.4\t0\n",
        "SeriesInstanceUID,PatientID,score\n1.2.3,P,12.5\n1.2.4,P,0\n1.2.4,P,0\n",
    ],
)
def test_csv(tmp_path, content):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    assert read_csv(tmp_path / "a.csv") == {"1.2.3": Totals(12.5), "1.2.4": Totals(0.0)}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("SeriesInstanceUID,score\n1.2.3,x\n", "line 2"),
        ("SeriesInstanceUID,score\n1.2.3,nan\n", "line 2"),
        ("SeriesInstanceUID,score\n1.2.3,-1\n", "line 2"),
        ("SeriesInstanceUID,score\n1.2.3,\n", "line 2"),
        ("SeriesInstanceUID,score\n,5\n", "line 2"),
        ("SeriesInstanceUID,score\n1.2.3,5\n1.2.3,6\n", "another score"),
        ("name,score\na,5\n", "no columns"),
        ("one\n1\n", "head line"),
        ("", "head line"),
    ],
)
def test_csv_faults(tmp_path, content, match):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(AnnotationError, match=match):
        read_csv(tmp_path / "a.csv")


def test_csv_that_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match="UTF-8"):
        read_csv(tmp_path / "a.csv")


# To the grid that is scored


def test_labels_follow_the_resampling(labels):
    hu = np.full(SHAPE, -100, np.int16)
    hu[labels > 0] = 900
    scan = CTVolume(hu, GEOMETRY, 2.0)
    resampled = resample(scan)
    found = to_resampled(labels, scan)
    assert found.shape == resampled.hu.shape
    # All that is calcium in the resampled image belongs to one of the labels, and keeps its own.
    calcium = resampled.hu >= 130
    assert calcium.any()
    assert (found[calcium] > 0).all()
    assert (found[:, 5:9, 10:16][calcium[:, 5:9, 10:16]] == Vessel.LAD).all()
    assert score_mask(resampled, found).agatston == pytest.approx(score_mask(resampled, calcium).agatston)


def test_the_label_with_the_larger_share_wins():
    labels = np.zeros((6, 1, 1), np.uint8)
    labels[:2], labels[2:] = 1, 3
    scan = CTVolume(np.zeros((6, 1, 1), np.int16), VolumeGeometry((0, 0, 0), (1.0, 1, 1), (6, 1, 1)), 1.0)
    assert to_resampled(labels, scan)[:, 0, 0].tolist() == [1, 3, 3]
