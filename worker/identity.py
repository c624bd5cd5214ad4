"""Who we are in DICOM objects, and how their UIDs follow from what they say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.metadata import version

MANUFACTURER = "Agatston open-source project"
MODEL_NAME = "Agatston node"
SOFTWARE_VERSION = version("agatston")


def derive_uid(*parts: object) -> str:
    """Return the UID that belongs to `parts`: always the same one.

    A UUID-derived UID (PS3.5 annex B.2): ``2.25.`` and 128 bits as a decimal number, here from SHA-256 of the
    parts instead of a random UUID, with the version (8, free form) and variant bits of RFC 9562 set.
    """
    text = "\x1f".join(str(part) for part in ("agatston", *parts))
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return f"2.25.{number}"


# PS3.7 annex D.3.3.2: names the implementation that wrote a file.
IMPLEMENTATION_CLASS_UID = derive_uid("implementation")
IMPLEMENTATION_VERSION_NAME = f"AGATSTON_{SOFTWARE_VERSION}"[:16]  # VR SH


@dataclass(frozen=True, slots=True)
class Device:
    """The equipment that makes our objects: General Equipment, TID 1004 and Contributing Equipment.

    Parameters
    ----------
    manufacturer, model_name, software_version
        As they stand in every object; the version includes that of the weights where they are known.
    station_name
        AE title of the node.
    uid
        Device UID (0018,1002), asked for by IHE AIR: the same for all nodes of one software version.
    """

    manufacturer: str = MANUFACTURER
    model_name: str = MODEL_NAME
    software_version: str = SOFTWARE_VERSION
    station_name: str = "AGATSTON"
    uid: str = field(default_factory=lambda: derive_uid("device", MODEL_NAME, SOFTWARE_VERSION))
