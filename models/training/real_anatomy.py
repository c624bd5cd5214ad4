"""New training scans from real ones: another body, another scanner setting, and calcium whose place is known.

A real scan gives what no simulator has: true texture, fat, motion, neighbours. It is deformed as a whole, its
grid, HU, sharpness and noise are varied, plaques are inserted along the annotated coronaries (and other calcium
elsewhere) through point spread, slice profile and motion, added without noise because the scan has its own. The
labels are made on the result, at 130 HU, as people made them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from calcium.agatston import score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.resample import INCREMENT_MM, THICKNESS_MM
from calcium.volume import CTVolume
from models.training.anatomy import VESSEL_LABELS
from models.training.insertion import draw_plaques
from models.training.phantom.acquisition import metal_streaks
from models.training.phantom.coronaries import Branch
from models.training.phantom.deposits import Deposit, Trace, plain_score, trace
from models.training.real_acquisition import axes_of, draw_noise, draw_strong_motion, filter_plane, scanner_of
from models.training.real_cases import CORONARY, UNSURE, RealCase, load_real_cases
from models.training.real_distractors import METAL, draw_distractors, landmarks_of
from models.training.real_labels import label_scan
from models.training.warp import Warp, draw_warp, see

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "AugmentConfig",
    "Body",
    "RealCase",
    "TrainingScan",
    "augment_case",
    "draw_body",
    "dress",
    "load_real_cases",
]

# Calibre (radius, mm) at the origin and at the end of each drawn vessel.
CALIBRE_MM = {
    "LM": (2.2, 2.0),
    "LAD": (1.9, 0.9),
    "D1": (1.1, 0.7),
    "LCX": (1.7, 0.9),
    "OM1": (1.1, 0.7),
    "RCA": (1.9, 1.2),
    "PDA": (1.1, 0.7),
}
AIR_HU, MOST_HU = -1024, 3071
MOST_BURDEN = 5000.0
"""Most that is aimed at, Agatston."""
WITH_DISTRACTORS = 0.7
"""Share of scans into which other calcium or metal may be inserted."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Knobs of the augmentation; everything else is drawn.

    Parameters
    ----------
    margin_mm
        Kept around the heart box.
    untouched
        Share of scans that keep the original voxels (no deformation, no filter, no noise).
    clean
        Share of scans whose own coronary calcium is taken out first.
    no_plaques
        Share of scans without inserted coronary plaques.
    distractors
        Whether other calcium and metal is inserted.
    burden
        Mean and standard deviation of the logarithm of the inserted Agatston score.
    """

    margin_mm: float = 40.0
    untouched: float = 0.3
    clean: float = 0.6
    no_plaques: float = 0.3
    distractors: bool = True
    burden: tuple[float, float] = (3.9, 1.8)


@dataclass(frozen=True, eq=False, slots=True)
class TrainingScan:
    """A scan with its truth, like the simulator's PhantomScan on its resampled grid.

    Parameters
    ----------
    name
        Unique for patient and seed.
    patient
        Whole patients stay on one side of a split.
    resampled
        3.0 mm every 1.5 mm, the heart and a margin.
    labels
        uint8: 1 LAD, 2 LCX, 3 RCA, 4 aorta, 5 valve or annulus, 6 other, 7 ignore (not decidable), 8 metal.
    heart_box
        LPS mm.
    agatston, volume_mm3, slice_agatston
        Reference scores of labels 1 to 3.
    description
        What was drawn, JSON types.
    """

    name: str
    patient: str
    resampled: CTVolume
    labels: NDArray[np.uint8]
    heart_box: BoxMm
    agatston: float
    volume_mm3: float
    slice_agatston: NDArray[np.float64]
    description: dict[str, Any] = field(default_factory=dict)


def _identity(case: RealCase) -> Warp:
    centre = (np.array(case.heart_box.low) + case.heart_box.high) / 2
    return Warp(centre, np.eye(3), np.zeros((3, 7, 7, 7)))


def _moved_box(case: RealCase, warp: Warp) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the deformed heart's box: of the ellipsoid that the box by eye holds."""
    low, high = np.array(case.heart_box.low), np.array(case.heart_box.high)
    a, b = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(-np.pi / 2, np.pi / 2, 13))
    unit = np.stack([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)], axis=-1).reshape(-1, 3)
    moved = warp.to_new((low + high) / 2 + unit * (high - low) / 2)
    return moved.min(axis=0), moved.max(axis=0)


def _grid(
    case: RealCase,
    *,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    margin: float,
    pixel: float | None,
    phase: float,
) -> VolumeGeometry:
    """Return the grid of the new scan; `pixel` None keeps the old pixels exactly where they are."""
    old = case.slab_geometry
    if pixel is None:
        spacing = (INCREMENT_MM, *old.spacing_mm[1:])
        begin = np.maximum(np.ceil((low - margin - old.origin_mm) / np.array(spacing[::-1])), 0)
        origin = np.array(old.origin_mm) + begin * spacing[::-1]
        last = np.minimum(high + margin, old.to_mm(*(n - 1 for n in old.shape)))
    else:
        spacing = (INCREMENT_MM, pixel, pixel)
        origin, last = low - margin + [0, 0, phase], high + margin
        origin[2] = max(origin[2], old.origin_mm[2])
        last[2] = min(last[2], old.z_mm(old.shape[0] - 1))
    count = np.floor((last - origin) / np.array(spacing[::-1])).astype(int) + 1
    return VolumeGeometry(tuple(origin.tolist()), spacing, (int(count[2]), int(count[1]), int(count[0])))


def _taken(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], old: VolumeGeometry, new: VolumeGeometry
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return every second slab, with the pixels as they are: a grid that `_grid` made without a pixel size."""
    first = [round(index) for index in old.to_index(new.origin_mm)]
    strides = (round(new.spacing_mm[0] / old.spacing_mm[0]), 1, 1)
    window = tuple(slice(a, a + n * step, step) for a, n, step in zip(first, new.shape, strides, strict=True))
    return hu[window].astype(np.float32), labels[window].copy()


def _branches(case: RealCase, warp: Warp, rng: np.random.Generator) -> list[Branch]:
    """Return the deformed coronaries; each is off its annotated line by up to about a millimetre."""
    found = []
    for name, points in case.annotation.centrelines.items():
        wander = gaussian_filter1d(rng.normal(0, 1.0, points.shape), 4.0, axis=0) * 2.0
        line = warp.to_new(points + wander)
        first, last = CALIBRE_MM[name]
        radii = np.linspace(first, last, len(line)) * rng.uniform(0.85, 1.25)
        found.append(Branch(name, VESSEL_LABELS[name], line, radii))
    return found


def _insert(
    hu: NDArray[np.float32], pixel: float, traces: list[Trace], rng: np.random.Generator
) -> dict[int, NDArray[np.float32]]:
    """Add what the deposits raise to the image, in place; return the HU that each label added."""
    excess: dict[int, NDArray[np.float32]] = {}
    for seen in traces:
        hu[seen.window] += seen.excess
        excess.setdefault(seen.label, np.zeros(hu.shape, np.float32))[seen.window] += seen.excess
    if METAL in excess:
        hu += metal_streaks(excess[METAL], rng, pixel)
    return excess


@dataclass(frozen=True, eq=False)
class Body:
    """A deformed real scan without inserted calcium, from which several training scans may be made.

    Parameters
    ----------
    case
        The real scan.
    clean
        Whether its own coronary calcium was taken out.
    warp
        The deformation; None where the voxels are as they were.
    low, high
        Corners (3,) of the heart box, LPS mm.
    geometry
        Grid: 3.0 mm every 1.5 mm.
    image, labels
        float32 HU and uint8 labels of the scan's own calcium.
    """

    case: RealCase
    clean: bool
    warp: Warp | None
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    geometry: VolumeGeometry
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


def draw_body(case: RealCase, rng: np.random.Generator, *, config: AugmentConfig | None = None) -> Body:
    """Deform a real scan, or keep its voxels: about half the cost of a training scan."""
    config = config or AugmentConfig()
    untouched = rng.random() < config.untouched
    clean = rng.random() < config.clean
    hu, native = case.background(clean=clean)
    warp = _identity(case)
    pixel = None
    if not untouched:
        warp = draw_warp(rng, warp.centre, strength=float(rng.uniform(0.3, 1.0)))
        pixel = float(np.clip(case.slab_geometry.spacing_mm[1] * rng.uniform(0.85, 1.2), 0.5, 0.98))
    low, high = _moved_box(case, warp)
    phase = float(rng.uniform(0, INCREMENT_MM))
    geometry = _grid(case, low=low, high=high, margin=config.margin_mm, pixel=pixel, phase=phase)
    if untouched:
        image, labels = _taken(hu, native, case.slab_geometry, geometry)
    else:
        image, labels = see(hu, case.slab_geometry, warp, geometry, native)
    return Body(case, clean, None if untouched else warp, low, high, geometry, image, labels)


def _draw_deposits(
    body: Body, measure: Callable[[Deposit], float], config: AugmentConfig, rng: np.random.Generator
) -> tuple[list[Deposit], float]:
    """Return what is inserted into a body, and the coronary burden that was aimed at."""
    warp = body.warp or _identity(body.case)
    deposits: list[Deposit] = []
    burden = 0.0
    if rng.random() >= config.no_plaques:
        burden = float(np.clip(np.exp(rng.normal(*config.burden)), 1.0, MOST_BURDEN))
        deposits += draw_plaques(_branches(body.case, warp, rng), burden, measure, rng)
    if config.distractors and rng.random() < WITH_DISTRACTORS:
        scale = float(np.sqrt(abs(np.linalg.det(np.linalg.inv(warp.matrix)[:2, :2]))))
        marks = landmarks_of(body.case.annotation, warp.to_new, scale, body.low, body.high)
        deposits += draw_distractors(marks, rng)
    return deposits, burden


def dress(
    body: Body, rng: np.random.Generator, *, config: AugmentConfig | None = None, name: str = ""
) -> TrainingScan:
    """Make one training scan of a body: sharpness, calcium, noise, labels. The body stays as it is.

    Parameters
    ----------
    body
        From `draw_body`.
    rng
        Source of everything that is drawn.
    config
        Knobs.
    name
        Of the new scan; the patient's name when empty.
    """
    config = config or AugmentConfig()
    geometry, case = body.geometry, body.case
    pixel = geometry.spacing_mm[1]
    image = body.image.copy()
    touched = body.warp is not None
    filtered = filter_plane(image, geometry, rng) if touched else {}
    scanner = scanner_of(case, pixel, filtered.get("blur_mm", 0.0), filtered.get("sharpen", 0.0))
    motion, grid = draw_strong_motion(rng), axes_of(geometry)

    def scanned(deposit: Deposit) -> Trace | None:
        return trace(deposit, scanner, motion, grid)

    def measure(deposit: Deposit) -> float:
        seen = scanned(deposit)
        return 0.0 if seen is None else plain_score(seen, scanner)

    deposits, burden = _draw_deposits(body, measure, config, rng)
    traces = [seen for seen in map(scanned, deposits) if seen is not None]
    excess = _insert(image, pixel, traces, rng)
    level = 0.0
    if touched:
        grain, level = draw_noise(geometry.shape, pixel, rng)
        image += grain
        image = image * np.float32(rng.uniform(0.98, 1.02)) + np.float32(rng.uniform(-6, 6))
    hu = np.clip(np.rint(image), AIR_HU, MOST_HU).astype(np.int16)
    labels = label_scan(hu, body.labels, excess)
    volume = CTVolume(hu, geometry, THICKNESS_MM)
    score = score_mask(volume, labels, CORONARY)
    return TrainingScan(
        name=name or case.patient,
        patient=case.patient,
        resampled=volume,
        labels=labels,
        heart_box=BoxMm(tuple(body.low.tolist()), tuple(body.high.tolist())),
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston,
        description={
            "patient": case.patient,
            "untouched": not touched,
            "clean": body.clean,
            **filtered,
            "noise_hu": round(level, 1),
            "burden_drawn": round(burden, 1),
            "deposits": sorted({deposit.kind for deposit in deposits}),
            "ignored_voxels": int((labels == UNSURE).sum()),
            "metal": bool((labels == METAL).any()),
        },
    )


def augment_case(
    case: RealCase, rng: np.random.Generator, *, config: AugmentConfig | None = None, name: str = ""
) -> TrainingScan:
    """Make one training scan from a real one; the same state of `rng` gives the same scan.

    Parameters
    ----------
    case
        The real scan.
    rng
        Source of everything that is drawn.
    config
        Knobs.
    name
        Of the new scan; the patient's name when empty.
    """
    return dress(draw_body(case, rng, config=config), rng, config=config, name=name)
