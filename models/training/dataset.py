"""Simulated scans as cached cases, and sets of cases with whole patients apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from SimpleITK import GetArrayFromImage, ReadImage

from calcium.agatston import CALCIUM_HU, score_mask
from calcium.geometry import BoxMm
from calcium.resample import resample
from calcium.series import read_series
from models.preprocess import coarse
from models.training.augmentation import CORONARY
from models.training.cache import MARGIN_MM, CachedCase, crop
from models.training.phantom import PhantomConfig, make_scan
from models.training.real_anatomy import AugmentConfig, RealCase, augment_case, load_real_cases
from models.training.sketch import SketchConfig, make_sketch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from calcium.volume import CTVolume
    from models.training.phantom import PhantomScan

AORTA, VALVE, OTHER, METAL = 4, 5, 6, 8
# Simulated around the box: the cache's margin and a little more.
CROP_TO_HEART_MM = max(MARGIN_MM) + 2.0
# Adverse scans: how much commoner metal and rare calcium are, and the share without coronary calcium.
ADVERSE_RARITIES, ADVERSE_SPARED = 6.0, 0.4
Distribution = Literal["training", "shifted", "adverse", "crowded", "sketch"]
# Edge overshoot from which a kernel is called sharp.
SHARP_OVERSHOOT = 0.1


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One simulated scan to make; picklable.

    Parameters
    ----------
    seed
        Of the scan.
    part
        ``heart``: only the heart and its margin, for the networks that score; ``localizer``: a whole scan
        with few pixels and no crop; ``whole``: a whole scan at full resolution, with crop and coarse grid.
    distribution
        ``training`` or ``shifted``; ``adverse`` is training with much metal and rare calcium beside the
        coronaries, often without coronary calcium; ``crowded`` is training with ribs close to the heart and
        dense hilar nodes, as often without; ``sketch`` is the second, crude simulator.
    """

    seed: int
    part: Literal["heart", "localizer", "whole"] = "heart"
    distribution: Distribution = "training"

    @property
    def name(self) -> str:
        """Unique name in a cache."""
        return f"{self.distribution}-{self.part}-{self.seed:07d}"

    def scan(self) -> PhantomScan:
        """Return the scan."""
        if self.distribution == "sketch":
            return make_sketch(self.seed, config=self.sketch)
        return make_scan(self.seed, config=self.config)

    @property
    def sketch(self) -> SketchConfig:
        """What the second simulator is asked for."""
        if self.part == "heart":
            return SketchConfig(crop_to_heart=CROP_TO_HEART_MM)
        if self.part == "whole":
            return SketchConfig()
        rng = np.random.default_rng([self.seed, 5])
        return SketchConfig(
            pixel_mm=float(rng.uniform(2.4, 3.0)), thickness_mm=3.0, contrast=bool(rng.random() < 0.3)
        )

    @property
    def _amount(self) -> str:
        """Coronary calcium of adverse and crowded scans: none in ADVERSE_SPARED of them."""
        return "none" if np.random.default_rng([self.seed, 6]).random() < ADVERSE_SPARED else "auto"

    @property
    def config(self) -> PhantomConfig:
        """What the first simulator is asked for."""
        assert self.distribution != "sketch"
        if self.distribution == "adverse":
            return PhantomConfig(
                calcium=self._amount, crop_to_heart=CROP_TO_HEART_MM, rarities=ADVERSE_RARITIES
            )
        if self.distribution == "crowded":
            return PhantomConfig(calcium=self._amount, crop_to_heart=CROP_TO_HEART_MM, crowded=True)
        if self.part == "heart":
            return PhantomConfig(distribution=self.distribution, crop_to_heart=CROP_TO_HEART_MM)
        if self.part == "whole":
            return PhantomConfig(distribution=self.distribution)
        # The localiser has to hold for all of these (neck to pelvis, contrast, cardiac scans).
        rng = np.random.default_rng([self.seed, 4])
        cardiac = rng.random() < 0.2
        coverage: Literal["chest", "neck_to_abdomen", "heart"] = "chest"
        if cardiac:
            coverage = "heart"
        elif rng.random() < 0.4:
            coverage = "neck_to_abdomen"
        return PhantomConfig(
            distribution=self.distribution,
            field_of_view="cardiac" if cardiac else "chest",
            z_coverage=coverage,
            contrast=bool(rng.random() < 0.3),
            in_plane=128 if cardiac else 192,
            thickness_mm=3.0,
        )


def case_of(task: SimulatedTask) -> CachedCase:
    """Simulate a scan and return what is kept of it."""
    scan = task.scan()
    # On the localiser's grid, unless only the heart was made.
    small, grid = (np.zeros((0, 0, 0), np.int16), None) if task.part == "heart" else coarse(scan.resampled)
    place, geometry = crop(scan.resampled, scan.heart_box)
    window = place.slices if task.part != "localizer" else (slice(0, 1),) * 3
    if task.part == "localizer":
        geometry = type(geometry)(geometry.origin_mm, geometry.spacing_mm, (1, 1, 1))
    slices = window[0]
    labels = np.ascontiguousarray(scan.labels[window])
    coronary = np.isin(scan.labels[slices], CORONARY)
    pixel_volume = scan.resampled.geometry.voxel_volume_mm3
    return CachedCase(
        name=task.name,
        patient=task.name,
        origin="simulated",
        geometry=geometry,
        hu=np.ascontiguousarray(scan.resampled.hu[window]),
        labels=labels,
        heart_box=scan.heart_box,
        agatston=scan.agatston,
        volume_mm3=scan.volume_mm3,
        slice_agatston=scan.slice_agatston[slices].astype(np.float32),
        slice_volume_mm3=(coronary.sum(axis=(1, 2)) * pixel_volume).astype(np.float32),
        coarse=small,
        coarse_geometry=grid,
        description=facts(
            scan.description, scan.resampled.hu[place.slices], scan.labels[place.slices], pixel_volume
        ),
    )


@dataclass(frozen=True, slots=True)
class RealTask:
    """One scan to make from a real series; picklable.

    Parameters
    ----------
    folder
        Of the real series.
    patient
        Which series.
    seed
        Of the augmentation.
    """

    folder: Path
    patient: str
    seed: int

    @property
    def name(self) -> str:
        """Unique name in a cache."""
        return f"real-{self.patient}-{self.seed:05d}"


@cache
def _real_cases(folder: Path) -> dict[str, RealCase]:
    """Return the real series by patient; loaded once in each process."""
    return {case.patient: case for case in load_real_cases(folder)}


def real_case_of(task: RealTask) -> CachedCase:
    """Make a scan from real anatomy and return what is kept of it."""
    case = _real_cases(task.folder)[task.patient]
    rng = np.random.default_rng([task.seed, *task.patient.encode()])
    scan = augment_case(case, rng, config=AugmentConfig(margin_mm=CROP_TO_HEART_MM), name=task.name)
    place, geometry = crop(scan.resampled, scan.heart_box)
    labels = np.ascontiguousarray(scan.labels[place.slices])
    hu = np.ascontiguousarray(scan.resampled.hu[place.slices])
    voxel = geometry.voxel_volume_mm3
    drawn = scan.description | {"seed": task.seed}
    return CachedCase(
        name=task.name,
        patient=task.patient,
        origin="real anatomy",
        geometry=geometry,
        hu=hu,
        labels=labels,
        heart_box=scan.heart_box,
        agatston=scan.agatston,
        volume_mm3=scan.volume_mm3,
        slice_agatston=scan.slice_agatston[place.slices[0]].astype(np.float32),
        slice_volume_mm3=(np.isin(labels, CORONARY).sum(axis=(1, 2)) * voxel).astype(np.float32),
        description=facts(drawn, hu, labels, voxel) | {"kernel": "real"},
    )


def annotated_case(
    scan: tuple[str, str, str],
    resampled: CTVolume,
    labels: NDArray[np.uint8],
    box: BoxMm,
    drawn: dict[str, Any],
) -> CachedCase:
    """Return what is kept of an annotated scan.

    Parameters
    ----------
    scan
        Name, patient, origin.
    resampled
        The scan, slices of 3.0 mm every 1.5 mm.
    labels
        uint8, shape of `resampled`.
    box
        Heart box, LPS mm.
    drawn
        What breakdowns go by; see `facts`.
    """
    place, geometry = crop(resampled, box)
    hu = np.ascontiguousarray(resampled.hu[place.slices])
    kept = np.ascontiguousarray(labels[place.slices])
    score = score_mask(resampled, labels, CORONARY)
    slices = place.slices[0]
    name, patient, origin = scan
    return CachedCase(
        name=name,
        patient=patient,
        origin=origin,
        geometry=geometry,
        hu=hu,
        labels=kept,
        heart_box=box,
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston[slices].astype(np.float32),
        slice_volume_mm3=score.slice_volume[slices].astype(np.float32),
        description=facts(drawn, hu, kept, geometry.voxel_volume_mm3),
    )


@dataclass(frozen=True, slots=True)
class OriginalTask:
    """A real series as it is, with its reference; picklable."""

    folder: Path
    patient: str

    @property
    def name(self) -> str:
        """Unique name in a cache."""
        return f"original-{self.patient}"


def original_case_of(task: OriginalTask) -> CachedCase:
    """Read a real series and its reference (``reference/labels.nrrd`` and ``reference.json``)."""
    series = task.folder / task.patient
    resampled = resample(read_series(series.glob("*.dcm")).volume)
    everywhere = GetArrayFromImage(ReadImage(str(series / "reference" / "labels.nrrd"))).astype(np.uint8)
    reference = json.loads((series / "reference" / "reference.json").read_text(encoding="utf-8"))
    low, high = reference["heart_box_mm"]
    box = BoxMm(tuple(low), tuple(high))
    small, grid = coarse(resampled)
    case = annotated_case((task.name, task.patient, "real"), resampled, everywhere, box, {"kernel": "real"})
    seen = {"low": reference["low"], "high": reference["high"]}
    return replace(case, coarse=small, coarse_geometry=grid, description=case.description | seen)


def original_tasks(folder: Path) -> list[tuple[str, OriginalTask]]:
    """Return (name, task) of every real series with a reference."""
    made = [OriginalTask(folder, patient) for patient in real_patients(folder)]
    return [(task.name, task) for task in made]


def real_patients(folder: Path) -> list[str]:
    """Return the names of the real series with a reference."""
    return sorted(path.parent.parent.name for path in folder.glob("*/reference/labels.nrrd"))


def real_tasks(folder: Path, first_seed: int, each: int) -> list[tuple[str, RealTask]]:
    """Return (name, task) of `each` scans of every real series; patients take turns."""
    patients = sorted(path.parent.parent.name for path in folder.glob("*/reference/labels.nrrd"))
    made = [
        RealTask(folder, patient, seed) for seed in range(first_seed, first_seed + each) for patient in patients
    ]
    return [(task.name, task) for task in made]


def facts(
    drawn: dict[str, Any], hu: NDArray[np.int16], labels: NDArray[np.uint8], voxel_mm3: float
) -> dict[str, Any]:
    """Return what breakdowns and samplers need: drawn factors, and calcium that is not coronary in the crop."""
    calcified = labels * (hu >= CALCIUM_HU)
    volumes = np.bincount(calcified.ravel(), minlength=METAL + 1) * voxel_mm3
    kernel = "sharp" if drawn.get("overshoot", 0.0) >= SHARP_OVERSHOOT else "soft"
    return {
        key: value
        for key, value in drawn.items()
        if isinstance(value, int | float | str | bool) or value is None
    } | {
        "kernel": drawn.get("kernel", kernel),
        "aortic_calcium": bool(volumes[AORTA] > 0),
        "valve_calcium": bool(volumes[VALVE] > 0),
        "other_calcium": bool(volumes[OTHER] > 0),
        "metal": bool(volumes[METAL] > 0),
        "non_coronary_mm3": float(round(volumes[AORTA] + volumes[VALVE], 1)),
        "contrast": drawn.get("contrast_hu") is not None,
        "small_field_of_view": drawn.get("field_of_view") == "cardiac",
    }


def tasks(
    first_seed: int,
    count: int,
    part: Literal["heart", "localizer", "whole"],
    distribution: Distribution = "training",
) -> list[tuple[str, SimulatedTask]]:
    """Return (name, task) for consecutive seeds."""
    made = [SimulatedTask(seed, part, distribution) for seed in range(first_seed, first_seed + count)]
    return [(task.name, task) for task in made]


def without(cases: Sequence[CachedCase], patients: Sequence[str]) -> list[CachedCase]:
    """Return the cases that belong to none of `patients`: these stand on the other side of a split."""
    return [case for case in cases if case.patient not in patients]
