"""Laws of preprocessing: nothing moves, nothing is lost, training and scoring see the same."""

from __future__ import annotations

import hand_made
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from calcium.agatston import credit_map
from calcium.geometry import BoxMm, VolumeGeometry
from calcium.volume import CTVolume
from models.networks.weigher import WeigherConfig
from models.preprocess import (
    CALCIUM_STEP_HU,
    Samples,
    averaging,
    coarse,
    heart_crop,
    localizer_input,
    regressor_input,
    weigher_input,
)

SMALL = WeigherConfig(channels=(4, 4, 8), max_pixels=160, context_size=24, context_mm=8.0)


def ramp(axis: int, shape=(60, 150, 160), spacing=(1.5, 0.8, 0.7)) -> CTVolume:
    """Return a volume whose HU are the coordinate (x, y or z, mm) of each voxel."""
    geometry = VolumeGeometry((-50.0, -60.0, -40.0), spacing, shape)
    values = geometry.origin_mm[axis] + spacing[2 - axis] * np.arange(shape[2 - axis])
    view = [1, 1, 1]
    view[2 - axis] = -1
    hu = np.broadcast_to(np.rint(values).reshape(view), shape).astype(np.int16)
    return CTVolume(np.ascontiguousarray(hu), geometry, 3.0)


BOX = BoxMm((-35.0, -45.0, -20.0), (45.0, 40.0, 30.0))


@given(
    st.floats(-5, 5),
    st.floats(0.3, 3),
    st.integers(2, 50),
    st.floats(-5, 5),
    st.floats(0.3, 3),
    st.integers(1, 50),
)
def test_resampling_keeps_constants_and_positions(first, step, count, start, width, number):
    source, target = Samples(first, step, count), Samples(start, width, number)
    matrix = averaging(source, target)
    rows = matrix.sum(axis=1)
    assert np.all((np.abs(rows - 1) < 1e-5) | (rows == 0))
    assert (matrix >= 0).all()
    # A straight line stays itself where the triangle does not reach over the ends.
    inner = (target.centres - max(step, width) >= source.centres[0]) & (
        target.centres + max(step, width) <= source.centres[-1]
    )
    found = matrix @ source.centres
    assert np.all(np.abs(found - target.centres)[inner] <= step / 2 + 1e-5)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.45, 1.2), st.floats(-8, 8), st.integers(0, 2**31))
def test_credit_on_pixels_times_weights_is_credit_times_weights_on_voxels(pixel, shift, seed):
    rng = np.random.default_rng(seed)
    volume = hand_made.phantom(pixel=pixel, shape=(70, round(130 / pixel), round(150 / pixel)), heart=True)
    box = BoxMm((-45 + shift, -40 - shift, 45), (48 + shift, 42, 100))
    crop = heart_crop(volume, box)
    credit = credit_map(crop.volume, box)
    given_ = weigher_input(crop, credit, SMALL)
    carried = given_.to_pixels(credit[given_.index])
    weights = rng.random(carried.shape, dtype=np.float32)
    on_voxels = (given_.to_voxels(weights) * credit[given_.index]).sum(axis=(1, 2))
    on_pixels = (carried * weights).sum(axis=(1, 2))
    np.testing.assert_allclose(on_pixels, on_voxels, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(carried.sum(), credit.sum(), rtol=1e-4)


def test_the_coarse_scan_lies_where_the_scan_lies():
    for axis in range(3):
        hu, geometry = coarse(ramp(axis), 3.0)
        view = [1, 1, 1]
        view[2 - axis] = -1
        expected = geometry.origin_mm[axis] + geometry.spacing_mm[2 - axis] * np.arange(hu.shape[2 - axis])
        assert np.abs(hu - expected.reshape(view)).max() <= 1.1
        assert geometry.spacing_mm == (3.0, 3.0, 3.0)


def test_localizer_slices_are_scaled_and_have_their_neighbours():
    hu = np.arange(-1000, 3100 * 1, 100, dtype=np.int16)[:40].reshape(2, 4, 5)
    for axis in range(3):
        slices = localizer_input(hu, axis, (-1, 0, 1))
        assert slices.shape == (hu.shape[axis], 3, *np.delete(hu.shape, axis))
        moved = np.moveaxis(hu, axis, 0)
        np.testing.assert_allclose(slices[0, 0], slices[0, 1])
        np.testing.assert_allclose(slices[1, 0], slices[0, 1])
        np.testing.assert_allclose(slices[:, 1], (moved + 1000.0) / 4095, atol=1e-6)
        some = np.array([hu.shape[axis] - 1, 0])
        np.testing.assert_array_equal(localizer_input(hu, axis, (-1, 0, 1), some), slices[some])


def test_weigher_images_and_places_agree_with_the_cube():
    """The x, y, z that the cube's coordinate channels tell at a pixel are the pixel's own."""
    for axis in range(2):
        volume = ramp(axis)
        crop = heart_crop(volume, BOX)
        credit = np.zeros(crop.volume.hu.shape, np.float32)
        index = np.array([10, 20])
        given_ = weigher_input(crop, credit, SMALL, index=index)
        middle = len(SMALL.soft_offsets) // 2
        image = given_.images[0, middle]
        x_or_y = image * 250 + 50  # soft tissue window back to HU, which are mm
        size = image.shape[1 - axis]
        low, high = given_.places[0, axis]
        half = SMALL.context_mm * SMALL.context_size / 2
        centre = (BOX.low[axis] + BOX.high[axis]) / 2
        expected = centre + half * (low + (high - low) * (np.arange(size) + 0.5) / size)
        found = x_or_y.mean(axis=axis) if axis == 0 else x_or_y[:, image.shape[1] // 2]
        inner = (expected > BOX.low[axis]) & (expected < BOX.high[axis])
        row = x_or_y[image.shape[0] // 2] if axis == 0 else found
        assert np.abs(row - expected)[inner].max() < 1.0
        z = crop.volume.geometry.z_mm(10)
        np.testing.assert_allclose(given_.places[0, 2] * half, z - (BOX.low[2] + BOX.high[2]) / 2, atol=1e-4)


def test_the_cube_tells_position_relative_to_the_box():
    crop = heart_crop(ramp(2), BOX)
    cube = weigher_input(crop, np.zeros(crop.volume.hu.shape, np.float32), SMALL, index=np.array([0])).cube
    # HU are z: the first channel (soft tissue window) and the z channel rise together inside the crop.
    z = cube[0] * 250 + 50
    centre = (BOX.low[2] + BOX.high[2]) / 2
    relative = (z - centre) / (BOX.size_mm[2] / 2)
    inside = np.abs(cube[1:]).max(axis=0) < 0.8
    assert inside.sum() > 50
    assert np.abs(relative - cube[3])[inside].max() < 0.15


def test_some_slices_look_as_they_do_among_all():
    volume = hand_made.phantom()
    crop = heart_crop(volume, hand_made.HEART)
    credit = credit_map(crop.volume, hand_made.HEART)
    everything = weigher_input(crop, credit, SMALL)
    some = weigher_input(crop, credit, SMALL, index=everything.index[1:3])
    np.testing.assert_array_equal(some.images, everything.images[1:3])
    np.testing.assert_array_equal(some.places, everything.places[1:3])
    np.testing.assert_array_equal(some.cube, everything.cube)


def test_calcium_shows_in_the_calcium_window():
    volume = hand_made.phantom()
    crop = heart_crop(volume, hand_made.HEART)
    given_ = weigher_input(crop, credit_map(crop.volume, hand_made.HEART), SMALL)
    middle = len(SMALL.soft_offsets) + len(SMALL.calcium_offsets) // 2
    assert np.isclose(given_.images[:, middle].max(), (450 - 130) / CALCIUM_STEP_HU, atol=0.02)
    assert np.isclose(given_.images[:, -1].max(), 1.0, atol=0.02)


def test_regressor_slices_are_padded_and_centred():
    crop = heart_crop(hand_made.phantom(), hand_made.HEART)
    given_ = regressor_input(crop)
    rows, columns = crop.inside.shape[1:]
    assert given_.size == (rows, columns)
    assert given_.images.shape == (crop.inside.shape[0], 1, 256, 256)
    top, left = given_.corner
    assert (given_.images[:, 0, top : top + rows, left : left + columns] > 0).all()
    assert given_.images[:, 0, :top].max() == 0
    assert given_.images[:, 0, :, left + columns :].max() == 0
    np.testing.assert_allclose(given_.voxel_mm, [1.5, 1.0, 1.0])


def test_a_heart_larger_than_256_pixels_is_resampled_and_the_network_is_told():
    volume = hand_made.phantom(pixel=0.4, shape=(70, 320, 360))
    box = BoxMm((-60.0, -50.0, 45.0), (60.0, 50.0, 100.0))
    crop = heart_crop(volume, box)
    assert max(crop.inside.shape[1:]) > 256
    given_ = regressor_input(crop)
    assert max(given_.size) == 256
    side = crop.inside.shape[2] * 0.4
    assert np.isclose(given_.voxel_mm[2] * 256, side, rtol=0.01)
    assert np.isclose(given_.images.max(), (450 + 200) / 1200, atol=0.01)


def test_crops_are_clipped_to_the_scan():
    volume = hand_made.phantom()
    crop = heart_crop(volume, BoxMm((-105.0, -85.0, 2.0), (105.0, 85.0, 178.0)))
    assert crop.place.start == (0, 0, 0)
    assert crop.volume.hu.shape == volume.hu.shape
    assert (crop.volume.hu == volume.hu[crop.place.slices]).all()
