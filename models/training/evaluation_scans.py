"""Scores scans with references: cached heart crops, whole simulated scans, folders of real series."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from calcium.agatston import AGATSTON_SLICE_MM, credit_map
from calcium.errors import AgatstonError, NotEligibleError
from calcium.geometry import BoxMm
from calcium.resample import INCREMENT_MM
from calcium.risk import RiskGroup
from calcium.series import read_series
from calcium.volume import CTVolume
from models.device import Runner
from models.estimators import ESTIMATORS
from models.heart import LocalizerConfig, locate
from models.preprocess import heart_crop
from models.scoring import Scorer
from models.training.augmentation import CORONARY
from models.training.cache import load
from models.training.dataset import AORTA, VALVE, SimulatedTask, facts
from models.training.evaluation import ScanRecord
from models.training.localizer_training import box_error
from models.training.phantom import make_scan
from models.training.statistics import wilson
from models.weightset import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.estimators import Estimate
    from models.options import ScoringOptions
    from models.preprocess import HeartCrop
    from models.training.cache import CachedCase
    from models.training.localizer_training import BoxError
    from models.weightset import WeightSet

# Standard deviation of the shift of each face of the reference box, mm: what a localiser's box is off by.
BOX_JITTER_MM = 3.0
ATTENTION_MM = 5.0  # issue: response mass within 5 mm of coronary plaques
EVALUATION_SEED = 700_001


def jittered(box: BoxMm, seed: int) -> BoxMm:
    """Return a box as a localiser would find it: each face off by some mm."""
    shift = np.clip(np.random.default_rng([seed, 17]).normal(0, BOX_JITTER_MM, 6), -8, 8)
    low, high = np.add(box.low, shift[:3]), np.add(box.high, shift[3:])
    return BoxMm(tuple(low.tolist()), tuple(high.tolist()))


def attention(
    response: NDArray[np.float32], labels: NDArray[np.uint8], spacing_mm: tuple[float, float, float]
) -> tuple[float, float] | None:
    """Return the shares of a response near coronary plaques and near aortic or valve calcium.

    Parameters
    ----------
    response
        float32, (slice, row, column), at least 0.
    labels
        uint8, same shape; voxels >= 130 HU.
    spacing_mm
        (slice, row, column).

    Returns
    -------
    near, other
        Share within 5 mm of coronary calcium, and share within 5 mm of aortic or valve calcium but not of
        coronary calcium; None without any response.
    """
    total = float(response.sum(dtype=np.float64))
    if total <= 0:
        return None

    def near(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if not where.any():
            return where
        return np.asarray(ndimage.distance_transform_edt(~where, sampling=spacing_mm) <= ATTENTION_MM)

    coronary = near(np.isin(labels, CORONARY))
    other = near(np.isin(labels, (AORTA, VALVE))) & ~coronary
    shares = [float(response[where].sum(dtype=np.float64)) / total for where in (coronary, other)]
    return (shares[0], shares[1])


def score_case(
    case: CachedCase, sets: Mapping[str, WeightSet], runner: Runner, *, default: str, with_attention: bool
) -> ScanRecord:
    """Score a cached heart crop with several sets of weights.

    Parameters
    ----------
    case
        From the cache; its reference box stands in for the localiser's, risen as each set's, off by some mm.
    sets
        Name in the tables -> weights.
    runner
        Where to compute.
    default
        The set whose interval and attention are recorded.
    with_attention
        Whether to measure the default network's attention.
    """
    volume = CTVolume(case.hu, case.geometry, 3.0)
    seed = int(case.description.get("seed", 0))
    crops: dict[float, tuple[HeartCrop, NDArray[np.float32]]] = {}
    agatston, volumes = {}, {}
    shares, interval = None, None
    for name, weights in sets.items():
        rise = LocalizerConfig.of(weights.localizer).rise_mm
        if rise not in crops:
            found = heart_crop(volume, jittered(case.raised_box(rise), seed))
            crops[rise] = found, credit_map(found.volume, found.box)
        crop, credit = crops[rise]
        shown = with_attention and name == default
        with torch.no_grad():
            estimate: Estimate = ESTIMATORS[weights.scorer](
                weights.networks, crop, credit, runner, heat_map=shown
            )
        agatston[name] = float(estimate.agatston.sum()) * INCREMENT_MM / AGATSTON_SLICE_MM
        volumes[name] = float(estimate.volume_mm3.sum())
        if name == default and weights.calibration is not None:
            interval = weights.calibration.interval(agatston[name])
        if shown and estimate.response is not None:
            shares = attention(estimate.response, _inside(case.labels, crop), case.geometry.spacing_mm)
    return ScanRecord(
        name=case.name,
        patient=case.patient,
        origin=case.origin,
        agatston=case.agatston,
        volume_mm3=case.volume_mm3,
        predicted_agatston=agatston,
        predicted_volume_mm3=volumes,
        interval=interval,
        attention=shares,
        description=case.description,
    )


@cache
def _weights(location: str) -> WeightSet:
    """Return a set of weights of this process."""
    return load_weights(location)


def score_cached(
    path: Path, sets: tuple[tuple[str, str], ...], options: ScoringOptions, *, default: str
) -> ScanRecord:
    """Score one file of a cache, with its attention; for several processes.

    Parameters
    ----------
    path
        Of the case.
    sets
        (name in the tables, folder or name of the weights) of each set.
    options
        Device, threads, batch.
    default
        See `score_case`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = {name: _weights(location) for name, location in sets}
    runner = Runner(options.torch_device, options.batch)
    return score_case(load(path), loaded, runner, default=default, with_attention=True)


def _inside(labels: NDArray[np.uint8], crop: HeartCrop) -> NDArray[np.uint8]:
    return labels[crop.place.slices][crop.inside.slices]


@cache
def _scorer(options: ScoringOptions) -> Scorer:
    """Return the scorer of this process."""
    return Scorer.load(options)


def score_whole(seed: int, options: ScoringOptions, name: str, *, shifted: bool) -> tuple[ScanRecord, BoxError]:
    """Simulate a whole scan, score it as the node would, and return the record and the errors of the heart box.

    A scan without a result (heart not found) gets no predicted score, and no box.
    """
    task = SimulatedTask(seed, "whole", "shifted" if shifted else "training")
    scan = make_scan(seed, config=task.config)
    voxel = scan.resampled.geometry.voxel_volume_mm3
    record = ScanRecord(
        name=task.name,
        patient=task.name,
        origin="simulated",
        agatston=scan.agatston,
        volume_mm3=scan.volume_mm3,
        description=facts(scan.description, scan.resampled.hu, scan.labels, voxel),
    )
    try:
        result = _scorer(options).score(scan.volume)
    except AgatstonError as error:
        failed = replace(record, description=record.description | {"failure": error.code})
        return failed, box_error(task.name, None, scan.heart_box)
    predicted = replace(
        record,
        predicted_agatston={name: result.agatston},
        predicted_volume_mm3={name: result.volume_mm3},
        interval=result.agatston_interval,
    )
    return predicted, box_error(task.name, result.heart_box, scan.heart_box)


def locate_whole(seed: int, options: ScoringOptions, *, shifted: bool) -> tuple[str, BoxError]:
    """Simulate a whole scan with few pixels, of any coverage; return its kind and the errors of the heart box.

    Kinds are those that the localiser has to hold for: chest, neck to abdomen and dedicated heart scans (small
    field of view), each with and without contrast.
    """
    task = SimulatedTask(seed, "localizer", "shifted" if shifted else "training")
    scan = make_scan(seed, config=task.config)
    kind = task.config.z_coverage.replace("_", " ") + (", contrast" if task.config.contrast else "")
    weights = _scorer(options).weights
    runner = Runner(options.torch_device, options.batch)
    try:
        with torch.inference_mode():
            box = locate(scan.resampled, weights.networks, LocalizerConfig.of(weights.localizer), runner)
    except NotEligibleError:
        return kind, box_error(task.name, None, scan.heart_box)
    return kind, box_error(task.name, box, scan.heart_box)


def kinds_table(found: Sequence[tuple[str, BoxError]]) -> str:
    """Return the errors of heart boxes by the kind of scan as a Markdown table; distances in mm."""
    lines = ["| scan | scans | heart found | IoU, median (lowest) | wall distance | centroid distance |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for kind in sorted({kind for kind, _ in found}):
        errors = [error for other, error in found if other == kind]
        boxes = [error for error in errors if error.found]
        cells = [kind, str(len(errors)), str(len(boxes))]
        if boxes:
            overlaps = [error.iou for error in boxes]
            cells.append(f"{np.median(overlaps):.2f} ({min(overlaps):.2f})")
            cells.append(f"{np.median([error.wall_mm for error in boxes]):.1f}")
            cells.append(f"{np.median([error.centroid_mm for error in boxes]):.1f}")
        else:
            cells += ["-"] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def box_table(errors: Sequence[BoxError]) -> str:
    """Return the errors of heart boxes as a Markdown table; distances in mm, faces outwards positive."""
    found = [error for error in errors if error.found]
    lines = [f"Heart found: {wilson(len(found), len(errors))}.", ""]
    if not found:
        return "\n".join(lines)
    lines += ["| of the heart box | median | 5 to 95 % | worst |", "| --- | --- | --- | --- |"]
    names = ("right", "front", "lower", "left", "back", "upper")  # of the patient
    measures = {
        "IoU": ([error.iou for error in found], min, 3),
        "wall distance, mm": ([error.wall_mm for error in found], max, 1),
        "centroid distance, mm": ([error.centroid_mm for error in found], max, 1),
    } | {
        f"{face} face, mm": ([error.faces_mm[number] for error in found], partial(max, key=abs), 1)
        for number, face in enumerate(names)
    }
    for what, (values, worst, digits) in measures.items():
        cells = [f"{value:.{digits}f}" for value in (*np.percentile(values, (50, 5, 95)), worst(values))]
        lines.append(f"| {what} | {cells[0]} | {cells[1]} to {cells[2]} | {cells[3]} |")
    return "\n".join([*lines, ""])


@dataclass(frozen=True, slots=True)
class RealResult:
    """How a real series with a reference was scored.

    Parameters
    ----------
    name
        Folder of the series.
    reference, low, high
        Reference total and its plausible range.
    agatston
        Predicted total, or None with the reason in `failure`.
    iou
        Of the heart box.
    failure
        Code of the error, or empty.
    """

    name: str
    reference: float
    low: float
    high: float
    agatston: float | None
    iou: float
    failure: str = ""

    @property
    def right(self) -> bool:
        """Inside the range or in the reference's group; without coronary calcium: below 10."""
        if self.agatston is None:
            return False
        if self.high < 1:
            return self.agatston < 10
        same = RiskGroup.of(self.agatston) is RiskGroup.of(self.reference)
        return same or self.low <= self.agatston <= self.high


def score_folder(folder: Path, scorer: Scorer) -> RealResult:
    """Score one series on disk that has ``reference/reference.json``."""
    reference = json.loads((folder / "reference" / "reference.json").read_text(encoding="utf-8"))
    low, high = reference["heart_box_mm"]
    numbers = {key: float(reference.get(key, reference["agatston"])) for key in ("agatston", "low", "high")}
    try:
        result = scorer.score(read_series(folder.glob("*.dcm")).volume)
    except AgatstonError as error:
        return RealResult(
            folder.name, numbers["agatston"], numbers["low"], numbers["high"], None, 0.0, error.code
        )
    iou = result.heart_box.iou(BoxMm(tuple(low), tuple(high)))
    return RealResult(folder.name, numbers["agatston"], numbers["low"], numbers["high"], result.agatston, iou)


def real_table(results: list[RealResult]) -> str:
    """Return the results of real series as a Markdown table."""
    lines = [
        "| Series | Reference (low to high) | Predicted | Group | Right | Heart box IoU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        found = one.failure if one.agatston is None else f"{one.agatston:.1f}"
        group = "-" if one.agatston is None else RiskGroup.of(one.agatston).label
        right = "yes" if one.right else "no"
        span = f"{one.reference:.1f} ({one.low:.1f} to {one.high:.1f})"
        lines.append(f"| {one.name} | {span} | {found} | {group} | {right} | {one.iou:.2f} |")
    return "\n".join(lines) + "\n"
