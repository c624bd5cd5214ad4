"""From a CT volume to predicted calcium scores: the one public verb of the networks."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from calcium.agatston import AGATSTON_SLICE_MM, credit_map
from calcium.errors import NotEligibleError
from calcium.geometry import BoxMm, VoxelBox
from calcium.heart_checks import NOISE_LIMIT_HU, check_heart
from calcium.resample import resample
from models.device import Runner
from models.estimators import ESTIMATORS
from models.heart import LocalizerConfig, locate
from models.memory import keep_memory
from models.options import ScoringOptions
from models.preprocess import heart_crop
from models.results import Caution, HeatMap, ScoringResult, SliceScore
from models.weightset import WeightSet, load_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from calcium.volume import CTVolume
    from models.preprocess import HeartCrop

# A regressed total this much above the classical bound is told; less is rounding. Agatston units.
BOUND_FUZZ = 0.5
# Plaques seldom reach this in slices of 3 mm; stents and clips often do, still below METAL_HU.
DENSE_HU = 1300


class Scorer:
    """Scores CT volumes with one set of weights.

    Parameters
    ----------
    weights
        From models.weightset.load_weights.
    options
        Device, threads, batch.
    """

    def __init__(self, weights: WeightSet, options: ScoringOptions | None = None) -> None:
        self.weights = weights
        self.options = options or ScoringOptions()
        self._localizer = LocalizerConfig.of(weights.localizer)
        self._runner = Runner(self.options.torch_device, self.options.batch)
        self._estimate = ESTIMATORS[weights.scorer]
        self._noise_limit = float(weights.manifest.get("figures", {}).get("noise_limit_hu", NOISE_LIMIT_HU))
        if self.options.threads:
            torch.set_num_threads(self.options.threads)

    @classmethod
    def load(cls, options: ScoringOptions | None = None) -> Scorer:
        """Return a scorer with the weights that the options name.

        Raises
        ------
        SettingsError
            A setting is wrong.
        WeightsError
            The weights are absent or differ from their manifest.
        """
        options = options or ScoringOptions.read()
        keep_memory(all_of_it=False)
        return cls(load_weights(options.weights), options)

    def score(self, volume: CTVolume) -> ScoringResult:
        """Return the predicted scores of a volume.

        Parameters
        ----------
        volume
            A whole non-contrast chest or cardiac CT, on any slice grid.

        Raises
        ------
        NotEligibleError
            ``heart_not_found``, ``heart_cut``, ``contrast_in_blood``.
        ResourcesError
            Out of memory.
        """
        seconds: dict[str, float] = {}
        with torch.inference_mode(), _timed(seconds, "resample"):
            resampled = resample(volume)
        with torch.inference_mode(), _timed(seconds, "localise"):
            box = locate(resampled, self.weights.networks, self._localizer, self._runner)
        with _timed(seconds, "check"):
            findings = check_heart(resampled, box, noise_limit_hu=self._noise_limit)
            if findings.refusal is not None:
                raise NotEligibleError(findings.refusal.code, findings.refusal.text)
            crop = heart_crop(resampled, self._region(box))
            credit = credit_map(crop.volume, crop.box)
        with torch.no_grad(), _timed(seconds, "score"):
            estimate = self._estimate(
                self.weights.networks, crop, credit, self._runner, heat_map=self.options.heat_map
            )
        geometry = crop.volume.geometry
        share = geometry.spacing_mm[0] / AGATSTON_SLICE_MM
        agatston = float(estimate.agatston.sum()) * share
        cautions = [Caution(*finding) for finding in findings.cautions]
        bound = float(credit.sum(dtype=np.float64)) * share
        if agatston > bound + BOUND_FUZZ:
            text = f"predicted {agatston:.0f}, but all voxels >= 130 HU in the heart box would give {bound:.0f}"
            cautions.insert(0, Caution("above_bound", text))
        if estimate.highest_hu is not None and estimate.highest_hu >= DENSE_HU:
            cautions.append(
                Caution("dense_calcium", f"what counts reaches {estimate.highest_hu} HU: a stent is possible")
            )
        calibration = self.weights.calibration
        first = crop.inside.start[0]
        return ScoringResult(
            agatston=agatston,
            volume_mm3=float(estimate.volume_mm3.sum()),
            heart_box=box,
            slice_scores=tuple(
                SliceScore(geometry.z_mm(first + number), float(score), float(part))
                for number, (score, part) in enumerate(zip(estimate.agatston, estimate.volume_mm3, strict=True))
            ),
            weights=self.weights.identity,
            resampled=resampled,
            agatston_interval=calibration.interval(agatston) if calibration else None,
            interval_coverage=calibration.coverage if calibration else 0.95,
            group_probabilities=calibration.probabilities(agatston) if calibration else None,  # type: ignore[arg-type]
            cautions=tuple(cautions),
            heat_map=_heat_map(crop, estimate.response, estimate.meaning),
            seconds=seconds,
        )

    def _region(self, box: BoxMm) -> BoxMm:
        """Return the box with the margin that is scored too."""
        margin = self._localizer.score_margin_mm
        return BoxMm(
            tuple(edge - m for edge, m in zip(box.low, margin, strict=True)),  # type: ignore[arg-type]
            tuple(edge + m for edge, m in zip(box.high, margin, strict=True)),  # type: ignore[arg-type]
        )


def _heat_map(crop: HeartCrop, response: NDArray[np.float32] | None, meaning: str) -> HeatMap | None:
    """Return the response in voxels of the whole resampled scan."""
    if response is None:
        return None
    (s, r, c), (slices, rows, columns) = crop.place.start, response.shape
    ds, dr, dc = crop.inside.start
    corner = (s + ds, r + dr, c + dc)
    return HeatMap(
        VoxelBox(corner, (corner[0] + slices, corner[1] + rows, corner[2] + columns)), response, meaning
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = time.perf_counter() - started
