"""Stanford COCA: polygons of gated scans (Apple plist), totals of non-gated scans (xlsx)."""

from __future__ import annotations

import math
import plistlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from numpy.typing import NDArray

from calcium.agatston import CALCIUM_HU
from calcium.annotations.grids import fill_polygon
from calcium.annotations.totals import Totals
from calcium.annotations.vessels import vessel_of
from calcium.errors import AnnotationError, SettingsError
from calcium.volume import CTVolume

_POINT = re.compile(r"\(\s*([-+0-9.eE]+)\s*,\s*([-+0-9.eE]+)\s*\)")


def _points(roi: Mapping[str, Any], what: str) -> list[tuple[float, float]]:
    texts = roi.get("Point_px") or []
    matches = [_POINT.fullmatch(str(text).strip()) for text in texts]
    if not all(matches):
        raise AnnotationError(f"{what}: Point_px is no list of (x, y)")
    points = [(float(match[1]), float(match[2])) for match in matches if match]
    if not all(math.isfinite(value) for point in points for value in point):
        raise AnnotationError(f"{what}: Point_px holds numbers that are not finite")
    return points


def read_plist(path: Path, volume: CTVolume, names: Mapping[str, int] | None = None) -> NDArray[np.uint8]:
    """Read the polygons of a gated COCA scan (``calcium_xml/<id>.xml``).

    Parameters
    ----------
    path
        The plist: ``Images[]`` -> ``ImageIndex`` (from 0 by rising z), ``ROIs[]`` -> ``Name``, ``Point_px``.
    volume
        The scan, as read; COCA's scans are supine, stored as in canonical axes.
    names
        Own names of regions, see `vessels.vessel_of`.

    Returns
    -------
    numpy.ndarray
        uint8 labels, shape of ``volume.hu``: inside a polygon and at least 130 HU. Empty regions, which are
        common, give nothing.

    Raises
    ------
    AnnotationError
        No such plist; a slice or an artery that does not exist.
    """
    try:
        content = plistlib.loads(path.read_bytes())
        images = list(content["Images"])
    except (OSError, ValueError, KeyError, TypeError, ExpatError, plistlib.InvalidFileException) as error:
        raise AnnotationError(f"{path.name} is no plist with Images ({type(error).__name__})") from error
    labels = np.zeros(volume.hu.shape, np.uint8)
    slices, rows, columns = volume.hu.shape
    for image in images:
        index = image.get("ImageIndex")
        for roi in image.get("ROIs") or ():
            what = f"{path.name}, image {index}"
            points = _points(roi, what)
            if not points:
                continue
            if not isinstance(index, int) or not 0 <= index < slices:
                raise AnnotationError(f"{what}: the scan has {slices} slices")
            vessel = vessel_of(str(roi.get("Name", "")), names)
            if vessel is None:
                raise AnnotationError(f"{what}: {str(roi.get('Name'))[:40]!r} is no known artery")
            inside = fill_polygon(points, rows, columns) & (volume.hu[index] >= CALCIUM_HU)
            labels[index][inside] = vessel
    return labels


def read_totals(path: Path) -> dict[str, Totals]:
    """Read ``scores.xlsx`` of the non-gated COCA scans.

    Parameters
    ----------
    path
        Columns ``filename`` (its header ends in a space), LCA, LAD, LCX, RCA, total.

    Returns
    -------
    dict
        Totals by file name without extension.

    Raises
    ------
    AnnotationError
        Other columns, or scores that are no numbers of at least 0.
    SettingsError
        openpyxl is not installed.
    """
    try:
        import openpyxl  # noqa: PLC0415 - of the extra for training
    except ImportError as error:
        raise SettingsError("reading xlsx needs openpyxl: pip install 'agatston[train]'") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        lines = [list(line) for line in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except Exception as error:
        raise AnnotationError(f"{path.name} is no xlsx file ({type(error).__name__})") from error
    heads = [str(cell or "").strip().lower() for cell in lines[0]] if lines else []
    if "filename" not in heads or "total" not in heads:
        raise AnnotationError(f"{path.name} has no columns filename and total")
    found: dict[str, Totals] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = dict(zip(heads, line, strict=False))
        if cells["filename"] in (None, ""):
            continue
        name = Path(str(cells["filename"]).strip()).stem
        parts = {
            head.upper(): cells[head] for head in ("lca", "lad", "lcx", "rca") if cells.get(head) is not None
        }
        total = Totals.of(cells["total"], parts, f"{path.name}, row {number}")
        if found.setdefault(name, total) != total:
            raise AnnotationError(f"{path.name}, row {number}: another score of the same scan")
    return found
