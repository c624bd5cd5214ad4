"""The bounded reader of UIDs: the same as pydicom on honest input, an error in time on hostile input."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from receiving import ct_instance

from calcium.errors import AgatstonError, MissingAttributeError, UnreadableInstanceError
from service.heads import MAX_DEPTH, read_head

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def encode(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    if not buffer.is_little_endian and "PixelData" in ds:
        del ds.PixelData
    write_dataset(buffer, ds)
    raw = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = deflater.compress(raw) + deflater.flush()
    return raw


def nested(depth: int, *, undefined: bool) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ConceptCodeSequence = Sequence([inner])
        if undefined:
            outer["ConceptCodeSequence"].is_undefined_length = True
            inner.is_undefined_length_sequence_item = True
        inner = outer
    return inner


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_it_reads_what_pydicom_wrote(syntax, undefined):
    ds = ct_instance()
    ds.ReferencedStudySequence = Sequence([nested(5, undefined=undefined), Dataset()])
    ds["ReferencedStudySequence"].is_undefined_length = undefined
    ds.add_new(0x00090010, "LO", "PRIVATE")
    ds.add_new(0x00091001, "UN", b"\1\2\3\4")
    head = read_head(encode(ds, syntax), syntax)
    assert head.sop_class_uid == ds.SOPClassUID
    assert head.sop_instance_uid == ds.SOPInstanceUID
    assert head.study_instance_uid == ds.StudyInstanceUID
    assert head.series_instance_uid == ds.SeriesInstanceUID


def test_a_sequence_of_unknown_vr_is_skipped():
    # PS3.5 section 6.2.2: UN of undefined length holds items in implicit VR little endian.
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHL2s", 0x0008, 0x0100, 2, b"AB")
    item += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    unknown = struct.pack("<HH2sHL", 0x0009, 0x1002, b"UN", 0, 0xFFFFFFFF) + item
    ds = ct_instance()
    raw = encode(ds, ExplicitVRLittleEndian)
    cut = raw.index(struct.pack("<HH", 0x0010, 0x0010))
    assert (
        read_head(raw[:cut] + unknown + raw[cut:], ExplicitVRLittleEndian).series_instance_uid
        == ds.SeriesInstanceUID
    )


@pytest.mark.parametrize("name", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "../../etc/passwd", "1.2/3", "1" * 65, "1.2.x"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the values
def test_a_missing_or_hostile_uid_is_named(name, value):
    ds = ct_instance()
    if value is None:
        delattr(ds, name)
    else:
        setattr(ds, name, value)
    with pytest.raises(MissingAttributeError, match=name):
        read_head(encode(ds, ExplicitVRLittleEndian), ExplicitVRLittleEndian)


def test_lengths_are_claims():
    raw = struct.pack("<HH2sHL", 0x0008, 0x0005, b"UT", 0, 0xFFFFFFF0) + b"short"
    with pytest.raises(UnreadableInstanceError):
        read_head(raw, ExplicitVRLittleEndian)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 200_000])
def test_deep_nesting_ends(levels):
    raw = (
        struct.pack("<HHL", 0x0008, 0x1110, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ) * levels
    with pytest.raises(UnreadableInstanceError, match="nested deeper"):
        read_head(raw, ImplicitVRLittleEndian)


def test_endless_elements_end():
    raw = struct.pack("<HHL", 0x0008, 0x0005, 0) * 1_000_000
    started = time.perf_counter()
    with pytest.raises(UnreadableInstanceError, match="elements"):
        read_head(raw, ImplicitVRLittleEndian)
    assert time.perf_counter() - started < 1


def test_a_deflate_bomb_ends():
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS, level=9)
    head = struct.pack("<HH2sHL", 0x0008, 0x0005, b"UT", 0, 0xFFFFFFF0)
    bomb = deflater.compress(head + b"\0" * (256 << 20)) + deflater.flush()
    with pytest.raises(UnreadableInstanceError):
        read_head(bomb, DeflatedExplicitVRLittleEndian)


@given(st.binary(max_size=300), st.sampled_from(SYNTAXES))
def test_garbage_is_an_error_of_ours(data, syntax):
    with pytest.raises(AgatstonError):
        read_head(data, syntax)


@given(st.data(), st.sampled_from(SYNTAXES[:2]))
def test_a_changed_byte_never_escapes(data, syntax):
    uids = {"study": "1.2.3", "series": "1.2.4", "sop": "1.2.5"}  # the same in every run
    raw = bytearray(encode(ct_instance(size=2, **uids), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(MissingAttributeError, UnreadableInstanceError):
        read_head(bytes(raw[:end]), syntax)
