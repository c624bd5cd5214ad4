"""From a seed to a scan: draw the patient, paint, scan, label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calcium.agatston import score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.resample import resample
from calcium.volume import CTVolume
from models.training.phantom.acquisition import Grid, Scanner, draw_scanner, image, metal_streaks, noise
from models.training.phantom.canvas import Canvas
from models.training.phantom.config import PhantomConfig, PhantomScan
from models.training.phantom.coronaries import draw_tree
from models.training.phantom.deposits import Deposit, Trace, plain_score, trace
from models.training.phantom.distractors import distractors, hilar_nodes
from models.training.phantom.heart import Heart, draw_heart, keep_off_spine
from models.training.phantom.motion import draw_motion
from models.training.phantom.plaques import coronary_plaques, draw_burden
from models.training.phantom.reference import label
from models.training.phantom.scene import Patient, paint
from models.training.phantom.torso import crowded, draw_torso
from models.training.processes import pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from models.training.phantom.shapes import Array

CORONARY = (1, 2, 3)
METAL = 8
AHEAD_MM = 0.0, 40.0  # between the heart and where it would almost touch the spine
PADDING_HU = (-2000, -3024, -1500)  # what scanners write outside their circle
NEAR_MM, NEAR_COARSE_MM = 0.9, 2.2  # grid of the heart region
FAR_MM, FAR_COARSE_MM = 1.7, 3.5  # grid of the rest
SEAM_MM = 5.0  # the heart region is used up to here from its border
LOWEST_HU, HIGHEST_HU = -1024, 3071  # 12 bits
# HU of blood with contrast: early and late phases, strong and weak.
LOWEST_CONTRAST, HIGHEST_CONTRAST = 80.0, 350.0


def _streams(seed: int, count: int) -> list[np.random.Generator]:
    """Return independent generators: a factor drawn in one part does not move another part."""
    return [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence([seed, 1712]).spawn(count)]


def _heart_box(heart: Heart) -> tuple[np.ndarray, np.ndarray]:
    """Return corners (x, y, z) of the muscle, up to just below the bifurcation of the pulmonary trunk."""
    step = 2.0
    x = np.arange(-110, 150, step, dtype=np.float32)
    y = np.arange(-230, 60, step, dtype=np.float32)
    z = np.arange(-110, 90, step, dtype=np.float32)
    muscle = heart.muscle(heart.warp.inverse((x[None, None, :], y[None, :, None], z[:, None, None])))
    inside = muscle < 0
    low, high = np.empty(3), np.empty(3)
    for axis, (values, others) in enumerate(((x, (0, 1)), (y, (0, 2)), (z, (1, 2)))):
        found = values[inside.any(axis=others)]
        low[axis], high[axis] = found[0] - step / 2, found[-1] + step / 2
    trunk, radii = heart.vessels["trunk"]
    low[1] = min(low[1], float((trunk[:, 1] - radii).min()))
    high[2] = trunk[-1, 2] - 4.0  # just below the bifurcation
    return low, high


def _contrast(rng: np.random.Generator) -> dict[str, float]:
    base = rng.uniform(LOWEST_CONTRAST, HIGHEST_CONTRAST)
    ratio = rng.uniform(0.6, 1.5)
    right = float(np.clip(base * ratio, LOWEST_CONTRAST, 450.0))
    return {"left": base, "right": right, "veins": right * rng.uniform(0.9, 1.8), "late": (45 + right) / 2}


def _axis(centre: float, size: int, pixel: float) -> Array:
    return (centre + (np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)


def _slice_axis(config: PhantomConfig, scanner: Scanner, spans: dict[str, tuple[float, float]]) -> Array:
    low, high = spans[config.z_coverage]
    count = int(np.ceil((high - low - scanner.thickness) / scanner.increment)) + 1
    return (low + scanner.thickness / 2 + np.arange(count) * scanner.increment).astype(np.float32)


def _crop(axis: Array, low: float, high: float) -> Array:
    return axis[(axis >= low) & (axis <= high)]


def _render(patient: Patient, scanner: Scanner, grid: Grid, near: tuple[np.ndarray, np.ndarray]) -> Array:
    """Return the noise-free image without calcium (slices, rows, columns); `near` bounds the fine region."""
    z, y, x = grid
    pad = 4 * scanner.fwhm
    whole_low = np.array([x[0] - pad, y[0] - pad, z[0] - scanner.thickness - 1])
    whole_high = np.array([x[-1] + pad, y[-1] + pad, z[-1] + scanner.thickness + 1])
    low, high = np.maximum(near[0], whole_low), np.minimum(near[1], whole_high)
    everything = bool(np.all(low <= whole_low) and np.all(high >= whole_high))
    fine = Canvas(tuple(low), tuple(high), (NEAR_MM, NEAR_MM, 1.1), NEAR_COARSE_MM)
    paint(fine, patient)
    if everything:
        return image(fine, scanner, grid)
    wide = Canvas(tuple(whole_low), tuple(whole_high), (FAR_MM, FAR_MM, 2.0), FAR_COARSE_MM)
    paint(wide, patient)
    out = image(wide, scanner, grid)
    use = [
        np.flatnonzero((axis >= a + SEAM_MM * (a > w)) & (axis <= b - SEAM_MM * (b < v)))
        for axis, a, b, w, v in zip((x, y, z), low, high, whole_low, whole_high, strict=True)
    ]
    if all(u.size for u in use):
        sx, sy, sz = (slice(int(u[0]), int(u[-1]) + 1) for u in use)
        out[sz, sy, sx] = image(fine, scanner, (z[sz], y[sy], x[sx]))
    return out


def make_scan(seed: int, *, config: PhantomConfig | None = None) -> PhantomScan:
    """Simulate one chest CT with its reference scores; the same seed and configuration give the same bytes.

    Parameters
    ----------
    seed
        Source of everything that is drawn.
    config
        Knobs; the default is a whole chest scan from the training distribution.
    """
    config = config or PhantomConfig()
    shift = float(config.distribution == "shifted")
    body, vessels, beat, scan, calcium, other, grain = _streams(seed + (10**9 if shift else 0), 7)
    nearest, farthest = AHEAD_MM
    ahead = float(np.random.default_rng([seed, 9]).uniform(nearest, farthest * (1 + 0.25 * shift)))
    heart = draw_heart(body, shift, ahead)
    low, high = _heart_box(heart)
    torso = draw_torso(body, float(low[2]), float(low[1]), shift, ahead)
    dense = np.random.default_rng([seed, 8])
    if config.crowded:
        torso = crowded(torso, float(high[0]), float(low[1]), dense)
    keep_off_spine(heart, torso.spine)
    patient = Patient(
        heart=heart,
        torso=torso,
        tree=draw_tree(heart, vessels),
        motion=draw_motion(beat, shift),
        blood_hu=body.uniform(32, 50),
        muscle_hu=body.uniform(45, 58),
        contrast=_contrast(body) if config.contrast else None,
        vessel_fat=body.uniform(0.3, 3.0),
        sinus_fat=body.uniform(0.5, 6.0),
        pericardium_hu=body.uniform(-60, 45),
        seed=int(body.integers(2**32)),
    )
    centre = (low + high) / 2
    if config.field_of_view == "cardiac":
        view, middle = scan.uniform(170, 250), centre[:2] + scan.normal(0, 5, 2)
    else:
        width = 2 * (torso.half_width + torso.wall + torso.fat * 1.1 + 8)
        view = float(np.clip(width * scan.uniform(0.92, 1.25), 260, 500))
        middle = np.array([0.0, -12.0 - ahead / 2]) + scan.normal(0, 6, 2)
    scanner = draw_scanner(scan, shift, float(np.round(view / config.in_plane, 6)), config.thickness_mm)
    spans = {
        "chest": (torso.floor - scan.uniform(35, 120), torso.apex + scan.uniform(2, 35)),
        "neck_to_abdomen": (torso.floor - scan.uniform(130, 190), torso.apex + scan.uniform(30, 60)),
        "heart": (low[2] - scan.uniform(8, 25), high[2] + scan.uniform(5, 25)),
    }
    z = _slice_axis(config, scanner, spans)
    y, x = (_axis(m, config.in_plane, scanner.pixel) for m in (middle[1], middle[0]))
    if config.crop_to_heart is not None:
        margin = config.crop_to_heart
        x, y = _crop(x, low[0] - margin, high[0] + margin), _crop(y, low[1] - margin, high[1] + margin)
        z = _crop(z, low[2] - margin - scanner.thickness, high[2] + margin + scanner.thickness)
    near = (np.array([low[0], low[1], low[2]]) - 14, np.array([high[0], high[1] + 25, high[2] + 12]) + 14)
    if config.crop_to_heart is not None:
        near = (np.full(3, -1e4), np.full(3, 1e4))
    hu = _render(patient, scanner, (z, y, x), near)
    traces: list[Trace] = []
    measured: dict[int, tuple[Deposit, Trace | None]] = {}  # by identity; holding the deposit keeps that unique

    def measure(deposit: Deposit) -> float:
        """Return the score of a deposit without noise (0 outside the image)."""
        seen = trace(deposit, scanner, patient.motion, (z, y, x))
        measured[id(deposit)] = (deposit, seen)
        return 0.0 if seen is None else plain_score(seen, scanner)

    burden = draw_burden(calcium, config.calcium, shift)
    deposits = coronary_plaques(patient.tree, burden, measure, calcium, shift)
    deposits += distractors(heart, patient.tree, other, shift, config.rarities)
    if config.crowded:
        deposits += hilar_nodes(dense)
    for deposit in deposits:
        known = measured.get(id(deposit))
        seen = known[1] if known else trace(deposit, scanner, patient.motion, (z, y, x))
        if seen is not None:
            hu[seen.window] += seen.excess
            traces.append(seen)
    if any(seen.label == METAL for seen in traces):
        metal = np.zeros_like(hu)
        for seen in traces:
            if seen.label == METAL:
                metal[seen.window] += seen.excess
        hu += metal_streaks(metal, grain, scanner.pixel)
    hu += noise(grain, scanner, (z, y, x))
    padding = None
    if scan.random() < 0.45:
        circle = np.hypot(y[:, None] - middle[1], x[None, :] - middle[0]) > view / 2
        hu[:, circle] = LOWEST_HU
        padding = int(scan.choice(PADDING_HU))
    volume = _digitise(hu, scanner, (z, y, x), scan)
    resampled = resample(volume)
    labels, _ = label(volume, resampled, traces)
    score = score_mask(resampled, labels, CORONARY)
    moved = np.array(volume.geometry.origin_mm) - [x[0], y[0], z[0]]
    return PhantomScan(
        seed=seed,
        volume=volume,
        resampled=resampled,
        labels=labels,
        heart_box=BoxMm(tuple(np.round(low + moved, 2).tolist()), tuple(np.round(high + moved, 2).tolist())),
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston,
        description={
            "seed": seed,
            "distribution": config.distribution,
            "field_of_view": config.field_of_view,
            "burden_drawn": round(burden, 2),
            **_describe(patient, scanner, deposits),
            "padding_hu": padding,
            "center_mm": [round(float(m + o), 3) for m, o in zip(middle, moved[:2], strict=True)],
            "view_mm": round(view, 3),
        },
    )


def _digitise(hu: Array, scanner: Scanner, grid: Grid, rng: np.random.Generator) -> CTVolume:
    """Round and clip as a scanner does, and move the patient to the scanner's own coordinates."""
    z, y, x = grid
    whole = np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    table = np.round(rng.uniform([-15, -230, -700], [15, 60, 400]), 1)
    x0, y0, z0 = (float(np.round(axis[0] + t, 3)) for axis, t in zip((x, y, z), table, strict=True))
    spacing = (scanner.increment, scanner.pixel, scanner.pixel)
    return CTVolume(whole, VolumeGeometry((x0, y0, z0), spacing, whole.shape), scanner.thickness)


def _describe(patient: Patient, scanner: Scanner, deposits: list[Deposit]) -> dict[str, Any]:
    """Return the drawn factors as JSON types."""
    kinds: dict[str, int] = {}
    for deposit in deposits:
        kinds[deposit.kind] = kinds.get(deposit.kind, 0) + 1
    torso = patient.torso
    return {
        "contrast_hu": None
        if patient.contrast is None
        else {k: round(v, 1) for k, v in patient.contrast.items()},
        "deposits": dict(sorted(kinds.items())),
        "distractors": sorted(kind for kind in kinds if kind != "coronary"),
        "motion_mm": round(patient.motion.amplitude, 3),
        "beat_mm": round(patient.motion.beat_mm, 2),
        "motion_window": round(patient.motion.window, 3),
        "thickness_mm": scanner.thickness,
        "increment_mm": scanner.increment,
        "pixel_mm": scanner.pixel,
        "fwhm_mm": round(scanner.fwhm, 3),
        "overshoot": round(scanner.overshoot, 3),
        "noise_hu": round(scanner.noise, 2),
        "streak": round(scanner.streak, 3),
        "kvp": scanner.kvp,
        "mas": scanner.mas,
        "body_width_mm": round(2.0 * (float(torso.half_width) + torso.wall + torso.fat), 1),
        "subcutaneous_fat_mm": round(torso.fat, 2),
        "epicardial_fat_mm": round(patient.heart.fat, 2),
        "mediastinal_fat_mm": round(torso.mediastinum, 2),
        "blood_hu": round(patient.blood_hu, 2),
        "muscle_hu": round(patient.muscle_hu, 2),
        "lung_hu": round(torso.lung_hu, 1),
        "ahead_mm": round(torso.ahead, 1),
        "female": torso.breast > 0,
    }


def _one(job: tuple[int, PhantomConfig | None]) -> PhantomScan:
    return make_scan(job[0], config=job[1])


def make_many(
    seeds: Iterable[int], *, config: PhantomConfig | None = None, processes: int = 1
) -> Iterator[PhantomScan]:
    """Yield a scan for each seed, in order, made in `processes` processes."""
    jobs = [(seed, config) for seed in seeds]
    if processes <= 1:
        for job in jobs:
            yield _one(job)
        return
    with pool(processes) as makers:
        yield from makers.map(_one, jobs)
