"""Trains the localiser: for each axis a slice classifier that tells whether the heart is in a slice.

Scans are simulated (chest, neck to abdomen, cardiac field of view, with and without contrast), real series, and
contrast-enhanced scans at 3 mm with heart boxes. All stand on the coarse grid; each visit changes the scan:
crops along all axes, size, rotation, noise, contrast.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from SimpleITK import GetArrayFromImage, ReadImage
from torch import nn
from torch.nn import functional

from calcium.geometry import BoxMm, VolumeGeometry
from calcium.resample import resample
from calcium.series import read_series
from models.networks.localizer import CELL, SliceClassifier, SliceClassifierConfig
from models.preprocess import AXES, coarse, localizer_input
from models.training.anatomy import HEART_BOXES
from models.training.loop import LoopOptions, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from models.training.cache import CachedCase

# Slices 30 mm away tell how deep in the chest one lies; the window tells heart from fat and fluid.
NETWORK = SliceClassifierConfig(
    (-10, -5, -2, 0, 2, 5, 10), inside=True, window_hu=(-160.0, 240.0), least_channels=8
)
GRID_MM = 3.0
PADDED_HU = -1000
# Slices whose share inside the heart is between these are not decided: the box by eye is good to some mm.
SOFT_EDGE_MM = 4.0
LEAST_SLICES = 16  # of a crop, along each axis
INSIDE_LOSS = 3.0  # weight of the cells' cross-entropy beside that of the slices
NEAR_MM = 20.0  # of a face: these slices are drawn three times as often
LUNG_HU = -500  # below this a voxel inside the body is lung; masses and fluid take its place
MASSES, MASS_MM = 4, (6.0, 38.0)  # most masses of a scan that has any, and their radii
BESIDE, BESIDE_MM = 0.5, 30.0  # share of the masses that lie within so many mm of the heart box
ILL = 0.35  # share of the drawn scans
STRETCHES, STRETCH = 4, 0.22  # parts of an axis that are stretched unevenly, and ln of the largest factor
NOWHERE = BoxMm((1e6, 1e6, 1e6), (1e6 + 1, 1e6 + 1, 1e6 + 1))  # the box where a crop holds no heart


@dataclass(frozen=True, eq=False)
class CoarseScan:
    """A whole scan on the localiser's grid.

    Parameters
    ----------
    name, patient
        Whole patients stay on one side of a split.
    hu
        int16, (slice, row, column).
    geometry
        LPS mm.
    box
        Heart box, LPS mm.
    share
        How often it is drawn, relative to the others.
    """

    name: str
    patient: str
    hu: NDArray[np.int16]
    geometry: VolumeGeometry
    box: BoxMm
    share: float = 1.0


def of_cache(cases: Sequence[CachedCase], share: float = 1.0) -> list[CoarseScan]:
    """Return the coarse scans of cached cases that have one."""
    return [
        CoarseScan(case.name, case.patient, case.coarse, case.coarse_geometry, case.heart_box, share)
        for case in cases
        if case.coarse_geometry is not None
    ]


def of_boxes(folder: Path, share: float = 1.0) -> list[CoarseScan]:
    """Return scans at 3 mm isotropic (NRRD, HU) with boxes by eye in ``heart_boxes.json``."""
    boxes = json.loads((folder / "heart_boxes.json").read_text(encoding="utf-8"))
    scans = []
    for path in sorted(folder.glob("*.nrrd")):
        image = ReadImage(str(path))
        hu = np.clip(GetArrayFromImage(image), -1024, 3071).astype(np.int16)
        low, high = boxes[path.stem]
        step = tuple(reversed(image.GetSpacing()))
        geometry = VolumeGeometry(image.GetOrigin(), step, hu.shape)
        scans.append(CoarseScan(path.stem, path.stem, hu, geometry, BoxMm(tuple(low), tuple(high)), share))
    return scans


def of_series(folder: Path, share: float = 1.0) -> list[CoarseScan]:
    """Return the real series of a folder for which HEART_BOXES has a box, whether they may be scored or not."""
    scans = []
    for name, box in HEART_BOXES.items():
        if (folder / name).is_dir():
            hu, geometry = coarse(resample(read_series((folder / name).glob("*.dcm")).volume), GRID_MM)
            scans.append(CoarseScan(name, name, hu, geometry, box, share))
    return scans


@dataclass(frozen=True, slots=True)
class LocalizerOptions:
    """What the localiser's training draws.

    Parameters
    ----------
    steps_per_epoch
        Batches.
    scans_per_batch, slices_per_scan
        A batch's slices of one scan share its crop.
    """

    steps_per_epoch: int = 150
    scans_per_batch: int = 4
    slices_per_scan: int = 20


def _stretched(number: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return an uneven stretch of an axis: old slice of each new one, and new place of each old slice."""
    knots = np.linspace(0, number, STRETCHES + 1)
    rate = np.interp(np.arange(number) + 0.5, (knots[1:] + knots[:-1]) / 2, rng.uniform(-1, 1, STRETCHES))
    place = np.cumsum(np.exp(STRETCH * rate))
    new = np.arange(round(float(place[-1]))) + 0.5
    return np.clip(np.searchsorted(place, new), 0, number - 1), place - 0.5


def _ill(
    hu: NDArray[np.float32],
    spacing: NDArray[np.float64],
    heart: tuple[NDArray[np.float64], NDArray[np.float64]],
    rng: np.random.Generator,
) -> None:
    """Fill lung with tumours, consolidations or fluid, in place: real chests have them beside the heart, too.

    Parameters
    ----------
    hu
        (slice, row, column); patients lie on their back, rows from front to back.
    spacing
        mm of slice, row, column.
    heart
        First and last (slice, row, column) of the heart box; it may lie outside.
    rng
        Decides what and where.
    """
    # Air outside of the body reaches the edges of a slice; what is left is lung, or bowel.
    edge = np.ones(hu.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    air = hu < LUNG_HU
    lung = np.stack([plane & ~ndimage.binary_propagation(edge & plane, mask=plane) for plane in air])
    where = np.argwhere(lung[:, ::2, ::2])
    if not len(where):
        return
    where *= (1, 2, 2)
    margin = BESIDE_MM / spacing
    beside = where[np.all((where > heart[0] - margin) & (where < heart[1] + margin), axis=1)]
    for _ in range(rng.integers(1, MASSES + 1)):
        among = beside if len(beside) and rng.random() < BESIDE else where
        centre = among[rng.integers(len(among))]
        radii = rng.uniform(*MASS_MM) * rng.uniform(0.5, 1.3, 3) * (rng.uniform(1, 2.5), 1, 1) / spacing
        low = np.maximum(0, np.floor(centre - 1.5 * radii)).astype(int)
        high = np.minimum(hu.shape, np.ceil(centre + 1.5 * radii) + 1).astype(int)
        window = tuple(map(slice, low, high))
        at = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        offsets = np.ix_(*((where_ - c) / r for where_, c, r in zip(at, centre, radii, strict=True)))
        bumps = ndimage.zoom(rng.uniform(-0.5, 0.5, (3, 3, 3)), (high - low) / 3, order=1)
        inside = (sum(offset**2 for offset in offsets) + bumps < 1) & lung[window]
        hu[window][inside] = rng.uniform(-20, 70)
    if rng.random() < 0.3:  # fluid, or collapsed lung, at the back
        rows = np.flatnonzero(lung.any(axis=(0, 2)))
        level = rng.uniform(0.45, 0.95)
        back = np.zeros_like(lung)
        back[:, int(rows[0] + level * (rows[-1] - rows[0])) :] = True
        if rng.random() < 0.6:  # one side
            middle = int(np.median(where[:, 2]))
            back[..., slice(0, middle) if rng.random() < 0.5 else slice(middle, None)] = False
        hu[back & lung] = rng.uniform(0, 50)


def augment(scan: CoarseScan, rng: np.random.Generator) -> tuple[NDArray[np.int16], VolumeGeometry, BoxMm]:
    """Return a changed copy: cropped, turned, of another size, proportions, contrast and lungs; never mirrored.

    A crop without any heart has the box `NOWHERE`.
    """
    hu = scan.hu
    low = np.array(scan.geometry.to_index(scan.box.low))
    high = np.array(scan.geometry.to_index(scan.box.high))
    if rng.random() < 0.6:
        for axis in range(3):
            source, place = _stretched(hu.shape[axis], rng)
            low[axis], high[axis] = np.interp([low[axis], high[axis]], np.arange(hu.shape[axis]), place)
            hu = np.take(hu, source, axis)
    spacing = np.array(scan.geometry.spacing_mm) * rng.uniform(0.88, 1.14) * rng.uniform(0.96, 1.04, 3)
    geometry = VolumeGeometry(scan.geometry.origin_mm, tuple(spacing.tolist()), hu.shape)
    box = BoxMm(geometry.to_mm(*low), geometry.to_mm(*high))
    start, stop = np.zeros(3, int), np.array(hu.shape)
    kind = rng.random()
    if kind < 0.3:  # a cardiac field of view: just around the heart
        for axis in range(3):
            start[axis] = max(0, int(low[axis] - rng.uniform(2, 14)))
            stop[axis] = min(hu.shape[axis], int(high[axis] + rng.uniform(3, 15)))
    elif kind < 0.62:  # another length of the scan; it may touch the heart
        start[0] = int(rng.uniform(0, max(1.0, low[0] + 6)))
        stop[0] = min(hu.shape[0], max(int(rng.uniform(high[0] - 4, hu.shape[0] + 1)), start[0] + LEAST_SLICES))
    elif kind < 0.7:  # a scan that ends in the heart
        middle = int(rng.uniform(low[0] + 4, high[0] - 4))
        if rng.random() < 0.5:
            start[0] = min(middle, hu.shape[0] - LEAST_SLICES)
        else:
            stop[0] = max(middle, LEAST_SLICES)
    elif kind < 0.8:  # no heart at all: neck and shoulders, or abdomen
        below, above = int(low[0]) - 2, int(high[0]) + 3
        if above <= hu.shape[0] - LEAST_SLICES and (below < LEAST_SLICES or rng.random() < 0.5):
            start[0], box = above, NOWHERE
        elif below >= LEAST_SLICES:
            stop[0], box = below, NOWHERE
    cropped = hu[tuple(map(slice, start, stop))].astype(np.float32)
    if rng.random() < ILL:
        _ill(cropped, spacing, (low - start, high - start), rng)
    if rng.random() < 0.3:
        angle = float(rng.uniform(-10, 10))
        cropped = ndimage.rotate(
            cropped, angle, axes=(1, 2), reshape=False, order=1, mode="constant", cval=PADDED_HU
        )
    if rng.random() < 0.5:
        cropped = np.where(cropped > -200, 40 + (cropped - 40) * rng.uniform(0.8, 1.2), cropped)
    grain = rng.standard_normal((64, 64), np.float32) * np.float32(rng.uniform(0, 30))
    # One pattern, never twice at one place.
    cropped = cropped + np.resize(grain, cropped.shape) + np.float32(rng.normal(0, 8))
    image = np.clip(np.rint(cropped), -1024, 3071).astype(np.int16)
    return image, VolumeGeometry(geometry.to_mm(*start), geometry.spacing_mm, image.shape), box


def targets(geometry: VolumeGeometry, box: BoxMm, axis: int) -> NDArray[np.float32]:
    """Return for each slice along an array axis how sure the heart is in it: 0, 1, or a ramp at the faces."""
    world = 2 - axis
    centre = geometry.origin_mm[world] + geometry.spacing_mm[axis] * np.arange(geometry.shape[axis])
    depth = np.minimum(centre - box.low[world], box.high[world] - centre)
    ramp: NDArray[np.float32] = np.clip(0.5 + depth / (2 * SOFT_EDGE_MM), 0, 1).astype(np.float32)
    return ramp


def coverage(geometry: VolumeGeometry, box: BoxMm, axis: int) -> NDArray[np.float32]:
    """Return for each slice along an array axis which share of its thickness lies in the box."""
    world, step = 2 - axis, geometry.spacing_mm[axis]
    low = geometry.origin_mm[world] + step * (np.arange(geometry.shape[axis]) - 0.5)
    share = (np.minimum(low + step, box.high[world]) - np.maximum(low, box.low[world])) / step
    clipped: NDArray[np.float32] = np.clip(share, 0, 1).astype(np.float32)
    return clipped


def in_cells(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each cell of CELL x CELL pixels of (h, w); the last cells hold what is left."""
    starts = [np.arange(0, size, CELL) for size in plane.shape]
    height, width = (np.diff(np.append(start, size)) for start, size in zip(starts, plane.shape, strict=True))
    sums = np.add.reduceat(np.add.reduceat(plane, starts[0], axis=0), starts[1], axis=1)
    means: NDArray[np.float32] = (sums / np.multiply.outer(height, width)).astype(np.float32)
    return means


# axis name -> slices (n, channels, h, w), targets (n,), cells (n, h/8, w/8): share of each in the heart box
Slices = dict[str, tuple["Tensor", "Tensor", "Tensor"]]


class Sampler:
    """Draws batches for the three axes at once: an augmented scan serves all of them.

    Parameters
    ----------
    scans
        Of the training set.
    options, config, seed
        With epoch and step they decide everything.
    """

    def __init__(
        self, scans: Sequence[CoarseScan], options: LocalizerOptions, config: SliceClassifierConfig, seed: int
    ) -> None:
        self.scans, self.options, self.config, self.seed = scans, options, config, seed
        share = np.array([scan.share for scan in scans])
        self._probability = share / share.sum()

    def batches(self, epoch: int) -> Iterator[Slices]:
        """Yield batches."""
        for step in range(self.options.steps_per_epoch):
            rng = np.random.default_rng([self.seed, epoch, step])
            chosen = rng.choice(len(self.scans), self.options.scans_per_batch, p=self._probability)
            drawn = [augment(self.scans[number], rng) for number in chosen]
            yield {
                name: _padded([self._slices(*scan, axis, rng) for scan in drawn])
                for axis, name in enumerate(AXES)
            }

    def _slices(
        self, hu: NDArray[np.int16], geometry: VolumeGeometry, box: BoxMm, axis: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        target = targets(geometry, box, axis)
        # Slices near the faces decide the box: they are drawn more often.
        world = 2 - axis
        centre = geometry.origin_mm[world] + geometry.spacing_mm[axis] * np.arange(len(target))
        near = np.minimum(np.abs(centre - box.low[world]), np.abs(centre - box.high[world])) < NEAR_MM
        draw = np.where(near, 3.0, 1.0)
        count = min(self.options.slices_per_scan, len(target))
        index = np.sort(rng.choice(len(target), count, replace=False, p=draw / draw.sum()))
        slices = localizer_input(hu, axis, self.config.offsets, index)
        rows, columns = (coverage(geometry, box, other) for other in range(3) if other != axis)
        cells = target[index][:, None, None] * in_cells(np.multiply.outer(rows, columns))
        return torch.from_numpy(slices), torch.from_numpy(target[index]), torch.from_numpy(cells)


def _padded(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return slices of several scans, padded with air to one size, and their targets and cells."""
    slices, target, cells = (list(kind) for kind in zip(*parts, strict=True))
    return _to_one_size(slices), torch.cat(target), _to_one_size(cells)


def _to_one_size(maps: list[Tensor]) -> Tensor:
    height, width = (max(part.shape[axis] for part in maps) for axis in (-2, -1))
    return torch.cat(
        [functional.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2])) for part in maps]
    )


def losses(networks: nn.Module, batch: Slices, device: str) -> dict[str, Tensor]:
    """Return the losses of a batch: their sum ``loss``, and for each axis the cross-entropy of the slices.

    The cross-entropy of the cells counts too, for networks that tell them.
    """
    assert isinstance(networks, nn.ModuleDict)
    parts, whole = {}, []
    entropy = functional.binary_cross_entropy_with_logits
    for name, (slices, target, cells) in batch.items():
        network = networks[name]
        assert isinstance(network, SliceClassifier)
        images = slices.to(device).to(memory_format=torch.channels_last)
        if network.config.inside:
            logits, inside = network.look(images)
            whole.append(INSIDE_LOSS * entropy(inside.float(), cells.to(device)))
        else:
            logits = network(images)
        parts[name] = entropy(logits.float(), target.to(device))
    return {"loss": torch.stack([*parts.values(), *whole]).sum(), **parts}


@torch.inference_mode()
def profile(network: nn.Module, hu: NDArray[np.int16], axis: int, device: str = "cpu") -> NDArray[np.float64]:
    """Return the probability of heart for each slice along an axis."""
    assert isinstance(network, SliceClassifier)
    slices = torch.from_numpy(localizer_input(hu, axis, network.config.offsets))
    parts = [torch.sigmoid(network(part.to(device)).float()).cpu() for part in torch.split(slices, 32)]
    result: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return result


def validate(networks: nn.Module, scans: Sequence[CoarseScan], device: str) -> dict[str, float]:
    """Return the mean error of the heart's extent, mm of both faces and all axes together (``validation``)."""
    assert isinstance(networks, nn.ModuleDict)
    figures = {}
    for axis, name in enumerate(AXES):
        errors = []
        for scan in scans:
            found = profile(networks[name], scan.hu, axis, device)
            difference = np.abs(found - targets(scan.geometry, scan.box, axis)).sum()
            errors.append(float(difference) * scan.geometry.spacing_mm[axis])
        figures[f"{name}_mm"] = float(np.mean(errors))
    return {"validation": sum(figures.values()), **figures}


def train(
    training: Sequence[CoarseScan],
    validation: Sequence[CoarseScan],
    folder: Path,
    *,
    loop: LoopOptions,
    options: LocalizerOptions | None = None,
    config: SliceClassifierConfig = NETWORK,
    start: dict[str, Tensor] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[nn.ModuleDict, dict[str, Any]]:
    """Train the three slice classifiers, and return them at their best epoch, with the record.

    Parameters
    ----------
    training, validation
        Scans of different patients.
    folder
        For checkpoint and curves.
    loop, options, config
        How, on what, and which networks.
    start
        Weights to begin with (fine-tuning); random when None.
    resume, progress
        See models.training.loop.fit.
    """
    torch.manual_seed(loop.seed)
    options = options or LocalizerOptions()
    networks = nn.ModuleDict({name: SliceClassifier(config) for name in AXES})
    if start is not None:
        networks.load_state_dict(start)
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampler = Sampler(training, options, config, loop.seed)
    record = fit(
        networks,
        sampler.batches,
        lambda net, batch: losses(net, batch, loop.device),
        lambda net: validate(net, validation, loop.device),
        options=loop,
        folder=folder,
        steps_per_epoch=options.steps_per_epoch,
        resume=resume,
        progress=progress,
    )
    return networks, record


@dataclass(frozen=True, slots=True)
class BoxError:
    """How far a found box is from the reference.

    Parameters
    ----------
    name
        Of the scan.
    found
        False where the localiser found no heart; the other figures are then not-a-number.
    iou
        Intersection over union.
    wall_mm
        Mean distance of the six faces.
    centroid_mm
        Distance of the centres.
    faces_mm
        Signed distance of each face, outwards positive: x0, y0, z0, x1, y1, z1.
    """

    name: str
    found: bool
    iou: float
    wall_mm: float
    centroid_mm: float
    faces_mm: tuple[float, ...]


def box_error(name: str, found: BoxMm | None, true: BoxMm) -> BoxError:
    """Return the errors of a box; `found` None is a failure."""
    if found is None:
        nothing = float("nan")
        return BoxError(
            name, found=False, iou=0.0, wall_mm=nothing, centroid_mm=nothing, faces_mm=(nothing,) * 6
        )
    low, high = np.subtract(true.low, found.low), np.subtract(found.high, true.high)
    centre = (np.add(found.low, found.high) - np.add(true.low, true.high)) / 2
    faces = np.concatenate([low, high])
    return BoxError(
        name,
        found=True,
        iou=found.iou(true),
        wall_mm=float(np.abs(faces).mean()),
        centroid_mm=float(np.linalg.norm(centre)),
        faces_mm=tuple(float(value) for value in faces),
    )
