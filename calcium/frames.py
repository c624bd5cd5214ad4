"""The frames of CT images as records, the same for one-frame and multi-frame objects, all values checked.

CT Image (PS3.3 A.3) and Enhanced CT Image (PS3.3 A.38, functional groups in C.7.6.16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from calcium.dicom_files import Header, guarded
from calcium.errors import (
    MissingAttributeError,
    PixelDataError,
    TooLargeError,
    UnitsError,
    UnreadableInstanceError,
)
from calcium.geometry import Point

ENHANCED = frozenset({EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
CT_SOP_CLASSES = ENHANCED | {CTImageStorage}

MAX_SIDE = 2048
"""Most rows or columns; ultra-high-resolution CT writes 2048."""
MIN_SIDE = 8
"""Fewest rows or columns that can be an image."""
MAX_FRAMES = 4096
"""Most frames of a series; 0.25 mm over a metre."""
PIXEL_SPACING_MM = (0.05, 10.0)
"""Range of believable pixel spacings, mm."""
THICKNESS_MM = (0.05, 50.0)
"""Range of believable slice thicknesses, mm."""
POSITION_MM = 1e5
"""Farthest believable position from the origin, mm."""
SLOPE = 1e4
"""Largest believable rescale slope, HU per stored value."""
INTERCEPT_HU = 1e5
"""Largest believable rescale intercept, HU."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What all frames of a volume share.

    Parameters
    ----------
    rows, columns
        Of the stored frame.
    spacing_mm
        (between rows, between columns), mm (Pixel Spacing, PS3.3 10.7.1.3).
    thickness_mm
        Slice Thickness, mm.
    orientation
        Direction cosines of a row (rising column index) and of a column (rising row index), LPS.
    """

    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    thickness_mm: float
    orientation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Storage:
    """How the stored values of an instance become HU.

    Parameters
    ----------
    bits_stored
        12 to 16 of 16 allocated bits as a rule.
    signed
        Pixel Representation 1: two's complement.
    padding
        (lowest, highest) stored value that is padding, or None (PS3.3 C.7.5.1.1.2).
    """

    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of one instance.

    Parameters
    ----------
    header
        Of its file.
    uid
        SOP Instance UID.
    index
        Of the frame in its instance, from 0.
    position_mm
        Image Position (Patient): centre of the first stored pixel, LPS mm.
    slope, intercept
        HU = slope * stored value + intercept.
    """

    header: Header
    uid: str
    index: int
    position_mm: Point
    layout: Layout
    storage: Storage
    slope: float
    intercept: float

    @property
    def z_mm(self) -> float:
        """Position along the patient's axis, LPS mm."""
        return self.position_mm[2]


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as stripped text, "" where it is absent, empty or not readable."""
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip()
    except Exception:  # noqa: BLE001 - hostile values raise anything, and no text is worth a fault
        return ""


def required_text(dataset: Dataset, keyword: str, uid: str | None) -> str:
    """Return an element as text.

    Raises
    ------
    MissingAttributeError
        Absent or empty.
    """
    value = text(dataset, keyword)
    if not value:
        raise MissingAttributeError(f"{keyword} is absent or empty", uid=uid)
    return value


def numbers(dataset: Dataset, keyword: str, count: int, uid: str | None) -> tuple[float, ...]:
    """Return the `count` finite numbers of an element.

    Raises
    ------
    MissingAttributeError
        Absent or empty.
    UnreadableInstanceError
        Another count, not numbers, or not finite.
    """
    with guarded(keyword, uid):
        value = dataset.get(keyword)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise MissingAttributeError(f"{keyword} is absent or empty", uid=uid)
        # A single value of a multi-valued element comes without a list.
        parts = (
            [value]
            if isinstance(value, (str, bytes, int, float)) or not hasattr(value, "__iter__")
            else list(value)
        )
        if not parts:
            raise MissingAttributeError(f"{keyword} is absent or empty", uid=uid)
        result = tuple(float(part) for part in parts)
    if len(result) != count or not all(math.isfinite(number) for number in result):
        raise UnreadableInstanceError(f"{keyword} must be {count} finite numbers", uid=uid)
    return result


def whole(dataset: Dataset, keyword: str, uid: str | None) -> int:
    """Return an element that is one whole number."""
    (value,) = numbers(dataset, keyword, 1, uid)
    if value != int(value):
        raise UnreadableInstanceError(f"{keyword} must be a whole number", uid=uid)
    return int(value)


def _within(name: str, values: tuple[float, ...], limits: tuple[float, float], uid: str) -> None:
    low, high = limits
    if not all(low <= value <= high for value in values):
        shown = ", ".join(f"{value:g}" for value in values)
        raise UnreadableInstanceError(f"{name} of {shown} is not between {low:g} and {high:g}", uid=uid)


def _storage(dataset: Dataset, uid: str) -> Storage:
    """Check the Image Pixel attributes that PS3.3 C.8.2.1.1 fixes for CT."""
    if whole(dataset, "SamplesPerPixel", uid) != 1:
        raise PixelDataError("a CT image has one sample a pixel", uid=uid)
    if text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise PixelDataError("a CT image is MONOCHROME1 or MONOCHROME2", uid=uid)
    allocated, stored = whole(dataset, "BitsAllocated", uid), whole(dataset, "BitsStored", uid)
    if allocated != 16 or not 8 <= stored <= 16:
        raise PixelDataError(
            f"{stored} of {allocated} bits a pixel are not supported (8 to 16 of 16 are)", uid=uid
        )
    if whole(dataset, "HighBit", uid) != stored - 1:
        raise PixelDataError("HighBit must be one less than BitsStored (PS3.3 C.8.2.1.1.5)", uid=uid)
    signed = whole(dataset, "PixelRepresentation", uid)
    if signed not in (0, 1):
        raise PixelDataError("PixelRepresentation must be 0 or 1", uid=uid)
    padding = None
    if text(dataset, "PixelPaddingValue"):
        first = _stored_value(whole(dataset, "PixelPaddingValue", uid), bool(signed))
        last = first
        if text(dataset, "PixelPaddingRangeLimit"):
            last = _stored_value(whole(dataset, "PixelPaddingRangeLimit", uid), bool(signed))
        padding = (min(first, last), max(first, last))
    return Storage(stored, bool(signed), padding)


def _stored_value(value: int, signed: bool) -> int:
    """Return a padding value as a stored value: writers use US for signed pixels and the reverse."""
    if signed and value > 0x7FFF:
        return value - 0x10000
    if not signed and value < 0:
        return value + 0x10000
    return value


def _first(dataset: Dataset, keyword: str) -> Dataset:
    """Return the first item of a sequence, an empty data set where there is none."""
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else Dataset()


def _rescale(dataset: Dataset, uid: str) -> tuple[float, float]:
    """Return slope and intercept (PS3.3 C.11.1; functional group C.7.6.16.2.9b)."""
    kind = text(dataset, "RescaleType").upper()
    # PS3.3 C.8.2.1.1.2: absent means HU.
    if kind not in ("", "HU"):
        raise UnitsError("RescaleType is not HU", uid=uid)
    (slope,) = numbers(dataset, "RescaleSlope", 1, uid)
    (intercept,) = numbers(dataset, "RescaleIntercept", 1, uid)
    if not 0 < slope <= SLOPE or abs(intercept) > INTERCEPT_HU:
        raise UnitsError(f"a rescale slope of {slope:g} with intercept {intercept:g} gives no HU", uid=uid)
    return slope, intercept


def _geometry(uid: str, size: tuple[int, int], groups: tuple[Dataset, ...]) -> dict[str, Any]:
    """Return position, layout and rescaling of a frame, checked."""
    measures, position, orientation, rescale = groups
    spacing = numbers(measures, "PixelSpacing", 2, uid)
    (thickness,) = numbers(measures, "SliceThickness", 1, uid)
    origin = numbers(position, "ImagePositionPatient", 3, uid)
    cosines = numbers(orientation, "ImageOrientationPatient", 6, uid)
    _within("PixelSpacing", spacing, PIXEL_SPACING_MM, uid)
    _within("SliceThickness", (thickness,), THICKNESS_MM, uid)
    _within("ImagePositionPatient", origin, (-POSITION_MM, POSITION_MM), uid)
    slope, intercept = _rescale(rescale, uid)
    layout = Layout(*size, (spacing[0], spacing[1]), thickness, cosines)
    return {"position_mm": origin, "layout": layout, "slope": slope, "intercept": intercept}


def frames_of(header: Header) -> Iterator[Frame]:
    """Yield the frames of one instance.

    Raises
    ------
    SeriesError
        Not a CT image; an attribute missing, of the wrong form or absurd.
    """
    dataset = header.dataset
    uid = required_text(dataset, "SOPInstanceUID", header.path.name)
    sop_class = required_text(dataset, "SOPClassUID", uid)
    if sop_class not in CT_SOP_CLASSES:
        raise UnreadableInstanceError(f"SOP class {sop_class} is not a CT image", uid=uid)
    if header.pixels is None:
        raise PixelDataError("no pixel data", uid=uid)
    size = (whole(dataset, "Rows", uid), whole(dataset, "Columns", uid))
    if max(size) > MAX_SIDE:
        raise TooLargeError(f"{size[0]} x {size[1]} pixels exceed {MAX_SIDE} x {MAX_SIDE}", uid=uid)
    if min(size) < MIN_SIDE:
        raise PixelDataError(f"{size[0]} x {size[1]} pixels are not an image", uid=uid)
    storage = _storage(dataset, uid)
    if sop_class not in ENHANCED:
        if text(dataset, "NumberOfFrames") not in ("", "1"):
            raise PixelDataError("a CT image has one frame; NumberOfFrames says otherwise", uid=uid)
        yield Frame(header, uid, 0, storage=storage, **_geometry(uid, size, (dataset,) * 4))
        return
    count = whole(dataset, "NumberOfFrames", uid)
    if not 1 <= count <= MAX_FRAMES:
        raise TooLargeError(f"{count} frames are not between 1 and {MAX_FRAMES}", uid=uid)
    with guarded("functional groups", uid):
        shared = _first(dataset, "SharedFunctionalGroupsSequence")
        per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if len(per_frame) != count:
            raise PixelDataError(f"{count} frames, but functional groups of {len(per_frame)}", uid=uid)
        for index, own in enumerate(per_frame):
            # PS3.3 C.7.6.16.1: a functional group stands in one of the two sequences.
            groups = tuple(_first(own, name) or _first(shared, name) for name in _GROUPS)
            yield Frame(header, uid, index, storage=storage, **_geometry(uid, size, groups))


_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)
