"""What a simulated scan is asked to be, and what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calcium.geometry import BoxMm
    from calcium.volume import CTVolume


@dataclass(frozen=True, slots=True)
class PhantomConfig:
    """Knobs of the simulator; everything else is drawn from the seed.

    Parameters
    ----------
    distribution
        ``training``, or ``shifted``: other body shapes, noise, kernels and calcium, for testing.
    field_of_view
        ``chest`` (300 to 500 mm) or ``cardiac`` (160 to 250 mm around the heart).
    z_coverage
        ``chest`` (lung apex to below the diaphragm), ``neck_to_abdomen``, or ``heart`` (a dedicated scan).
    contrast
        Whether blood is bright (80 to 350 HU): for the localiser and the safety checks.
    in_plane
        Rows and columns of the full image.
    calcium
        Coronary calcium: ``auto``, ``none``, ``low``, ``moderate``, ``moderately high``, ``high``, or an
        Agatston score to aim at.
    thickness_mm
        Slice thickness; drawn when None.
    crop_to_heart
        Simulate only the heart box and this margin, mm, at full resolution; everything when None.
    rarities
        How often, relative to real life, metal and calcium of nodes, pericardium and papillary muscles are
        drawn: more than 1 for training against them. Aorta and valves then calcify more too.
    crowded
        Whether ribs, thin and less dense than usual, lie close to the heart, and dense nodes in the hila: for
        training against them. The heart, its arteries and their calcium stay those of the seed.
    """

    distribution: Literal["training", "shifted"] = "training"
    field_of_view: Literal["chest", "cardiac"] = "chest"
    z_coverage: Literal["chest", "neck_to_abdomen", "heart"] = "chest"
    contrast: bool = False
    in_plane: int = 512
    calcium: str | float = "auto"
    thickness_mm: float | None = None
    crop_to_heart: float | None = None
    rarities: float = 1.0
    crowded: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class PhantomScan:
    """A simulated scan with its truth.

    Parameters
    ----------
    seed
        That made it.
    volume
        As acquired.
    resampled
        3.0 mm every 1.5 mm; every truth below is on its grid.
    labels
        uint8, (slice, row, column): 0 background, 1 left main and LAD, 2 LCX, 3 RCA, 4 aortic wall, 5 aortic
        valve or mitral annulus, 6 other calcium, 8 metal; only voxels >= 130 HU.
    heart_box
        From the lowest heart muscle to just below the bifurcation of the pulmonary trunk, LPS mm.
    agatston, volume_mm3
        Reference scores of labels 1 to 3.
    slice_agatston
        float64, (slices,): reference slice scores.
    description
        Every drawn factor, JSON types.
    """

    seed: int
    volume: CTVolume
    resampled: CTVolume
    labels: NDArray[np.uint8]
    heart_box: BoxMm
    agatston: float
    volume_mm3: float
    slice_agatston: NDArray[np.float64]
    description: dict[str, Any] = field(default_factory=dict)
