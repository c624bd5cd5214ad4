"""The heart box: three slice classifiers, the largest run of heart slices along each axis, a box in mm.

Networks that also tell where in their slices the box is judge the other two axes, too (docs/decisions/0016).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calcium.errors import NotEligibleError, WeightsError
from calcium.geometry import BoxMm
from models.networks.localizer import CELL
from models.preprocess import AXES, coarse, localizer_input

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from calcium.volume import CTVolume
    from models.device import Runner

    Probabilities = NDArray[np.float64]

# Probability of heart below which the first of several networks is not doubted (decision 54).
SEES_NONE = 0.01
EXTENT_ROUNDS = 5  # of alternating least squares
TINY = 1e-9


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


@dataclass(frozen=True, eq=False)
class Profiles:
    """What the three networks say of a scan, by axis name.

    Parameters
    ----------
    slices
        float64, (slices along the axis,): probability of heart in each slice, by the network of that axis.
    joint
        The same by all three networks, their mean; what the box is made from. Equal to `slices` for networks
        that do not tell where in a slice the box is.
    centres
        float64, (slices along the axis,): LPS mm.
    """

    slices: Mapping[str, Probabilities]
    joint: Mapping[str, Probabilities]
    centres: Mapping[str, Probabilities]


def profiles(
    resampled: CTVolume,
    networks: Mapping[str, tuple[nn.Module, ...]],
    config: LocalizerConfig,
    runner: Runner,
) -> Profiles:
    """Return for each axis the probability that the heart is in each slice.

    Parameters
    ----------
    resampled
        The whole scan, slices of 3.0 mm every 1.5 mm.
    networks
        ``axial``, ``coronal``, ``sagittal``: members of their ensembles.
    config
        Its `grid_mm` and `sure` count.
    runner
        Where to compute.
    """
    hu, geometry = coarse(resampled, config.grid_mm)
    slices: dict[str, Probabilities] = {}
    centres: dict[str, Probabilities] = {}
    extents: tuple[list[Probabilities], ...] = ([], [], [])
    for number, axis in enumerate(AXES):
        slices[axis], inside = _looked(hu, number, networks[axis], config.sure, runner)
        first, step = geometry.origin_mm[2 - number], geometry.spacing_mm[number]
        centres[axis] = np.asarray(first + step * np.arange(geometry.shape[number]), np.float64)
        if inside is not None:
            others = [other for other in range(3) if other != number]
            for other, extent in zip(others, box_extents(inside, slices[axis]), strict=True):
                extents[other].append(_of_cells(extent, geometry.shape[other]))
    joint = {axis: np.mean([slices[axis], *extents[number]], axis=0) for number, axis in enumerate(AXES)}
    return Profiles(slices, joint, centres)


def box_extents(inside: NDArray[np.float64], slices: Probabilities) -> tuple[Probabilities, Probabilities]:
    """Return the extents of a box along rows and columns that the inside maps of all slices tell together.

    The box-shaped map (slice probability times row extent times column extent) that is nearest to the maps,
    by least squares: what a few slices show elsewhere, such as the aorta behind the heart, hardly counts.

    Parameters
    ----------
    inside
        (slice, row, column): share of each cell that is in the box, 0..1.
    slices
        (slice,): probability that the heart is in it, 0..1.

    Returns
    -------
    rows, columns
        0 to the largest of `slices`, which each reaches: a network that sees no heart tells no extent.
    """
    weighed = np.einsum("nhw,n->hw", inside, slices)
    rows, columns = np.zeros(weighed.shape[0]), weighed.max(axis=0)
    for _ in range(EXTENT_ROUNDS):
        rows = weighed @ columns
        rows /= max(float(rows.max()), TINY)
        columns = rows @ weighed
        columns /= max(float(columns.max()), TINY)
    seen = float(slices.max())
    return rows * seen, columns * seen


def _of_cells(extent: Probabilities, slices: int) -> Probabilities:
    """Return the extent of each slice from that of cells of CELL slices."""
    at = (np.arange(slices) + 0.5) / CELL - 0.5
    return np.interp(at, np.arange(len(extent)), extent)


def _looked(
    hu: NDArray[np.int16], axis: int, members: Sequence[nn.Module], sure: float, runner: Runner
) -> tuple[Probabilities, NDArray[np.float64] | None]:
    """Return what an ensemble says of each slice: every second one first, then what lies between.

    Returns
    -------
    probabilities
        (slice,).
    inside
        (slice, h/8, w/8), mean of the members that have such a map; None where none has.

    Where the first member sees no heart (`SEES_NONE`), both are its own.
    """
    seeing = sum(_sees(network) for network in members)
    plane = [-(-size // CELL) for number, size in enumerate(hu.shape) if number != axis] if seeing else [0, 0]

    def compute(index: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return (index, 1 + cells): the probability, then the inside map."""
        inputs = {
            offsets: torch.from_numpy(localizer_input(hu, axis, offsets, index)).contiguous(
                memory_format=torch.channels_last  # a third faster on the CPU
            )
            for offsets in {_offsets(network) for network in members}
        }
        total, judged = np.zeros((len(index), 1 + plane[0] * plane[1])), np.zeros((len(index), 2))
        asked = np.arange(len(index))
        for number, network in enumerate(members):
            if number == 1:  # where the first sees no heart at all, its word stands
                asked = asked[total[:, 0] >= SEES_NONE]
            if not len(asked):
                break
            given = inputs[_offsets(network)][asked]
            found = torch.sigmoid(runner(network, _both(network), (given,))).double().numpy()
            total[asked, : found.shape[1]] += found
            judged[asked] += [1, found.shape[1] > 1]
        total[:, 0] /= judged[:, 0]
        total[:, 1:] /= np.maximum(judged[:, 1:], 1)
        return total

    count = hu.shape[axis]
    known = np.zeros((count, 1 + plane[0] * plane[1]))
    first = np.unique(np.append(np.arange(0, count, 2), count - 1))
    known[first] = compute(first)
    between = np.arange(1, count - 1, 2)
    before, after = known[between - 1], known[between + 1]
    alike = np.maximum(before[:, 0], after[:, 0]) <= 1 - sure
    alike |= np.minimum(before[:, 0], after[:, 0]) >= sure
    known[between] = (before + after) / 2
    open_ = between[~alike]
    if len(open_):
        known[open_] = compute(open_)
    return known[:, 0], known[:, 1:].reshape(count, *plane) if seeing else None


def _sees(network: nn.Module) -> bool:
    return bool(network.config.inside)  # type: ignore[union-attr]


def _both(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what computes (slices, 1 + cells) logits: of the slice, then of its inside map if there is one."""

    def look(slices: Tensor) -> Tensor:
        logits, inside = network.look(slices)  # type: ignore[operator]
        return torch.cat([logits[:, None], inside.flatten(1)], dim=1)

    def judge(slices: Tensor) -> Tensor:
        logits: Tensor = network(slices)
        return logits[:, None]

    return look if _sees(network) else judge


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
    return box_of(profiles(resampled, networks, config, runner), config)


def box_of(found: Profiles, config: LocalizerConfig) -> BoxMm:
    """Return the box that profiles make; raises as `locate` does."""
    low: list[float] = []
    high: list[float] = []
    for axis in reversed(AXES):  # x from sagittal, y from coronal, z from axial slices
        place = len(low)
        at = found.centres[axis]
        step = float(at[1] - at[0]) if len(at) > 1 else config.grid_mm
        own, run = (
            largest_run(
                smooth(profile, round(config.smooth_mm / step)),
                config.enter,
                config.stay,
                round(config.bridge_mm / step),
            )
            for profile in (found.slices[axis], found.joint[axis])
        )
        if own is None or run is None:  # each network has to see the heart
            raise NotEligibleError("heart_not_found", f"no {axis} slice shows the heart")
        if axis == "axial":
            # The axial network's own, raw profile: joint and smoothed ones are blunt at the ends.
            for end, slice_number in (("lower", 0), ("upper", -1)):
                touches = own[0] <= 0 if end == "lower" else own[1] >= len(at) - 1
                if touches and found.slices[axis][slice_number] >= config.cut:
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
