"""A site's own annotated scans: a list of series and annotations -> cached cases for training, and records."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calcium.agatston import score_mask
from calcium.annotations.coca import read_totals
from calcium.annotations.files import LABEL_MAPS, read_labels
from calcium.annotations.grids import to_resampled
from calcium.annotations.label_maps import read_image
from calcium.annotations.totals import Totals, read_csv
from calcium.dicom_files import is_dicom
from calcium.errors import AgatstonError, AnnotationError
from calcium.resample import resample
from calcium.series import read_series
from calcium.volume import CTVolume
from models.device import Runner
from models.heart import LocalizerConfig, locate
from models.training.augmentation import CORONARY
from models.training.dataset import annotated_case, facts
from models.training.evaluation import ScanRecord
from models.weightset import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.scoring import Scorer
    from models.training.cache import CachedCase

PSEUDONYM = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # it names files
PARTS = ("training", "validation", "test")
SHARES = (0.7, 0.85)  # of patients without a part: training below the first, test from the second
ORIGIN = "site"
TABLES = {".csv": read_csv, ".xlsx": read_totals}
COLUMNS = ("patient", "series", "annotation", "agatston", "part", "thickness_mm")


@dataclass(frozen=True, slots=True)
class OwnScan:
    """One line of the list; picklable.

    Parameters
    ----------
    patient
        Pseudonym; all scans of a patient are in one part.
    series
        Folder with the DICOM files of one series, or an image (``.mhd``, ``.nrrd``, ``.nii``).
    part
        ``training``, ``validation`` or ``test``.
    annotation
        A file that `calcium.annotations.files.read_labels` reads; None where only a total is known.
    agatston
        Reference total, where there is no annotation.
    thickness_mm
        Slice thickness of an image that is no DICOM series; its increment when None.
    """

    patient: str
    series: Path
    part: str
    annotation: Path | None = None
    agatston: float | None = None
    thickness_mm: float | None = None

    @property
    def name(self) -> str:
        """Unique name in a cache; tells nothing but the pseudonym."""
        digest = hashlib.sha256(str(self.series).encode()).hexdigest()[:8]
        return f"own-{self.patient}-{digest}"


def part_of(patient: str) -> str:
    """Return the part of a patient whom the list gives none: the same on every machine."""
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:4], "big") / 2**32
    return PARTS[0] if share < SHARES[0] else PARTS[1] if share < SHARES[1] else PARTS[2]


def read_list(path: Path) -> list[OwnScan]:
    """Read the list of a site's scans.

    Parameters
    ----------
    path
        CSV with the columns ``patient``, ``series``, and ``annotation`` or ``agatston``; ``part`` and
        ``thickness_mm`` where wanted. Paths are relative to the list. An ``annotation`` that is a table of
        totals (``.csv``, COCA's ``.xlsx``) is looked up by the patient.

    Raises
    ------
    AnnotationError
        No such file or columns; a line without reference; a patient in two parts; names the line.
    """
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path.name} is not readable as UTF-8 text") from error
    found: list[OwnScan] = []
    parts: dict[str, str] = {}
    tables: dict[Path, dict[str, Totals]] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path.name}, line {number}"
        values = {key.strip().lower(): (value or "").strip() for key, value in line.items() if key}
        unknown = set(values) - set(COLUMNS)
        if unknown:
            raise AnnotationError(f"{path.name}: unknown columns {', '.join(sorted(unknown))}")
        if not values.get("patient") or not values.get("series"):
            raise AnnotationError(f"{where}: a line needs patient and series")
        if not PSEUDONYM.fullmatch(values["patient"]):
            raise AnnotationError(f"{where}: a pseudonym has letters, digits, '_', '-' and '.' only")
        scan = _scan(values, path.parent, where, tables)
        if parts.setdefault(scan.patient, scan.part) != scan.part:
            raise AnnotationError(f"{where}: the patient is in {parts[scan.patient]} and in {scan.part}")
        found.append(scan)
    if not found:
        raise AnnotationError(f"{path.name} lists no scans")
    return found


def _scan(values: dict[str, str], folder: Path, where: str, tables: dict[Path, dict[str, Totals]]) -> OwnScan:
    """Return the scan of a line."""
    patient, given = values["patient"], values.get("annotation", "")
    part = values.get("part") or part_of(patient)
    if part not in PARTS:
        raise AnnotationError(f"{where}: part must be one of {', '.join(PARTS)}")
    agatston = Totals.of(values["agatston"], {}, where).agatston if values.get("agatston") else None
    annotation = folder / given if given else None
    if annotation is not None and annotation.suffix.lower() in TABLES:
        if annotation not in tables:
            tables[annotation] = TABLES[annotation.suffix.lower()](annotation)
        if patient not in tables[annotation]:
            raise AnnotationError(f"{where}: {annotation.name} has no score of this patient")
        agatston, annotation = tables[annotation][patient].agatston, None
    if annotation is None and agatston is None:
        raise AnnotationError(f"{where}: neither annotation nor agatston")
    try:
        thickness = float(values["thickness_mm"]) if values.get("thickness_mm") else None
    except ValueError as error:
        raise AnnotationError(f"{where}: thickness_mm is no number") from error
    return OwnScan(patient, folder / values["series"], part, annotation, agatston, thickness)


def read_scan(scan: OwnScan) -> CTVolume:
    """Return the image of a scan.

    Raises
    ------
    AgatstonError
        Not readable; see `calcium.series.read_series` and `calcium.annotations.label_maps.read_image`.
    """
    if scan.series.name.lower().endswith(LABEL_MAPS):
        hu, geometry = read_image(scan.series)
        return CTVolume(hu, geometry, scan.thickness_mm or geometry.spacing_mm[0])
    files = [path for path in sorted(scan.series.rglob("*")) if path.is_file() and is_dicom(path)]
    return read_series(files).volume


def read_reference(scan: OwnScan, volume: CTVolume) -> NDArray[np.uint8]:
    """Return the labels of an annotated scan on the resampled grid."""
    if scan.annotation is None:
        raise AnnotationError(f"{scan.name} has a total but no mask: for evaluation only")
    return to_resampled(read_labels(scan.annotation, volume), volume)


def case_of(scan: OwnScan) -> CachedCase | None:
    """Return what training needs of a scan, or None of one that has only a total.

    The heart box is the default weights' own (without its rise): a site draws none.

    Raises
    ------
    AgatstonError
        The scan or its annotation cannot be read, or the heart is not found.
    """
    if scan.annotation is None:
        return None
    volume = read_scan(scan)
    labels = read_reference(scan, volume)
    resampled = resample(volume)
    weights = load_weights()
    config = replace(LocalizerConfig.of(weights.localizer), rise_mm=0.0)
    with torch.inference_mode():
        box = locate(resampled, weights.networks, config, Runner())
    return annotated_case((scan.name, scan.patient, ORIGIN), resampled, labels, box, _drawn(volume))


def _drawn(volume: CTVolume) -> dict[str, Any]:
    """Return what breakdowns go by."""
    step, pixel, _ = volume.geometry.spacing_mm
    thickness = volume.slice_thickness_mm
    return {"kernel": "unknown", "thickness_mm": thickness, "increment_mm": step, "pixel_mm": pixel}


def record_of(scan: OwnScan, scorer: Scorer, name: str) -> ScanRecord:
    """Score a scan with the node's localiser and scorer, beside its reference.

    The node's checks of headers (contrast, thickness) are not made: the site chose its scans. A scan without a
    result has no predicted score; its description names the reason (``failure``).
    """
    volume = read_scan(scan)
    description = _drawn(volume)
    agatston, volume_mm3 = scan.agatston or 0.0, 0.0
    if scan.annotation is not None:
        resampled, labels = resample(volume), read_reference(scan, volume)
        score = score_mask(resampled, labels, CORONARY)
        agatston, volume_mm3 = score.agatston, score.volume_mm3
        description = facts(description, resampled.hu, labels, resampled.geometry.voxel_volume_mm3)
    record = ScanRecord(scan.name, scan.patient, ORIGIN, agatston, volume_mm3, description=description)
    try:
        result = scorer.score(volume)
    except AgatstonError as error:
        return replace(record, description=description | {"failure": error.code})
    volumes = {name: result.volume_mm3} if scan.annotation is not None else {}
    return replace(
        record,
        predicted_agatston={name: result.agatston},
        predicted_volume_mm3=volumes,
        interval=result.agatston_interval,
    )
