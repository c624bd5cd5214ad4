"""What the weigher trains on, and what it is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calcium.agatston import score_mask
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume
from models.networks.weigher import Weigher, WeigherConfig
from models.training.augmentation import AugmentationConfig
from models.training.cache import CachedCase
from models.training.weigher_training import (
    Sampler,
    WeigherOptions,
    losses,
    sharpened,
    total,
    weigh,
)

STILL = AugmentationConfig(0, 0, 0, 0, 7, 0, 0, 0, 0, 0)
SMALL = WeigherConfig(
    grid_mm=1.5, max_pixels=96, channels=(4, 8, 8), context_size=16, context_mm=8.0, context_channels=(2, 4, 4)
)
OPTIONS = WeigherOptions(
    steps_per_epoch=5, scans_per_batch=2, slices_per_scan=3, window=48, uses=2, augmentation=STILL
)


def _case(seed: int) -> CachedCase:
    rng = np.random.default_rng(seed)
    geometry = VolumeGeometry((-60.0, -55.0, 0.0), (1.5, 0.8, 0.8), (50, 130, 150))
    hu = rng.normal(40, 15, geometry.shape).astype(np.int16)
    labels = np.zeros(geometry.shape, np.uint8)
    hu[20:26, 60:65, 60:66], labels[20:26, 60:65, 60:66] = 450, 1
    hu[22:30, 40:46, 90:94], labels[22:30, 40:46, 90:94] = 600, 4
    hu[24:27, 80:83, 70:73], labels[24:27, 80:83, 70:73] = 250, 7
    volume = CTVolume(hu, geometry, 3.0)
    score = score_mask(volume, labels, (1, 2, 3))
    return CachedCase(
        name=f"case-{seed}",
        patient=f"case-{seed}",
        origin="simulated",
        geometry=geometry,
        hu=hu,
        labels=labels,
        heart_box=BoxMm((-35.0, -35.0, 15.0), (35.0, 30.0, 58.0)),
        agatston=score.agatston,
        volume_mm3=score.volume_mm3,
        slice_agatston=score.slice_agatston.astype(np.float32),
        slice_volume_mm3=score.slice_volume.astype(np.float32),
    )


CASES = [_case(1), _case(2)]


def _network() -> Weigher:
    torch.manual_seed(1)
    return Weigher(SMALL)


def test_targets_carry_the_reference_score():
    sampler = Sampler(CASES, OPTIONS, SMALL, seed=1)
    batch = sampler.batch(np.random.default_rng(1))
    assert batch.images.shape == (6, SMALL.inputs, 48, 48)
    assert batch.classes.sum(dim=1)[batch.credit > 0.01].min() == pytest.approx(1, abs=1e-3)
    # A slice of the plaque: 30 voxels of 0.64 mm2 at 450 HU have a slice score of 76.8.
    true = (batch.share * batch.credit).sum(dim=(1, 2))
    assert float(true.max()) == pytest.approx(30 * 0.64 * 4, rel=0.02)


def test_unsure_calcium_counts_neither_way():
    batch = Sampler([CASES[0]], OPTIONS, SMALL, seed=1).batch(np.random.default_rng(3))
    # Coronary 76.8 and aortic 24 * 0.64 * 4 a slice at most; the unsure 9 * 0.64 * 2 is in neither.
    allowed = {0.0, 76.8, 61.4, 138.2}
    for value in batch.credit.sum(dim=(1, 2)).tolist():
        assert min(abs(value - known) for known in allowed) < 1.5


def test_a_batch_depends_only_on_seed_epoch_and_step():
    one, two = (list(Sampler(CASES, OPTIONS, SMALL, seed=4).batches(2)) for _ in range(2))
    assert len(one) == OPTIONS.steps_per_epoch
    for a, b in zip(one, two, strict=True):
        assert (a.images == b.images).all()


def test_cases_stand_in_the_pool_as_often_as_they_are_wanted():
    assert Sampler(CASES, OPTIONS, SMALL, 4)._simulated == [0, 1]
    assert Sampler(iter(CASES), OPTIONS, SMALL, 4, lambda case: 1 + (case is CASES[1]))._simulated == [0, 1, 1]
    with pytest.raises(ValueError, match="no training cases"):
        Sampler([], OPTIONS, SMALL, 4)


def test_processes_that_draw_draw_the_same():
    here, apart = (
        list(Sampler(CASES, replace(OPTIONS, drawers=drawers), SMALL, seed=4).batches(2)) for drawers in (0, 1)
    )
    assert len(apart) == OPTIONS.steps_per_epoch
    for a, b in zip(here, apart, strict=True):
        assert (a.images == b.images).all()
        assert (a.share == b.share).all()


def test_losses_fall_when_the_network_learns():
    network = _network()
    batch = Sampler(CASES, OPTIONS, SMALL, seed=1).batch(np.random.default_rng(1))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    first = None
    for _ in range(25):
        optimizer.zero_grad()
        found = losses(network, batch, "cpu")
        found["loss"].backward()
        optimizer.step()
        first = first or found["loss"].item()
    assert found["loss"].item() < 0.4 * first


def test_a_weighed_score_stays_between_zero_and_the_classical_bound():
    case = CASES[0]
    found, crop = weigh(_network().eval(), CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
    assert found.weights.shape == crop.volume.hu.shape
    assert 0 <= total(found) <= float(found.credit.sum()) * 0.5
    assert (found.weights[found.credit == 0] == 0).all()


def test_sharpening_decides_weights_and_keeps_their_order():
    case = CASES[0]
    network = _network().eval()
    soft, _ = weigh(network, CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
    sharp, _ = weigh(sharpened(network, 8.0, certain=0), CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
    counted = soft.credit > 0
    a, b = soft.weights[counted], sharp.weights[counted]
    assert np.abs(b - 0.5).mean() > np.abs(a - 0.5).mean()
    assert np.corrcoef(a, b)[0, 1] > 0.5
