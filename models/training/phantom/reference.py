"""Labels and scores, made as people made them: on the noisy, resampled image.

A voxel is calcium from 130 HU. It belongs to a deposit when the deposit, blurred and smeared, adds noticeably
to it; where several do, to the one that adds most. Bone and cartilage that touch a plaque are cut off by that
rule.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK

from calcium.agatston import CALCIUM_HU
from calcium.resample import overlap_weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from calcium.volume import CTVolume
    from models.training.phantom.config import PhantomScan
    from models.training.phantom.deposits import Trace
    from models.training.phantom.shapes import Array

LABELS = "labels.nrrd"
TOUCH_HU = 18.0  # a voxel that a deposit raises by less is not its own
SEEN_HU = 45.0  # a lesion that no deposit raises by this much is noise, which nobody would mark


def label(
    volume: CTVolume, resampled: CTVolume, traces: list[Trace]
) -> tuple[NDArray[np.uint8], dict[int, Array]]:
    """Return labels on the resampled grid and the noise-free excess HU of each label there."""
    weights = overlap_weights(volume.geometry, volume.slice_thickness_mm).astype(np.float32)
    shape = resampled.hu.shape
    excess: dict[int, Array] = {}
    for trace in traces:
        along, rows, columns = trace.window
        part = weights[:, along]
        used = np.flatnonzero(part.any(axis=1))
        if not used.size:
            continue
        total = excess.setdefault(trace.label, np.zeros(shape, np.float32))
        into = slice(int(used[0]), int(used[-1]) + 1)
        seen = part[into] @ trace.excess.reshape(len(trace.excess), -1)
        total[into, rows, columns] += seen.reshape(-1, *trace.excess.shape[1:])
    labels = np.zeros(shape, np.uint8)
    if not excess:
        return labels, excess
    names = np.array(sorted(excess), np.uint8)
    where = np.nonzero(resampled.hu >= CALCIUM_HU)
    shares = np.stack([excess[int(name)][where] for name in names])
    best = shares.argmax(axis=0)
    peak = shares.max(axis=0)
    owner = np.where(peak >= TOUCH_HU, names[best], 0).astype(np.uint8)
    labels[where] = owner
    strongest = np.zeros(shape, np.float32)
    strongest[where] = peak
    _drop_unseen(labels, strongest)
    return labels, excess


def _drop_unseen(labels: NDArray[np.uint8], strongest: Array) -> None:
    """Clear components in which no deposit shows above the noise."""
    components = SimpleITK.GetArrayFromImage(
        SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray((labels > 0).astype(np.uint8)), True)
    )
    inside = components > 0
    if not inside.any():
        return
    number = components[inside]
    peak = np.zeros(int(number.max()) + 1, np.float32)
    np.maximum.at(peak, number, strongest[inside])
    labels[inside] = np.where(peak[number] >= SEEN_HU, labels[inside], 0)


def write_reference(scan: PhantomScan, folder: Path) -> Path:
    """Write ``reference.json`` (totals, slice scores, heart box, drawn factors) and return its path.

    Beside it ``labels.nrrd``: the labels on the resampled grid, as an annotation to train and evaluate with.
    """
    geometry = scan.resampled.geometry
    document = {
        "seed": scan.seed,
        "agatston": round(scan.agatston, 2),
        "volume_mm3": round(scan.volume_mm3, 2),
        "slice_scores": [
            {"z_mm": round(geometry.z_mm(i), 3), "agatston": round(float(score), 2)}
            for i, score in enumerate(scan.slice_agatston)
            if score > 0
        ],
        "heart_box_mm": [list(scan.heart_box.low), list(scan.heart_box.high)],
        "description": scan.description,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reference.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    image = SimpleITK.GetImageFromArray(scan.labels)
    image.SetOrigin(geometry.origin_mm)
    image.SetSpacing(geometry.spacing_mm[::-1])
    SimpleITK.WriteImage(image, str(folder / LABELS), useCompression=True)
    return path
