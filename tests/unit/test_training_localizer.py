"""Training data of the localiser and the errors of its boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from calcium.geometry import BoxMm, VolumeGeometry
from models.networks.localizer import CELL, SliceClassifier, SliceClassifierConfig
from models.training import localizer_training
from models.training.anatomy import HEART_BOXES
from models.training.localizer_training import (
    NETWORK,
    NOWHERE,
    CoarseScan,
    LocalizerOptions,
    Sampler,
    augment,
    box_error,
    coverage,
    in_cells,
    losses,
    of_series,
    targets,
)

if TYPE_CHECKING:
    from pathlib import Path


def _scan() -> CoarseScan:
    geometry = VolumeGeometry((-150.0, -120.0, 0.0), (3.0, 3.0, 3.0), (90, 80, 100))
    hu = np.full(geometry.shape, -850, np.int16)
    box = BoxMm((-30.0, -60.0, 90.0), (90.0, 50.0, 190.0))
    z, y, x = (int(v) for v in geometry.to_index(box.low))
    z1, y1, x1 = (int(v) for v in geometry.to_index(box.high))
    hu[z : z1 + 1, y : y1 + 1, x : x1 + 1] = 40  # the heart is the only soft tissue
    return CoarseScan("s", "s", hu, geometry, box)


def test_targets_are_one_inside_zero_outside_and_half_at_a_face():
    scan = _scan()
    axial = targets(scan.geometry, scan.box, 0)
    assert axial[45] == 1
    assert axial[10] == 0
    assert axial[30] == pytest.approx(0.5)  # z = 90 mm
    assert targets(scan.geometry, scan.box, 2)[60] == 1  # x = 30 mm


@pytest.mark.parametrize("seed", range(30))
def test_the_box_goes_with_the_image(seed: int):
    scan = _scan()
    hu, geometry, box = augment(scan, np.random.default_rng(seed))
    soft = hu > -300
    if box is NOWHERE:
        assert not soft[1:-1].any(), "no heart, but its slices beside the cut may be blurred"
        assert all(targets(geometry, box, axis).max() == 0 for axis in range(3))
        return
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(soft.mean(axis=others) > 0.3 * soft.mean(axis=others).max())
        expected = np.flatnonzero(targets(geometry, box, axis) >= 0.5)
        assert abs(occupied[0] - expected[0]) <= 3
        assert abs(occupied[-1] - expected[-1]) <= 3


def test_some_crops_hold_no_heart_and_some_end_in_it():
    scan = _scan()
    drawn = [augment(scan, np.random.default_rng(seed)) for seed in range(200)]
    nowhere = [box is NOWHERE for _, _, box in drawn]
    assert 5 <= sum(nowhere) <= 40
    cut = [targets(geometry, box, 0)[[0, -1]].max() == 1 for _, geometry, box in drawn if box is not NOWHERE]
    assert sum(cut) >= 5


def test_a_batch_serves_all_three_axes():
    config = SliceClassifierConfig()
    sampler = Sampler([_scan()], LocalizerOptions(1, 2, 12), config, seed=1)
    (batch,) = sampler.batches(1)
    assert set(batch) == {"axial", "coronal", "sagittal"}
    for slices, target, cells in batch.values():
        assert slices.shape[:2] == (24, len(config.offsets))
        assert target.shape == (24,)
        assert 0 < float(target.mean()) < 1
        assert cells.shape == (24, *(-(-size // CELL) for size in slices.shape[2:]))
        # A slice in the heart has a cell in the box; one outside has none.
        assert ((cells.amax(dim=(1, 2)) > 0) == (target > 0)).all()
    (again,) = sampler.batches(1)
    assert (again["axial"][0] == batch["axial"][0]).all()


def test_cells_hold_the_share_of_their_pixels_in_the_box():
    geometry = VolumeGeometry((1.5, 1.5, 0.0), (3.0, 3.0, 3.0), (1, 20, 12))  # pixels from x = y = 0
    box = BoxMm((6.0, 12.0, -9.0), (36.0, 55.5, 9.0))
    columns, rows = coverage(geometry, box, 2), coverage(geometry, box, 1)
    assert columns.tolist() == [0, 0, *[1] * 10]
    assert rows[3:5].tolist() == [0, 1]
    assert rows[18] == pytest.approx(0.5)
    found = in_cells(np.multiply.outer(rows, columns))
    # 4 of 8 rows; all 8; 2.5 of the last 4. 6 of 8 columns; all of the last 4.
    assert found == pytest.approx(np.multiply.outer([0.5, 1, 0.625], [0.75, 1]))


HEART = (np.array([8.0, 15.0, 28.0]), np.array([20.0, 40.0, 32.0]))


def test_masses_lie_beside_the_heart_more_often():
    body = np.full((60, 60, 60), -850, np.float32)
    body[:, :2] = body[:, -2:] = body[..., :2] = body[..., -2:] = 40

    def share_near_middle(heart: float) -> float:
        near = []
        for seed in range(40):
            after = body.copy()
            faces = (np.full(3, heart - 4), np.full(3, heart + 4))
            localizer_training._ill(after, np.full(3, 3.0), faces, np.random.default_rng(seed))
            gone = np.argwhere(after != body)
            near.append(np.all((gone > 16) & (gone < 44), axis=1).mean())
        return float(np.mean(near))

    assert share_near_middle(30) > 1.7 * share_near_middle(1000)


def test_only_lung_falls_ill():
    hu = np.full((30, 60, 60), -1000, np.int16)
    hu[:, 5:55, 5:55] = 40  # a body
    hu[:, 15:45, 10:28] = hu[:, 15:45, 32:50] = -850  # two lungs, the heart between
    before = hu.astype(np.float32)
    changed = []
    for seed in range(20):
        after = before.copy()
        localizer_training._ill(after, np.full(3, 3.0), HEART, np.random.default_rng(seed))
        assert (after[before > -500] == 40).all()
        assert (after[before < -900] == -1000).all(), "air outside of the body"
        gone = (before == -850) & (after != before)
        assert after[gone].min() > -30
        assert after[gone].max() < 80
        changed.append(gone.sum() / (before == -850).sum())
    assert min(changed) > 0
    assert 0.02 < np.mean(changed) < 0.6
    empty = np.full((10, 20, 20), 40.0, np.float32)
    localizer_training._ill(empty, np.full(3, 3.0), HEART, np.random.default_rng(1))  # no lung: nothing to do
    assert (empty == 40).all()


def test_the_loss_counts_cells_where_networks_tell_them():
    torch.manual_seed(1)
    sampler = Sampler([_scan()], LocalizerOptions(1, 2, 6), NETWORK, seed=1)
    (batch,) = sampler.batches(1)
    seeing = torch.nn.ModuleDict({axis: SliceClassifier(NETWORK) for axis in batch})
    blind = torch.nn.ModuleDict({axis: SliceClassifier(replace(NETWORK, inside=False)) for axis in batch})
    blind.load_state_dict(seeing.state_dict(), strict=False)
    whole = losses(seeing, batch, "cpu")
    found = {name: float(value.detach()) for name, value in whole.items()}
    plain = {name: float(value.detach()) for name, value in losses(blind, batch, "cpu").items()}
    assert plain["loss"] == pytest.approx(sum(plain[axis] for axis in batch))
    assert found["axial"] == pytest.approx(plain["axial"], rel=1e-4)
    assert found["loss"] > plain["loss"] + 0.1
    whole["loss"].backward()
    assert all(network.inside.weight.grad.abs().sum() > 0 for network in seeing.values())


def test_real_series_with_a_heart_box_are_scans(real_ct: Path):
    scans = of_series(real_ct)
    assert [scan.name for scan in scans] == list(HEART_BOXES)
    for scan in scans:
        assert scan.geometry.spacing_mm == pytest.approx((3, 3, 3), abs=0.02)
        low, high = scan.geometry.to_index(scan.box.low), scan.geometry.to_index(scan.box.high)
        window = tuple(slice(round(a), round(b)) for a, b in zip(low, high, strict=True))
        assert scan.hu[window].shape == pytest.approx(np.subtract(high, low), abs=1.5), "inside of the scan"
        assert 0.3 < (scan.hu[window] > -50).mean() < 0.9, "mostly heart"


def test_box_errors_by_hand():
    true = BoxMm((0, 0, 0), (100, 100, 100))
    error = box_error("s", BoxMm((-10, 0, 0), (100, 100, 106)), true)
    assert error.iou == pytest.approx(1e6 / (110 * 100 * 106))
    assert error.wall_mm == pytest.approx(16 / 6)
    assert error.centroid_mm == pytest.approx(math.hypot(5, 3))
    assert error.faces_mm == (10, 0, 0, 0, 0, 6)
    assert not box_error("s", None, true).found
