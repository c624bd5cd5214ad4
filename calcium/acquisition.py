"""How a scan was made, from one header; unknown stays None or empty."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom.dataset import Dataset

from calcium.frames import text


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What a header tells about a scan.

    Parameters
    ----------
    kvp
        Peak tube voltage, kV.
    exposure_mas
        Exposure, mAs.
    kernel
        Convolution Kernel.
    contrast_agent
        Contrast/Bolus Agent as written; empty where nothing is said.
    manufacturer, model, station
        Of the scanner.
    image_type
        Values of Image Type.
    patient_position
        E.g. HFS.
    body_part, series_description, protocol
        As written.
    acquisition_number, acquisition_uid
        Of the acquisition that was reconstructed.
    lossy
        Whether the pixels were ever compressed with loss.
    """

    kvp: float | None = None
    exposure_mas: float | None = None
    kernel: str = ""
    contrast_agent: str = ""
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    image_type: tuple[str, ...] = ()
    patient_position: str = ""
    body_part: str = ""
    series_description: str = ""
    protocol: str = ""
    acquisition_number: str = ""
    acquisition_uid: str = ""
    lossy: bool = False

    @classmethod
    def of(cls, header: Dataset) -> Acquisition:
        """Return what a header says; for multi-frame objects that is what their functional groups share."""
        parts = functional_groups(header)
        return cls(
            kvp=_first_number(parts, "KVP"),
            exposure_mas=_first_number(parts, "ExposureInmAs", "Exposure"),
            kernel="\\".join(values(parts, "ConvolutionKernel")),
            contrast_agent=contrast_agent(header),
            manufacturer=text(header, "Manufacturer"),
            model=text(header, "ManufacturerModelName"),
            station=text(header, "StationName"),
            image_type=values((header,), "ImageType"),
            patient_position=text(header, "PatientPosition"),
            body_part=text(header, "BodyPartExamined"),
            series_description=text(header, "SeriesDescription"),
            protocol=text(header, "ProtocolName"),
            acquisition_number=text(header, "AcquisitionNumber"),
            acquisition_uid=text(header, "AcquisitionUID"),
            lossy=text(header, "LossyImageCompression") == "01",
        )


def functional_groups(header: Dataset) -> tuple[Dataset, ...]:
    """Return the header, the items of its shared functional groups and those of its first frame (C.7.6.16)."""
    parts = [header]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        try:
            for item in (header.get(name) or ())[:1]:
                for element in item:
                    if element.VR == "SQ":
                        parts.extend(element.value[:1])
        except Exception:  # noqa: BLE001, S112 - as in `values`  # nosec B112
            continue
    return tuple(parts)


def values(parts: tuple[Dataset, ...], keyword: str) -> tuple[str, ...]:
    """Return the values of the first of `parts` that has `keyword`, as upper-case or mixed text, stripped."""
    for part in parts:
        try:
            value = part.get(keyword)
            if value not in (None, ""):
                many = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
                return tuple(str(one).strip() for one in many)
        except Exception:  # noqa: BLE001, S112 - not readable is not said  # nosec B112
            continue
    return ()


def contrast_agent(header: Dataset) -> str:
    """Return what the header says about a contrast agent, empty where it says nothing."""
    agent = text(header, "ContrastBolusAgent")
    try:
        # PS3.3 C.7.6.4b: one item an agent, coded.
        for item in header.get("ContrastBolusAgentSequence") or ():
            agent = agent or text(item, "CodeMeaning") or "unnamed agent"
    except Exception:  # noqa: BLE001 - an unreadable list of agents is no empty one
        return agent or "unreadable"
    return agent


def _first_number(parts: tuple[Dataset, ...], *keywords: str) -> float | None:
    for keyword in keywords:
        for part in parts:
            try:
                number = float(text(part, keyword))
            except ValueError:
                continue
            if math.isfinite(number):
                return number
    return None
