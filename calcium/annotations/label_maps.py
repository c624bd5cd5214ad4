"""Label maps in NRRD, NIfTI and MetaImage (orCaScore, 3D Slicer and others), by SimpleITK."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from calcium.annotations.grids import onto
from calcium.errors import AnnotationError
from calcium.geometry import VolumeGeometry

TILT = 1e-3
"""Largest entry beside the axes of a direction matrix that is still axial."""


def read_label_map(
    path: Path, geometry: VolumeGeometry, values: Mapping[int, int] | None = None
) -> NDArray[np.uint8]:
    """Read a label map onto a grid.

    Parameters
    ----------
    path
        ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mhd`` (orCaScore: ``*r.mhd``), ``.mha``. SimpleITK turns NIfTI's
        RAS axes to LPS.
    geometry
        Grid of the volume that is annotated: of the series as read, or resampled.
    values
        Value in the file -> label value, others become 0; all values as they are when None (orCaScore:
        1 LAD with LM, 2 LCX, 3 RCA).

    Returns
    -------
    numpy.ndarray
        uint8, ``geometry.shape``: the value of the nearest voxel.

    Raises
    ------
    AnnotationError
        Not readable, not integer, not axial, above 255, or nowhere near the volume.
    """
    try:
        image = SimpleITK.ReadImage(str(path))
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise AnnotationError(f"{path.name} is no label map of three axes")
        image = _canonical(image, path)
        array = SimpleITK.GetArrayFromImage(image)
    except RuntimeError as error:
        raise AnnotationError(f"{path.name} is not readable as an image") from error
    whole = np.rint(array)
    if not np.array_equal(whole, array) or whole.min(initial=0) < 0 or whole.max(initial=0) > 255:
        raise AnnotationError(f"{path.name} holds no whole numbers of 0 to 255")
    labels = whole.astype(np.uint8)
    if values is not None:
        table = np.zeros(256, np.uint8)
        for value, label in values.items():
            table[value] = label
        labels = table[labels]
    x, y, z = image.GetOrigin()
    dx, dy, dz = image.GetSpacing()
    source = VolumeGeometry((x, y, z), (dz, dy, dx), labels.shape)
    if not _overlap(source, geometry):
        raise AnnotationError(f"{path.name} lies outside the volume: origins differ by more than their size")
    return onto(labels, source, geometry)


def read_image(path: Path) -> tuple[NDArray[np.int16], VolumeGeometry]:
    """Read a CT image that is no DICOM series (orCaScore: ``*cti.mhd``).

    Parameters
    ----------
    path
        As for `read_label_map`; values are HU.

    Returns
    -------
    hu, geometry
        int16, (slice, row, column), and its grid, LPS mm.

    Raises
    ------
    AnnotationError
        Not readable, not axial, or values that no CT has.
    """
    try:
        image = SimpleITK.ReadImage(str(path))
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise AnnotationError(f"{path.name} is no image of three axes")
        image = _canonical(image, path)
        array = np.rint(SimpleITK.GetArrayFromImage(image))
    except RuntimeError as error:
        raise AnnotationError(f"{path.name} is not readable as an image") from error
    limits = np.iinfo(np.int16)
    if not np.isfinite(array).all() or array.min() < limits.min or array.max() > limits.max:
        raise AnnotationError(f"{path.name} holds values that are no HU")
    dx, dy, dz = image.GetSpacing()
    return array.astype(np.int16), VolumeGeometry(image.GetOrigin(), (dz, dy, dx), array.shape)


def _canonical(image: SimpleITK.Image, path: Path) -> SimpleITK.Image:
    """Turn an axial image to canonical axes: slices along +z, rows along +y, columns along +x."""
    turned = SimpleITK.DICOMOrient(image, "LPS")
    direction = np.abs(np.array(turned.GetDirection()).reshape(3, 3) - np.eye(3))
    if direction.max() > TILT:
        raise AnnotationError(f"{path.name} is not axial")
    return turned


def _overlap(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    for axis, place in ((0, 2), (1, 1), (2, 0)):
        first, second = one.origin_mm[place], other.origin_mm[place]
        last = first + one.spacing_mm[axis] * one.shape[axis]
        other_last = second + other.spacing_mm[axis] * other.shape[axis]
        if last < second or other_last < first:
            return False
    return True
