"""Runs networks in batches on one device; when memory runs out, in smaller batches, then on the CPU."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from calcium.errors import ResourcesError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")


class Runner:
    """Computes on a device.

    Parameters
    ----------
    device
        Where to compute first.
    batch
        Slices at once.
    """

    def __init__(self, device: torch.device = CPU, batch: int = 16) -> None:
        self.device = device
        self.batch = batch

    def __call__(self, network: nn.Module, step: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
        """Return `step` of all slices, on the CPU.

        Parameters
        ----------
        network
            Moved to the device; `step` uses it.
        step
            Called with one batch of each of `tensors`, on the network's device.
        tensors
            Inputs of the same first length, at least 1, on the CPU.

        Raises
        ------
        ResourcesError
            Out of memory on the CPU with single slices.
        """
        device, batch = self.device, self.batch
        while True:
            try:
                network.to(device)
                parts = [
                    step(*(tensor[start : start + batch].to(device) for tensor in tensors)).cpu()
                    for start in range(0, len(tensors[0]), batch)
                ]
                return torch.cat(parts)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if batch > 1:
                    batch //= 2
                elif device != CPU:
                    device, batch = CPU, self.batch
                else:
                    raise ResourcesError("out of memory while running a network on one slice") from error
                logger.warning("out of memory: going on with %d slices at once on %s", batch, device.type)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch ran out of memory; on the CPU it says so only in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
