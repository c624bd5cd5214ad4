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
from models.heart import LocalizerConfig, Profiles, box_extents, box_of, largest_run, profiles, smooth
from models.networks.localizer import CELL, SliceClassifierConfig

CONFIG = LocalizerConfig()
STEP = 3.0
AXES = ("sagittal", "coronal", "axial")  # x, y, z


def profile(low: float, high: float, length: int = 120) -> np.ndarray:
    """Return probabilities that are high for slices between two positions (mm)."""
    at = STEP * np.arange(length)
    return np.clip(np.minimum(at - low, high - at) / 6.0 + 0.5, 0.02, 0.98)


def box(**axes: np.ndarray):
    given_ = {"sagittal": profile(100, 230), "coronal": profile(90, 190), "axial": profile(120, 220)} | axes
    return box_of(alone(given_), CONFIG)


def alone(values: dict[str, np.ndarray]) -> Profiles:
    """Return profiles of networks that each judge only their own axis."""
    return Profiles(values, values, {axis: STEP * np.arange(len(profile)) for axis, profile in values.items()})


def test_the_box_lies_where_the_profiles_cross():
    found = box()
    assert found.low == pytest.approx((100, 90, 120), abs=1.0)
    assert found.high == pytest.approx((230, 190, 220), abs=1.0)


@given(st.floats(0, 20))
def test_only_the_upper_face_rises_and_never_out_of_the_scan(rise):
    values = {
        axis: profile(*span) for axis, span in zip(AXES, ((100, 230), (90, 190), (120, 345)), strict=True)
    }
    wide = LocalizerConfig(longest_mm=(300.0, 300.0, 300.0))
    before, after = (box_of(alone(values), replace(wide, rise_mm=mm)) for mm in (0.0, rise))
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
    found = profiles(volume, networks, LocalizerConfig(sure=sure), Runner())
    assert all((found.joint[axis] == found.slices[axis]).all() for axis in AXES)  # these see no box
    return found.slices["axial"], counted.shown


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


@given(st.integers(0, 999), st.integers(2, 9), st.integers(1, 6), st.integers(1, 6))
def test_the_extents_of_a_box_shaped_map_are_its_own(seed, slices, rows, columns):
    rng = np.random.default_rng(seed)
    depth, height, width = (rng.uniform(0, 1, size) for size in (slices, rows, columns))
    height[rng.integers(rows)] = width[rng.integers(columns)] = 1.0
    assume(depth.max() > 0.1)
    found = box_extents(depth[:, None, None] * height[:, None] * width, depth)
    assert found[0] == pytest.approx(height * depth.max(), abs=1e-6)
    assert found[1] == pytest.approx(width * depth.max(), abs=1e-6)


@given(st.integers(0, 999))
def test_extents_reach_what_the_network_sees_and_turn_with_the_map(seed):
    rng = np.random.default_rng(seed)
    maps, depth = rng.uniform(0, 1, (5, 4, 6)) ** 3, rng.uniform(0, 1, 5)
    rows, columns = box_extents(maps, depth)
    for extent in (rows, columns):
        assert extent.min() >= 0
        assert extent.max() == pytest.approx(depth.max())
    turned = box_extents(maps.transpose(0, 2, 1), depth)
    assert turned[0] == pytest.approx(columns, abs=0.02)
    assert turned[1] == pytest.approx(rows, abs=0.02)


def test_where_nothing_is_seen_nothing_extends():
    for maps, depth in ((np.zeros((3, 2, 2)), np.ones(3)), (np.ones((3, 2, 2)), np.zeros(3))):
        assert all((extent == 0).all() for extent in box_extents(maps, depth))


def test_what_one_slice_shows_elsewhere_hardly_counts():
    maps, depth = np.zeros((20, 8, 8)), np.zeros(20)
    maps[5:15, 2:5, 2:6], depth[5:15] = 1.0, 1.0
    clean = box_extents(maps, depth)
    maps[9, 6:8, 3:5] = 1.0  # an island behind the heart
    disturbed = box_extents(maps, depth)
    assert disturbed[0][6:].max() < 0.1
    for before, after in zip(clean, disturbed, strict=True):
        assert after == pytest.approx(before, abs=0.1)


def test_that_the_heart_is_cut_is_for_the_axial_network_to_say():
    """Cells at the end of a scan are blunt: the joint profile may fall there before the scan ends."""
    given_ = {
        name: profile(*span) for name, span in zip(AXES, ((100, 230), (90, 190), (250, 400)), strict=True)
    }
    found = alone(given_)
    joint = {**given_, "axial": np.minimum(given_["axial"], profile(250, 340))}
    with pytest.raises(NotEligibleError, match="upper end") as refused:
        box_of(Profiles(found.slices, joint, found.centres), CONFIG)
    assert refused.value.code == "heart_cut"


def test_two_networks_do_not_outvote_one_that_sees_no_heart():
    given_ = {
        name: profile(*span) for name, span in zip(AXES, ((100, 230), (90, 190), (120, 220)), strict=True)
    }
    found = alone(given_)
    assert box_of(found, CONFIG)
    blind = Profiles({**given_, "axial": given_["axial"] * 0.4}, found.joint, found.centres)
    with pytest.raises(NotEligibleError, match="no axial slice") as refused:
        box_of(blind, CONFIG)
    assert refused.value.code == "heart_not_found"


class Seeing(torch.nn.Module):
    """A network that tells of each slice and each cell what it shows: bright is heart."""

    config = SliceClassifierConfig(offsets=(0,), inside=True)

    def look(self, slices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hu = slices[:, 0] * 4095.0 - 1000.0
        cells = torch.nn.functional.max_pool2d(hu[:, None], CELL, ceil_mode=True)[:, 0]
        return cells.amax(dim=(1, 2)) / 50.0, cells / 50.0


def _heart_and_aorta(*, aorta: bool) -> Profiles:
    voxels = np.full((160, 96, 96), -500, np.int16)
    voxels[40:120, 32:64, 24:72] = 500  # 144 x 96 x 120 mm
    if aorta:
        voxels[30:140, 64:78, 48:54] = 500  # behind the heart, thinner
    volume = CTVolume(voxels, VolumeGeometry((0, 0, 0), (1.5, 3.0, 3.0), voxels.shape), 3.0)
    return profiles(volume, {axis: (Seeing(),) for axis in AXES}, LocalizerConfig(), Runner())


def test_three_networks_judge_each_axis_together():
    clean, disturbed = _heart_and_aorta(aorta=False), _heart_and_aorta(aorta=True)
    for axis in AXES:
        inside = clean.slices[axis] > 0.5
        assert clean.joint[axis][inside].min() > 0.65
        assert clean.joint[axis][~inside].max() < 0.65
    behind = slice(70, 78)  # coronal slices that show only the aorta
    assert disturbed.slices["coronal"][behind].min() > 0.99
    assert disturbed.joint["coronal"][behind].max() < 0.5
    wanted = box_of(clean, CONFIG)
    each_alone = Profiles(disturbed.slices, disturbed.slices, disturbed.centres)
    assert box_of(each_alone, CONFIG).iou(wanted) < 0.6
    assert box_of(disturbed, CONFIG).iou(wanted) > 0.7


def test_members_that_see_and_members_that_do_not_make_one_ensemble():
    voxels = np.full((60, 24, 24), -500, np.int16)
    voxels[20:40, 8:16, 8:16] = 500
    volume = CTVolume(voxels, VolumeGeometry((0, 0, 0), (1.5, 3.0, 3.0), voxels.shape), 3.0)
    seeing = {axis: (Seeing(),) for axis in AXES}
    second = {axis: Brightness() for axis in AXES}
    both = {axis: (Seeing(), second[axis]) for axis in AXES}
    one, two = (profiles(volume, networks, LocalizerConfig(sure=2.0), Runner()) for networks in (seeing, both))
    blind = profiles(volume, {axis: (Brightness(),) for axis in AXES}, LocalizerConfig(sure=2.0), Runner())
    for axis in AXES:
        doubted = one.slices[axis] >= 0.01  # elsewhere the first sees no heart, and the second is not asked
        assert second[axis].shown == doubted.sum() < len(doubted)
        mean = (one.slices[axis] + blind.slices[axis]) / 2
        assert two.slices[axis] == pytest.approx(np.where(doubted, mean, one.slices[axis]))
