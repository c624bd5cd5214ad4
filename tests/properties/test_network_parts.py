"""The networks' faster parts compute what torch's own layers do."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from models.networks.halving import Halving, JoiningConv2d

SIDES = st.integers(1, 9)


def _maps(seed: int, *shape: int) -> torch.Tensor:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return maps.to(memory_format=torch.channels_last)


@given(SIDES, SIDES, st.integers(1, 5), st.integers(0, 99))
@settings(deadline=None)
def test_halving_is_max_pooling_that_keeps_odd_edges(height: int, width: int, channels: int, seed: int) -> None:
    maps = _maps(seed, 2, channels, height, width).requires_grad_()
    expected = functional.max_pool2d(maps, 2, ceil_mode=True)
    found = Halving()(maps)
    assert torch.equal(found, expected)
    into = _maps(seed + 1, *expected.shape)
    ours, theirs = (torch.autograd.grad((out * into).sum(), maps)[0] for out in (found, expected))
    assert torch.equal(ours, theirs)
    assert torch.equal(Halving()(maps.detach()), expected)  # another way than with gradients


@given(SIDES, SIDES, st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(deadline=None)
def test_a_split_convolution_is_that_of_joined_and_enlarged_maps(
    height: int, width: int, fine: int, coarse: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    whole = nn.Conv2d(fine + coarse, 3, 3, padding=1, bias=bias)
    near, far = _maps(seed, 2, fine, 2 * height, 2 * width), _maps(seed + 1, 2, coarse, height, width)
    enlarged = functional.interpolate(far, scale_factor=2.0, mode="nearest")
    with torch.inference_mode():
        expected = whole(torch.cat([near, enlarged], dim=1))
        found = JoiningConv2d(whole, fine)(near, far)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
