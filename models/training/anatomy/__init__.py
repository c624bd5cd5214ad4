"""Where the coronaries, aorta and valves lie in the public series that serve as real anatomy.

One JSON file for each series: points in LPS mm that one reader (not a radiologist) drew by eye on axial slices
of 3.0 mm every 1.5 mm and that were then moved by at most 3 mm to the ridge of soft tissue in fat. Coordinates
only, no pixel data; each file names its series, source and licence. Where a vessel cannot be seen, the line
follows its groove; the notes say where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from calcium.geometry import BoxMm

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Label (1 left main and LAD, 2 LCX, 3 RCA) of each drawn vessel.
VESSEL_LABELS = {"LM": 1, "LAD": 1, "D1": 1, "LCX": 2, "OM1": 2, "RCA": 3, "PDA": 3}

# Heart boxes, LPS mm, of public series without a read score, drawn by the same reader by eye on reformatted
# slices: from the lowest heart muscle to just below the bifurcation of the pulmonary trunk.
# LIDC-IDRI-0001 (TCIA, CC BY 3.0) and Lung-PET-CT-Dx A0001 (TCIA, CC BY 4.0).
HEART_BOXES = {
    "lidc-0001-contrast": BoxMm((-30.0, -64.0, -217.0), (96.0, 37.0, -142.0)),
    "lungdx-a0001-5mm": BoxMm((-44.0, 52.0, -368.0), (86.0, 164.0, -266.0)),
}


@dataclass(frozen=True, eq=False)
class Annotation:
    """Points of one series, LPS mm, float64.

    Parameters
    ----------
    series
        Folder name of the series, e.g. ``lidc-0002``.
    source, licence
        Where the images come from.
    centrelines
        Vessel (a key of `VESSEL_LABELS`) to points (n, 3), from its origin on.
    ascending_aorta, descending_aorta
        Circles (n, 4): x, y, z, radius; by rising z. The lowest circles of the ascending aorta are the root.
    aortic_valve
        Centre (3,).
    valve_radius_mm
        Radius of the valve, mm.
    mitral_annulus
        Points (n, 3) from the left fibrous trigone round the lateral wall to the septum.
    pulmonary_bifurcation_z_mm
        z of the bifurcation of the pulmonary trunk.
    psf_fwhm_mm
        In-plane full width at half maximum of the images' point spread, mm, estimated.
    """

    series: str
    source: str
    licence: str
    centrelines: dict[str, NDArray[np.float64]]
    ascending_aorta: NDArray[np.float64]
    descending_aorta: NDArray[np.float64]
    aortic_valve: NDArray[np.float64]
    valve_radius_mm: float
    mitral_annulus: NDArray[np.float64]
    pulmonary_bifurcation_z_mm: float
    psf_fwhm_mm: float

    def __post_init__(self) -> None:
        unknown = set(self.centrelines) - set(VESSEL_LABELS)
        if unknown:
            raise ValueError(f"{self.series}: unknown vessels {sorted(unknown)}")
        widths = {"ascending_aorta": 4, "descending_aorta": 4, "mitral_annulus": 3}
        tables = {name: getattr(self, name) for name in widths}
        for name, points in (self.centrelines | tables).items():
            if points.ndim != 2 or points.shape[1] != widths.get(name, 3) or len(points) < 2:
                raise ValueError(f"{self.series}: {name} has the shape {points.shape}")
            if not np.isfinite(points).all():
                raise ValueError(f"{self.series}: {name} is not finite")

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Annotation:
        """Return the annotation that a parsed JSON file holds.

        Raises
        ------
        KeyError
            A field is missing.
        ValueError
            A table has the wrong shape, or a vessel is unknown.
        """

        def table(value: Any) -> NDArray[np.float64]:
            return np.asarray(value, np.float64)

        return cls(
            series=values["series"],
            source=values["source"],
            licence=values["licence"],
            centrelines={name: table(points) for name, points in values["centrelines"].items()},
            ascending_aorta=table(values["ascending_aorta"]),
            descending_aorta=table(values["descending_aorta"]),
            aortic_valve=table(values["aortic_valve"]["centre"]),
            valve_radius_mm=float(values["aortic_valve"]["radius_mm"]),
            mitral_annulus=table(values["mitral_annulus"]),
            pulmonary_bifurcation_z_mm=float(values["pulmonary_bifurcation_z_mm"]),
            psf_fwhm_mm=float(values["psf_fwhm_mm"]),
        )


def load_annotations() -> dict[str, Annotation]:
    """Return the annotations of all series that have one, by name."""
    files = (entry for entry in resources.files(__name__).iterdir() if entry.name.endswith(".json"))
    annotations = (Annotation.of_json(json.loads(entry.read_text(encoding="utf-8"))) for entry in files)
    return {annotation.series: annotation for annotation in sorted(annotations, key=lambda item: item.series)}
