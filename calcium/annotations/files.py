"""Any annotation file that holds a mask, read by what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import RTStructureSetStorage

from calcium.annotations.coca import read_plist
from calcium.annotations.dicom_seg import read_seg
from calcium.annotations.label_maps import read_label_map
from calcium.annotations.rtstruct import read_rtstruct
from calcium.dicom_files import is_dicom, read_header
from calcium.errors import AnnotationError, SeriesError
from calcium.frames import text
from calcium.volume import CTVolume

LABEL_MAPS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mhd", ".mha")
PLISTS = (".xml", ".plist")


def read_labels(path: Path, volume: CTVolume, names: Mapping[str, int] | None = None) -> NDArray[np.uint8]:
    """Read the mask of a volume from a COCA plist, a label map, a DICOM SEG or an RT Structure Set.

    Parameters
    ----------
    path
        The file.
    volume
        The volume that is annotated, as read.
    names
        Own names of regions -> label value, see `vessels.vessel_of`.

    Returns
    -------
    numpy.ndarray
        uint8 labels, shape of ``volume.hu``.

    Raises
    ------
    AnnotationError
        None of these formats, or a fault that the reader of the format names.
    """
    if not path.is_file():
        raise AnnotationError(f"{path.name} is no file")
    name = path.name.lower()
    if name.endswith(PLISTS):
        return read_plist(path, volume, names)
    if name.endswith(LABEL_MAPS):
        return read_label_map(path, volume.geometry)
    if is_dicom(path):
        try:
            sop_class = text(read_header(path, ("SOPClassUID",)).dataset, "SOPClassUID")
        except SeriesError as error:
            raise AnnotationError(str(error)) from error
        read = read_rtstruct if sop_class == RTStructureSetStorage else read_seg
        return read(path, volume.geometry, names)
    raise AnnotationError(f"{path.name} is no plist, label map, DICOM SEG or RT Structure Set")
