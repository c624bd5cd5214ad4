"""The head of a DICOM file that came as a part (PS3.10 section 7.1), read without trusting a length in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from calcium.errors import UnreadableInstanceError
from service.heads import LONG_VRS

PREAMBLE_BYTES, PREFIX = 128, b"DICM"
ELEMENT = struct.Struct("<HH2sH")  # PS3.5 section 7.1.2; the file meta is explicit VR little endian
LONG_LENGTH = struct.Struct("<L")
META_GROUP = 0x0002
MAX_META_BYTES = 64 * 1024  # it has about 200; private information (0002,0102) may follow
SOP_CLASS, SOP_INSTANCE, SYNTAX = 0x0002, 0x0003, 0x0010


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the file meta information says of the data set, which begins at `start`."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    start: int


def read_meta(file: memoryview) -> FileMeta:
    """Read the file meta information.

    Raises
    ------
    UnreadableInstanceError
        Not a DICOM file, or without a transfer syntax.
    """
    position = PREAMBLE_BYTES + len(PREFIX)
    if file[PREAMBLE_BYTES:position] != PREFIX:
        raise UnreadableInstanceError("not a DICOM file")
    found: dict[int, str] = {}
    try:
        while file[position : position + 2] == META_GROUP.to_bytes(2, "little"):
            _, number, vr, length = ELEMENT.unpack_from(file, position)
            position += ELEMENT.size
            if vr in LONG_VRS:  # the two bytes read as length are reserved
                (length,) = LONG_LENGTH.unpack_from(file, position)
                position += LONG_LENGTH.size
            if position + length > min(len(file), PREAMBLE_BYTES + MAX_META_BYTES):
                raise UnreadableInstanceError("the file meta information does not end")
            if number in {SOP_CLASS, SOP_INSTANCE, SYNTAX}:
                value = bytes(file[position : position + min(length, 64)])
                found[number] = value.decode("ascii", "replace").strip("\0 ")
            position += length
    except struct.error:
        raise UnreadableInstanceError("the file ends within its file meta information") from None
    if not found.get(SYNTAX):
        raise UnreadableInstanceError("the file names no transfer syntax")
    return FileMeta(found.get(SOP_CLASS, ""), found.get(SOP_INSTANCE, ""), found[SYNTAX], position)
