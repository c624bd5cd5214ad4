"""The paper's regression ConvNet: one axial slice of the heart -> its calcium score (section "Method", Fig. 1).

Six 3x3 convolutions, each with 2x2 max pooling, two fully connected layers and one output node; batch
normalisation after each hidden layer, exponential linear units; voxel dimensions appended to the input of the
first fully connected layer. The paper's eight networks are {separate, shared kernels} x {y, ln(y + 1)} x
{Agatston, volume}.

The paper does not give the numbers of channels: 32 and 256 are ours. Sharing kernels across layers needs the
same number of channels in all of them. The first layer has one input channel: the slice is taken as if
replicated to all input channels, which equals a convolution with the kernels summed over their input channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

INPUT_PIXELS = 256
LAYERS = 6
TARGETS = ("agatston", "volume")
# ln(252,000): what 256x256 pixels of 0.98 mm would score if all were >= 400 HU. Keeps exp finite.
MAX_LOG_SCORE = 12.4


@dataclass(frozen=True, slots=True)
class RegressorConfig:
    """Which of the paper's eight networks, and its size.

    Parameters
    ----------
    target
        ``agatston`` (slice Agatston score) or ``volume`` (slice volume score, mm3).
    log_target
        The network gives ln(y + 1) (experiments iii and iv) instead of y (i and ii).
    shared_kernels
        All convolutions share their weights and have their own biases (experiments ii and iv).
    channels
        Of each convolution.
    hidden
        Units of each fully connected layer.
    """

    target: str = "agatston"
    log_target: bool = False
    shared_kernels: bool = False
    channels: int = 32
    hidden: int = 256

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {TARGETS}, not {self.target!r}")

    @property
    def experiment(self) -> str:
        """The paper's number of the experiment: i, ii, iii or iv."""
        return ("i", "ii", "iii", "iv")[2 * self.log_target + self.shared_kernels]


class Regressor(nn.Module):
    """Axial heart slices, cropped and zero-padded to 256x256, to transformed slice scores.

    Parameters
    ----------
    config
        Which of the eight, and its size.
    """

    def __init__(self, config: RegressorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RegressorConfig()
        c, hidden = config.channels, config.hidden
        if config.shared_kernels:
            self.kernels = nn.ParameterList([nn.Parameter(torch.empty(c, c, 3, 3))])
        else:
            inputs = [1] + [c] * (LAYERS - 1)
            self.kernels = nn.ParameterList([nn.Parameter(torch.empty(c, i, 3, 3)) for i in inputs])
        for kernel in self.kernels:
            nn.init.kaiming_normal_(kernel)
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(c)) for _ in range(LAYERS)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(c) for _ in range(LAYERS)])
        side = INPUT_PIXELS >> LAYERS  # 4
        self.first = nn.Linear(c * side * side + 3, hidden)
        self.first_norm = nn.BatchNorm1d(hidden)
        self.second = nn.Linear(hidden, hidden)
        self.second_norm = nn.BatchNorm1d(hidden)
        self.output = nn.Linear(hidden, 1)

    def kernel(self, layer: int) -> Tensor:
        """Return the (out, in, 3, 3) kernels of a layer, 0 to 5."""
        if not self.config.shared_kernels:
            kernel: Tensor = self.kernels[layer]
            return kernel
        shared: Tensor = self.kernels[0]
        return shared.sum(dim=1, keepdim=True) if layer == 0 else shared

    def convolve(self, maps: Tensor, layer: int) -> Tensor:
        """Return the convolution of one layer, before its pooling."""
        return nn.functional.conv2d(maps, self.kernel(layer), self.biases[layer], padding=1)

    def activate(self, pooled: Tensor, layer: int) -> Tensor:
        """Return ELU(batch norm(pooled)): a layer's output."""
        return nn.functional.elu(self.norms[layer](pooled))

    def layer(self, maps: Tensor, layer: int) -> Tensor:
        """Return a whole layer: convolution, pooling, batch norm, ELU.

        The paper has "batch normalization after each layer"; after its pooling a quarter of the values is left.
        """
        return self.activate(nn.functional.max_pool2d(self.convolve(maps, layer), 2), layer)

    def head(self, maps: Tensor, voxel_mm: Tensor) -> Tensor:
        """Return the output node from the pooled maps of the sixth layer."""
        flat = torch.cat([maps.flatten(1), voxel_mm], dim=1)  # (n, 515)
        hidden = nn.functional.elu(self.first_norm(self.first(flat)))  # (n, 256)
        hidden = nn.functional.elu(self.second_norm(self.second(hidden)))  # (n, 256)
        output: Tensor = self.output(hidden)  # (n, 1)
        return output[:, 0]

    def forward(self, slices: Tensor, voxel_mm: Tensor) -> Tensor:
        """Return the score of each slice, as y or as ln(y + 1): see `score`.

        Parameters
        ----------
        slices
            float32 (n, 1, 256, 256), from models.preprocess.regressor_input.
        voxel_mm
            float32 (n, 3): increment, row and column spacing of the input's pixels, mm.

        Returns
        -------
        Tensor
            float32 (n,), not yet clipped at 0.
        """
        # Channels last is what the CPU's convolutions and poolings like best.
        maps = slices.to(memory_format=torch.channels_last)  # (n,  1, 256, 256)
        maps = self.layer(maps, 0)  # (n, 32, 128, 128)
        maps = self.layer(maps, 1)  # (n, 32,  64,  64)
        maps = self.layer(maps, 2)  # (n, 32,  32,  32)
        maps = self.layer(maps, 3)  # (n, 32,  16,  16)
        maps = self.layer(maps, 4)  # (n, 32,   8,   8)
        maps = self.layer(maps, 5)  # (n, 32,   4,   4)
        return self.head(maps, voxel_mm)  # (n,)

    def target_of(self, scores: Tensor) -> Tensor:
        """Return what the network should output for true slice scores (n,): y or ln(y + 1)."""
        return torch.log1p(scores) if self.config.log_target else scores

    def score(self, outputs: Tensor) -> Tensor:
        """Return slice scores, at least 0, of the network's outputs (n,): the inverse of `target_of`."""
        scores = torch.expm1(outputs.clamp(max=MAX_LOG_SCORE)) if self.config.log_target else outputs
        return scores.clamp(min=0)
