"""The real series that may be used for training, with reference and landmarks, ready to be augmented."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter1d
from SimpleITK import GetArrayFromImage, ReadImage

from calcium.geometry import BoxMm, VolumeGeometry, VoxelBox
from calcium.resample import INCREMENT_MM, THICKNESS_MM, resample
from calcium.series import read_series
from calcium.volume import CTVolume
from models.training.anatomy import load_annotations

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.training.anatomy import Annotation

CORONARY = (1, 2, 3)
UNSURE = 7
DENSE_MM = INCREMENT_MM / 2
"""Increment of the slabs that augmented slices are taken from, mm: any phase is then at most 0.4 mm off."""
REACH_MM = 58.0
"""Kept around the heart, mm: 40 mm around a heart that is shrunk, turned and bent."""
RIM_MM = 1.3
"""How far beyond its 130 HU outline a plaque is taken out: its blur reaches further than the outline."""
GLOW_MM, GLOW_HU = 3.0, 75
"""Up to here, mm, voxels above so many HU are taken out too: the glow of dense plaques."""
# Labels of a series that are not certain enough to be a target, and are taken out (README of the series).
NOT_DECIDABLE = {"4d-lung-113": (3, 7)}


@dataclass(frozen=True, eq=False)
class RealCase:
    """One real series.

    Parameters
    ----------
    patient
        Whole patients stay on one side of a split; the series' name.
    volume, resampled
        As acquired, and 3.0 mm every 1.5 mm.
    labels
        uint8 on the grid of `resampled`: 1 LAD, 2 LCX, 3 RCA, 4 aorta, 5 valve or annulus, 6 other, 7 unsure.
    reference
        ``reference.json`` as it is.
    annotation
        Landmarks.
    heart_box
        By eye, LPS mm.
    slabs
        int16 HU, slabs of 3.0 mm every 0.75 mm, within REACH_MM of the heart.
    slab_labels
        uint8 on the grid of the slabs.
    filling
        Flat indices into the slabs of all coronary and unsure calcium, and int16 HU of tissue in its place.
    slab_geometry
        Grid of the slabs.
    """

    patient: str
    volume: CTVolume
    resampled: CTVolume
    labels: NDArray[np.uint8]
    reference: dict[str, Any]
    annotation: Annotation
    heart_box: BoxMm
    slabs: NDArray[np.int16]
    slab_labels: NDArray[np.uint8]
    filling: tuple[NDArray[np.intp], NDArray[np.int16]]
    slab_geometry: VolumeGeometry

    def background(self, *, clean: bool) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Return slabs and labels, with or without the patient's own coronary calcium."""
        if not clean:
            return self.slabs, self.slab_labels
        index, values = self.filling
        hu, labels = self.slabs.copy(), self.slab_labels.copy()
        hu.reshape(-1)[index] = values
        labels[np.isin(labels, (*CORONARY, UNSURE))] = 0
        return hu, labels


def dense_slabs(volume: CTVolume) -> tuple[NDArray[np.int16], VolumeGeometry]:
    """Return the means over slabs of 3.0 mm every 0.75 mm, by overlap as in calcium.resample, and the grid."""
    geometry = volume.geometry
    slices, spacing, thickness = geometry.shape[0], geometry.spacing_mm[0], volume.slice_thickness_mm
    extent = thickness + spacing * (slices - 1)
    low = np.arange(slices) * spacing
    new_low = np.arange(int((extent - THICKNESS_MM + 1e-3) / DENSE_MM) + 1)[:, None] * DENSE_MM
    overlap = np.minimum(low + thickness, new_low + THICKNESS_MM) - np.maximum(low, new_low)
    weights = np.maximum(overlap, 0).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    out = np.empty((len(weights), *geometry.shape[1:]), np.int16)
    for index, row in enumerate(weights):
        used = np.flatnonzero(row)
        mean = sum(row[i] * volume.hu[i].astype(np.float32) for i in used)
        out[index] = np.rint(mean)
    x0, y0, z0 = geometry.origin_mm
    first = z0 - thickness / 2 + THICKNESS_MM / 2
    return out, VolumeGeometry((x0, y0, first), (DENSE_MM, *geometry.spacing_mm[1:]), out.shape)


def _grown(mask: NDArray[np.bool_], reach: float, geometry: VolumeGeometry) -> NDArray[np.bool_]:
    """Return a mask with everything within `reach` mm of it, along each axis."""
    size = [2 * round(reach / spacing) + 1 for spacing in geometry.spacing_mm]
    for axis, length in enumerate(size):
        mask = maximum_filter1d(mask, length, axis=axis)
    return mask


def without(hu: NDArray[np.int16], gone: NDArray[np.bool_], geometry: VolumeGeometry) -> NDArray[np.int16]:
    """Return `hu` with the voxels of `gone` filled from around, with the texture of the tissue beside them.

    The level comes from the unmasked soft tissue within a few mm; the noise from the same slices about 15 mm
    further on, so that its strength and its directions are the scan's own.
    """
    if not gone.any():
        return hu.copy()
    _, dy, dx = geometry.spacing_mm
    where = [np.flatnonzero(gone.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    pad = (10, round(28 / dy), round(28 / dx))
    window = tuple(
        slice(max(0, int(w[0]) - p), min(n, int(w[-1]) + p + 1))
        for w, p, n in zip(where, pad, hu.shape, strict=True)
    )
    part, inside = hu[window].astype(np.float32), gone[window]
    mask = _grown(inside, RIM_MM, geometry) | (_grown(inside, GLOW_MM, geometry) & (part > GLOW_HU))
    level = np.clip(part, -150, 110)  # no bone and no other calcium
    seen = (~mask & (part < 130)).astype(np.float32)
    sigma = (1.0, 2.2 / dy, 2.2 / dx)
    total, weight = gaussian_filter(level * seen, sigma), gaussian_filter(seen, sigma)
    wider = tuple(3 * s for s in sigma)
    fallback = gaussian_filter(level * seen, wider) / (gaussian_filter(seen, wider) + 1e-6)
    smooth = np.where(weight > 0.02, total / (weight + 1e-6), fallback)
    flat = (0.0, 1.6 / dy, 1.6 / dx)
    grain = part - gaussian_filter(part, flat)
    # The quietest of eight directions is tissue without edges.
    shifts = [(round(15 * np.sin(a) / dy), round(15 * np.cos(a) / dx)) for a in np.arange(8) * np.pi / 4]
    moved = [np.roll(grain, shift, axis=(1, 2)) for shift in shifts]
    spread = [float(np.std(np.clip(m[mask], -400, 400))) for m in moved]
    texture = np.clip(moved[int(np.argmin(spread))], -120, 120)
    filled = hu.copy()
    filled[window] = np.where(mask, np.rint(smooth + texture), part).astype(np.int16)
    return filled


def _read(folder: Path, annotation: Annotation) -> RealCase:
    volume = read_series(folder.glob("*.dcm")).volume
    image = ReadImage(str(folder / "reference" / "labels.nrrd"))
    labels: NDArray[np.uint8] = GetArrayFromImage(image).astype(np.uint8)
    reference = json.loads((folder / "reference" / "reference.json").read_text(encoding="utf-8"))
    return prepare(volume, labels, reference, annotation)


def prepare(
    volume: CTVolume, labels: NDArray[np.uint8], reference: dict[str, Any], annotation: Annotation
) -> RealCase:
    """Return a case that is ready to be augmented.

    Parameters
    ----------
    volume
        As acquired.
    labels
        On the resampled grid.
    reference
        Holds at least ``heart_box_mm``.
    annotation
        Landmarks.

    Raises
    ------
    ValueError
        Labels that are not on the resampled grid.
    """
    resampled = resample(volume)
    if labels.shape != resampled.hu.shape:
        raise ValueError(f"{annotation.series}: labels of shape {labels.shape} for {resampled.hu.shape}")
    low, high = reference["heart_box_mm"]
    heart_box = BoxMm((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    slabs, geometry = dense_slabs(_around(heart_box, volume))
    slab_labels = _labels_of(labels, resampled.geometry, geometry)
    unsure = NOT_DECIDABLE.get(annotation.series, ())
    if unsure:
        gone = np.isin(slab_labels, unsure)
        slabs = without(slabs, gone, geometry)
        slab_labels[gone] = 0
    clean = without(slabs, np.isin(slab_labels, (*CORONARY, UNSURE)), geometry)
    index = np.flatnonzero(clean != slabs)
    return RealCase(
        patient=annotation.series,
        volume=volume,
        resampled=resampled,
        labels=labels,
        reference=reference,
        annotation=annotation,
        heart_box=heart_box,
        slabs=slabs,
        slab_labels=slab_labels,
        filling=(index, clean.reshape(-1)[index]),
        slab_geometry=geometry,
    )


def _around(box: BoxMm, volume: CTVolume) -> CTVolume:
    """Return the part of a volume within REACH_MM of a box."""
    wide = BoxMm(
        tuple(a - REACH_MM for a in box.low),  # type: ignore[arg-type]
        tuple(b + REACH_MM for b in box.high),  # type: ignore[arg-type]
    )
    voxels = VoxelBox.covering(wide, volume.geometry)
    geometry = VolumeGeometry(volume.geometry.to_mm(*voxels.start), volume.geometry.spacing_mm, voxels.shape)
    return CTVolume(np.ascontiguousarray(volume.hu[voxels.slices]), geometry, volume.slice_thickness_mm)


def _labels_of(labels: NDArray[np.uint8], old: VolumeGeometry, new: VolumeGeometry) -> NDArray[np.uint8]:
    """Return labels of the resampled grid on slabs with the same pixels: of the slices above and below."""
    _, row, column = (round(index) for index in old.to_index(new.origin_mm))
    plane = labels[:, row : row + new.shape[1], column : column + new.shape[2]]
    at = (new.origin_mm[2] + np.arange(new.shape[0]) * new.spacing_mm[0] - old.origin_mm[2]) / old.spacing_mm[0]
    lower, upper = (np.clip(np.rint(at + side), 0, len(labels) - 1).astype(int) for side in (-0.4, 0.4))
    named: NDArray[np.uint8] = np.where(plane[lower] > 0, plane[lower], plane[upper])
    return named


def load_real_cases(folder: Path, patients: list[str] | None = None) -> list[RealCase]:
    """Return the real series that have an annotation and lie in `folder`, by name.

    Parameters
    ----------
    folder
        Holds one folder for each series, with its slices and ``reference/``.
    patients
        Only these; all when None.

    Raises
    ------
    SeriesError
        A series that cannot be read.
    ValueError
        Labels that are not on the resampled grid.
    """
    annotations = load_annotations()
    return [
        _read(folder / name, annotation)
        for name, annotation in annotations.items()
        if (folder / name / "reference" / "labels.nrrd").is_file() and (patients is None or name in patients)
    ]
