"""The simulator: truth that comes with a scan, determinism, knobs."""

from dataclasses import replace

import numpy as np
import pytest

from calcium.agatston import score_mask
from calcium.resample import resample
from models.training.phantom import PhantomConfig, make_many, make_scan
from models.training.phantom.coronaries import draw_tree
from models.training.phantom.distractors import distractors, hilar_nodes
from models.training.phantom.heart import draw_heart
from models.training.phantom.scan import AHEAD_MM, _heart_box

# Pixels of about 1.3 mm: large enough to be quick, small enough for calcium to show.
SMALL = {"field_of_view": "cardiac", "in_plane": 160, "thickness_mm": 3.0, "crop_to_heart": 12.0}


@pytest.fixture(scope="module")
def scan():
    return make_scan(2, config=PhantomConfig(calcium="high", **SMALL))


def test_reference_is_score_of_labels_1_to_3(scan):
    expected = score_mask(scan.resampled, scan.labels, (1, 2, 3))
    assert scan.agatston == expected.agatston > 100
    assert scan.volume_mm3 == expected.volume_mm3
    np.testing.assert_array_equal(scan.slice_agatston, expected.slice_agatston)


def test_resampled_volume_is_the_projects_own_resampling(scan):
    np.testing.assert_array_equal(scan.resampled.hu, resample(scan.volume).hu)
    assert scan.labels.shape == scan.resampled.hu.shape
    assert scan.labels.dtype == np.uint8


def test_labels_are_calcium_only(scan):
    assert scan.resampled.hu[scan.labels > 0].min() >= 130
    assert set(np.unique(scan.labels)) <= {0, 1, 2, 3, 4, 5, 6, 8}


def test_coronary_calcium_lies_in_the_heart_box(scan):
    geometry = scan.resampled.geometry
    where = np.argwhere(np.isin(scan.labels, (1, 2, 3)))
    points = np.array([geometry.to_mm(*index) for index in where])
    low, high = np.array(scan.heart_box.low), np.array(scan.heart_box.high)
    inside = np.all((points >= low - 6) & (points <= high + 6), axis=1)
    assert inside.mean() > 0.97


def test_heart_box_has_the_size_of_hearts():
    sizes = np.array([make_scan(seed, config=PhantomConfig(**SMALL)).heart_box.size_mm for seed in (31, 32)])
    assert np.all(sizes > [95, 75, 70])
    assert np.all(sizes < [175, 140, 140])


def test_box_holds_soft_tissue_in_its_middle(scan):
    geometry, box = scan.volume.geometry, scan.heart_box
    middle = [(a + b) / 2 for a, b in zip(box.low, box.high, strict=True)]
    z, y, x = (round(index) for index in geometry.to_index(tuple(middle)))
    around = scan.volume.hu[z - 3 : z + 4, y - 6 : y + 7, x - 6 : x + 7]
    assert 20 < np.median(around) < 75


def test_same_seed_gives_the_same_bytes(scan):
    again = make_scan(2, config=PhantomConfig(calcium="high", **SMALL))
    assert again.volume.hu.tobytes() == scan.volume.hu.tobytes()
    assert again.labels.tobytes() == scan.labels.tobytes()
    assert again.description == scan.description
    assert again.heart_box == scan.heart_box


def test_another_seed_gives_another_patient(scan):
    other = make_scan(3, config=PhantomConfig(calcium="high", **SMALL))
    assert other.heart_box.size_mm != scan.heart_box.size_mm
    assert other.description["noise_hu"] != scan.description["noise_hu"]


def test_none_has_no_coronary_calcium():
    scan = make_scan(4, config=PhantomConfig(calcium="none", **SMALL))
    assert scan.agatston == 0
    assert not np.isin(scan.labels, (1, 2, 3)).any()


def test_number_is_aimed_at():
    scores = [make_scan(seed, config=PhantomConfig(calcium=300.0, **SMALL)).agatston for seed in (5, 6, 7)]
    assert 120 < np.median(scores) < 700


def test_unknown_amount_is_refused():
    with pytest.raises(ValueError, match="calcium must be"):
        make_scan(1, config=PhantomConfig(calcium="plenty", **SMALL))


def test_contrast_makes_blood_bright(scan):
    bright = make_scan(2, config=PhantomConfig(calcium="high", contrast=True, **SMALL))
    assert bright.heart_box.size_mm == scan.heart_box.size_mm
    assert (bright.volume.hu > 75).mean() > 1.5 * (scan.volume.hu > 75).mean()


def test_shifted_patients_are_others():
    plain = make_scan(9, config=PhantomConfig(**SMALL))
    shifted = make_scan(9, config=PhantomConfig(distribution="shifted", **SMALL))
    assert shifted.description["body_width_mm"] != plain.description["body_width_mm"]


def test_small_field_of_view_holds_the_heart():
    config = PhantomConfig(field_of_view="cardiac", z_coverage="heart", in_plane=160, thickness_mm=3.0)
    scan = make_scan(12, config=config)
    geometry = scan.volume.geometry
    assert 165 <= geometry.spacing_mm[1] * geometry.shape[1] <= 255
    low, high = geometry.to_index(scan.heart_box.low), geometry.to_index(scan.heart_box.high)
    assert min(low) > -4
    assert all(index < size + 4 for index, size in zip(high, geometry.shape, strict=True))


def test_whole_chest_shows_neck_lungs_and_abdomen():
    scan = make_scan(13, config=PhantomConfig(in_plane=96, thickness_mm=3.0))
    depth = scan.volume.geometry.spacing_mm[0] * scan.volume.geometry.shape[0]
    assert 190 < depth < 420
    assert 0.05 < (scan.volume.hu < -700).mean() < 0.9


def test_many_scans_in_processes_equal_one_by_one():
    config = PhantomConfig(in_plane=64, thickness_mm=3.0, crop_to_heart=5.0)
    apart = list(make_many([21, 22], config=config, processes=2))
    assert [scan.seed for scan in apart] == [21, 22]
    for scan in apart:
        alone = make_scan(scan.seed, config=config)
        assert alone.volume.hu.tobytes() == scan.volume.hu.tobytes()


def test_hearts_lie_as_far_from_the_spine_as_real_ones():
    # Between the heart boxes of six real non-contrast scans and the vertebrae: 10 to 57 mm, 28 on average. The
    # front of a simulated spine is at y = 0.
    where = np.random.default_rng(1).uniform(*AHEAD_MM, 40)
    backs = [
        _heart_box(draw_heart(np.random.default_rng(seed), ahead=ahead))[1][1]
        for seed, ahead in enumerate(where)
    ]
    assert 16 < -np.mean(backs) < 36
    assert max(backs) < 10  # beside a vertebra
    assert min(backs) < -40


def test_how_far_in_front_of_the_spine_a_heart_lies_is_drawn_and_known():
    config = PhantomConfig(in_plane=32, thickness_mm=3.0, crop_to_heart=0.0)
    drawn = [make_scan(seed, config=config).description["ahead_mm"] for seed in (1, 2, 3)]
    assert len(set(drawn)) == 3
    assert all(AHEAD_MM[0] <= ahead <= AHEAD_MM[1] for ahead in drawn)


def test_rarities_make_metal_and_rare_calcium_common():
    heart = draw_heart(np.random.default_rng(1), 0.0)
    tree = draw_tree(heart, np.random.default_rng(2))

    def scans_with(kinds: set[str], rarities: float) -> int:
        drawn = (
            distractors(heart, tree, np.random.default_rng(seed), rarities=rarities) for seed in range(100)
        )
        return sum(any(deposit.kind in kinds for deposit in deposits) for deposits in drawn)

    for kinds in ({"lead", "wire", "clip", "stent"}, {"pericardium"}, {"node"}):
        usual, many = scans_with(kinds, 1.0), scans_with(kinds, 6.0)
        assert 0 < usual < 40
        assert many > 2.5 * usual


def test_metal_and_pericardial_calcium_stay_where_they_belong_on_a_heart_that_lies_ahead():
    ahead = draw_heart(np.random.default_rng(1), ahead=40.0)
    unaware = replace(ahead, ahead=0.0)
    tree = draw_tree(ahead, np.random.default_rng(2))
    seen = set()
    for seed in range(60):
        drawn = (
            distractors(heart, tree, np.random.default_rng(seed), rarities=6.0) for heart in (unaware, ahead)
        )
        for before, after in zip(*drawn, strict=True):
            if before.kind in {"wire", "clip"}:
                shift = (after.centers - before.centers).mean(axis=0)
                np.testing.assert_allclose(shift, (0, -40, 0), atol=0.01)
            elif before.kind == "pericardium":
                where = after.centers[:1].T.astype(np.float32)
                assert abs(float(ahead.envelope(ahead.warp.inverse(tuple(where)))[0])) < 6
            seen.add(before.kind)
    assert {"wire", "clip", "pericardium"} <= seen


@pytest.mark.parametrize("seed", [3, 6])
def test_crowded_hearts_touch_ribs_and_stay_the_hearts_they_are(seed: int):
    usual, crowded = (
        make_scan(seed, config=PhantomConfig(calcium="moderate", crowded=crowded, **SMALL))
        for crowded in (False, True)
    )
    assert crowded.heart_box == usual.heart_box
    assert crowded.agatston == pytest.approx(usual.agatston, rel=0.2)

    def bone_mm3(scan) -> float:
        """Return bone within the heart's left half, without spine and sternum."""
        grid, box = scan.resampled.geometry, scan.heart_box
        _, y, x = (
            origin + step * np.arange(size)
            for origin, step, size in zip(reversed(grid.origin_mm), grid.spacing_mm, grid.shape, strict=True)
        )
        left = (x > (box.low[0] + box.high[0]) / 2) & (x < box.high[0] + 8)
        middle = (y > box.low[1] + 8) & (y < box.high[1])
        part = np.ix_(np.arange(grid.shape[0]), middle, left)
        return float(((scan.resampled.hu >= 130) & (scan.labels == 0))[part].sum() * grid.voxel_volume_mm3)

    assert bone_mm3(crowded) > bone_mm3(usual) + 500


def test_hilar_nodes_are_dense_and_beside_the_upper_heart():
    nodes = [node for seed in range(40) for node in hilar_nodes(np.random.default_rng(seed))]
    assert 30 < len(nodes) < 100
    assert {node.label for node in nodes} == {6}
    assert max(node.hu.max() for node in nodes) > 1000
