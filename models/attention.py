"""Where the paper's ConvNet looks: its response carried back to the third convolution layer (paper, Fig. 2).

What the sixth layer adds to the output is carried back by transposed convolutions with the kernels that made
it, through the pooling switches, rectified after each layer (deconvolution networks: Zeiler and Fergus, ECCV
2014), to the feature maps of the third convolution layer. Their sum is the joint response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.networks.regressor import Regressor

THIRD = 2  # number of the third layer, from 0
UPSCALING = 4  # its feature maps are 64x64


def joint_response(network: Regressor, slices: Tensor, voxel_mm: Tensor) -> Tensor:
    """Return the joint response of the third convolution layer.

    Parameters
    ----------
    network
        In evaluation mode.
    slices, voxel_mm
        As for the network: (n, 1, 256, 256) and (n, 3).

    Returns
    -------
    Tensor
        float32 (n, 256, 256), at least 0, relative; bilinear from 64x64.
    """
    maps, switches, sizes = slices.to(memory_format=torch.channels_last), [], []
    with torch.no_grad():
        for layer in range(len(network.norms)):
            maps = network.convolve(maps, layer)  # (n, 32, 2s, 2s)
            sizes.append(maps.shape[2:])
            maps, chosen = nn.functional.max_pool2d(maps, 2, return_indices=True)  # (n, 32, s, s)
            switches.append(chosen)
            maps = network.activate(maps, layer)
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        network.head(maps, voxel_mm).sum().backward()  # type: ignore[no-untyped-call]
        assert maps.grad is not None
    with torch.no_grad():
        response = (maps * maps.grad).clamp(min=0)  # (n, 32, 4, 4)
        for layer in range(len(network.norms) - 1, THIRD, -1):
            response = nn.functional.max_unpool2d(response, switches[layer], [2, 2], output_size=sizes[layer])
            response = nn.functional.conv_transpose2d(response, _kernel(network, layer), padding=1).clamp(min=0)
        response = nn.functional.max_unpool2d(response, switches[THIRD], [2, 2], output_size=sizes[THIRD])
        joint = response.sum(dim=1, keepdim=True)  # (n, 1, 64, 64)
        return nn.functional.interpolate(joint, scale_factor=UPSCALING, mode="bilinear")[:, 0]


def _kernel(network: Regressor, layer: int) -> Tensor:
    """Return a layer's kernels as they act after batch norm."""
    norm = network.norms[layer]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return network.kernel(layer) * scale[:, None, None, None]
