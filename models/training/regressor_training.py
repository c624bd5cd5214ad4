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
    from collections.abc import Iterator, Sequence
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


def slices_of(cases: Sequence[CachedCase]) -> SliceSet:
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
def predict(network: nn.Module, data: SliceSet, device: str = "cpu") -> NDArray[np.float32]:
    """Return the network's outputs for all slices (not yet transformed back)."""
    outputs = []
    half = half_precision(LoopOptions(epochs=1, device=device))
    for index in np.array_split(np.arange(len(data.scan)), max(1, len(data.scan) // BATCH)):
        with torch.autocast(device, dtype=half, enabled=half is not None):
            outputs.append(network(*_tensors(data, index, device)).float().cpu())
    result: NDArray[np.float32] = torch.cat(outputs).numpy()
    return result


def train(
    training: SliceSet,
    validation: SliceSet,
    folder: Path,
    *,
    config: RegressorConfig,
    loop: LoopOptions,
    batch: int = BATCH,
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
    resume, progress
        See models.training.loop.fit.
    """
    torch.manual_seed(loop.seed)
    network = Regressor(config)
    target = network.target_of(torch.from_numpy(training.score(config.target)))
    count = len(training.scan)
    steps = max(1, count // batch)

    def batches(epoch: int) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng([loop.seed, epoch]).permutation(count)
        for step in range(steps):
            yield order[step * batch : (step + 1) * batch]

    def losses(net: nn.Module, index: NDArray[np.int64]) -> dict[str, Tensor]:
        output = net(*_tensors(training, index, loop.device)).float()
        return {"loss": (output - target[index].to(loop.device)).abs().mean()}

    def validate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, Regressor)
        true = net.target_of(torch.from_numpy(validation.score(config.target)))
        found = torch.from_numpy(predict(net, validation, loop.device))
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
