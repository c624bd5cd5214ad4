"""From probabilities to a box: the largest run, not the outermost slices; no box where there is no heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from calcium.errors import NotEligibleError, WeightsError
from calcium.geometry import VolumeGeometry
from calcium.volume import CTVolume
from models.device import Runner
from models.heart import LocalizerConfig, box_of, largest_run, profiles, smooth
from models.networks.localizer import SliceClassifierConfig

CONFIG = LocalizerConfig()
STEP = 3.0
AXES = ("sagittal", "coronal", "axial")  # x, y, z


def profile(low: float, high: float, length: int = 120) -> np.ndarray:
    """Return probabilities that are high for slices between two positions (mm)."""
    at = STEP * np.arange(length)
    return np.clip(np.minimum(at - low, high - at) / 6.0 + 0.5, 0.02, 0.98)


def box(**axes: np.ndarray):
    given_ = {"sagittal": profile(100, 230), "coronal": profile(90, 190), "axial": profile(120, 220)} | axes
    return box_of(given_, {axis: STEP * np.arange(len(values)) for axis, values in given_.items()}, CONFIG)


def test_the_box_lies_where_the_profiles_cross():
    found = box()
    assert found.low == pytest.approx((100, 90, 120), abs=1.0)
    assert found.high == pytest.approx((230, 190, 220), abs=1.0)


@given(st.floats(0, 20))
def test_only_the_upper_face_rises_and_never_out_of_the_scan(rise):
    values = {
        axis: profile(*span) for axis, span in zip(AXES, ((100, 230), (90, 190), (120, 345)), strict=True)
    }
    centres = {axis: STEP * np.arange(len(values[axis])) for axis in AXES}
    wide = LocalizerConfig(longest_mm=(300.0, 300.0, 300.0))
    before, after = (box_of(values, centres, replace(wide, rise_mm=mm)) for mm in (0.0, rise))
    assert after.low == before.low
    assert after.high[:2] == before.high[:2]
    top = STEP * (len(values["axial"]) - 0.5)
    assert after.high[2] == pytest.approx(min(top, before.high[2] + rise))


@given(st.integers(0, 2), st.integers(0, 25), st.floats(0.9, 1.0))
def test_an_outlier_does_not_enlarge_the_box(axis, place, probability):
    values = {
        name: profile(*span) for name, span in zip(AXES, ((100, 230), (90, 190), (120, 220)), strict=True)
    }
    before = box(**values)
    values[AXES[axis]][place] = probability
    assert box(**values) == before


@given(st.integers(45, 70))
def test_one_weak_slice_does_not_split_the_heart(place):
    values = profile(120, 220)
    values[place] = 0.0
    assert box(axial=values).size_mm[2] == pytest.approx(100, abs=8)


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_without_heart_slices_is_no_heart(axis):
    with pytest.raises(NotEligibleError, match=f"no {axis} slice") as refused:
        box(**{axis: np.full(120, 0.3)})
    assert refused.value.code == "heart_not_found"


@pytest.mark.parametrize("span", [(100, 130), (20, 330)])
def test_a_run_of_a_length_that_no_heart_has_is_no_heart(span):
    with pytest.raises(NotEligibleError) as refused:
        box(axial=profile(*span))
    assert refused.value.code == "heart_not_found"


@pytest.mark.parametrize(("span", "end"), [((-30, 80), "lower"), ((280, 400), "upper")])
def test_a_heart_at_the_end_of_the_scan_is_cut(span, end):
    with pytest.raises(NotEligibleError, match=f"{end} end") as refused:
        box(axial=profile(*span))
    assert refused.value.code == "heart_cut"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.05, 0.5), st.floats(0.5, 0.95))
def test_a_run_holds_a_certain_slice_and_ends_inside_the_scan(values, stay, enter):
    probability = np.array(values)
    run = largest_run(probability, enter, stay)
    assert (run is None) == (probability.max() < enter)
    if run is not None:
        low, high = run
        assert -0.5 <= low <= high <= len(values) - 0.5
        inside = probability[max(0, int(np.ceil(low))) : int(np.floor(high)) + 1]
        assert inside.size
        assert inside.max() >= enter


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.integers(0, 9))
def test_a_mirrored_profile_gives_the_mirrored_run(values, bridge):
    probability = np.array(values)
    run, mirrored = (largest_run(given_, 0.5, 0.25, bridge) for given_ in (probability, probability[::-1]))
    assume(run is not None and mirrored is not None)
    masses = np.unique(probability)
    assume(len(masses) == len(values))  # no two runs of equal mass
    last = len(values) - 1
    assert (last - mirrored[1], last - mirrored[0]) == pytest.approx(run)


def test_a_short_gap_inside_the_heart_is_bridged_and_an_outlier_is_not_reached():
    heart = np.zeros(60)
    heart[10:20], heart[25:40] = 0.9, 0.9  # a gap of 5 slices
    heart[44:46] = 0.9  # shorter than its gap of 4
    assert largest_run(heart, 0.5, 0.25) == pytest.approx((24.556, 39.444), abs=1e-3)
    assert largest_run(heart, 0.5, 0.25, 5) == pytest.approx((9.556, 39.444), abs=1e-3)
    assert largest_run(heart, 0.5, 0.25, 4) == pytest.approx((24.556, 39.444), abs=1e-3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 9))
def test_smoothing_keeps_length_and_range(values, width):
    probability = np.array(values)
    smoothed = smooth(probability, width)
    assert smoothed.shape == probability.shape
    assert smoothed.min() >= probability.min() - 1e-12
    assert smoothed.max() <= probability.max() + 1e-12


def test_unknown_settings_are_refused():
    assert LocalizerConfig.of({"grow_mm": [1.0, 2.0, 3.0]}).grow_mm == (1.0, 2.0, 3.0)
    with pytest.raises(WeightsError, match="margin"):
        LocalizerConfig.of({"margin": 3})


class Brightness(torch.nn.Module):
    """A classifier whose logit is a hundredth of the slice's HU; counts the slices that it was shown."""

    config = SliceClassifierConfig(offsets=(0,))

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        self.shown += len(slices)
        return (slices.mean(dim=(1, 2, 3)) * 4095.0 - 1000.0) / 100.0


def axial_profile(hu: list[int], sure: float) -> tuple[np.ndarray, int]:
    """Return the axial profile of slices of these HU, and how many slices were computed."""
    counted = Brightness()
    networks = {axis: (counted if axis == "axial" else Brightness(),) for axis in AXES}
    # Every second slice of the resampled scan is one of the localiser's.
    voxels = np.repeat(np.array(hu, np.int16), 2)[:, None, None] * np.ones((1, 4, 4), np.int16)
    volume = CTVolume(voxels, VolumeGeometry((0, 0, 0), (1.5, 3.0, 3.0), voxels.shape), 3.0)
    found, _ = profiles(volume, networks, LocalizerConfig(sure=sure), Runner())
    return found["axial"], counted.shown


@given(st.lists(st.integers(-600, 600), min_size=1, max_size=40))
def test_only_slices_between_two_sure_and_like_ones_are_not_computed(hu):
    full, all_of_them = axial_profile(hu, 2.0)
    assert full == pytest.approx(1 / (1 + np.exp(-np.array(hu) / 100)), abs=1e-4)
    assert all_of_them == len(hu)
    sparing, shown = axial_profile(hu, 0.95)
    changed = np.flatnonzero(np.abs(sparing - full) > 1e-9)
    left_out = 0
    for place in range(1, len(hu) - 1, 2):
        pair = full[[place - 1, place + 1]]
        alike = pair.min() >= 0.95 or pair.max() <= 1 - 0.95
        left_out += alike
        assert alike or place not in changed
        if alike:
            assert sparing[place] == pytest.approx(pair.mean())
    assert not np.any(changed % 2 == 0)
    assert shown == len(hu) - left_out


def test_a_heart_costs_little_more_than_every_second_slice():
    hu = [-500] * 40 + [-100, 100] + [500] * 40 + [0] + [-500] * 40
    assert axial_profile(hu, 0.95)[1] < 0.56 * len(hu)
