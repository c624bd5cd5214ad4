"""Who we are in DICOM objects, and how their UIDs follow from what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.implementation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    SOFTWARE_VERSION,
    derive_uid,
)

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "MANUFACTURER",
    "MODEL_NAME",
    "SOFTWARE_VERSION",
    "Device",
    "derive_uid",
]

MANUFACTURER = "Agatston open-source project"
MODEL_NAME = "Agatston node"


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
