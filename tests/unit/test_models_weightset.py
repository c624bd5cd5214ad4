"""Sets of weights: what is written comes back, and what differs is refused."""

from __future__ import annotations

import json
from pathlib import Path

import hand_made
import pytest
import torch

from calcium.errors import WeightsError
from models import weightset
from models.networks import build
from models.training import calibration
from models.weightset import find, load_weights, save_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hand_made.save(tmp_path / "set")


def change(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | values))


def test_a_set_comes_back(folder: Path):
    loaded = load_weights(folder)
    assert loaded.identity.name == "hand-made"
    assert loaded.identity.version == "1.0"
    assert not loaded.identity.validated_by_site
    assert len(loaded.identity.sha256) == 64
    assert loaded.scorer == "weigher"
    assert set(loaded.networks) == {"axial", "coronal", "sagittal", "weigher"}
    assert loaded.manifest["attribution"] == ["nobody"]
    assert loaded.calibration is None
    assert not any(network.training for members in loaded.networks.values() for network in members)


def test_folding_batch_norm_changes_nothing(tmp_path: Path):
    torch.manual_seed(3)
    axes = {axis: [build("slice_classifier", {})] for axis in ("axial", "coronal", "sagittal")}
    network = build("weigher", {})
    for module in network.modules():  # batch norms that do something
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_weights(
        tmp_path, {**axes, "weigher": [network]}, name="n", version="1", training_data="none", date="2026-01-01"
    )
    folded, plain = load_weights(tmp_path), load_weights(tmp_path, fuse=False)
    images, places, cube = (
        torch.rand(2, network.config.inputs, 32, 32),
        torch.rand(2, 3, 2),
        torch.rand(1, 4, 48, 48, 48),
    )
    with torch.no_grad():
        one, two = (given.networks["weigher"][0](images, places, cube) for given in (folded, plain))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
        slices = torch.rand(2, 3, 40, 40)
        one, two = (given.networks["axial"][0](slices) for given in (folded, plain))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    norms = [m for m in folded.networks["weigher"][0].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not norms


def test_an_ensemble_has_a_file_for_each_member(tmp_path: Path):
    axes = {axis: [hand_made.soft_tissue_classifier()] for axis in ("axial", "coronal", "sagittal")}
    members = [hand_made.weigher(1.0), hand_made.weigher(2.0)]
    save_weights(
        tmp_path, {**axes, "weigher": members}, name="n", version="1", training_data="none", date="2026-01-01"
    )
    loaded = load_weights(tmp_path)
    assert [float(network.output.bias[0]) for network in loaded.networks["weigher"]] == [1.0, 2.0]


def test_calibration_comes_back(tmp_path: Path):
    scores = [float(value) for value in range(0, 400, 10)]
    table = calibration.fit(scores, [value * 1.1 for value in scores])
    axes = {axis: [hand_made.soft_tissue_classifier()] for axis in ("axial", "coronal", "sagittal")}
    save_weights(
        tmp_path, {**axes, "weigher": [hand_made.weigher()]},
        name="n", version="1", training_data="none", date="2026-01-01", calibration=table,
    )  # fmt: skip
    again = load_weights(tmp_path).calibration
    assert again is not None
    assert again.interval(100.0) == pytest.approx(table.interval(100.0), rel=1e-3)
    assert again.probabilities(100.0) == pytest.approx(table.probabilities(100.0), abs=1e-3)


def test_changed_weights_are_refused(folder: Path):
    path = folder / "weigher.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"weigher\.safetensors differs from the manifest"):
        load_weights(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"localizer": {"enter": 0.1}},
        {"calibration": {"coverage": 0.95}},
        {"sha256": "0" * 64},
        {"format": 99},
        {"networks": {}},
        {"networks": None},
    ],
)
def test_a_changed_manifest_is_refused(folder: Path, values):
    change(folder, **values)
    with pytest.raises(WeightsError):
        load_weights(folder)


def test_an_absent_file_is_named(folder: Path):
    (folder / "axial.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks axial\.safetensors"):
        load_weights(folder)


def test_weights_of_another_architecture_are_refused(folder: Path):
    """Files and digests agree, but the file holds another network."""
    manifest = json.loads((folder / "manifest.json").read_text())
    networks = manifest["networks"]
    networks["weigher"]["config"]["channels"] = [8, 8, 8]
    digest = weightset._sha256_of_all(networks, (manifest["localizer"], manifest["calibration"]))
    change(folder, networks=networks, sha256=digest)
    with pytest.raises(WeightsError, match="does not fit the weigher network"):
        load_weights(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(WeightsError):
        load_weights(folder)


def test_an_incomplete_set_is_not_written(tmp_path: Path):
    with pytest.raises(WeightsError, match="needs axial, coronal, sagittal"):
        save_weights(
            tmp_path, {"weigher": [hand_made.weigher()]},
            name="n", version="1", training_data="none", date="2026-01-01",
        )  # fmt: skip


def test_sets_are_found_by_folder_by_name_and_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weightset, "BUNDLED", folder.parent)
    assert find(folder) == find(str(folder)) == find("set")
    assert weightset.bundled() == ("set",)
    with pytest.raises(WeightsError, match="no bundled default"):
        find(None)
    (folder.parent / "default.json").write_text('{"folder": "set"}')
    assert find(None) == find("") == find("default") == folder
    with pytest.raises(WeightsError, match="AGATSTON_WEIGHTS takes"):
        find("other")
