"""Trains the paper's regressors exactly as the paper says (section "Experiments").

50 epochs, mini-batches of 100 axial slices in random order, Adam (0.01, 0.9, 0.999), mean absolute error
between target and prediction, and the epoch with the lowest error on the validation set is kept. Targets are
slice scores or ln(y + 1) of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from calcium.volume import CTVolume
from models.networks.regressor import Regressor, RegressorConfig
from models.preprocess import heart_crop, regressor_input
from models.training.loop import LoopOptions, fit, half_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from models.training.cache import CachedCase

BATCH = 100
# Images are held as 8-bit numbers in memory: 256 steps over the window of 1200 HU.
LEVELS = 255.0


@dataclass(frozen=True, eq=False)
class SliceSet:
    """All slices inside the heart boxes of some scans.

    Parameters
    ----------
    images
        uint8, (slice, 256, 256): models.preprocess.regressor_input times 255.
    voxel_mm
        float32, (slice, 3).
    agatston, volume_mm3
        float32, (slice,): reference slice scores; volume in mm3 of the slice.
    scan
        int64, (slice,): number of the scan.
    """

    images: NDArray[np.uint8]
    voxel_mm: NDArray[np.float32]
    agatston: NDArray[np.float32]
    volume_mm3: NDArray[np.float32]
    scan: NDArray[np.int64]

    def score(self, target: str) -> NDArray[np.float32]:
        """Return the reference slice scores of ``agatston`` or ``volume``."""
        return self.agatston if target == "agatston" else self.volume_mm3


def slices_of(cases: Iterable[CachedCase]) -> SliceSet:
    """Return the slices inside the reference heart boxes of cached cases."""
    images, voxels, agatston, volume, scan = [], [], [], [], []
    for number, case in enumerate(cases):
        crop = heart_crop(CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
        given = regressor_input(crop)
        first = crop.place.start[0] + crop.inside.start[0]
        inside = slice(first, first + len(given.images))
        images.append(np.rint(given.images[:, 0] * LEVELS).astype(np.uint8))
        voxels.append(np.repeat(given.voxel_mm[None], len(given.images), axis=0))
        agatston.append(case.slice_agatston[inside])
        volume.append(case.slice_volume_mm3[inside])
        scan.append(np.full(len(given.images), number))
    return SliceSet(
        np.concatenate(images),
        np.concatenate(voxels),
        np.concatenate(agatston),
        np.concatenate(volume),
        np.concatenate(scan),
    )


def _tensors(data: SliceSet, index: NDArray[np.int64], device: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(data.images[index]).to(device).float().div_(LEVELS)[:, None]
    return images, torch.from_numpy(data.voxel_mm[index]).to(device)


@torch.inference_mode()
def predict(network: nn.Module, data: SliceSet, loop: LoopOptions) -> NDArray[np.float32]:
    """Return the network's outputs for all slices (not yet transformed back), as precise as in training."""
    outputs = []
    half, device = half_precision(loop), loop.device
    for index in np.array_split(np.arange(len(data.scan)), max(1, len(data.scan) // BATCH)):
        with torch.autocast(device, dtype=half, enabled=half is not None):
            outputs.append(network(*_tensors(data, index, device)).float().cpu())
    result: NDArray[np.float32] = torch.cat(outputs).numpy()
    return result


def order_of(
    calcified: NDArray[np.bool_], batch: int, rng: np.random.Generator, *, balanced: bool
) -> NDArray[np.int64]:
    """Return the order in which an epoch shows the slices.

    The paper's is random. Where an eighth of the slices has calcium, the mean absolute error leads to "always
    0" and stays there for hundreds of batches; batches of which half have calcium lead out of it.

    Parameters
    ----------
    calcified
        bool, (slice,): whether the slice has a score.
    batch
        Slices.
    rng
        Of this epoch.
    balanced
        Half of each batch is slices with calcium, repeated as often as needed, and half others.

    Returns
    -------
    numpy.ndarray
        int64: all slices; with `balanced` as many, in whole batches.
    """
    count = len(calcified)
    with_calcium, without = np.flatnonzero(calcified), np.flatnonzero(~calcified)
    if not balanced or min(len(with_calcium), len(without)) == 0:
        return rng.permutation(count)
    steps, half = max(1, count // batch), batch // 2

    def drawn(of: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        passes = -(-steps * number // len(of))
        return np.concatenate([rng.permutation(of) for _ in range(passes)])[: steps * number].reshape(
            steps, number
        )

    return np.concatenate([drawn(with_calcium, half), drawn(without, batch - half)], axis=1).ravel()


def train(
    training: SliceSet,
    validation: SliceSet,
    folder: Path,
    *,
    config: RegressorConfig,
    loop: LoopOptions,
    batch: int = BATCH,
    balanced: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Regressor, dict[str, Any]]:
    """Train one of the eight regressors and return it at its best epoch, with the record.

    Parameters
    ----------
    training, validation
        Slices of different patients.
    folder
        For checkpoint and curves.
    config
        Which of the eight.
    loop
        The paper's options: LoopOptions(epochs=50).
    batch
        Slices; the paper's 100.
    balanced
        In so many epochs at the start, half of each batch is slices with calcium; see `order_of`.
    resume, progress
        See models.training.loop.fit.
    """
    torch.manual_seed(loop.seed)
    network = Regressor(config)
    target = network.target_of(torch.from_numpy(training.score(config.target)))
    calcified = training.score(config.target) > 0
    steps = max(1, len(calcified) // batch)

    def batches(epoch: int) -> Iterator[NDArray[np.int64]]:
        rng = np.random.default_rng([loop.seed, epoch])
        order = order_of(calcified, batch, rng, balanced=epoch <= balanced)
        for step in range(steps):
            yield order[step * batch : (step + 1) * batch]

    def losses(net: nn.Module, index: NDArray[np.int64]) -> dict[str, Tensor]:
        output = net(*_tensors(training, index, loop.device)).float()
        return {"loss": (output - target[index].to(loop.device)).abs().mean()}

    def validate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, Regressor)
        true = net.target_of(torch.from_numpy(validation.score(config.target)))
        found = torch.from_numpy(predict(net, validation, loop))
        return {"validation": float((found - true).abs().mean())}

    record = fit(
        network,
        batches,
        losses,
        validate,
        options=loop,
        folder=folder,
        steps_per_epoch=steps,
        resume=resume,
        progress=progress,
    )
    return network, record
