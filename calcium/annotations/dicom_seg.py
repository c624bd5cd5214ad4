"""DICOM Segmentation (PS3.3 A.51): binary, fractional and label map segments onto the grid of a volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from calcium.annotations.grids import centres, nearest
from calcium.annotations.vessels import vessel_of
from calcium.dicom_files import guarded
from calcium.errors import AnnotationError, SeriesError
from calcium.frames import Layout, numbers
from calcium.geometry import VolumeGeometry
from calcium.grid import turn_of

LabelMapSegmentationStorage = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage (PS3.6), younger than pydicom's names."""
FRACTION = 0.5
"""Smallest part of the highest fractional value that counts as inside."""


def _group(item: Dataset, shared: Dataset, name: str) -> Dataset:
    """Return a functional group of a frame, its own or the shared one (PS3.3 C.7.6.16.1)."""
    found = item.get(name) or shared.get(name)
    if not found:
        raise AnnotationError(f"a frame has no {name}")
    first: Dataset = found[0]
    return first


def _segments(dataset: Dataset, names: Mapping[str, int] | None) -> dict[int, int]:
    """Return segment number -> label value of the segments that are coronary arteries."""
    found = {}
    for segment in dataset.get("SegmentSequence") or ():
        codes = [segment.get("SegmentLabel", ""), segment.get("SegmentDescription", "")]
        for keyword in ("SegmentedPropertyTypeCodeSequence", "AnatomicRegionSequence"):
            codes.extend(item.get("CodeMeaning", "") for item in segment.get(keyword) or ())
        vessel = next((v for v in (vessel_of(str(code or ""), names) for code in codes) if v is not None), None)
        if vessel is not None:
            found[int(segment.SegmentNumber)] = vessel
    return found


def read_seg(path: Path, geometry: VolumeGeometry, names: Mapping[str, int] | None = None) -> NDArray[np.uint8]:
    """Read a DICOM Segmentation onto a grid.

    Parameters
    ----------
    path
        Segmentation or Label Map Segmentation, axial frames.
    geometry
        Grid of the volume that is annotated.
    names
        Own segment labels, see `vessels.vessel_of`; segments of other names are passed over.

    Returns
    -------
    numpy.ndarray
        uint8 labels, ``geometry.shape``; slices between the frames stay 0.

    Raises
    ------
    AnnotationError
        No segmentation, not readable, no segment of a coronary artery, not axial, or outside the volume.
    """
    try:
        with guarded(f"the file {path.name}"):
            dataset = pydicom.dcmread(path)
            if UID(str(dataset.SOPClassUID)) not in (SegmentationStorage, LabelMapSegmentationStorage):
                raise AnnotationError(f"{path.name} is no DICOM Segmentation")
            return _read(dataset, path.name, geometry, names)
    except SeriesError as error:
        raise AnnotationError(str(error)) from error


def _read(
    dataset: Dataset, name: str, geometry: VolumeGeometry, names: Mapping[str, int] | None
) -> NDArray[np.uint8]:
    segments = _segments(dataset, names)
    if not segments:
        raise AnnotationError(f"{name} has no segment that is named as a coronary artery")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    kind = str(dataset.get("SegmentationType", "LABELMAP"))
    pixels = dataset.pixel_array.reshape(len(frames), int(dataset.Rows), int(dataset.Columns))
    table = np.zeros(int(pixels.max(initial=0)) + 2 if kind == "LABELMAP" else 1, np.uint8)
    for number, vessel in segments.items():
        if number < len(table):
            table[number] = vessel
    threshold = FRACTION * int(dataset.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else 0.5
    labels = np.zeros(geometry.shape, np.uint8)
    placed = 0
    for item, image in zip(frames, pixels, strict=True):
        if kind == "LABELMAP":
            values = table[image]
        else:
            number = int(_group(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if number not in segments:
                continue
            values = np.where(image >= threshold, np.uint8(segments[number]), np.uint8(0))
        placed += _place(values, item, shared, geometry, labels)
    if not placed:
        raise AnnotationError(f"{name} has no frame within the volume")
    return labels


def _place(
    values: NDArray[np.uint8],
    item: Dataset,
    shared: Dataset,
    geometry: VolumeGeometry,
    labels: NDArray[np.uint8],
) -> bool:
    """Write the labels of one frame into the nearest slice; tell whether there is one."""
    measures = _group(item, shared, "PixelMeasuresSequence")
    orientation = numbers(_group(item, shared, "PlaneOrientationSequence"), "ImageOrientationPatient", 6, None)
    position = numbers(_group(item, shared, "PlanePositionSequence"), "ImagePositionPatient", 3, None)
    spacing = numbers(measures, "PixelSpacing", 2, None)
    layout = Layout(values.shape[0], values.shape[1], (spacing[0], spacing[1]), 1.0, orientation)
    turn = turn_of(layout, "segmentation")
    dy, dx = (spacing[1], spacing[0]) if turn.transpose else (spacing[0], spacing[1])
    image = turn(values)
    x = position[0] - (image.shape[1] - 1) * dx * turn.flip_columns
    y = position[1] - (image.shape[0] - 1) * dy * turn.flip_rows
    plane = VolumeGeometry((x, y, position[2]), (1.0, dy, dx), (1, *image.shape))
    place = nearest(np.array([position[2]]), geometry, 0)[0]
    if place < 0:
        return False
    rows, columns = (nearest(centres(geometry, axis), plane, axis) for axis in (1, 2))
    window = np.ix_(rows >= 0, columns >= 0)
    part = image[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    target = labels[place]
    target[window] = np.where(part > 0, part, target[window])
    return True
