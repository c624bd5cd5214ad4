"""Who an instance says it is: its UIDs, read from an encoded data set without decoding the rest.

A small reader of its own, because everything here comes from outside: it never recurses, allocates nothing by a
claimed length, stops at (0020,000E), and its work is bounded by constants. Data element structure: PS3.5
section 7.1; nested sequences: PS3.5 section 7.5; deflated: PS3.5 section A.5.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from calcium.errors import MissingAttributeError, UnreadableInstanceError

# PS3.5 section 9.1, but lenient about leading zeros, which some devices write.
UID_PATTERN = re.compile(rb"[0-9](?:[0-9.]{0,62}[0-9])?\Z")
# PS3.5 section 7.1.2: VRs whose length has 4 bytes after 2 reserved ones.
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
WANTED = {
    SOP_CLASS: "SOPClassUID",
    SOP_INSTANCE: "SOPInstanceUID",
    STUDY: "StudyInstanceUID",
    SERIES: "SeriesInstanceUID",
}

MAX_ELEMENTS = 20_000  # before (0020,000E), nested ones included; a CT slice has about 60
MAX_DEPTH = 64  # of nested sequences
INFLATE_STEPS = (1 << 16, 1 << 20, 1 << 24)  # bytes of a deflated data set that are inflated for its head


@dataclass(frozen=True, slots=True)
class Head:
    """The UIDs of an instance; each has only digits and dots, at most 64."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


class _Truncated(Exception):  # noqa: N818 (inner signal, not an error of ours)
    """The bytes end before the head does."""


def read_head(data: bytes | memoryview, transfer_syntax: str) -> Head:
    """Read the UIDs of an encoded data set (without preamble and file meta).

    Raises
    ------
    UnreadableInstanceError
        Not a data set of that transfer syntax, or truncated before (0020,000E).
    MissingAttributeError
        One of the UIDs is absent, empty or no UID; the message names the attribute.
    """
    try:
        if transfer_syntax == DeflatedExplicitVRLittleEndian:
            found = _read_deflated(data)
        else:
            found = _read(memoryview(data), transfer_syntax)
    except _Truncated:
        raise UnreadableInstanceError("the data set ends before its Series Instance UID") from None
    return Head(*(_uid(found, tag) for tag in WANTED))


def _uid(found: dict[int, bytes], tag: int) -> str:
    value = found.get(tag, b"").strip(b"\0 ")
    if not value:
        raise MissingAttributeError(f"{WANTED[tag]} is absent or empty")
    if not UID_PATTERN.match(value):
        raise MissingAttributeError(f"{WANTED[tag]} is not a UID")
    return value.decode("ascii")


def _read_deflated(data: bytes | memoryview) -> dict[int, bytes]:
    for limit in INFLATE_STEPS:
        try:
            start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        except zlib.error as error:
            raise UnreadableInstanceError(f"the deflated data set does not inflate: {error}") from None
        try:
            return _read(memoryview(start), DeflatedExplicitVRLittleEndian)
        except _Truncated:
            if len(start) < limit:
                raise
    raise _Truncated


def _read(data: memoryview, transfer_syntax: str) -> dict[int, bytes]:
    implicit = transfer_syntax == ImplicitVRLittleEndian
    order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
    reader = _Reader(data, order)
    found: dict[int, bytes] = {}
    while not reader.at_end:
        tag, length = reader.element(implicit=implicit)
        if tag > SERIES:
            break
        if length == UNDEFINED:
            reader.skip_sequence(implicit=implicit or reader.unknown)
        elif tag in WANTED:
            found[tag] = reader.value(min(length, 128))
            if tag == SERIES:
                break
            reader.skip(length - min(length, 128))
        else:
            reader.skip(length)
    return found


class _Reader:
    """Walks over data elements by their lengths."""

    def __init__(self, data: memoryview, order: str) -> None:
        self.data = data
        self.position = 0
        self.elements = 0
        self.unknown = False  # the last element's VR was UN
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.data)

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        try:
            values = form.unpack_from(self.data, self.position)
        except struct.error:
            raise _Truncated from None
        self.position += form.size
        return values

    def element(self, *, implicit: bool) -> tuple[int, int]:
        """Read the head of a data element: (tag, length of its value)."""
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise UnreadableInstanceError(f"more than {MAX_ELEMENTS} elements before the Series Instance UID")
        group, number = self._unpack(self._tag)
        tag = group << 16 | number
        self.unknown = False
        if implicit or group == 0xFFFE:  # items and delimiters have no VR, PS3.5 section 7.5
            return tag, self._unpack(self._long)[0]
        vr = bytes(self.value(2))
        if not (vr.isalpha() and vr.isupper()):
            raise UnreadableInstanceError(f"no VR at element ({group:04X},{number:04X})")
        if vr in LONG_VRS:
            self.skip(2)
            self.unknown = vr == b"UN"
            return tag, self._unpack(self._long)[0]
        return tag, self._unpack(self._short)[0]

    def value(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise _Truncated
        value = bytes(self.data[self.position : end])
        self.position = end
        return value

    def skip(self, length: int) -> None:
        if self.position + length > len(self.data):
            raise _Truncated
        self.position += length

    def skip_sequence(self, *, implicit: bool) -> None:
        """Skip the items of a sequence of undefined length, to behind its delimiter."""
        # Each open sequence or item, and whether its content has no VRs (inside UN, PS3.5 section 6.2.2).
        open_ones = [implicit]
        while open_ones:
            tag, length = self.element(implicit=open_ones[-1])
            if tag in (ITEM_END, SEQUENCE_END):
                open_ones.pop()
            elif length != UNDEFINED:
                self.skip(length)
            elif len(open_ones) >= MAX_DEPTH:
                raise UnreadableInstanceError(f"sequences nested deeper than {MAX_DEPTH}")
            else:
                open_ones.append(open_ones[-1] or self.unknown)
