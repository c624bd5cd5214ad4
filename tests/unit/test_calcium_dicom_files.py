"""Files that lie about sizes: bounded memory and a typed error."""

from __future__ import annotations

import tracemalloc

import pytest
from dicom_series import deflate_bomb, pattern, series, slice_dataset, write
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from calcium import errors
from calcium.dicom_files import MAX_HEADER_BYTES, read_header, settle
from calcium.series import read_headers, read_series

HU = pattern(3)
MIB = 1 << 20


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_deflate_bomb_stops_at_the_limit(tmp_path):
    path = deflate_bomb(tmp_path / "bomb.dcm", 256)
    assert path.stat().st_size < MIB

    def read():
        with pytest.raises(errors.TooLargeError, match="32 MiB"):
            read_headers([path])

    assert peak(read) < 5 * MAX_HEADER_BYTES


def test_a_header_larger_than_the_limit(tmp_path):
    ds = slice_dataset(HU[0], z=0.0)
    ds.add_new(0x00090010, "LO", "private")
    ds.add_new(0x00091001, "OB", b"\0" * (MAX_HEADER_BYTES + MIB))
    (path,) = write([ds], tmp_path)
    with pytest.raises(errors.TooLargeError, match="before its pixel data"):
        read_header(path)


@pytest.mark.parametrize("claim", [0xFFFFFFF0, 0x7FFFFFFF, 0x10000000])
def test_a_length_of_4_gb_in_a_file_of_kilobytes(claim, tmp_path):
    paths = write(series(HU), tmp_path)
    raw = paths[1].read_bytes()
    place = raw.rindex(b"\xe0\x7f\x10\x00")
    long_element = b"\x09\x00\x01\x10UN\0\0" + claim.to_bytes(4, "little")
    paths[1].write_bytes(raw[:place] + long_element + raw[place:])

    def read():
        with pytest.raises(errors.SeriesError):
            read_series(paths)

    assert peak(read) < 8 * MIB


def test_pixel_data_that_claim_4_gb(tmp_path):
    paths = write(series(HU), tmp_path)
    raw = paths[1].read_bytes()
    place = raw.rindex(b"\xe0\x7f\x10\x00")
    paths[1].write_bytes(raw[: place + 8] + (0xFFFFFFF0).to_bytes(4, "little") + raw[place + 12 : -100])

    def read():
        with pytest.raises(errors.PixelDataError, match="truncated"):
            read_series(paths)

    assert peak(read) < 8 * MIB


def test_sequences_nested_too_deeply(tmp_path):
    paths = write(series(HU), tmp_path)
    raw = paths[1].read_bytes()
    place = raw.index(b"\x08\x00\x60\x00CS")  # before Modality
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    paths[1].write_bytes(raw[:place] + nested + raw[place:])
    # pydicom turns some of its own RecursionErrors into OSError, as deep as the caller happens to be.
    with pytest.raises(errors.UnreadableInstanceError, match=r"RecursionError|OSError"):
        read_series(paths)


def test_out_of_memory_is_transient(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("calcium.series.stored_frames", fail)
    with pytest.raises(errors.ResourcesError):
        read_series(write(series(HU), tmp_path))


@pytest.mark.parametrize(
    "charset", ["ISO_IR 999", "\\ISO 2022 IR 87", "garbage\\more", "ISO_IR 100\\ISO_IR 192"]
)
def test_broken_character_sets_do_not_matter(charset, tmp_path, recwarn, caplog):
    paths = write(series(HU), tmp_path)
    for path in paths:
        raw = path.read_bytes()
        place = raw.index(b"\x08\x00\x08\x00CS")
        text = charset.encode() + b" " * (len(charset) % 2)
        element = b"\x08\x00\x05\x00CS" + len(text).to_bytes(2, "little") + text
        path.write_bytes(
            raw[:place] + element + raw[place:].replace(b"Test^Person ", b"T\xff\xfe\x1b$B^\x81 \xc3\x28 ")
        )
    found = read_series(paths)
    str(found.header)
    assert not recwarn.list
    assert not caplog.records


def test_settling_drops_what_cannot_be_read(tmp_path):
    ds = slice_dataset(HU[0], z=0.0)
    inner = Dataset()
    inner.CodeMeaning = "kept"
    ds.ProcedureCodeSequence = Sequence([inner])
    ds.PatientWeight = "70.125"
    (path,) = write([ds], tmp_path)
    path.write_bytes(path.read_bytes().replace(b"DS\x06\x0070.125", b"XX\x06\x0070.125"))
    header = read_header(path).dataset
    settle(header)
    assert "PatientWeight" not in header
    assert header.ProcedureCodeSequence[0].CodeMeaning == "kept"
    assert header.PatientID == "P1"


def test_an_error_tells_no_patient_data(tmp_path):
    paths = write(series(HU), tmp_path)
    raw = paths[1].read_bytes()
    paths[1].write_bytes(raw.replace(b"-100\\-120\\-48", b"Smith\\John\\-4"))
    with pytest.raises(errors.UnreadableInstanceError) as caught:
        read_series(paths)
    assert "Smith" not in str(caught.value)
    assert caught.value.uid == "2.25.7700.3.2"


def test_meta_information_that_cannot_be_decoded_is_dropped(tmp_path):
    """Found by fuzzing: a VR that does not exist, in an element that nobody had asked for yet."""
    paths = write(series(HU), tmp_path)
    for path in paths:
        raw = path.read_bytes()
        place = raw.index(b"\x02\x00\x12\x00UI")  # Implementation Class UID
        path.write_bytes(raw[: place + 4] + b"Ui" + raw[place + 6 :])
    found = read_series(paths)
    assert "ImplementationClassUID" not in found.header.file_meta
    str(found.header)
