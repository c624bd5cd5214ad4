"""Pictures like the paper's Fig. 2: slices of the heart with the response of each network laid over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

from calcium.agatston import credit_map
from calcium.volume import CTVolume
from models.estimators import ESTIMATORS
from models.preprocess import heart_crop
from models.training.augmentation import CORONARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from models.device import Runner
    from models.training.cache import CachedCase
    from models.training.evaluation import ScanRecord
    from models.weightset import WeightSet

    Float = NDArray[np.float32]
    Labels = NDArray[np.uint8]

mpl.use("Agg")
WINDOW_HU = (-160, 240)
INCHES = 3.0


def write_pictures(
    cases: Sequence[CachedCase], sets: Mapping[str, WeightSet], runner: Runner, path: Path
) -> None:
    """Write a picture: for each case its most telling slice, with the labels and with each network's response.

    Parameters
    ----------
    cases
        A row each.
    sets
        Title -> weights; a column each. Responses are coloured from 0 to their highest value in the slice.
    runner
        Where to compute.
    path
        PNG.
    """
    columns = 1 + len(sets)
    canvas, grid = plt.subplots(
        len(cases),
        columns,
        figsize=(INCHES * columns, INCHES * len(cases)),
        squeeze=False,
        layout="constrained",
    )
    for case, row in zip(cases, grid, strict=True):
        crop = heart_crop(CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
        credit = credit_map(crop.volume, crop.box)
        hu = crop.volume.hu[crop.inside.slices]
        labels = case.labels[crop.place.slices][crop.inside.slices]
        number = telling_slice(labels)
        _image(row[0], hu[number])
        _outline(row[0], labels[number])
        row[0].set_title("red coronary, cyan other", fontsize=8)
        for plot, (title, weights) in zip(row[1:], sets.items(), strict=True):
            with torch.no_grad():
                estimate = ESTIMATORS[weights.scorer](weights.networks, crop, credit, runner, heat_map=True)
            assert estimate.response is not None
            _image(plot, hu[number])
            _heat(plot, estimate.response[number])
            plot.set_title(f"{title}: {estimate.agatston[number]:.0f}", fontsize=8)
    canvas.savefig(path, dpi=100)
    plt.close(canvas)


def chosen(paths: Sequence[Path], records: Sequence[ScanRecord], count: int) -> list[Path]:
    """Return up to `count` cases with coronary calcium, first those with other calcium in the box, too."""
    with_calcium = [
        (not (record.description.get("aortic_calcium") or record.description.get("valve_calcium")), number)
        for number, record in enumerate(records)
        if record.agatston >= 1
    ]
    return [paths[number] for _, number in sorted(with_calcium)[:count]]


def telling_slice(labels: Labels) -> int:
    """Return the slice with the most coronary calcium, one with other calcium too where there is one."""
    coronary = np.isin(labels, CORONARY).sum(axis=(1, 2))
    other = (labels > max(CORONARY)).sum(axis=(1, 2))
    both = np.where(other > 0, coronary, 0)
    return int(np.argmax(both if both.any() else coronary if coronary.any() else other))


def _image(plot: Axes, hu: NDArray[np.int16]) -> None:
    plot.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
    plot.set_axis_off()


def _outline(plot: Axes, labels: Labels) -> None:
    for where, colour in ((np.isin(labels, CORONARY), "red"), (labels > max(CORONARY), "cyan")):
        if where.any():
            plot.contour(where, [0.5], colors=colour, linewidths=0.8)


def _heat(plot: Axes, response: Float) -> None:
    highest = float(response.max(initial=0))
    if highest > 0:
        share = response / highest
        plot.imshow(share, cmap="autumn", vmin=0, vmax=1, alpha=np.sqrt(share))
