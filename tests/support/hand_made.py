"""Networks whose answer is known, set by hand, and a phantom that they solve; real weights, no mocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume
from models.networks import build
from models.networks.localizer import PYRAMID
from models.weightset import save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LUNG_HU, HEART_HU = -800, 45
HEART = BoxMm((-60.0, -50.0, 40.0), (60.0, 50.0, 130.0))


def phantom(
    *,
    pixel: float = 1.0,
    calcium: bool = True,
    shape: tuple[int, int, int] = (120, 180, 220),
    heart: bool = True,
) -> CTVolume:
    """Return a block of muscle in lung, slices of 3.0 mm every 1.5 mm, with some calcium in it."""
    origin = (-shape[2] * pixel / 2 + pixel / 2, -shape[1] * pixel / 2 + pixel / 2, 0.75)
    geometry = VolumeGeometry(origin, (1.5, pixel, pixel), shape)
    hu = np.full(shape, LUNG_HU, np.int16)
    if heart:
        z, y, x = (origin[2 - axis] + geometry.spacing_mm[axis] * np.arange(shape[axis]) for axis in range(3))
        masks = [
            (values > HEART.low[2 - axis]) & (values < HEART.high[2 - axis])
            for axis, values in enumerate((z, y, x))
        ]
        hu[np.ix_(*masks)] = HEART_HU
    if calcium:
        for place, size, value in (((-20, -10, 80), 6, 250), ((10, 20, 100), 9, 450), ((30, -30, 60), 3, 150)):
            index = [round(i) for i in geometry.to_index(place)]
            half = round(size / pixel / 2)
            hu[
                index[0] - 1 : index[0] + 3,
                index[1] - half : index[1] + half + 1,
                index[2] - half : index[2] + half + 1,
            ] = value
    return CTVolume(hu, geometry, 3.0)


def soft_tissue_classifier() -> nn.Module:
    """Return a slice classifier that says "heart" where the brightest pixel is denser than fat."""
    network = build("slice_classifier", {})
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith(("running_mean", "bias")):
            value.zero_()
        elif name.endswith("running_var") or value.ndim == 1:
            value.fill_(1)
        elif value.ndim > 0:
            value.zero_()
    convolutions = [name for name, value in state.items() if value.ndim == 4]
    for number, name in enumerate(convolutions):
        state[name][0, 1 if number == 0 else 0, 1, 1] = 1.0  # the middle slice, then the first channel
    channels = state[convolutions[-1]].shape[0]
    bins = sum(size * size for size in PYRAMID)
    linear = [name for name, value in state.items() if value.ndim == 2]
    state[linear[0]][0, channels * (bins - 1)] = 1.0  # the whole slice's maximum of the first channel
    state[linear[1]][0, 0] = 1.0
    state[linear[2]][0, 0] = 200.0
    state[linear[2].replace("weight", "bias")][0] = (
        -200.0 * (1000.0 - 300.0) / 4095.0
    )  # between lung and muscle
    network.load_state_dict(state)
    return network.eval()


def weigher(logit: float = 30.0) -> nn.Module:
    """Return a weigher that gives all pixels one weight: 1, unless told otherwise."""
    network = build("weigher", {"channels": [4, 4, 8], "max_pixels": 176, "context_channels": [2, 4, 4]})
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.fill_(logit)
    return network.eval()


def regressor(score: float, target: str = "agatston") -> nn.Module:
    """Return a regressor that gives every slice one score."""
    network = build("regressor", {"channels": 4, "hidden": 8, "target": target})
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.fill_(score)
    return network.eval()


def save(folder: Path, **scorers: nn.Module) -> Path:
    """Write a set of weights with hand-made localisers; the hand-made weigher unless scorers are given."""
    networks = {axis: [soft_tissue_classifier()] for axis in ("axial", "coronal", "sagittal")}
    networks |= {role: [network] for role, network in (scorers or {"weigher": weigher()}).items()}
    save_weights(
        folder, networks,
        name="hand-made", version="1.0", training_data="none: set by hand", date="2026-01-01",
        attribution=["nobody"],
    )  # fmt: skip
    return folder
