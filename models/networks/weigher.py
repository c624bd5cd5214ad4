"""Weighs what the classical method would credit: slice score = sum over voxels of credit times weight in 0..1.

The classical method credits every voxel of a lesion >= 130 HU with its area times 1 to 4 (calcium.agatston);
which voxels are coronary is what a reader decides, and what this network learns (docs/decisions/0010). A small
U-Net sees each slice with its neighbours; a 3D ConvNet sees the whole heart at 4 mm, tells where in the heart
the slice lies, and is sampled into the U-Net at a quarter of its resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.networks.halving import JoiningConv2d, halved

CONTEXT_LEVEL = 2  # the U-Net level (a quarter of the resolution) that the context joins


@dataclass(frozen=True, slots=True)
class WeigherConfig:
    """Size and input of a weigher.

    Parameters
    ----------
    grid_mm
        In-plane pixel of the input; a larger heart than `max_pixels` gets larger pixels.
    max_pixels
        Largest side of the input; a multiple of 2 ** (len(channels) - 1).
    soft_offsets, calcium_offsets
        Neighbouring slices (of 1.5 mm) seen through the soft tissue and the calcium window.
    channels
        Of each level of the U-Net, from full resolution down.
    context_mm, context_size
        Voxel and side of the cube that the 3D branch sees, centred on the box.
    context_channels
        Of the 3D branch: at `context_mm`, at twice and at four times that.
    classes
        Auxiliary outputs beside the weight, for training with labels; 0 for none.
    certain
        Highest weight that a lesion must reach to count when scoring (models.lesions); 0: all count.
    """

    grid_mm: float = 1.0
    max_pixels: int = 176
    soft_offsets: tuple[int, ...] = (-4, -2, -1, 0, 1, 2, 4)
    calcium_offsets: tuple[int, ...] = (-2, -1, 0, 1, 2)
    channels: tuple[int, ...] = (8, 16, 32, 48, 64)
    context_mm: float = 4.0
    context_size: int = 48
    context_channels: tuple[int, ...] = (8, 16, 32)
    classes: int = 7
    certain: float = 0.0

    def __post_init__(self) -> None:
        if self.max_pixels % self.stride:
            raise ValueError(f"max_pixels must be a multiple of {self.stride}, not {self.max_pixels}")
        if len(self.channels) <= CONTEXT_LEVEL or len(self.context_channels) != 3:
            raise ValueError("a weigher has at least three levels, and three of context")

    @property
    def stride(self) -> int:
        """Pixels of the input for one of the deepest level; sides are multiples of it."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def inputs(self) -> int:
        """Channels of the input: both windows of the neighbours, and the candidates."""
        return len(self.soft_offsets) + len(self.calcium_offsets) + 1


def _pair(before: int, after: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
    )  # fmt: skip


def _solid(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """One 3x3x3 convolution with batch norm."""
    return nn.Sequential(
        nn.Conv3d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm3d(after),
        nn.ReLU(inplace=True),
    )


class Context(nn.Module):
    """The whole heart at 4 mm, with coordinates -> features at 8 mm that know of all of it.

    Parameters
    ----------
    config
        See WeigherConfig.
    """

    def __init__(self, config: WeigherConfig) -> None:
        super().__init__()
        a, b, c = config.context_channels
        self.fine = nn.Sequential(_solid(4, a), _solid(a, b, 2), _solid(b, b))
        self.coarse = nn.Sequential(_solid(b, c, 2), _solid(c, c), _solid(c, c))
        self.joined = _solid(b + c, b)

    def forward(self, cubes: Tensor) -> Tensor:
        """Return (scan, 16, s/2, s/2, s/2) from cubes (scan, 4, s, s, s)."""
        # torch avoids oneDNN for a single small cube: all but the last layer are quicker with two.
        alone = len(cubes) == 1 and not self.training
        fine = self.fine(cubes.expand(2, *cubes.shape[1:]) if alone else cubes)  # (m, 16, 24, 24, 24)
        coarse = self.coarse(fine)  # (m, 32, 12, 12, 12)
        if alone:
            fine, coarse = fine[:1], coarse[:1]
        coarse = nn.functional.interpolate(coarse, size=fine.shape[2:], mode="trilinear")
        joined: Tensor = self.joined(torch.cat([fine, coarse], dim=1))  # (m, 16, 24, 24, 24)
        return joined


class Weigher(nn.Module):
    """Slices of the heart -> logits of the weight of each pixel.

    Parameters
    ----------
    config
        See WeigherConfig.
    """

    def __init__(self, config: WeigherConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WeigherConfig()
        self.context = Context(config)
        extra = config.context_channels[1] + 3
        befores = (config.inputs, *config.channels[:-1])
        self.down = nn.ModuleList(
            _pair(before + (extra if level == CONTEXT_LEVEL else 0), after)
            for level, (before, after) in enumerate(zip(befores, config.channels, strict=True))
        )
        pairs = list(zip(config.channels[:-1], config.channels[1:], strict=True))
        self.up = nn.ModuleList(_pair(here + below, here) for here, below in pairs)
        self.output = nn.Conv2d(config.channels[0], 1 + config.classes, 1)

    def forward(self, slices: Tensor, places: Tensor, cubes: Tensor, scans: Tensor | None = None) -> Tensor:
        """Return logits of weights (channel 0) and of auxiliary classes (the rest).

        Parameters
        ----------
        slices
            float32 (n, inputs, h, w), h and w multiples of the stride: models.preprocess.weigher_input.
        places
            float32 (n, 3, 2): for x, y, z of each slice, where its two outer faces lie in the cube of its scan;
            the cube's own faces are -1 and 1 (torch's grid_sample without align_corners).
        cubes
            float32 (m, 4, s, s, s): each scan's heart in HU window and its x, y, z relative to the box.
        scans
            int64 (n,), ascending: which cube belongs to each slice; None where there is one cube.

        Returns
        -------
        Tensor
            float32 (n, 1 + classes, h, w).

        Raises
        ------
        ValueError
            `scans` is not ascending.
        """
        return self.weigh(slices, places, self.context(cubes), scans)

    def weigh(self, slices: Tensor, places: Tensor, features: Tensor, scans: Tensor | None = None) -> Tensor:
        """Return what `forward` does, from `features` = ``context(cubes)``, computed once for a scan."""
        maps, kept = slices, []  # (n, 13, 160, 160)
        for level, block in enumerate(self.down):
            if level:
                maps = halved(maps)
            if level == CONTEXT_LEVEL:
                maps = torch.cat([maps, self._sampled(maps, places, features, scans)], dim=1)
            maps = block(maps)  # (n, 64,  10,  10) at last
            kept.append(maps)
        for level in range(len(self.up) - 1, -1, -1):
            maps = self._joined(level, kept[level], maps)  # (n,  8, 160, 160) at last
        output: Tensor = self.output(maps)  # (n,  8, 160, 160)
        return output

    def _joined(self, level: int, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return what a level of the way up makes of its own maps and of those below it."""
        block = self.up[level]
        assert isinstance(block, nn.Sequential)
        if isinstance(block[0], JoiningConv2d):
            maps: Tensor = block[1:](block[0](fine, coarse))
            return maps
        enlarged = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        whole: Tensor = block(torch.cat([fine, enlarged], dim=1))
        return whole

    def split_joins(self) -> None:
        """Compute the same faster from now on (batch norms are folded); not for a network to be stored."""
        for block, fine in zip(self.up, self.config.channels, strict=False):
            assert isinstance(block, nn.Sequential)
            assert isinstance(block[0], nn.Conv2d)
            block[0] = JoiningConv2d(block[0], fine)

    @staticmethod
    def _sampled(maps: Tensor, places: Tensor, features: Tensor, scans: Tensor | None) -> Tensor:
        """Return the context at the pixels of `maps`, and the pixels' positions: (n, 16 + 3, h, w)."""
        n, _, h, w = maps.shape
        step = torch.arange(w, device=maps.device, dtype=maps.dtype).add(0.5).div(w)
        x = places[:, 0, :1] + (places[:, 0, 1:] - places[:, 0, :1]) * step  # (n, w)
        step = torch.arange(h, device=maps.device, dtype=maps.dtype).add(0.5).div(h)
        y = places[:, 1, :1] + (places[:, 1, 1:] - places[:, 1, :1]) * step  # (n, h)
        z = places[:, 2].mean(dim=1)  # (n,)
        grid = torch.stack(
            [x[:, None, :].expand(n, h, w), y[:, :, None].expand(n, h, w), z[:, None, None].expand(n, h, w)],
            dim=3,
        )
        if scans is not None and bool((scans.diff() < 0).any()):
            raise ValueError("the slices of each scan must follow each other: scans is not ascending")
        # All slices of a scan in one call, as the depth of the sampled volume.
        counts = [n] if scans is None else torch.bincount(scans, minlength=len(features)).tolist()
        sampled = torch.cat(
            [
                nn.functional.grid_sample(one[None], part[None], align_corners=False)[0].transpose(0, 1)
                for one, part in zip(features, torch.split(grid, counts), strict=True)
            ]
        )
        return torch.cat([sampled, grid.permute(0, 3, 1, 2).to(sampled.dtype)], dim=1)
