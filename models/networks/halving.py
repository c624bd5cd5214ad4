"""Halves maps by the maximum of 2x2 pixels, and joins halved maps with finer ones, quickly for few channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rows (or columns) of a 3x3 kernel that fall on the same coarse pixel, for even and odd fine pixels: an even
# one sees the coarse pixel before its own once, its own twice; an odd one its own twice, the next one once.
_FOLDS = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def halved(maps: Tensor) -> Tensor:
    """Return the maximum of each 2x2 pixels (n, channels, h, w); an odd last row or column stands alone.

    What max_pool2d does with ``ceil_mode``; without gradients several times as fast on CPUs for few channels,
    channels last. With gradients max_pool2d itself is many times as fast.
    """
    if maps.requires_grad:
        return functional.max_pool2d(maps, 2, ceil_mode=True)
    odd = maps.shape[2] % 2, maps.shape[3] % 2
    if any(odd):
        maps = functional.pad(maps, (0, odd[1], 0, odd[0]), value=float("-inf"))
    rows = torch.maximum(maps[:, :, 0::2], maps[:, :, 1::2])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class Halving(nn.Module):
    """`halved` as a layer."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the halved maps."""
        return halved(maps)


class JoiningConv2d(nn.Module):
    """A 3x3 convolution of fine maps joined with coarse ones, of which it makes neither copy nor enlargement.

    The same as the convolution that it is made from, applied to the fine channels followed by the coarse ones
    enlarged twice (nearest neighbour), but with 4 instead of 9 products for each coarse channel and pixel.

    Parameters
    ----------
    joined
        3x3 with a bias, padding 1, stride 1; its first `fine` input channels are the fine ones.
    fine
        Number of fine channels.
    """

    def __init__(self, joined: nn.Conv2d, fine: int) -> None:
        super().__init__()
        if joined.kernel_size != (3, 3) or joined.padding != (1, 1) or joined.stride != (1, 1):
            raise ValueError("only a 3x3 convolution with padding 1 and stride 1 can be split")
        outputs, inputs = joined.out_channels, joined.in_channels
        self.fine = nn.Conv2d(fine, outputs, 3, padding=1, bias=joined.bias is not None)
        self.coarse = nn.Conv2d(inputs - fine, 4 * outputs, 2, padding=1, bias=False)
        folds = torch.tensor(_FOLDS)  # (parity, coarse, kernel)
        with torch.no_grad():
            self.fine.weight.copy_(joined.weight[:, :fine])
            if self.fine.bias is not None and joined.bias is not None:
                self.fine.bias.copy_(joined.bias)
            phases = torch.einsum("pai,qbj,ocij->pqocab", folds, folds, joined.weight[:, fine:])
            self.coarse.weight.copy_(phases.flatten(0, 2))

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return (n, outputs, 2 h, 2 w).

        Parameters
        ----------
        fine
            (n, channels, 2 h, 2 w).
        coarse
            (n, channels, h, w).
        """
        height, width = coarse.shape[2:]
        output: Tensor = self.fine(fine)
        phases = self.coarse(coarse).split(output.shape[1], dim=1)  # each (n, outputs, h + 1, w + 1)
        for number, phase in enumerate(phases):
            row, column = divmod(number, 2)
            output[:, :, row::2, column::2] += phase[:, :, row : row + height, column : column + width]
        return output
