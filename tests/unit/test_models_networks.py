"""The networks: shapes, the paper's variants, and what is claimed of them."""

from __future__ import annotations

import itertools

import pytest
import torch

from calcium.errors import WeightsError
from models.attention import joint_response
from models.networks import ARCHITECTURES, build, describe
from models.networks.regressor import RegressorConfig

EIGHT = list(itertools.product((False, True), (False, True), ("agatston", "volume")))


@pytest.mark.parametrize(("shared", "log", "target"), EIGHT)
def test_each_of_the_papers_eight_networks_gives_one_number_a_slice(shared, log, target):
    network = build("regressor", {"shared_kernels": shared, "log_target": log, "target": target}).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 1, 256, 256), torch.tensor([[1.5, 0.7, 0.7]] * 2))
    assert output.shape == (2,)
    assert network.config.experiment == {0: "i", 1: "ii", 2: "iii", 3: "iv"}[2 * log + shared]
    assert len(network.kernels) == (1 if shared else 6)
    assert len(network.biases) == 6


def test_scores_are_the_inverse_of_targets_and_never_negative():
    scores = torch.tensor([0.0, 0.5, 12.0, 3000.0])
    for log in (False, True):
        network = build("regressor", {"log_target": log})
        assert torch.allclose(network.score(network.target_of(scores)), scores, rtol=1e-5)
        assert network.score(torch.tensor([-3.0, 1e9])).min() == 0
        assert torch.isfinite(network.score(torch.tensor([1e9]))).all()


def test_shared_kernels_take_the_slice_as_if_replicated():
    network = build("regressor", {"shared_kernels": True, "channels": 8}).eval()
    slices = torch.rand(1, 1, 32, 32)
    replicated = torch.nn.functional.conv2d(slices.expand(1, 8, 32, 32), network.kernels[0], padding=1)
    assert torch.allclose(network.convolve(slices, 0), replicated, atol=1e-5)


def test_voxel_dimensions_reach_the_output():
    network = build("regressor", {}).eval()
    slices = torch.rand(1, 1, 256, 256)
    with torch.no_grad():
        outputs = [network(slices, torch.tensor([[1.5, mm, mm]])) for mm in (0.5, 0.9)]
    assert outputs[0] != outputs[1]


@pytest.mark.parametrize("size", [(20, 40), (64, 64), (121, 87)])
def test_slice_classifiers_take_slices_of_any_size(size):
    network = build("slice_classifier", {"offsets": [0]}).eval()
    assert network(torch.rand(3, 1, *size)).shape == (3,)


def test_slice_classifiers_show_neighbours_in_a_window_and_the_slice_as_it_is_too():
    torch.manual_seed(1)
    settings = {"offsets": [-4, 0, 4], "window_hu": [-160, 240], "inside": True, "least_channels": 8}
    network = build("slice_classifier", settings).eval()
    assert network.features[0].weight.shape[:2] == (8, 4)
    hu = torch.randint(-150, 230, (2, 3, 40, 48)).float()

    def logits(hu: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            slices, inside = network.look((hu + 1000) / 4095)
        return torch.cat([slices[:, None], inside.flatten(1)], dim=1)

    base, air, bone = logits(hu), hu.clone(), hu.clone()
    air[:, 0, :20], bone[:, 2, 20:] = -900, 800
    lung, edge = hu.clone(), hu.clone()
    lung[:, 0, :20], edge[:, 2, 20:] = -160, 240
    assert not torch.allclose(logits(air), base, atol=1e-4)
    assert torch.allclose(logits(air), logits(lung), atol=1e-4), "air is as dark as the window's low end"
    assert torch.allclose(logits(bone), logits(edge), atol=1e-4), "bone is as bright as its high end"
    air, lung = hu.clone(), hu.clone()
    air[:, 1, :20], lung[:, 1, :20] = -900, -160
    assert not torch.allclose(logits(air), logits(lung), atol=1e-4), "the slice itself is shown as it is, too"


def test_the_weigher_sees_where_a_slice_lies():
    network = build("weigher", {}).eval()
    images, cube = torch.rand(1, network.config.inputs, 48, 64), torch.rand(1, 4, 48, 48, 48)
    with torch.no_grad():
        low, high = (
            network(images, torch.tensor([[[-0.5, 0.5], [-0.4, 0.4], [z, z]]]), cube) for z in (-0.5, 0.5)
        )
    assert low.shape == (1, 1 + network.config.classes, 48, 64)
    assert not torch.allclose(low, high)


def test_the_weigher_gives_each_slice_its_own_scan():
    torch.manual_seed(1)
    network = build("weigher", {}).eval()
    for module in network.modules():  # torch's own start lets the context fade without trained batch norms
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(module.weight)
    images, places = torch.rand(3, network.config.inputs, 32, 32), torch.rand(3, 3, 2)
    places[..., 1] = places[..., 0] + 0.5
    cubes = torch.rand(2, 4, 48, 48, 48)
    with torch.no_grad():
        together = network(images, places, cubes, torch.tensor([0, 0, 1]))
        first = network(images[:2], places[:2], cubes[:1])
        second = network(images[2:], places[2:], cubes[1:])
        wrong = network(images[2:], places[2:], cubes[:1])
    assert torch.allclose(together[:2], first, atol=1e-4)
    assert torch.allclose(together[2:], second, atol=1e-4)
    assert not torch.allclose(second, wrong, atol=1e-3)
    with pytest.raises(ValueError, match="ascending"):
        network(images, places, cubes, torch.tensor([0, 1, 0]))


def test_architectures_come_back_from_their_description():
    for name in ARCHITECTURES:
        network = build(name, {})
        architecture, config = describe(network)
        assert architecture == name
        again = build(architecture, config)
        assert describe(again) == (architecture, config)
        assert {key: value.shape for key, value in again.state_dict().items()} == {
            key: value.shape for key, value in network.state_dict().items()
        }


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("transformer", {}),
        ("regressor", {"depth": 9}),
        ("regressor", {"target": "mass"}),
        ("weigher", {"max_pixels": 100}),
        ("weigher", {"channels": [4, 4]}),
    ],
)
def test_unknown_architectures_and_settings_are_refused(architecture, config):
    with pytest.raises(WeightsError):
        build(architecture, config)


def test_the_joint_response_lies_where_the_network_looks():
    """A regressor that carries the brightest pixel through: its response must come back to that pixel."""
    network = build("regressor", {"channels": 2, "hidden": 4}).eval()
    with torch.no_grad():
        for number, kernel in enumerate(network.kernels):
            kernel.zero_()
            kernel[0, 0, 1, 1] = 1.0 if number else 5.0
        for layer in (network.first, network.second, network.output):
            layer.weight.zero_()
            layer.bias.zero_()
        network.first.weight[0, :16] = 1.0  # the first channel, wherever it responds
        network.second.weight[0, 0] = network.output.weight[0, 0] = 1.0
    slices = torch.zeros(2, 1, 256, 256)
    slices[0, 0, 100, 180] = 1.0
    response = joint_response(network, slices, torch.ones(2, 3))
    assert response.shape == (2, 256, 256)
    row, column = divmod(int(response[0].argmax()), 256)
    assert abs(row - 100) <= 4
    assert abs(column - 180) <= 4
    near = response[0, 92:109, 172:189].sum()
    assert near > 0.99 * response[0].sum() > 0
    assert response[1].max() == 0
    assert RegressorConfig().channels == 32
