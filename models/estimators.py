"""From a heart crop to slice scores and a heat map, one function for each kind of scorer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.attention import joint_response
from models.lesions import INSIDE, certain_lesions, without_metal
from models.networks.regressor import Regressor
from models.networks.weigher import Weigher
from models.preprocess import Samples, averaging, plane, regressor_input, weigher_input

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from models.device import Runner
    from models.preprocess import HeartCrop, RegressorInput

    Float = NDArray[np.float32]

# A first member whose logits in a slice are all below minus this is sure that nothing counts (decision 53).
SURE_LOGIT = 8.0
CREDIT_MEANING = "Agatston score per voxel (adds up to the slice scores)"
JOINT_MEANING = "joint response of the third convolution layer (scaled to the slice scores)"


@dataclass(frozen=True, eq=False, slots=True)
class Estimate:
    """Scores of the slices inside the box.

    Parameters
    ----------
    agatston
        float64, (slices inside,): slice Agatston scores, at least 0.
    volume_mm3
        float64, (slices inside,): calcified volume, at least 0.
    response
        float32, (slices, rows, columns) inside the box, or None.
    meaning
        Of the response.
    highest_hu
        Of the voxels that count as a whole, 0 where none does; None from scorers that cannot say which do.
    """

    agatston: NDArray[np.float64]
    volume_mm3: NDArray[np.float64]
    response: Float | None
    meaning: str
    highest_hu: int | None = None


def weigh(
    networks: Mapping[str, tuple[nn.Module, ...]],
    crop: HeartCrop,
    credit: Float,
    runner: Runner,
    *,
    heat_map: bool,
) -> Estimate:
    """Return what the weigher gives: credit times weight, summed over each slice.

    Parameters
    ----------
    networks
        ``weigher``: the members of the ensemble; the logits of their weights are averaged. In slices where the
        first is sure that nothing counts, nothing does.
    crop
        The heart.
    credit
        float32, shape of the crop: what classical scoring would credit each voxel of the box.
    runner
        Where to compute.
    heat_map
        Whether to return the credited score of each voxel.
    """
    inside = crop.inside
    if not credit.any():
        none = np.zeros(inside.shape[0])
        response = np.zeros(inside.shape, np.float32) if heat_map else None
        return Estimate(none, none.copy(), response, CREDIT_MEANING, highest_hu=0)
    members = networks["weigher"]
    first = members[0]
    assert isinstance(first, Weigher)
    given = weigher_input(crop, credit, first.config)
    images, places = torch.from_numpy(given.images), torch.from_numpy(given.places)
    cube = torch.from_numpy(given.cube)[None]
    total = runner(first, _Logits(first, cube), (images, places))
    covered = images[:, -1] > 0  # by calcium: elsewhere no weight counts
    asked = torch.where(covered, total, -torch.inf).amax(dim=(1, 2)) > -SURE_LOGIT  # a quarter of them
    if asked.any():
        for network in members[1:]:
            assert isinstance(network, Weigher)
            total[asked] += runner(network, _Logits(network, cube), (images[asked], places[asked]))
    weights = torch.sigmoid(total[asked] / len(members)).numpy()
    spread = np.zeros_like(credit)
    spread[given.index[asked.numpy()]] = given.to_voxels(weights)
    geometry = crop.volume.geometry
    spread = without_metal(spread, credit, crop.volume.hu)
    decided = certain_lesions(spread, credit, geometry.voxel_volume_mm3, first.config.certain)[inside.slices]
    candidates = credit[inside.slices]
    credited = decided * candidates
    agatston = credited.sum(axis=(1, 2), dtype=np.float64)
    calcified = np.where(candidates > 0, decided, np.float32(0)).sum(axis=(1, 2), dtype=np.float64)
    volume = calcified * geometry.voxel_volume_mm3
    highest = int(crop.volume.hu[inside.slices][(decided >= INSIDE) & (candidates > 0)].max(initial=0))
    return Estimate(agatston, volume, credited if heat_map else None, CREDIT_MEANING, highest)


class _Logits:
    """One step of the runner: a batch of slices -> logits of weights; context is computed once on a device."""

    def __init__(self, network: Weigher, cube: Tensor) -> None:
        self._network = network
        self._cube = cube
        self._features: Tensor | None = None

    def __call__(self, images: Tensor, places: Tensor) -> Tensor:
        if self._features is None or self._features.device != images.device:
            self._features = self._network.context(self._cube.to(images.device))
        # Channels last is what the CPU's and the GPU's convolutions like best.
        images = images.contiguous(memory_format=torch.channels_last)
        return self._network.weigh(images, places, self._features)[:, 0]


def regress(
    networks: Mapping[str, tuple[nn.Module, ...]],
    crop: HeartCrop,
    credit: Float,
    runner: Runner,
    *,
    heat_map: bool,
) -> Estimate:
    """Return what the paper's regressors give: ``agatston`` and ``volume`` networks on 256x256 slices.

    Parameters are those of `weigh`; the credit is not used. An output below the least score that a slice with
    calcium can have, one pixel of weight 1 (Agatston) or one voxel (volume), is no calcium: a small positive
    output in every slice would add up to a plaque.
    """
    del credit
    given = regressor_input(crop)
    increment, row, column = crop.volume.geometry.spacing_mm
    least = {"agatston": row * column, "volume": increment * row * column}
    images = torch.from_numpy(given.images)
    voxels = torch.from_numpy(given.voxel_mm).expand(len(images), 3)
    scores = {}
    for role in ("agatston", "volume"):
        members = []
        for network in networks[role]:
            assert isinstance(network, Regressor)
            members.append(network.score(runner(network, network, (images, voxels))).double().numpy())
        mean = np.mean(members, axis=0)
        scores[role] = np.where(mean < least[role], 0.0, mean)
    response = None
    if heat_map:
        response = _joint_response(networks["agatston"][0], crop, given, scores["agatston"], runner)
    return Estimate(scores["agatston"], scores["volume"], response, JOINT_MEANING)


def _joint_response(
    network: nn.Module, crop: HeartCrop, given: RegressorInput, scores: NDArray[np.float64], runner: Runner
) -> Float:
    """Return the heat map on the voxels inside the box; each slice adds up to its score."""
    assert isinstance(network, Regressor)
    response = np.zeros(crop.inside.shape, np.float32)
    scored = np.flatnonzero(scores > 0)
    if not scored.size:
        return response
    images = torch.from_numpy(given.images[scored])
    voxels = torch.from_numpy(given.voxel_mm).expand(len(images), 3)
    on_input = runner(network, partial(joint_response, network), (images, voxels)).numpy()
    (top, left), (height, width) = given.corner, given.size
    on_input = np.ascontiguousarray(on_input[:, top : top + height, left : left + width])
    by_row, by_column = (
        averaging(Samples(number / size / 2, number / size, size), Samples(0.5, 1.0, number))
        for size, number in zip((height, width), crop.inside.shape[1:], strict=True)
    )
    joint = plane(by_row, on_input, by_column)
    mass = joint.sum(axis=(1, 2), dtype=np.float64)
    scale = scores[scored] / np.where(mass > 0, mass, 1)
    response[scored] = joint * scale.astype(np.float32)[:, None, None]
    return response


# architecture of the scorer (models.weightset.WeightSet.scorer) -> what makes its estimate
ESTIMATORS: dict[str, Callable[..., Estimate]] = {"weigher": weigh, "regressor": regress}
