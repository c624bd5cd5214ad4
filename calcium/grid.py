"""The regular grid of a set of frames: every geometric fault is a typed error that names the UID and the mm.

A gap is never bridged, and a volume is never made of a part of the frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from calcium.errors import (
    IrregularSpacingError,
    MissingSlicesError,
    MixedSeriesError,
    ObliqueError,
    UnreadableInstanceError,
)
from calcium.frames import Frame, Layout
from calcium.geometry import VolumeGeometry

Voxel = TypeVar("Voxel", bound=np.generic)

TILT_DEGREES = 0.5
"""Largest tilt against the patient's axes that still counts as axial; 2 mm over 200 mm."""
DRIFT_MM = 0.5
"""Largest sideways movement of the slices against one another, mm; more is a sheared volume."""
SAME_POSITION_MM = 0.01
"""Slices closer than this lie at one position, mm."""
POSITION_MM = 0.1
"""Largest distance of a slice from the regular grid, mm: positions are often written with one decimal."""
SPACING_MM = 1e-3
"""Rounding of pixel spacing and thickness that is no difference, mm."""
COSINE = 1e-3
"""Rounding of direction cosines that is no difference."""
GAP = 1.5
"""A distance of at least this times the usual one is a gap."""
SPACING_LIMITS_MM = (0.1, 20.0)
"""Range of believable slice increments, mm."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How stored frames are turned to rows along +y and columns along +x.

    Parameters
    ----------
    transpose
        Swap rows and columns first: the stored rows run along y.
    flip_rows, flip_columns
        Reverse afterwards.
    """

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def __call__(self, image: NDArray[Voxel]) -> NDArray[Voxel]:
        """Return a view of `image`, (rows, columns) as stored, in canonical axes."""
        turned = image.T if self.transpose else image
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def turn_of(layout: Layout, uid: str) -> Turn:
    """Return how to turn frames of this orientation.

    Raises
    ------
    ObliqueError
        Tilted against the patient's axes by more than `TILT_DEGREES`.
    UnreadableInstanceError
        No two perpendicular unit vectors.
    """
    along_row, along_column = np.array(layout.orientation[:3]), np.array(layout.orientation[3:])
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not all(abs(length - 1) < 0.01 for length in lengths) or abs(along_row @ along_column) > 0.01:
        raise UnreadableInstanceError(
            "ImageOrientationPatient holds no two perpendicular unit vectors", uid=uid
        )
    main = int(np.abs(along_row).argmax()), int(np.abs(along_column).argmax())
    cosine = min(abs(along_row[main[0]]), abs(along_column[main[1]]))
    tilt = math.degrees(math.acos(min(1.0, cosine)))
    if set(main) != {0, 1} or tilt > TILT_DEGREES:
        normal = np.cross(along_row, along_column)
        tilt = math.degrees(math.acos(min(1.0, abs(normal[2]))))
        raise ObliqueError(f"slices are not axial: tilted by {tilt:.1f} degrees or turned in plane", uid=uid)
    x, y = (along_column[0], along_row[1]) if main == (1, 0) else (along_row[0], along_column[1])
    return Turn(transpose=main == (1, 0), flip_rows=bool(y < 0), flip_columns=bool(x < 0))


def check_same(frames: Sequence[Frame]) -> None:
    """Refuse frames that differ in size, pixel spacing, thickness or orientation.

    Raises
    ------
    MixedSeriesError
        Names the instance that differs from the first, and how.
    """
    first = frames[0].layout
    differs: dict[str, Callable[[Layout], bool]] = {
        "size": lambda layout: (layout.rows, layout.columns) != (first.rows, first.columns),
        "pixel spacing": lambda layout: _far(layout.spacing_mm, first.spacing_mm, SPACING_MM),
        "slice thickness": lambda layout: _far((layout.thickness_mm,), (first.thickness_mm,), 10 * SPACING_MM),
        "orientation": lambda layout: _far(layout.orientation, first.orientation, COSINE),
    }
    shown: dict[str, Callable[[Layout], object]] = {
        "size": lambda layout: f"{layout.rows} x {layout.columns}",
        "pixel spacing": lambda layout: layout.spacing_mm,
        "slice thickness": lambda layout: f"{layout.thickness_mm:g} mm",
        "orientation": lambda layout: layout.orientation,
    }
    for frame in frames:
        for name, differ in differs.items():
            if differ(frame.layout):
                values = f"{shown[name](first)} and {shown[name](frame.layout)}"
                raise MixedSeriesError(f"slices of different {name} in one series: {values}", uid=frame.uid)


def _far(one: tuple[float, ...], other: tuple[float, ...], tolerance: float) -> bool:
    return any(abs(a - b) > tolerance for a, b in zip(one, other, strict=True))


def group_positions(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return the frames by rising z, those at one position together, by rising UID and index."""
    groups: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: (frame.z_mm, frame.uid, frame.index)):
        if groups and frame.z_mm - groups[-1][0].z_mm < SAME_POSITION_MM:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return [sorted(group, key=lambda frame: (frame.uid, frame.index)) for group in groups]


def increment_of(slices: Sequence[Frame]) -> float:
    """Return the distance between neighbouring slices, mm.

    Parameters
    ----------
    slices
        One frame a position, by rising z.

    Raises
    ------
    MissingSlicesError
        One slice only, or a gap: names its place and size.
    IrregularSpacingError
        No constant distance, or an absurd one.
    """
    if len(slices) < 2:
        raise MissingSlicesError("one slice is no volume", uid=slices[0].uid)
    z = np.array([frame.z_mm for frame in slices])
    steps = np.diff(z)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    widest = int(steps.argmax())
    if steps[widest] >= GAP * usual and steps[widest] - usual > POSITION_MM:
        low, high = z[widest], z[widest + 1]
        gaps = int((steps >= GAP * usual).sum())
        raise MissingSlicesError(
            f"slices are missing: {steps[widest]:.2f} mm between z {low:.2f} and {high:.2f} mm "
            f"where {usual:.2f} mm are usual ({gaps} such gap{'s' if gaps > 1 else ''})",
            uid=slices[widest + 1].uid,
        )
    increment = float(z[-1] - z[0]) / (len(z) - 1)
    off = np.abs(z - (z[0] + increment * np.arange(len(z))))
    if off.max() > POSITION_MM:
        worst = int(off.argmax())
        raise IrregularSpacingError(
            f"slices are not evenly spaced: distances from {steps.min():.2f} to {steps.max():.2f} mm, "
            f"the slice at z {z[worst]:.2f} mm lies {off[worst]:.2f} mm off",
            uid=slices[worst].uid,
        )
    low_limit, high_limit = SPACING_LIMITS_MM
    if not low_limit <= increment <= high_limit:
        raise IrregularSpacingError(
            f"a slice increment of {increment:g} mm is not between {low_limit:g} and {high_limit:g} mm",
            uid=slices[0].uid,
        )
    # Rounded to 1e-6 mm, so that decimal strings give the increment they mean.
    return round(increment, 6)


def check_drift(slices: Sequence[Frame]) -> None:
    """Refuse slices that move sideways against one another, as with a tilted gantry.

    Raises
    ------
    ObliqueError
        Names the slice that lies farthest off, and how far.
    """
    origin = np.array([frame.position_mm[:2] for frame in slices])
    drift = np.abs(origin - origin[0]).max(axis=1)
    worst = int(drift.argmax())
    if drift[worst] > DRIFT_MM:
        raise ObliqueError(f"slices move sideways by {drift[worst]:.2f} mm", uid=slices[worst].uid)


def geometry_of(slices: Sequence[Frame], turn: Turn) -> VolumeGeometry:
    """Return the canonical grid of slices that passed all checks.

    Parameters
    ----------
    slices
        One frame a position, by rising z.
    turn
        Of their orientation.
    """
    layout = slices[0].layout
    x, y, z = slices[0].position_mm
    between_rows, between_columns = layout.spacing_mm
    rows, columns, dy, dx = layout.rows, layout.columns, between_rows, between_columns
    if turn.transpose:
        rows, columns, dy, dx = columns, rows, dx, dy
    # The position is that of the first stored pixel; a flip puts the last one first.
    if turn.flip_columns:
        x -= (columns - 1) * dx
    if turn.flip_rows:
        y -= (rows - 1) * dy
    return VolumeGeometry((x, y, z), (increment_of(slices), dy, dx), (len(slices), rows, columns))
