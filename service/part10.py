"""The head of a DICOM file (PS3.10 section 7.1), written without pydicom, for it is written for every slice."""

from __future__ import annotations

import struct
from importlib.metadata import version

PREAMBLE = bytes(128) + b"DICM"
GROUP_LENGTH = struct.Struct("<HH2sHL")  # (0002,0000) UL, 12 bytes
ELEMENT = struct.Struct("<HH2sH")  # head of an element with a short length
VERSION_ELEMENT = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\0\1"
IMPLEMENTATION_CLASS_UID = "2.25.330436353870184204731563298414573459191"  # PS3.5 Annex B.2, from a UUID
IMPLEMENTATION_VERSION = f"AGATSTON_{version('agatston')}"[:16]  # SH, at most 16 characters

CLASS, INSTANCE, SYNTAX, IMPLEMENTATION, IMPLEMENTATION_NAME, SOURCE, RECEIVER = (
    0x02, 0x03, 0x10, 0x12, 0x13, 0x16, 0x18,
)  # fmt: skip


def write_head(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str, receiving_ae: str
) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 Table 7.1-1), explicit VR little endian.

    Parameters
    ----------
    source_ae, receiving_ae
        Calling and called AE title: a file whose row was lost still tells who sent it.
    """
    body = VERSION_ELEMENT + b"".join(
        _element(number, vr, value)
        for number, vr, value in (
            (CLASS, b"UI", sop_class_uid),
            (INSTANCE, b"UI", sop_instance_uid),
            (SYNTAX, b"UI", transfer_syntax_uid),
            (IMPLEMENTATION, b"UI", IMPLEMENTATION_CLASS_UID),
            (IMPLEMENTATION_NAME, b"SH", IMPLEMENTATION_VERSION),
            (SOURCE, b"AE", source_ae),
            (RECEIVER, b"AE", receiving_ae),
        )
    )
    return PREAMBLE + GROUP_LENGTH.pack(2, 0, b"UL", 4, len(body)) + body


def _element(number: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    if len(raw) % 2:
        raw += b"\0" if vr == b"UI" else b" "  # PS3.5 section 6.2
    return ELEMENT.pack(2, number, vr, len(raw)) + raw
