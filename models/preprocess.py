"""What the networks see: the coarse scan, the heart crop and the input tensors. Training and scoring share it.

All in-plane resampling is separable: a matrix for rows and one for columns, each row of which averages linearly
over the pixels that a target pixel covers. The transposes of those that interpolate weights to voxels carry
credit from voxels to the network's pixels: ``sum(credit * (R weights C^T)) == sum((R^T credit C) * weights)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from calcium.agatston import CALCIUM_HU
from calcium.geometry import BoxMm, VolumeGeometry, VoxelBox
from calcium.volume import CTVolume
from models.networks.localizer import HU_FROM, HU_SCALE
from models.networks.regressor import INPUT_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.networks.weigher import WeigherConfig

    Float = NDArray[np.float32]

AXES = ("axial", "coronal", "sagittal")  # slices along z, y and x: array axes 0, 1, 2
# Kept around the box in a heart crop, mm (z, y, x): neighbouring slices and some surroundings. Less than the
# margin of the training cache (15, 18, 18), so that a jittered box of training keeps it too.
CROP_MARGIN_MM = (7.5, 10.0, 10.0)
REGRESSOR_WINDOW_HU = (-200.0, 1000.0)  # to 0..1, so that zero padding is fat
SOFT_WINDOW_HU = (-200.0, 300.0)  # to -1..1: fat, muscle, blood and the weakest calcium
CALCIUM_STEP_HU = 300.0  # calcium window: 0 at 130 HU, 1 at 430 HU, clipped
CALCIUM_LIMITS = (-0.5, 2.0)


class Samples(NamedTuple):
    """Sample centres along one axis, mm: first centre, distance (above 0), and how many."""

    first: float
    step: float
    number: int

    @property
    def centres(self) -> NDArray[np.float64]:
        """Positions, float64, (number,)."""
        return np.asarray(self.first + self.step * np.arange(self.number), np.float64)


def averaging(source: Samples, target: Samples) -> Float:
    """Return the matrix that resamples one axis.

    Returns
    -------
    numpy.ndarray
        float32, (target, source): linear interpolation where the target is finer, a triangle as wide as
        two target steps where it is coarser. Rows add up to 1; rows whose centre lies outside the source's
        outer faces are 0.
    """
    distance = np.abs(target.centres[:, None] - source.centres[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(target.step, source.step))
    total = weights.sum(axis=1, keepdims=True)
    low, high = source.first - source.step / 2, source.centres[-1] + source.step / 2
    inside = (target.centres >= low) & (target.centres <= high)
    matrix: Float = np.where(inside[:, None], weights / np.maximum(total, 1e-6), 0.0).astype(np.float32)
    return matrix


def plane(rows: Float, values: Float, columns: Float) -> Float:
    """Return rows @ values @ columns.T for each slice of `values` (n, rows, columns).

    By torch: numpy's BLAS threads wait for each other for seconds where other processes use the cores too.
    """
    left, middle, right = (torch.from_numpy(array) for array in (rows, values, columns))
    product: Float = (left @ middle @ right.T).numpy()
    return product


def coarse(resampled: CTVolume, grid_mm: float = 3.0) -> tuple[NDArray[np.int16], VolumeGeometry]:
    """Return the whole scan on the localiser's isotropic grid.

    Parameters
    ----------
    resampled
        Slices of 3.0 mm every 1.5 mm: every second one makes contiguous slices of 3.0 mm.
    grid_mm
        Voxel size, mm; a multiple of the increment.

    Returns
    -------
    hu
        int16, (slice, row, column); in-plane the mean of four samples a quarter voxel beside the centre.
    geometry
        LPS mm.
    """
    geometry = resampled.geometry
    stride = max(1, round(grid_mm / geometry.spacing_mm[0]))
    picks, origins, counts = [], [], []
    for axis in (1, 2):
        spacing, size = geometry.spacing_mm[axis], geometry.shape[axis]
        count = max(1, math.floor(size * spacing / grid_mm + 1e-6))
        first = -0.5 * spacing + (size * spacing - count * grid_mm) / 2 + grid_mm / 2  # centred, mm from origin
        centres = first + grid_mm * np.arange(count)
        samples = centres[:, None] + np.array([-0.25, 0.25]) * grid_mm
        picks.append(np.clip(np.rint(samples / spacing), 0, size - 1).astype(np.intp).ravel())
        origins.append(first)
        counts.append(count)
    rows, columns = counts
    chosen = resampled.hu[::stride]
    pixels = (picks[0][:, None] * geometry.shape[2] + picks[1][None, :]).ravel()
    hu = np.empty((len(chosen), rows, columns), np.int16)
    for number, image in enumerate(chosen):
        four = image.ravel().take(pixels).astype(np.int32).reshape(rows, 2, columns, 2)
        total = four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]
        hu[number] = np.rint(total * np.float32(0.25))
    x0, y0, z0 = geometry.origin_mm
    spacing_mm = (stride * geometry.spacing_mm[0], grid_mm, grid_mm)
    return hu, VolumeGeometry((x0 + origins[1], y0 + origins[0], z0), spacing_mm, hu.shape)


def localizer_input(
    hu: NDArray[np.int16], axis: int, offsets: tuple[int, ...], index: NDArray[np.intp] | None = None
) -> Float:
    """Return slices along one axis of a coarse scan, each with its neighbours as channels.

    Parameters
    ----------
    hu
        int16, (slice, row, column), from `coarse`.
    axis
        0 axial, 1 coronal, 2 sagittal.
    offsets
        Neighbours in slices; the outermost slices repeat beyond the scan.
    index
        Which slices; None for all.

    Returns
    -------
    numpy.ndarray
        float32, (chosen slices, offsets, height, width): (HU + 1000) / 4095 clipped to 0..1.
    """
    slices = np.moveaxis(hu, axis, 0)
    index = np.arange(len(slices)) if index is None else index
    needed, place = np.unique(
        np.clip(np.add.outer(index, np.asarray(offsets)), 0, len(slices) - 1), return_inverse=True
    )
    scaled = slices[needed].astype(np.float32)
    scaled -= np.float32(HU_FROM)
    scaled /= np.float32(HU_SCALE)
    np.clip(scaled, 0, 1, out=scaled)
    return np.ascontiguousarray(scaled[place.reshape(len(index), len(offsets))])


@dataclass(frozen=True, eq=False)
class HeartCrop:
    """The heart box of a resampled scan with a margin.

    Parameters
    ----------
    volume
        The crop: slices of 3.0 mm every 1.5 mm, in-plane as acquired.
    box
        The heart box, LPS mm.
    inside
        Voxels of the crop whose centres lie in the box.
    place
        Voxels of the scan that the crop covers.
    """

    volume: CTVolume
    box: BoxMm
    inside: VoxelBox
    place: VoxelBox


def heart_crop(
    resampled: CTVolume, box: BoxMm, margin_mm: tuple[float, float, float] = CROP_MARGIN_MM
) -> HeartCrop:
    """Return the voxels of `box` and a margin (z, y, x mm), clipped to the scan.

    Raises
    ------
    ValueError
        No voxel of the scan lies in the box.
    """
    margin = margin_mm[::-1]
    wide = BoxMm(
        tuple(a - m for a, m in zip(box.low, margin, strict=True)),  # type: ignore[arg-type]
        tuple(b + m for b, m in zip(box.high, margin, strict=True)),  # type: ignore[arg-type]
    )
    geometry = resampled.geometry
    place = VoxelBox.covering(wide, geometry)
    grid = VolumeGeometry(geometry.to_mm(*place.start), geometry.spacing_mm, place.shape)
    hu = np.ascontiguousarray(resampled.hu[place.slices])
    volume = CTVolume(hu, grid, resampled.slice_thickness_mm)
    return HeartCrop(volume, box, VoxelBox.covering(box, grid), place)


@dataclass(frozen=True, eq=False)
class RegressorInput:
    """Slices for the paper's ConvNet.

    Parameters
    ----------
    images
        float32, (slice, 1, 256, 256): REGRESSOR_WINDOW_HU to 0..1, zero outside the box.
    voxel_mm
        float32, (3,): increment, row and column spacing of the images, mm.
    corner
        Row and column of the box's first pixel in the images.
    size
        Rows and columns of the box in the images.
    """

    images: Float
    voxel_mm: Float
    corner: tuple[int, int]
    size: tuple[int, int]


def regressor_input(crop: HeartCrop) -> RegressorInput:
    """Return the box's slices, cropped and zero-padded to 256x256, centred.

    The paper excludes hearts of more than 256 pixels; here they are resampled to fit, and the network is told
    their pixel size.
    """
    dz, dy, dx = crop.volume.geometry.spacing_mm
    low, high = REGRESSOR_WINDOW_HU
    hu = crop.volume.hu[crop.inside.slices].astype(np.float32)
    pixels = np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)
    scale = max(1.0, max(pixels.shape[1:]) / INPUT_PIXELS)
    if scale > 1.0:
        rows, columns = (math.floor(size / scale) for size in pixels.shape[1:])
        dy, dx = dy * scale, dx * scale
        by_row = averaging(Samples(0.5, 1.0, pixels.shape[1]), Samples(scale / 2, scale, rows))
        by_column = averaging(Samples(0.5, 1.0, pixels.shape[2]), Samples(scale / 2, scale, columns))
        pixels = plane(by_row, pixels, by_column)
    count, rows, columns = pixels.shape
    corner = ((INPUT_PIXELS - rows) // 2, (INPUT_PIXELS - columns) // 2)
    images = np.zeros((count, 1, INPUT_PIXELS, INPUT_PIXELS), np.float32)
    images[:, 0, corner[0] : corner[0] + rows, corner[1] : corner[1] + columns] = pixels
    return RegressorInput(images, np.array([dz, dy, dx], np.float32), corner, (rows, columns))


@dataclass(frozen=True, eq=False)
class WeigherInput:
    """Slices and context for the weigher.

    Parameters
    ----------
    images
        float32, (slice, channel, height, width): soft tissue window of the neighbours, calcium window of the
        neighbours, share of each pixel that calcium covers; pixels of `grid_mm`.
    places
        float32, (slice, 3, 2): where the outer faces of each slice lie in the cube (x, y, z; -1..1).
    cube
        float32, (4, s, s, s): context in the soft tissue window, then x, y, z relative to the box (-1..1).
    index
        int64, (slice,): slice of the crop that each is.
    rows, columns
        float32, (crop rows, height) and (crop columns, width): interpolation from pixels to voxels.
    """

    images: Float
    places: Float
    cube: Float
    index: NDArray[np.int64]
    rows: Float
    columns: Float

    def to_voxels(self, pixels: Float) -> Float:
        """Return weights at the input's pixels (n, height, width), interpolated to the crop's voxels."""
        return plane(self.rows, pixels, self.columns)

    def to_pixels(self, voxels: Float) -> Float:
        """Return sums over voxels (n, crop rows, crop columns), carried to the input's pixels; see `carry`."""
        return carry(voxels, self.rows, self.columns)


def carry(voxels: Float, rows: Float, columns: Float) -> Float:
    """Return R^T V C for each slice of `voxels` (n, crop rows, crop columns): (n, height, width)."""
    return plane(rows.T, voxels, columns.T)


def _axis(
    low: float, high: float, margin: float, config: WeigherConfig, *, size: int | None
) -> tuple[float, int]:
    """Return pixel size and number of pixels that cover a side of the box with its margin."""
    extent = high - low + 2 * margin
    if size is None:
        pixels = math.ceil(extent / config.grid_mm / config.stride) * config.stride
        size = min(pixels, config.max_pixels)
    return max(config.grid_mm, extent / size), size


def weigher_input(
    crop: HeartCrop,
    credit: Float,
    config: WeigherConfig,
    *,
    index: NDArray[np.int64] | None = None,
    size: int | None = None,
) -> WeigherInput:
    """Return what the weigher sees of some slices of a heart.

    Parameters
    ----------
    crop
        From `heart_crop`, with its standard margin.
    credit
        float32, shape of the crop: ``calcium.agatston.credit_map(crop.volume, crop.box)``.
    config
        Of the network.
    index
        Slices of the crop; those with credit when None.
    size
        Side of the images, pixels; just what the box needs when None. Training batches need one size.
    """
    geometry = crop.volume.geometry
    if index is None:
        index = np.flatnonzero(credit.any(axis=(1, 2)))
    (x0, y0, _), (x1, y1, _) = crop.box.low, crop.box.high
    step_y, height = _axis(y0, y1, CROP_MARGIN_MM[1], config, size=size)
    step_x, width = _axis(x0, x1, CROP_MARGIN_MM[2], config, size=size)
    step = max(step_y, step_x)  # square pixels
    centre = tuple((a + b) / 2 for a, b in zip(crop.box.low, crop.box.high, strict=True))
    left, top = centre[0] - step * (width - 1) / 2, centre[1] - step * (height - 1) / 2
    (_, dy, dx), (origin_x, origin_y, _) = geometry.spacing_mm, geometry.origin_mm
    grid_y, grid_x = Samples(top, step, height), Samples(left, step, width)
    voxels_y, voxels_x = Samples(origin_y, dy, geometry.shape[1]), Samples(origin_x, dx, geometry.shape[2])
    by_row, by_column = averaging(voxels_y, grid_y), averaging(voxels_x, grid_x)
    rows, columns = averaging(grid_y, voxels_y), averaging(grid_x, voxels_x)

    last = geometry.shape[0] - 1
    offsets = sorted({*config.soft_offsets, *config.calcium_offsets})
    needed = np.unique(np.clip(index[:, None] + np.array(offsets)[None, :], 0, last))
    at = {int(number): position for position, number in enumerate(needed)}
    hu = crop.volume.hu[needed].astype(np.float32)
    low, high = SOFT_WINDOW_HU
    # What lies outside the crop becomes the lowest value: both are resampled as their excess over it.
    soft = plane(by_row, np.clip((hu - low) * (2 / (high - low)), 0, 2), by_column) - 1
    floor, ceiling = CALCIUM_LIMITS
    calcium = np.clip((hu - CALCIUM_HU) / CALCIUM_STEP_HU, floor, ceiling) - floor
    calcium = plane(by_row, calcium, by_column) + floor
    chosen = credit[index]
    area = carry((chosen > 0) * np.float32(geometry.pixel_area_mm2), rows, columns)
    images = np.empty((len(index), config.inputs, height, width), np.float32)
    sources = [(soft, offset) for offset in config.soft_offsets]
    sources += [(calcium, offset) for offset in config.calcium_offsets]
    for position, number in enumerate(index):
        for channel, (window, offset) in enumerate(sources):
            images[position, channel] = window[at[min(max(int(number) + offset, 0), last)]]
    images[:, -1] = area / np.float32(step * step)
    cube, cube_mm = _cube(crop, config)
    half = cube_mm * config.context_size / 2
    places = np.empty((len(index), 3, 2), np.float32)
    places[:, 0] = np.array([-1, 1]) * step * width / 2 / half
    places[:, 1] = np.array([-1, 1]) * step * height / 2 / half
    z = geometry.origin_mm[2] + geometry.spacing_mm[0] * index
    places[:, 2] = ((z - centre[2]) / half)[:, None]
    return WeigherInput(images, places, cube, index, rows, columns)


def _cube(crop: HeartCrop, config: WeigherConfig) -> tuple[Float, float]:
    """Return the context cube (4, s, s, s), (z, y, x) axes, centred on the box, and its voxel size in mm."""
    geometry, size = crop.volume.geometry, config.context_size
    lengths = crop.box.size_mm
    margin = CROP_MARGIN_MM[::-1]
    step = max(config.context_mm, max(a + 2 * m for a, m in zip(lengths, margin, strict=True)) / size)
    centre = tuple((a + b) / 2 for a, b in zip(crop.box.low, crop.box.high, strict=True))
    first = tuple(value - step * (size - 1) / 2 for value in centre)
    by_x, by_y, by_z = (
        averaging(
            Samples(geometry.origin_mm[i], geometry.spacing_mm[2 - i], geometry.shape[2 - i]),
            Samples(first[i], step, size),
        )
        for i in range(3)
    )
    low, high = SOFT_WINDOW_HU
    # Every second slice of 3.0 mm covers everything once.
    hu = crop.volume.hu[::2].astype(np.float32)
    small = plane(by_y, np.clip((hu - low) * (2 / (high - low)), 0, 2), by_x)  # (slices, s, s)
    by_z = by_z[:, ::2]
    by_z /= np.maximum(by_z.sum(axis=1, keepdims=True), np.float32(1e-6))
    cube = np.empty((4, size, size, size), np.float32)
    cube[0] = (torch.from_numpy(by_z) @ torch.from_numpy(small).flatten(1)).reshape(size, size, size).numpy()
    cube[0] -= 1
    for axis in range(3):  # x, y, z run along the last, the middle, the first axis
        values = 2 * (np.arange(size) - (size - 1) / 2) * step / lengths[axis]
        shape = [1, 1, 1]
        shape[2 - axis] = size
        cube[1 + axis] = np.clip(values, -2, 2).reshape(shape)
    return cube, step
