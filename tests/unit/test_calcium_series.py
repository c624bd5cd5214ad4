"""Files to one volume: every syntax and orientation bit by bit, every fault a typed error."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicom_series import SERIES_UID, enhanced, pattern, series, slice_dataset, write
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from calcium import errors
from calcium.series import group_by_series, read_headers, read_series

HU = pattern(5)


def read(datasets, folder):
    return read_series(write(datasets, folder))


# Transfer syntaxes


def compress(datasets, syntax, **options):
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False, **options)
    return datasets


def gdcm_compress(paths, syntax, folder):
    """Write JPEG lossless with GDCM, the only encoder at hand."""
    gdcm = pytest.importorskip("gdcm")
    folder.mkdir()
    out = []
    for path in paths:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(folder / path.name))
        assert writer.Write()
        out.append(folder / path.name)
        assert pydicom.dcmread(out[-1]).file_meta.TransferSyntaxUID == syntax
    return out


FORMS = [
    pytest.param({"signed": False, "bits_stored": 12}, id="unsigned12"),
    pytest.param({"signed": False, "bits_stored": 16}, id="unsigned16"),
    pytest.param({"signed": True, "bits_stored": 16, "intercept": 0}, id="signed16"),
    pytest.param({"signed": True, "bits_stored": 13, "intercept": 0}, id="signed13"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=["implicit", "explicit", "big", "deflated"],
)
def test_plain_syntaxes(syntax, form, tmp_path):
    assert np.array_equal(read(series(HU, syntax=syntax, **form), tmp_path).volume.hu, HU)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=["rle", "jls", "j2k"])
def test_lossless_syntaxes(syntax, form, tmp_path):
    assert np.array_equal(read(compress(series(HU, **form), syntax), tmp_path).volume.hu, HU)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1], ids=["57", "70"])
def test_jpeg_lossless(syntax, form, tmp_path):
    paths = gdcm_compress(write(series(HU, **form), tmp_path / "plain"), syntax, tmp_path / "jpeg")
    assert np.array_equal(read_series(paths).volume.hu, HU)


@pytest.mark.parametrize(
    ("syntax", "options"),
    [(JPEGLSNearLossless, {"jls_error": 2}), (JPEG2000, {"j2k_psnr": [80]})],
    ids=["jls", "j2k"],
)
def test_lossy_syntaxes_are_read_and_told(syntax, options, tmp_path):
    found = read(compress(series(HU), syntax, **options), tmp_path)
    assert np.abs(found.volume.hu.astype(int) - HU).max() <= 4
    assert found.lossy_encoded


def test_unknown_syntax_is_named(tmp_path):
    datasets = compress(series(HU), JPEGLSLossless)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    with pytest.raises(errors.PixelDataError, match=r"4\.50 is not supported"):
        read(datasets, tmp_path)


# Hounsfield units


def test_bits_above_bits_stored_are_cleared(tmp_path):
    datasets = series(HU)
    for ds in datasets:  # an overlay in bit 15, as old scanners wrote it
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0x8000).tobytes()
    assert np.array_equal(read(datasets, tmp_path).volume.hu, HU)


def test_fractional_slope_rounds(tmp_path):
    found = read(series(HU, slope=0.5, bits_stored=16), tmp_path).volume.hu
    assert np.array_equal(found, HU)


def test_slope_and_intercept_of_each_slice(tmp_path):
    datasets = [
        slice_dataset(
            image, z=2.0 * index, number=index + 1, intercept=-1024 - index, slope=1 + index, bits_stored=16
        )
        for index, image in enumerate(HU)
    ]
    assert np.abs(read(datasets, tmp_path).volume.hu.astype(int) - HU).max() <= 3


def test_values_below_air_and_above_int16_are_clipped(tmp_path):
    hu = HU.astype(np.int32)
    hu[0, 0, 0], hu[0, 0, 1] = -3024, 40000
    found = read(series(hu, signed=False, bits_stored=16, intercept=-4000), tmp_path).volume.hu
    assert found[0, 0, 0] == -1024
    assert found[0, 0, 1] == 32767


@pytest.mark.parametrize("written", ["US", "SS"])
def test_padding_is_air_however_it_is_written(written, tmp_path):
    hu = HU.copy()
    hu[:, :2, :] = -1000  # stored as -2000
    datasets = series(hu, signed=True, bits_stored=16, intercept=1000)
    for ds in datasets:  # GE writes -2000 as US 63536 in signed images
        ds.add_new("PixelPaddingValue", written, -2000 if written == "SS" else 63536)
    found = read(datasets, tmp_path).volume.hu
    assert (found[:, :2] == -1024).all()
    assert np.array_equal(found[:, 2:], HU[:, 2:])


def test_padding_range(tmp_path):
    hu = HU.copy()
    hu[:, 0, :] = 3005
    hu[:, 1, :] = 3010
    datasets = series(hu, PixelPaddingValue=3005 + 1024, PixelPaddingRangeLimit=3010 + 1024)
    found = read(datasets, tmp_path).volume.hu
    assert (found[:, :2] == -1024).all()
    assert np.array_equal(found[:, 2:], HU[:, 2:])


def test_padding_of_a_tissue_value_punches_no_holes(tmp_path):
    hu = np.full((3, 40, 40), 40, np.int16)
    hu[:, :, 0] = 0  # outside the scan circle but for the middle of the edge
    datasets = series(hu, PixelPaddingValue=40 + 1024)
    found = read(datasets, tmp_path).volume.hu
    assert (found[:, 10:30, 10:30] == 40).all()
    assert found[0, 0, 1] == -1024


# Orientation


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        ((1, 0, 0, 0, 1, 0), lambda a: a),
        ((-1, 0, 0, 0, -1, 0), lambda a: a[:, ::-1, ::-1]),  # prone
        ((-1, 0, 0, 0, 1, 0), lambda a: a[:, :, ::-1]),
        ((1, 0, 0, 0, -1, 0), lambda a: a[:, ::-1, :]),
        ((0, 1, 0, 1, 0, 0), lambda a: a.transpose(0, 2, 1)),
        ((0, -1, 0, 1, 0, 0), lambda a: a.transpose(0, 2, 1)[:, :, ::-1]),  # decubitus
        ((0, 1, 0, -1, 0, 0), lambda a: a.transpose(0, 2, 1)[:, ::-1, :]),
        ((0, -1, 0, -1, 0, 0), lambda a: a.transpose(0, 2, 1)[:, ::-1, ::-1]),
    ],
)
def test_every_axial_orientation_comes_to_one_volume(orientation, view, tmp_path):
    _, rows, columns = HU.shape
    turned = "0" in str(orientation[0])
    stored = view(HU)  # each view is its own inverse up to the order of transpose and flips
    dy, dx = 0.8, 0.7
    x = -100.0 if orientation[0] + orientation[3] > 0 else -100.0 + (columns - 1) * dx
    y = -120.0 if orientation[1] + orientation[4] > 0 else -120.0 + (rows - 1) * dy
    spacing = (dx, dy) if turned else (dy, dx)
    found = read(series(stored, orientation=orientation, origin=(x, y), spacing=spacing), tmp_path).volume
    assert np.array_equal(found.hu, HU)
    assert found.geometry.spacing_mm == pytest.approx((2.0, dy, dx))
    assert found.geometry.origin_mm == pytest.approx((-100.0, -120.0, -50.0), abs=1e-3)


def test_order_of_files_does_not_matter(tmp_path):
    paths = write(reversed(series(HU)), tmp_path)
    one, other = read_series(paths), read_series(paths[::-1])
    assert np.array_equal(one.volume.hu, HU)
    assert np.array_equal(other.volume.hu, HU)
    assert one.instances == other.instances
    assert one.header.SOPInstanceUID == other.header.SOPInstanceUID == "2.25.7700.3.1"
    assert [item.z_mm for item in one.instances] == [-50, -48, -46, -44, -42]


def test_header_has_everything_but_pixels(tmp_path):
    found = read(series(HU), tmp_path)
    assert found.header.PatientID == "P1"
    assert found.header.AccessionNumber == "A1"
    assert "PixelData" not in found.header
    assert found.series_instance_uid == SERIES_UID
    assert found.acquisition.kvp == 120
    assert found.acquisition.kernel == "B30f"
    assert found.acquisition.exposure_mas == 50


def test_thickness_and_increment_are_kept_apart(tmp_path):
    volume = read(series(HU, thickness=3.0, increment=1.25), tmp_path).volume
    assert volume.slice_thickness_mm == 3.0
    assert volume.geometry.spacing_mm[0] == pytest.approx(1.25)


def test_positions_written_with_one_decimal_are_regular(tmp_path):
    datasets = series(pattern(30), increment=0.75)
    for ds in datasets:
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, f"{float(z):.1f}"]
    assert read(datasets, tmp_path).volume.geometry.spacing_mm[0] == pytest.approx(0.75, abs=0.005)


# Enhanced CT


def test_enhanced(tmp_path):
    found = read([enhanced(HU, order=[3, 0, 4, 1, 2])], tmp_path)
    assert np.array_equal(found.volume.hu, HU)
    assert found.instances[0].frames == 5
    assert found.acquisition.kvp == 120
    assert found.acquisition.kernel == "B30f"


def test_enhanced_rescale_of_each_frame(tmp_path):
    assert np.array_equal(read([enhanced(HU, per_frame_rescale=True)], tmp_path).volume.hu, HU)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=["rle", "jls", "j2k"])
def test_enhanced_compressed(syntax, tmp_path):
    datasets = compress([enhanced(HU)], syntax)
    assert np.array_equal(read(datasets, tmp_path).volume.hu, HU)


def test_enhanced_in_two_instances(tmp_path):
    first, second = enhanced(HU[:2]), enhanced(HU[2:], z0=-46.0)
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = "2.25.7700.3.99"
    found = read([second, first], tmp_path)
    assert np.array_equal(found.volume.hu, HU)
    assert [item.frames for item in found.instances] == [2, 3]


def test_enhanced_frames_that_lie(tmp_path):
    with pytest.raises(errors.PixelDataError, match="7 frames"):
        read([enhanced(HU, NumberOfFrames=7)], tmp_path)


def test_enhanced_truncated(tmp_path):
    ds = enhanced(HU)
    ds.PixelData = ds.PixelData[:-100]
    with pytest.raises(errors.PixelDataError, match="bytes"):
        read([ds], tmp_path)


# Duplicates


def test_a_repeated_slice_of_equal_content_is_passed_over(tmp_path):
    datasets = series(HU)
    again = series(HU)[2]
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "2.25.7700.3.77"
    found = read([*datasets, again], tmp_path)
    assert np.array_equal(found.volume.hu, HU)
    assert len(found.instances) == 6
    assert "1 repeated" in found.notes[0]


def test_the_same_file_twice_is_one_instance(tmp_path):
    datasets = series(HU)
    found = read([*datasets, series(HU)[2]], tmp_path)
    assert len(found.instances) == 5


def test_one_uid_with_two_contents(tmp_path):
    other = series(HU + 1)[2]
    with pytest.raises(errors.DuplicatePositionError, match=r"z -46\.00"):
        read([*series(HU), other], tmp_path)


def test_one_uid_at_two_positions(tmp_path):
    datasets = series(HU)
    datasets[3].SOPInstanceUID = datasets[2].SOPInstanceUID
    with pytest.raises(errors.MixedSeriesError, match="SOP Instance UID"):
        read(datasets, tmp_path)


def test_another_slice_at_the_same_position(tmp_path):
    other = series(HU + 1)[2]
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "2.25.7700.3.77"
    with pytest.raises(errors.DuplicatePositionError, match=r"z -46\.00") as caught:
        read([*series(HU), other], tmp_path)
    assert caught.value.uid == "2.25.7700.3.77"
    assert caught.value.code == "duplicate_position"


def test_two_volumes_in_one_series(tmp_path):
    second = series(HU + 1)
    for index, ds in enumerate(second):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.7700.5.{index}"
    with pytest.raises(errors.MultipleVolumesError, match="several volumes"):
        read([*series(HU), *second], tmp_path)


# Geometry


def test_a_gap_is_named_in_mm(tmp_path):
    datasets = series(pattern(8))
    del datasets[4]
    with pytest.raises(errors.MissingSlicesError, match=r"4\.00 mm between z -44\.00 and -40\.00") as caught:
        read(datasets, tmp_path)
    assert caught.value.uid == "2.25.7700.3.6"


def test_irregular_spacing(tmp_path):
    datasets = series(pattern(8))
    datasets[4].ImagePositionPatient = [-100, -120, -41.6]
    with pytest.raises(errors.IrregularSpacingError, match=r"1\.60 to 2\.40"):
        read(datasets, tmp_path)


def test_one_slice_is_no_volume(tmp_path):
    with pytest.raises(errors.MissingSlicesError, match="one slice"):
        read(series(HU[:1]), tmp_path)


def test_nothing_is_no_volume():
    with pytest.raises(errors.MissingSlicesError):
        read_series([])


@pytest.mark.parametrize(
    "orientation",
    [
        (1, 0, 0, 0, 0, -1),
        (0, 1, 0, 0, 0, -1),
        (1, 0, 0, 0, 0.9659, 0.2588),
        (0.9962, 0.0872, 0, -0.0872, 0.9962, 0),
    ],
    ids=["coronal", "sagittal", "tilted 15", "turned 5"],
)
def test_oblique(orientation, tmp_path):
    with pytest.raises(errors.ObliqueError, match="degrees"):
        read(series(HU, orientation=orientation), tmp_path)


def test_sheared(tmp_path):
    datasets = series(HU)
    for index, ds in enumerate(datasets):
        ds.ImagePositionPatient = [-100, -120 + 0.4 * index, -50 + 2 * index]
    with pytest.raises(errors.ObliqueError, match=r"sideways by 1\.60 mm"):
        read(datasets, tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"PatientID": "P2"}, errors.MixedSeriesError),
        ({"PatientName": "Other^Person"}, errors.MixedSeriesError),
        ({"StudyInstanceUID": "1.2.3"}, errors.MixedSeriesError),
        ({"SeriesInstanceUID": "1.2.3"}, errors.MixedSeriesError),
        ({"FrameOfReferenceUID": "1.2.3"}, errors.MixedSeriesError),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, errors.MixedSeriesError),
        ({"PixelSpacing": [0.9, 0.9]}, errors.MixedSeriesError),
        ({"SliceThickness": 5}, errors.MixedSeriesError),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, errors.UnreadableInstanceError),
        ({"SOPClassUID": None}, errors.MissingAttributeError),
        ({"SOPInstanceUID": None}, errors.MissingAttributeError),
        ({"ImagePositionPatient": None}, errors.MissingAttributeError),
        ({"ImagePositionPatient": [1, 2]}, errors.UnreadableInstanceError),
        ({"ImageOrientationPatient": None}, errors.MissingAttributeError),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, errors.MixedSeriesError),
        ({"PixelSpacing": None}, errors.MissingAttributeError),
        ({"PixelSpacing": ""}, errors.MissingAttributeError),
        ({"PixelSpacing": [0, 0.7]}, errors.UnreadableInstanceError),
        ({"PixelSpacing": [-0.8, 0.7]}, errors.UnreadableInstanceError),
        ({"PixelSpacing": [1e9, 0.7]}, errors.UnreadableInstanceError),
        ({"SliceThickness": None}, errors.MissingAttributeError),
        ({"SliceThickness": 0}, errors.UnreadableInstanceError),
        ({"SliceThickness": 1e30}, errors.UnreadableInstanceError),
        ({"RescaleSlope": None}, errors.MissingAttributeError),
        ({"RescaleIntercept": None}, errors.MissingAttributeError),
        ({"RescaleSlope": 0}, errors.UnitsError),
        ({"RescaleIntercept": 1e8}, errors.UnitsError),
        ({"RescaleType": "US"}, errors.UnitsError),
        ({"Rows": None}, errors.MissingAttributeError),
        ({"Rows": 65535}, errors.TooLargeError),
        ({"Rows": 0}, errors.PixelDataError),
        ({"Columns": 65535, "Rows": 65535}, errors.TooLargeError),
        ({"Rows": 39}, errors.MixedSeriesError),
        ({"BitsAllocated": 8}, errors.PixelDataError),
        ({"BitsAllocated": 32}, errors.PixelDataError),
        ({"BitsStored": 17}, errors.PixelDataError),
        ({"HighBit": 15}, errors.PixelDataError),
        ({"SamplesPerPixel": 3}, errors.PixelDataError),
        ({"PhotometricInterpretation": "RGB"}, errors.PixelDataError),
        ({"PixelRepresentation": 2}, errors.PixelDataError),
        ({"NumberOfFrames": 4}, errors.PixelDataError),
        ({"PixelData": None}, errors.PixelDataError),
        ({"PixelData": b"\0" * 100}, errors.PixelDataError),
        ({"PixelData": b""}, errors.PixelDataError),
    ],
    ids=str,
)
def test_a_fault_of_one_slice_is_typed_and_named(change, error, tmp_path):
    datasets = series(HU)
    for keyword, value in change.items():
        if value is None:
            delattr(datasets[2], keyword)
        else:
            setattr(datasets[2], keyword, value)
    with pytest.raises(error) as caught:
        read(datasets, tmp_path)
    assert type(caught.value) is error
    assert "P1" not in str(caught.value)
    assert "Person" not in str(caught.value)
    if change != {"SOPInstanceUID": None}:
        assert caught.value.uid == "2.25.7700.3.3"


@pytest.mark.parametrize("text", ["NaN\\0.7", "inf\\0.7", "0.8\\x", "0.8", "\\", "0.8\\0.7\\0.6", "1e400\\1"])
def test_numbers_that_are_none(text, tmp_path):
    paths = write(series(HU, PixelSpacing=["0.8765", "0.7654"]), tmp_path)
    raw = paths[2].read_bytes()
    paths[2].write_bytes(raw.replace(b"0.8765\\0.7654 ", text.encode().ljust(14)))
    with pytest.raises((errors.UnreadableInstanceError, errors.MissingAttributeError)):
        read_series(paths)


def test_all_slices_larger_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("calcium.series.MAX_VOXELS", HU.size - 1)
    with pytest.raises(errors.TooLargeError, match="voxels"):
        read(series(HU), tmp_path)


# Hostile files


def test_truncated_at_every_length(tmp_path):
    paths = write(series(HU[:2]), tmp_path)
    whole = paths[1].read_bytes()
    for length in [*range(0, len(whole) - 2880, 11), len(whole) - 1]:
        paths[1].write_bytes(whole[:length])
        with pytest.raises(errors.SeriesError):
            read_series(paths)


def test_truncated_code_stream(tmp_path):
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        paths = write(compress(series(HU), syntax), tmp_path / syntax)
        whole = paths[1].read_bytes()
        paths[1].write_bytes(whole[:-200])
        with pytest.raises(errors.PixelDataError) as caught:
            read_series(paths)
        assert caught.value.uid == "2.25.7700.3.2"


def test_a_code_stream_of_another_size(tmp_path):
    for syntax in (JPEGLSLossless, JPEG2000Lossless):
        datasets = compress(series(HU), syntax)
        big = compress([slice_dataset(np.zeros((200, 200)), z=0)], syntax)[0]
        datasets[1].PixelData = big.PixelData
        with pytest.raises(errors.PixelDataError, match="200 x 200") as caught:
            read(datasets, tmp_path / syntax)
        assert caught.value.uid == "2.25.7700.3.2"


def test_not_dicom(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(errors.UnreadableInstanceError, match=r"a\.dcm is not a DICOM file"):
        read_series([path])
    with pytest.raises(errors.UnreadableInstanceError):
        read_series([tmp_path / "absent.dcm"])


# Grouping


def test_grouping(tmp_path):
    paths = write(series(HU), tmp_path / "one" / "deep")
    other = write(series(HU, SeriesInstanceUID="1.2.3"), tmp_path / "two")
    nameless = write(series(HU[:1], SeriesInstanceUID=None), tmp_path / "three")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM")
    found = group_by_series([tmp_path, paths[0]])
    assert found == {SERIES_UID: paths, "1.2.3": other}
    assert found.unreadable == [tmp_path / "broken.dcm", *nameless]


def test_headers_hold_what_screening_needs(tmp_path):
    paths = write(series(HU, ContrastBolusAgent="IV"), tmp_path)
    headers = read_headers(paths)
    assert len(headers) == 5
    assert headers[0].ContrastBolusAgent == "IV"
    assert "PixelData" not in headers[0]
    assert "PatientName" not in headers[0]
