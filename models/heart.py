"""The heart box: three slice classifiers, the largest run of heart slices along each axis, a box in mm."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calcium.errors import NotEligibleError, WeightsError
from calcium.geometry import BoxMm
from models.preprocess import AXES, coarse, localizer_input

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from calcium.volume import CTVolume
    from models.device import Runner

    Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LocalizerConfig:
    """How probabilities become a box; a weights manifest may set each value.

    Parameters
    ----------
    grid_mm
        Voxels of the coarse scan, mm.
    smooth_mm
        Width of the moving average over a probability profile, mm.
    enter, stay
        A run needs a slice of at least `enter` and ends where the profile falls below `stay`; its faces lie
        where it crosses `enter`.
    bridge_mm
        Two runs are one heart where the gap between them is at most this, and shorter than either: slices
        through the spine may hide the heart's middle.
    shortest_mm, longest_mm
        Sizes (x, y, z) that an adult heart can have; others are not one.
    grow_mm
        Added to each face (x, y, z): what the networks' boxes lack on validation scans.
    rise_mm
        Added to the upper face (z): readers' heart masks reach higher than boxes that end below the
        bifurcation of the pulmonary trunk (docs/decisions/0012).
    score_margin_mm
        Added to each face (x, y, z) of the region that is scored, so that calcium at the box's faces counts.
    cut
        Probability of the outermost axial slice from which the scan cuts the heart.
    sure
        A slice whose two neighbours both have at least this probability, or at most 1 minus it, is given their
        mean instead of being computed: after smoothing, no single slice there moves a face. Above 1: all are
        computed.
    """

    grid_mm: float = 3.0
    smooth_mm: float = 9.0
    enter: float = 0.5
    stay: float = 0.25
    bridge_mm: float = 24.0
    shortest_mm: tuple[float, float, float] = (70.0, 55.0, 50.0)
    longest_mm: tuple[float, float, float] = (220.0, 200.0, 200.0)
    grow_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rise_mm: float = 0.0
    score_margin_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
    cut: float = 0.8
    sure: float = 0.95

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LocalizerConfig:
        """Return the configuration that a manifest gives.

        Raises
        ------
        WeightsError
            Unknown settings.
        """
        unknown = set(settings) - {entry.name for entry in fields(cls)}
        if unknown:
            raise WeightsError(f"unknown localiser settings: {', '.join(sorted(unknown))}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
        }
        return cls(**values)


def profiles(
    resampled: CTVolume,
    networks: Mapping[str, tuple[nn.Module, ...]],
    config: LocalizerConfig,
    runner: Runner,
) -> tuple[dict[str, Probabilities], dict[str, Probabilities]]:
    """Return for each axis the probability that the heart is in each slice, and the slices' centres.

    Parameters
    ----------
    resampled
        The whole scan, slices of 3.0 mm every 1.5 mm.
    networks
        ``axial``, ``coronal``, ``sagittal``: members of their ensembles.
    config
        Its `grid_mm` counts.
    runner
        Where to compute.

    Returns
    -------
    probabilities, centres
        float64, (slices along the axis,) by axis name; centres in LPS mm.
    """
    hu, geometry = coarse(resampled, config.grid_mm)
    probabilities: dict[str, Probabilities] = {}
    centres: dict[str, Probabilities] = {}
    for number, axis in enumerate(AXES):
        probabilities[axis] = _profile(hu, number, networks[axis], config.sure, runner)
        first, step = geometry.origin_mm[2 - number], geometry.spacing_mm[number]
        centres[axis] = np.asarray(first + step * np.arange(geometry.shape[number]), np.float64)
    return probabilities, centres


def _profile(
    hu: NDArray[np.int16], axis: int, members: Sequence[nn.Module], sure: float, runner: Runner
) -> Probabilities:
    """Return the ensemble's probability in each slice: every second one first, then what lies between."""
    inputs = {
        offsets: torch.from_numpy(localizer_input(hu, axis, offsets)).contiguous(
            memory_format=torch.channels_last  # a third faster on the CPU
        )
        for offsets in {_offsets(network) for network in members}
    }

    def compute(index: NDArray[np.intp]) -> Probabilities:
        found = [
            torch.sigmoid(runner(network, network, (inputs[_offsets(network)][index],))).double().numpy()
            for network in members
        ]
        mean: Probabilities = np.mean(found, axis=0)
        return mean

    count = hu.shape[axis]
    profile = np.zeros(count)
    first = np.unique(np.append(np.arange(0, count, 2), count - 1))
    profile[first] = compute(first)
    between = np.arange(1, count - 1, 2)
    before, after = profile[between - 1], profile[between + 1]
    alike = np.maximum(before, after) <= 1 - sure
    alike |= np.minimum(before, after) >= sure
    profile[between] = (before + after) / 2
    open_ = between[~alike]
    if len(open_):
        profile[open_] = compute(open_)
    return profile


def _offsets(network: nn.Module) -> tuple[int, ...]:
    offsets: tuple[int, ...] = network.config.offsets  # type: ignore[union-attr, assignment]
    return offsets


def smooth(probability: Probabilities, width: int) -> Probabilities:
    """Return the moving average over `width` slices; the outermost slices repeat."""
    half = width // 2
    if half == 0:
        return probability
    padded = np.pad(probability, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def largest_run(
    probability: Probabilities, enter: float, stay: float, bridge: int = 0
) -> tuple[float, float] | None:
    """Return the faces of the run of slices that holds the most probability, in slices, or None.

    A run is where the profile stays at `stay` or above and somewhere reaches `enter`, so that one weak slice
    does not split a heart, and one outlier elsewhere does not enlarge it. Runs with a gap of at most `bridge`
    slices between them, shorter than both, are one.

    Returns
    -------
    low, high
        Fractional slice numbers where the profile crosses `enter`; -0.5 and n - 0.5 where it never does.
    """
    inside = np.flatnonzero(np.diff(np.concatenate([[0], (probability >= stay).astype(int), [0]])))
    runs = [(int(a), int(b)) for a, b in inside.reshape(-1, 2) if probability[a:b].max() >= enter]
    if not runs:
        return None
    runs = _bridged(runs, bridge)
    start, stop = max(runs, key=lambda run: float(probability[run[0] : run[1]].sum()))
    certain = start + np.flatnonzero(probability[start:stop] >= enter)
    first, last = int(certain[0]), int(certain[-1])
    low, high = -0.5, len(probability) - 0.5
    if first > 0:
        low = first - (probability[first] - enter) / (probability[first] - probability[first - 1])
    if last < len(probability) - 1:
        high = last + (probability[last] - enter) / (probability[last] - probability[last + 1])
    return float(low), float(high)


def _bridged(runs: list[tuple[int, int]], bridge: int) -> list[tuple[int, int]]:
    """Return runs, joined where the gap between two is at most `bridge` and shorter than both."""
    for number, ((first, end), (begin, last)) in enumerate(pairwise(runs)):
        if begin - end <= bridge and begin - end < min(end - first, last - begin):
            return _bridged([*runs[:number], (first, last), *runs[number + 2 :]], bridge)
    return runs


def locate(
    resampled: CTVolume,
    networks: Mapping[str, tuple[nn.Module, ...]],
    config: LocalizerConfig,
    runner: Runner,
) -> BoxMm:
    """Return the heart box, LPS mm.

    Raises
    ------
    NotEligibleError
        ``heart_not_found``: an axis without heart slices, or a run of a length that no heart has;
        ``heart_cut``: the first or last axial slice still shows heart.
    """
    probabilities, centres = profiles(resampled, networks, config, runner)
    return box_of(probabilities, centres, config)


def box_of(
    probabilities: Mapping[str, Probabilities], centres: Mapping[str, Probabilities], config: LocalizerConfig
) -> BoxMm:
    """Return the box that the profiles of `profiles` make; raises as `locate` does."""
    low: list[float] = []
    high: list[float] = []
    for axis in reversed(AXES):  # x from sagittal, y from coronal, z from axial slices
        place = len(low)
        at = centres[axis]
        step = float(at[1] - at[0]) if len(at) > 1 else config.grid_mm
        profile = smooth(probabilities[axis], round(config.smooth_mm / step))
        run = largest_run(profile, config.enter, config.stay, round(config.bridge_mm / step))
        if run is None:
            raise NotEligibleError("heart_not_found", f"no {axis} slice shows the heart")
        if axis == "axial":
            # The raw profile: the smoothed one is blunt at the ends.
            for end, slice_number in (("lower", 0), ("upper", -1)):
                touches = run[0] <= 0 if end == "lower" else run[1] >= len(profile) - 1
                if touches and probabilities[axis][slice_number] >= config.cut:
                    raise NotEligibleError("heart_cut", f"the scan ends in the heart at its {end} end")
        size = (run[1] - run[0]) * step
        if not config.shortest_mm[place] <= size <= config.longest_mm[place]:
            raise NotEligibleError(
                "heart_not_found",
                f"{axis} slices that show a heart extend over {size:.0f} mm, a heart over "
                f"{config.shortest_mm[place]:.0f} to {config.longest_mm[place]:.0f} mm",
            )
        grow = config.grow_mm[place]
        rise = config.rise_mm if axis == "axial" else 0.0
        low.append(max(float(at[0]) - step / 2, float(at[0]) + run[0] * step - grow))
        high.append(min(float(at[-1]) + step / 2, float(at[0]) + run[1] * step + grow + rise))
    return BoxMm((low[0], low[1], low[2]), (high[0], high[1], high[2]))
