"""DICOM RT Structure Set (PS3.3 A.19): closed planar contours onto the grid of a volume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from calcium.annotations.grids import fill_polygon, nearest
from calcium.annotations.vessels import vessel_of
from calcium.dicom_files import guarded
from calcium.errors import AnnotationError, SeriesError
from calcium.geometry import VolumeGeometry

FLAT_MM = 0.1
"""Largest difference in z within one contour, mm."""


def read_rtstruct(
    path: Path, geometry: VolumeGeometry, names: Mapping[str, int] | None = None
) -> NDArray[np.uint8]:
    """Read an RT Structure Set onto a grid.

    Parameters
    ----------
    path
        Structure set with CLOSED_PLANAR contours in axial planes.
    geometry
        Grid of the volume that is annotated.
    names
        Own ROI names, see `vessels.vessel_of`; ROIs of other names are passed over.

    Returns
    -------
    numpy.ndarray
        uint8 labels, ``geometry.shape``. Contours of one ROI in one slice are combined by the even-odd rule,
        so that an inner contour is a hole (PS3.3 C.8.8.6.3).

    Raises
    ------
    AnnotationError
        No structure set, not readable, no ROI of a coronary artery, a contour that is not axial, or none
        within the volume.
    """
    try:
        with guarded(f"the file {path.name}"):
            dataset = pydicom.dcmread(path)
            if UID(str(dataset.SOPClassUID)) != RTStructureSetStorage:
                raise AnnotationError(f"{path.name} is no RT Structure Set")
            return _read(dataset, path.name, geometry, names)
    except SeriesError as error:
        raise AnnotationError(str(error)) from error


def _read(
    dataset: Dataset, name: str, geometry: VolumeGeometry, names: Mapping[str, int] | None
) -> NDArray[np.uint8]:
    vessels = {}
    for roi in dataset.get("StructureSetROISequence") or ():
        vessel = vessel_of(str(roi.get("ROIName", "")), names)
        if vessel is not None:
            vessels[int(roi.ROINumber)] = vessel
    if not vessels:
        raise AnnotationError(f"{name} has no ROI that is named as a coronary artery")
    labels = np.zeros(geometry.shape, np.uint8)
    placed = 0
    for roi in dataset.get("ROIContourSequence") or ():
        vessel = vessels.get(int(roi.ReferencedROINumber))
        if vessel is None:
            continue
        slices: dict[int, NDArray[np.bool_]] = {}
        for contour in roi.get("ContourSequence") or ():
            if contour.get("ContourGeometricType") != "CLOSED_PLANAR":
                continue
            index, mask = _contour(contour, name, geometry)
            if index >= 0:
                slices[index] = slices.get(index, np.zeros(geometry.shape[1:], np.bool_)) ^ mask
        for index, mask in slices.items():
            labels[index][mask] = vessel
        placed += len(slices)
    if not placed:
        raise AnnotationError(f"{name} has no closed contour within the volume")
    return labels


def _contour(contour: Dataset, name: str, geometry: VolumeGeometry) -> tuple[int, NDArray[np.bool_]]:
    """Return the slice of a contour (-1 outside the volume) and its inside."""
    points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
    if not np.isfinite(points).all() or np.ptp(points[:, 2]) > FLAT_MM:
        raise AnnotationError(f"{name} has a contour that is not in an axial plane")
    index = int(nearest(points[:1, 2], geometry, 0)[0])
    columns = (points[:, 0] - geometry.origin_mm[0]) / geometry.spacing_mm[2]
    rows = (points[:, 1] - geometry.origin_mm[1]) / geometry.spacing_mm[1]
    return index, fill_polygon(list(zip(columns, rows, strict=True)), *geometry.shape[1:])
