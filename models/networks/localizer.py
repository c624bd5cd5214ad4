"""Tells for one axial, coronal or sagittal slice whether the heart is in it.

Three of these, one for each axis, make the heart box (paper, section "Method", after De Vos et al. 2016). The
layers are those of BoBNet, the same group's open code; the width is scaled down so that all slices of a scan
take a fraction of a second on two CPU cores. Beyond the paper, a network may also tell which part of a slice
lies in the heart box: with that, each of the three axes is judged by all three networks (models.heart).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.networks.halving import Halving


@dataclass(frozen=True, slots=True)
class SliceClassifierConfig:
    """Size of a slice classifier.

    Parameters
    ----------
    offsets
        Slices seen at once, as channels, in slices of the coarse grid relative to the one judged. The paper
        judges single slices; neighbours make the first and the last heart slice sharper.
    width
        Factor on BoBNet's numbers of channels.
    inside
        Whether the network also tells where in the slice the heart box is (`SliceClassifier.look`).
    window_hu
        Low and high end of a window: all slices seen are shown in it, the one judged as it is, too. None: all
        as they are.
    least_channels
        Least number of channels of a layer.
    """

    offsets: tuple[int, ...] = (-2, 0, 2)
    width: float = 0.25
    inside: bool = False
    window_hu: tuple[float, float] | None = None
    least_channels: int = 4

    def channels(self, of_bobnet: int) -> int:
        """Return BoBNet's number of channels, scaled."""
        return max(self.least_channels, round(of_bobnet * self.width))


# BoBNet: channels of each convolution, P for 2x2 max pooling.
BOBNET: tuple[int | str, ...] = (16, "P", 32, "P", 64, 64, "P", 128, 128, "P", 128, 128)
PYRAMID = (4, 2, 1)  # spatial pyramid pooling: any slice size gives 16 + 4 + 1 bins
HIDDEN = 128
HU_SCALE, HU_FROM = 4095.0, -1000.0  # of the input, to HU
CELL = 8  # pixels a side that one cell of the inside map stands for: three halvings


class SliceClassifier(nn.Module):
    """(slice, channel, height, width) of any size -> one logit a slice.

    Parameters
    ----------
    config
        Its size.
    """

    def __init__(self, config: SliceClassifierConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SliceClassifierConfig()
        layers: list[nn.Module] = []
        before = len(config.offsets) + (config.window_hu is not None)
        self._tap, tapped = 0, before
        for step in BOBNET:
            if step == "P":  # the inside map is read before the last one
                self._tap, tapped = len(layers), before
                layers.append(Halving())
                continue
            after = config.channels(int(step))
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*layers)
        if config.inside:
            self.inside = nn.Conv2d(tapped, 1, 1)
        hidden = config.channels(HIDDEN)
        bins = sum(size * size for size in PYRAMID)
        self.head = nn.Sequential(
            nn.Linear(before * bins, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, slices: Tensor) -> Tensor:
        """Return logits.

        Parameters
        ----------
        slices
            float32 (n, len(offsets), height, width), (HU + 1000) / 4095 clipped to 0..1; from
            models.preprocess.localizer_input.

        Returns
        -------
        Tensor
            float32 (n,), above 0 for "heart".
        """
        return self._judged(self._maps(slices))

    def look(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits as `forward` does, and logits (n, h/8, w/8) of the share of each cell in the heart box.

        A cell stands for CELL x CELL pixels; the last ones for what is left. For networks made with `inside`.
        """
        maps = self._maps(slices)
        return self._judged(maps), self.inside(maps)[:, 0]

    def _maps(self, slices: Tensor) -> Tensor:
        if self.config.window_hu is not None:
            low, high = self.config.window_hu
            middle = self.config.offsets.index(0)
            windowed = ((slices * HU_SCALE + HU_FROM - low) / (high - low)).clamp(0, 1)
            slices = torch.cat([slices[:, middle : middle + 1], windowed], dim=1)
        maps: Tensor = self.features[: self._tap](slices)  # (n, 32, h/8, w/8)
        return maps

    def _judged(self, maps: Tensor) -> Tensor:
        maps = self.features[self._tap :](maps)  # (n, 32, h/16, w/16)
        bins = [nn.functional.adaptive_max_pool2d(maps, size).flatten(1) for size in PYRAMID]
        logits: Tensor = self.head(torch.cat(bins, dim=1))  # (n, 672) -> (n, 1)
        return logits[:, 0]
