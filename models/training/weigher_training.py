"""Trains the weigher (docs/decisions/0010): which share of the classical credit of each pixel is coronary.

The loss has three parts: cross-entropy of the weight over all pixels with credit, the error of the slice score
on the scale ln(score + 1), and cross-entropy of auxiliary classes that name what a bright pixel is. Every batch
mixes simulated scans and real anatomy, and slices with coronary calcium, with other calcium and with neither.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from calcium.agatston import AGATSTON_SLICE_MM, credit_map
from calcium.resample import INCREMENT_MM
from calcium.volume import CTVolume
from models.lesions import certain_lesions, without_metal
from models.networks.weigher import Weigher, WeigherConfig
from models.preprocess import WeigherInput, heart_crop, weigher_input
from models.training.augmentation import (
    CORONARY,
    IGNORE,
    AugmentationConfig,
    Crop,
    augment,
    grown_labels,
)
from models.training.loop import LoopOptions, fit, half_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from models.training.cache import CachedCase

    Float = NDArray[np.float32]

# Label of the cache -> auxiliary class; 7 (ignored) has none, metal (8) counts as other.
CLASS_OF_LABEL = np.array([0, 1, 2, 3, 4, 5, 6, 0, 6])
CLASSES = 7
IMAGE_PIXELS = 112  # side of a training image; what a heart box of 150 mm with its margin needs at 1.5 mm
NETWORK = WeigherConfig(grid_mm=1.5, max_pixels=IMAGE_PIXELS, channels=(16, 32, 32, 48, 64), classes=CLASSES)
# How often slices are drawn: with coronary calcium, with aortic, valve or other calcium, with neither.
CORONARY_DRAW, OTHER_DRAW, PLAIN_DRAW = 6.0, 3.0, 1.0
LEAST_CREDIT = 1e-3  # mm2; pixels with less do not count
SLICE_LOSS, CLASS_LOSS = 0.25, 0.2
SHARPNESS = 4.0  # of the weights when scoring: 0.02 becomes 0.000005
# Trained weight that becomes 0.5: on real series left out of training, true plaques had weights down to
# 0.2, while bone had less than 0.01.
THRESHOLD = 0.3
# Highest trained weight that a lesion needs to count: on scans of patients left out of training, a higher limit
# lost plaques, a lower one gave scans without coronary calcium a score (docs/decisions/0017).
CERTAIN = 0.75
# The localiser of the default weights puts the upper face of the box so much above the reference box.
RISE_MM = 10.0
BUFFER = 8  # batches between two uses of one


@dataclass(frozen=True, slots=True)
class WeigherOptions:
    """What a weigher's training draws.

    Parameters
    ----------
    steps_per_epoch
        Batches.
    scans_per_batch, slices_per_scan
        Their product is the batch.
    window
        Side of the part of the images that is trained on, pixels; a multiple of the network's stride.
    real_share
        Probability that a drawn scan is real anatomy.
    uses
        How often a batch is used before it is drawn anew: drawing costs as much as a step on a CPU.
    augmentation
        Of every drawn scan.
    drawers
        Processes that draw while the network is trained; 0: drawing and training take turns.
    """

    steps_per_epoch: int = 200
    scans_per_batch: int = 3
    slices_per_scan: int = 8
    window: int = 80
    real_share: float = 0.5
    uses: int = 2
    augmentation: AugmentationConfig = AugmentationConfig()  # noqa: RUF009 (frozen)
    drawers: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """Some slices of some scans.

    Parameters
    ----------
    images, places, cubes, scans
        Inputs of the network.
    credit
        float32 (n, h, w): classical Agatston credit of each pixel, mm2 times 1 to 4, without ignored voxels.
    share
        float32 (n, h, w): coronary share of that credit.
    classes
        float32 (n, classes, h, w): share of each class of that credit.
    """

    images: Tensor
    places: Tensor
    cubes: Tensor
    scans: Tensor
    credit: Tensor
    share: Tensor
    classes: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch on a device, images in the layout that convolutions like."""
        images = self.images.to(device).to(memory_format=torch.channels_last)
        rest = (self.places, self.cubes, self.scans, self.credit, self.share, self.classes)
        return Batch(images, *(tensor.to(device) for tensor in rest))


@dataclass(frozen=True, eq=False)
class Part:
    """Some slices of one scan; fields as in Batch, the cube without its first axis."""

    images: Float
    places: Float
    cube: Float
    credit: Float
    share: Float
    classes: Float


class Sampler:
    """Draws batches from cached cases.

    Parameters
    ----------
    cases
        Of the training set; read once, so that an iterator need not hold them all with their own labels.
    options
        What is drawn.
    config
        Of the network that will see them.
    seed
        With the epoch and the step it decides everything.
    times
        How often a case stands among those that are drawn from.
    """

    def __init__(
        self,
        cases: Iterable[CachedCase],
        options: WeigherOptions,
        config: WeigherConfig,
        seed: int,
        times: Callable[[CachedCase], int] = lambda _: 1,
    ) -> None:
        self.options, self.config, self.seed = options, config, seed
        self.crops: list[Crop] = []
        self._real: list[int] = []
        self._simulated: list[int] = []
        for case in cases:
            pool = self._simulated if case.origin == "simulated" else self._real
            pool += [len(self.crops)] * times(case)
            labels = grown_labels(case.hu, case.labels)
            self.crops.append(Crop(CTVolume(case.hu, case.geometry, 3.0), labels, case.heart_box))
        if not self.crops:
            raise ValueError("no training cases")

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: BUFFER fresh ones, then the same again until each is used up."""
        turns = [step % (BUFFER * self.options.uses) for step in range(self.options.steps_per_epoch)]
        fresh = [(self.seed, epoch, step) for step, turn in enumerate(turns) if turn < BUFFER]
        workers = self.options.drawers
        source = iter(DataLoader(_Drawing(self), batch_size=None, sampler=fresh, num_workers=workers))
        drawn: list[Batch] = []
        for turn in turns:
            if turn == 0:
                drawn = []
            if turn < BUFFER:
                drawn.append(next(source))
            yield drawn[turn % BUFFER]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Return one batch."""
        parts: list[Part] = []
        while len(parts) < self.options.scans_per_batch:
            real = bool(self._real) and (not self._simulated or rng.random() < self.options.real_share)
            pool = self._real if real else self._simulated
            part = self._slices(self.crops[pool[rng.integers(len(pool))]], rng)
            if part is not None:
                parts.append(part)
        scans = np.concatenate([np.full(len(part.images), number) for number, part in enumerate(parts)])
        joined = {
            name: torch.from_numpy(np.concatenate([getattr(part, name) for part in parts]))
            for name in ("images", "places", "credit", "share", "classes")
        }
        cubes = torch.from_numpy(np.stack([part.cube for part in parts]))
        return Batch(cubes=cubes, scans=torch.from_numpy(scans), **joined)

    def _slices(self, crop: Crop, rng: np.random.Generator) -> Part | None:
        """Return some slices of an augmented scan, or None where its box holds no credit."""
        changed = augment(crop, self.options.augmentation, rng)
        place = heart_crop(changed.volume, changed.box)
        labels = changed.labels[place.place.slices]
        credit = credit_map(place.volume, place.box)
        found = np.where(credit > 0, labels, 0)
        occupied = np.flatnonzero(credit.any(axis=(1, 2)))
        if not occupied.size:
            return None
        coronary = np.isin(found[occupied], CORONARY).any(axis=(1, 2))
        other = (found[occupied] > max(CORONARY)).any(axis=(1, 2))
        draw = np.where(coronary, CORONARY_DRAW, np.where(other, OTHER_DRAW, PLAIN_DRAW))
        count = min(self.options.slices_per_scan, occupied.size)
        index = np.sort(rng.choice(occupied, count, replace=False, p=draw / draw.sum()))
        given = weigher_input(place, credit, self.config, index=index, size=self.config.max_pixels)
        chosen, names = credit[index], labels[index]
        counted = np.where(names == IGNORE, np.float32(0), chosen)
        carried = given.to_pixels(counted)
        kinds = CLASS_OF_LABEL[names]
        shares = np.stack(
            [given.to_pixels(np.where(kinds == kind, counted, np.float32(0))) for kind in range(CLASSES)],
            axis=1,
        )
        shares /= np.maximum(carried, LEAST_CREDIT)[:, None]
        share = np.clip(shares[:, 1:4].sum(axis=1), 0, 1)
        return self._windowed(given, carried, share, shares, rng)

    def _windowed(
        self, given: WeigherInput, credit: Float, share: Float, classes: Float, rng: np.random.Generator
    ) -> Part:
        """Return the part of the images around a pixel with credit, calcium rather than bone."""
        side, whole = self.options.window, credit.shape[-1]
        draw = (credit * (PLAIN_DRAW + CORONARY_DRAW * share + OTHER_DRAW * (1 - share - classes[:, 0]))).sum(
            axis=0
        )
        draw = np.clip(draw, 0, None).ravel() + 1e-9
        row, column = divmod(int(rng.choice(draw.size, p=draw / draw.sum())), whole)
        offset = rng.integers(-side // 3, side // 3 + 1, 2)
        top, left = (
            int(np.clip(at + o - side // 2, 0, whole - side))
            for at, o in ((row, offset[0]), (column, offset[1]))
        )
        window = (..., slice(top, top + side), slice(left, left + side))
        places = given.places.copy()
        for axis, start in ((0, left), (1, top)):
            first, extent = given.places[:, axis, 0], given.places[:, axis, 1] - given.places[:, axis, 0]
            places[:, axis, 0] = first + extent * start / whole
            places[:, axis, 1] = first + extent * (start + side) / whole
        return Part(given.images[window], places, given.cube, credit[window], share[window], classes[window])


def losses(network: nn.Module, batch: Batch, device: str) -> dict[str, Tensor]:
    """Return the losses of a batch: their sum ``loss``, and ``voxels``, ``slices`` and ``classes``."""
    batch = batch.to(device)
    output = network(batch.images, batch.places, batch.cubes, batch.scans).float()
    logits, kinds = output[:, 0], output[:, 1:]
    counted = batch.credit > LEAST_CREDIT
    # A pixel counts by its area, not by its HU: credit is area times 1 to 4; strong ones a little more.
    mass = torch.sqrt(batch.credit) * counted
    entropy = functional.binary_cross_entropy_with_logits(logits, batch.share, reduction="none")
    positive = (mass * batch.share).sum()
    # Sums, not means, so that the thousands of easy bone pixels do not dilute a single false plaque.
    size = positive + 0.02 * mass.sum() + 20.0
    voxels = (mass * entropy).sum() / size
    predicted = (torch.sigmoid(logits) * batch.credit).sum(dim=(1, 2))
    true = (batch.share * batch.credit).sum(dim=(1, 2))
    slices = (torch.log1p(predicted) - torch.log1p(true)).abs().mean()
    # Bone fills most of the pixels with credit: it counts for less.
    importance = mass * (1 - 0.9 * batch.classes[:, 0])
    cross = -(batch.classes * functional.log_softmax(kinds, dim=1)).sum(dim=1)
    classes = (importance * cross).sum() / (importance.sum() + 20.0)
    return {
        "loss": voxels + SLICE_LOSS * slices + CLASS_LOSS * classes,
        "voxels": voxels,
        "slices": slices,
        "classes": classes,
    }


class _Drawing(Dataset[Batch]):
    """Batches by the numbers that seed them, for torch's loader and its processes."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __getitem__(self, seeds: tuple[int, ...]) -> Batch:
        return self._sampler.batch(np.random.default_rng(seeds))


@dataclass(frozen=True, eq=False)
class Weights:
    """What the weigher says of one scan.

    Parameters
    ----------
    weights
        float32, (slice, row, column) of the crop: weight of each voxel, 0 where there is no credit.
    credit
        float32, same shape.
    """

    weights: Float
    credit: Float


@torch.inference_mode()
def weigh(
    network: Weigher, volume: CTVolume, box: Any, device: str = "cpu", chunk: int = 24
) -> tuple[Weights, Any]:
    """Return the weights of all voxels of a heart box, and the crop they lie in.

    Parameters
    ----------
    network
        In evaluation mode.
    volume
        Resampled, or a cached crop of one.
    box
        Heart box, LPS mm.
    device
        Of the network.
    chunk
        Slices at once.
    """
    place = heart_crop(volume, box)
    credit = credit_map(place.volume, place.box)
    weights = np.zeros_like(credit)
    if not credit.any():
        return Weights(weights, credit), place
    given = weigher_input(place, credit, network.config)
    cubes = torch.from_numpy(given.cube[None]).to(device)
    half = half_precision(LoopOptions(epochs=1, device=device))
    for start in range(0, len(given.index), chunk):
        part = slice(start, start + chunk)
        images = torch.from_numpy(given.images[part]).to(device).to(memory_format=torch.channels_last)
        with torch.autocast(device, dtype=half, enabled=half is not None):
            logits = network(images, torch.from_numpy(given.places[part]).to(device), cubes)[:, 0]
        weights[given.index[part]] = given.to_voxels(torch.sigmoid(logits.float()).cpu().numpy())
    found = without_metal(np.where(credit > 0, weights, np.float32(0)), credit, place.volume.hu)
    voxel_mm3 = place.volume.geometry.voxel_volume_mm3
    return Weights(certain_lesions(found, credit, voxel_mm3, network.config.certain), credit), place


def total(weights: Weights) -> float:
    """Return the total Agatston score."""
    return float((weights.weights * weights.credit).sum(dtype=np.float64)) * INCREMENT_MM / AGATSTON_SLICE_MM


def sharpened(
    network: Weigher, factor: float = SHARPNESS, threshold: float = THRESHOLD, certain: float = CERTAIN
) -> Weigher:
    """Return a copy whose weights are decided: below `threshold` towards 0, above towards 1.

    Training wants graded weights. A score wants decided ones: thousands of bone and noise pixels of weight 0.02
    would add up to a score that no reader would give.

    Parameters
    ----------
    network
        As trained.
    factor
        On the logits of the weight.
    threshold
        The trained weight that becomes 0.5.
    certain
        The trained weight that a lesion must reach somewhere; 0 when every lesion counts.
    """
    copied = copy.deepcopy(network)
    middle = float(np.log(threshold / (1 - threshold)))
    if certain > 0:
        least = factor * (float(np.log(certain / (1 - certain))) - middle)
        copied.config = replace(copied.config, certain=1 / (1 + float(np.exp(-least))))
    with torch.no_grad():
        assert copied.output.bias is not None
        copied.output.bias[0] -= middle
        copied.output.weight[0] *= factor
        copied.output.bias[0] *= factor
    return copied.eval()


def blunted(network: Weigher, factor: float = SHARPNESS, threshold: float = THRESHOLD) -> Weigher:
    """Return a copy with graded weights, as `sharpened` was given it: for training on.

    Parameters are those of `sharpened`.
    """
    copied = copy.deepcopy(network)
    copied.config = replace(copied.config, certain=0.0)
    with torch.no_grad():
        assert copied.output.bias is not None
        copied.output.weight[0] /= factor
        copied.output.bias[0] /= factor
        copied.output.bias[0] += float(np.log(threshold / (1 - threshold)))
    return copied


def validate(network: nn.Module, cases: Sequence[CachedCase], device: str) -> dict[str, float]:
    """Return figures over whole validation scans: error on the log scale (``validation``), ICC, accuracy."""
    from models.training.evaluation import ScanRecord, agreement  # noqa: PLC0415 (validation only)

    assert isinstance(network, Weigher)
    network = sharpened(network)
    started = time.monotonic()
    errors, records = [], []
    for case in cases:
        found, _ = weigh(network, CTVolume(case.hu, case.geometry, 3.0), case.raised_box(RISE_MM), device)
        score = total(found)
        errors.append(abs(np.log1p(score) - np.log1p(case.agatston)))
        records.append(
            ScanRecord(case.name, case.patient, case.origin, case.agatston, case.volume_mm3, {"w": score})
        )
    figure = agreement(records, "w", "agatston")
    return {
        "validation": float(np.mean(errors)),
        "icc": figure.icc.value if figure else float("nan"),
        "accuracy": figure.accuracy.value if figure and figure.accuracy else float("nan"),
        "kappa": figure.kappa.value if figure and figure.kappa else float("nan"),
        "validation_seconds": time.monotonic() - started,
    }


def train(
    training: Iterable[CachedCase],
    validation: Sequence[CachedCase],
    folder: Path,
    loop: LoopOptions,
    options: WeigherOptions | None = None,
    *,
    times: Callable[[CachedCase], int] = lambda _: 1,
    config: WeigherConfig = NETWORK,
    start: dict[str, Tensor] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Weigher, dict[str, Any]]:
    """Train a weigher and return it at its best or last epoch (`loop`), with the record of its training.

    Parameters
    ----------
    training, validation
        Cases of different patients.
    folder
        For checkpoint and curves.
    loop, options, config
        How, on what, and which network.
    times
        How often a training case stands among those that are drawn from.
    start
        Weights to begin with (fine-tuning); random when None.
    resume
        Go on from the checkpoint in `folder`.
    progress
        Show a bar.
    """
    torch.manual_seed(loop.seed)
    options = options or WeigherOptions()
    network = Weigher(config)
    if start is not None:
        network.load_state_dict(start)
    for part in (network.down, network.up, network.output):  # the 3D branch keeps its own layout
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampler = Sampler(training, options, config, loop.seed, times)
    record = fit(
        network,
        sampler.batches,
        lambda net, batch: losses(net, batch, loop.device),
        lambda net: validate(net, validation, loop.device),
        options=loop,
        folder=folder,
        steps_per_epoch=options.steps_per_epoch,
        resume=resume,
        progress=progress,
    )
    return network, record
