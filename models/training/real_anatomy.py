"""New training scans from real ones: another body, another scanner setting, and calcium whose place is known.

A real scan gives what no simulator has: true texture, fat, motion, neighbours. It is deformed as a whole, its
grid, HU, sharpness and noise are varied, plaques are inserted along the annotated coronaries (and other calcium
elsewhere) through point spread, slice profile and motion, added without noise because the scan has its own. The
labels are made on the result, at 130 HU, as people made them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, grey_dilation, label

from calcium.agatston import CALCIUM_HU, score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.resample import INCREMENT_MM, THICKNESS_MM
from calcium.volume import CTVolume
from models.training.anatomy import VESSEL_LABELS
from models.training.insertion import draw_plaques
from models.training.phantom.acquisition import FWHM_TO_SIGMA, Grid, Scanner, metal_streaks
from models.training.phantom.coronaries import Branch
from models.training.phantom.deposits import Deposit, Trace, plain_score, trace
from models.training.phantom.motion import Motion, draw_motion
from models.training.phantom.reference import SEEN_HU, TOUCH_HU
from models.training.real_cases import CORONARY, UNSURE, RealCase, load_real_cases
from models.training.real_distractors import METAL, draw_distractors, landmarks_of
from models.training.warp import Warp, draw_warp, see

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AugmentConfig", "RealCase", "TrainingScan", "augment_case", "load_real_cases"]

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
MOST_MOTION_MM = 11.0
"""Largest excursion of the RCA."""
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


def _filtered(hu: NDArray[np.float32], geometry: VolumeGeometry, rng: np.random.Generator) -> dict[str, float]:
    """Blur or sharpen in-plane, in place; return what was drawn."""
    pixel = geometry.spacing_mm[1]
    kind = rng.random()
    if kind < 0.35:
        width = rng.uniform(0.2, 0.7)
        hu[...] = gaussian_filter(hu, (0, width / pixel, width / pixel), truncate=3)
        return {"blur_mm": round(width, 3)}
    if kind < 0.75:
        amount = rng.uniform(0.1, 0.9)
        soft = gaussian_filter(hu, (0, 0.8 / pixel, 0.8 / pixel), truncate=3)
        hu += amount * np.clip(hu - soft, -250, 250)
        return {"sharpen": round(amount, 3)}
    return {}


def _noise(
    shape: tuple[int, int, int], pixel: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """Return correlated noise: band-limited in-plane, directional, shared by slices that overlap by half."""
    level = float(np.exp(rng.uniform(np.log(3), np.log(36))) * (rng.random() < 0.75))
    if level == 0:
        return np.zeros(shape, np.float32), 0.0
    white = rng.standard_normal((shape[0] + 1, *shape[1:]), dtype=np.float32)
    fine = rng.uniform(0.35, 0.75) / pixel
    stretch = rng.uniform(1, 2.2)
    axes = (0.0, fine, fine * stretch) if rng.random() < 0.5 else (0.0, fine * stretch, fine)
    smooth = gaussian_filter(white, axes, truncate=2.5)
    smooth -= gaussian_filter(smooth, (0.0, 2.2 * fine, 2.2 * fine), truncate=2)  # no large blotches
    grain = (smooth[1:] + smooth[:-1]) / 2
    return grain * np.float32(level / (float(grain[::7].std()) + 1e-6)), level


def _scanner(case: RealCase, pixel: float, extra_mm: float, sharpen: float) -> Scanner:
    """Return the scanner whose point spread and slice profile the inserted calcium goes through.

    A resampled slice is a slab of 3.0 mm over slices that are slabs themselves: the second one is taken as a
    blur of the slab's edges with the same variance.
    """
    thickness = case.volume.slice_thickness_mm
    tail = thickness / np.sqrt(12) / FWHM_TO_SIGMA
    fwhm = float(np.hypot(case.annotation.psf_fwhm_mm, extra_mm / FWHM_TO_SIGMA))
    return Scanner(
        THICKNESS_MM, INCREMENT_MM, pixel, fwhm, 0.5 * sharpen, tail, 0.0, 0.5, 0.0, (0.0, 0.0), 120.0, 100.0
    )


def _label(
    hu: NDArray[np.int16], native: NDArray[np.uint8], excess: dict[int, NDArray[np.float32]]
) -> NDArray[np.uint8]:
    """Return labels of all voxels >= 130 HU: of the deposit that raises it most, else the scan's own."""
    labels = np.zeros(hu.shape, np.uint8)
    where = np.nonzero(hu >= CALCIUM_HU)
    own = native[where]
    owner = np.where(own > 0, own, _spread(native)[where])
    peak = np.full(len(owner), np.float32(np.inf))  # the scan's own calcium was seen by a reader
    if excess:
        names = np.array(sorted(excess), np.uint8)
        shares = np.stack([excess[int(name)][where] for name in names])
        best, most = names[shares.argmax(axis=0)], shares.max(axis=0)
        # What was inserted on the scan's own calcium of another kind belongs to the larger of the two.
        stays = (own > 0) & (hu[where] - most >= CALCIUM_HU) & (most < 2 * SEEN_HU)
        inserted = (most >= TOUCH_HU) & ~stays
        owner, peak = np.where(inserted, best, owner), np.where(inserted, most, peak)
    labelled = owner > 0
    where = tuple(axis[labelled] for axis in where)
    labels[where] = owner[labelled]
    _drop_unseen(labels, where, peak[labelled])
    return labels


def _spread(native: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the labels, each grown by one pixel in-plane."""
    grown = np.zeros_like(native)
    for index in np.flatnonzero(native.any(axis=(1, 2))):
        grown[index] = grey_dilation(native[index], size=(3, 3))
    return grown


def _drop_unseen(
    labels: NDArray[np.uint8], where: tuple[NDArray[np.intp], ...], peak: NDArray[np.float32]
) -> None:
    """Clear lesions that no reader would see: components that no deposit raises above the noise."""
    if not peak.size:
        return
    window = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
    inside = tuple(axis - part.start for axis, part in zip(where, window, strict=True))
    number = label(labels[window] > 0, np.ones((3, 3, 3)))[0][inside]
    strongest = np.zeros(int(number.max()) + 1, np.float32)
    np.maximum.at(strongest, number, peak)
    labels[where] = np.where(strongest[number] >= SEEN_HU, labels[where], 0)


def _motion(rng: np.random.Generator) -> Motion:
    """Return the motion of the inserted calcium: often more than the simulator's, as in real ungated scans."""
    motion = draw_motion(rng)
    amplitude = min(MOST_MOTION_MM, motion.amplitude * rng.uniform(0.6, 2.2))
    # Phases close enough that a smeared plaque is a streak and no string of beads.
    count = max(motion.samples, int(np.ceil(2.5 * amplitude)))
    weights = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, motion.samples), motion.weights)
    return replace(motion, amplitude=amplitude, weights=weights / weights.sum())


def _axes(geometry: VolumeGeometry) -> Grid:
    """Return the centres of slices, rows and columns, mm."""
    x0, y0, z0 = geometry.origin_mm
    steps = zip((z0, y0, x0), geometry.shape, geometry.spacing_mm, strict=True)
    z, y, x = (np.asarray(first + np.arange(count) * step, np.float32) for first, count, step in steps)
    return (z, y, x)


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


def augment_case(
    case: RealCase, rng: np.random.Generator, *, config: AugmentConfig | None = None, name: str = ""
) -> TrainingScan:
    """Make one training scan from a real one.

    Parameters
    ----------
    case
        The real scan.
    rng
        Source of everything that is drawn; the same state gives the same scan.
    config
        Knobs.
    name
        Of the new scan; the patient's name when empty.

    Returns
    -------
    TrainingScan
    """
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
    geometry = _grid(
        case,
        low=low,
        high=high,
        margin=config.margin_mm,
        pixel=pixel,
        phase=float(rng.uniform(0, INCREMENT_MM)),
    )
    if untouched:
        image, labels = _taken(hu, native, case.slab_geometry, geometry)
    else:
        image, labels = see(hu, case.slab_geometry, warp, geometry, native)
    drawn: dict[str, Any] = {"patient": case.patient, "untouched": untouched, "clean": clean}
    filtered: dict[str, float] = {}
    if not untouched:
        filtered = _filtered(image, geometry, rng)

    scanner = _scanner(case, geometry.spacing_mm[1], filtered.get("blur_mm", 0.0), filtered.get("sharpen", 0.0))
    motion, grid = _motion(rng), _axes(geometry)

    def measure(deposit: Deposit) -> float:
        seen = trace(deposit, scanner, motion, grid)
        return 0.0 if seen is None else plain_score(seen, scanner)

    deposits: list[Deposit] = []
    burden = 0.0
    if rng.random() >= config.no_plaques:
        burden = float(np.clip(np.exp(rng.normal(*config.burden)), 1.0, MOST_BURDEN))
        deposits += draw_plaques(_branches(case, warp, rng), burden, measure, rng)
    if config.distractors and rng.random() < WITH_DISTRACTORS:
        scale = float(np.sqrt(abs(np.linalg.det(np.linalg.inv(warp.matrix)[:2, :2]))))
        marks = landmarks_of(case.annotation, warp.to_new, scale, low, high)
        deposits += draw_distractors(marks, rng)
    traces = [
        seen for seen in (trace(deposit, scanner, motion, grid) for deposit in deposits) if seen is not None
    ]
    excess = _insert(image, geometry.spacing_mm[1], traces, rng)
    level = 0.0
    if not untouched:
        grain, level = _noise(geometry.shape, geometry.spacing_mm[1], rng)
        image += grain
        image = image * np.float32(rng.uniform(0.98, 1.02)) + np.float32(rng.uniform(-6, 6))
    whole = np.clip(np.rint(image), AIR_HU, MOST_HU).astype(np.int16)
    final = _label(whole, labels, excess)
    volume = CTVolume(whole, geometry, THICKNESS_MM)
    score = score_mask(volume, final, CORONARY)
    kinds = sorted({deposit.kind for deposit in deposits})
    drawn |= filtered | {"noise_hu": round(level, 1), "burden_drawn": round(burden, 1), "deposits": kinds}
    drawn["ignored_voxels"] = int((final == UNSURE).sum())
    drawn["metal"] = bool((final == METAL).any())
    return TrainingScan(
        name=name or case.patient,
        patient=case.patient,
        resampled=volume,
        labels=final,
        heart_box=BoxMm(tuple(low.tolist()), tuple(high.tolist())),
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston,
        description=drawn,
    )
